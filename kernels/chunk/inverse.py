"""The inverse of a chunk's unit lower triangular matrix, in fp32, by substitution on blocks of doubling size.

For a lower triangular matrix cut in four, inv([[A, 0], [P, C]]) = [[inv(A), 0], [-inv(C) P inv(A), inv(C)]].
Starting from the diagonal (whose inverse is itself) and doubling, each step uses true inverses only. A series
in powers of the matrix would need fewer products, and loses all accuracy for near-parallel keys, where the
powers grow and cancel. (Higham 2002, "Accuracy and Stability of Numerical Algorithms", section 14.2: how
triangular matrices are inverted block by block, and the errors of it.)
"""

import triton
import triton.language as tl

from ..device import dot


@triton.jit
def diagonal_blocks(b_L, BT: tl.constexpr, S: tl.constexpr):
    """Return the diagonal [S, S] blocks of b_L [BT, BT] as [BT // S, S, S]."""
    N: tl.constexpr = BT // S
    if N == 1:
        b_D = tl.reshape(b_L, [1, S, S])
    else:
        i = tl.arange(0, N)
        on = i[:, None, None, None] == i[None, None, :, None]
        b_D = tl.sum(tl.where(on, tl.reshape(b_L, [N, S, N, S]), 0.0), axis=2)
    return b_D


@triton.jit
def merge(b_X, b_L, BT: tl.constexpr, S: tl.constexpr):
    """Return the inverses of the diagonal [2S, 2S] blocks of I + b_L [BT, BT], as [BT // (2S), 2S, 2S].

    b_X [BT // S, S, S]: the inverses of its diagonal [S, S] blocks. All fp32.
    """
    N: tl.constexpr = BT // (2 * S)
    b_A, b_C = tl.split(tl.permute(tl.reshape(b_X, [N, 2, S, S]), (0, 2, 3, 1)))  # [N, S, S]
    b_P = tl.permute(tl.reshape(diagonal_blocks(b_L, BT, 2 * S), [N, 2, S, 2, S]), (0, 2, 4, 1, 3))
    b_P, _ = tl.split(b_P)  # left halves
    _, b_P = tl.split(b_P)  # lower halves: [N, S, S]
    if N == 1:  # plain matrices: products of these compile to more than those with a batch axis
        b_B = dot(dot(tl.reshape(b_C, [S, S]), tl.reshape(b_P, [S, S])), tl.reshape(b_A, [S, S]))
        b_B = tl.reshape(-b_B, [1, S, S])
    else:
        b_B = -dot(dot(b_C, b_P), b_A)
    b_top = tl.reshape(
        tl.permute(tl.join(b_A, tl.full([N, S, S], 0.0, tl.float32)), (0, 1, 3, 2)), [N, S, 2 * S]
    )
    b_low = tl.reshape(tl.permute(tl.join(b_B, b_C), (0, 1, 3, 2)), [N, S, 2 * S])
    return tl.reshape(tl.permute(tl.join(b_top, b_low), (0, 3, 1, 2)), [N, 2 * S, 2 * S])


@triton.jit
def invert(b_L, BT: tl.constexpr):
    """Return inv(I + b_L) [BT, BT] for b_L [BT, BT] fp32, zero on and above the diagonal.

    BT is 16, 32 or 64.
    """
    i = tl.arange(0, 16)[:, None]
    j = tl.arange(0, 16)[None, :]
    if BT == 16:
        b_D = b_L
    else:
        b_D = diagonal_blocks(b_L, BT, 16)  # [BT // 16, 16, 16]
    # Within the 16 x 16 blocks a step works on whole blocks: its mask takes the lower left quarters of the
    # [2S, 2S] blocks.
    b_X = tl.where(i == j, 1.0, 0.0) - tl.where(((i >> 1) == (j >> 1)) & (i > j), b_D, 0.0)
    for s in tl.static_range(1, 4):
        lower_left = ((i >> (s + 1)) == (j >> (s + 1))) & ((i >> s) > (j >> s))
        b_X -= dot(dot(b_X, tl.where(lower_left, b_D, 0.0)), b_X)
    if BT > 16:
        b_X = merge(b_X, b_L, BT, 16)
    if BT > 32:
        b_X = merge(b_X, b_L, BT, 32)
    return tl.reshape(b_X, [BT, BT])
