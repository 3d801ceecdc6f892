"""The inverse of a chunk's unit lower triangular matrix, by tensor-core products of numbers cut in two.

By the same steps as `inverse`: block by block, of doubling size, true inverses only. There each block has
layouts of its own, between which elements go through shared memory; here a step works on whole matrices,
whose unwanted blocks are masked, so that they stay where the tensor cores leave them.

An fp32 number is cut in two of bf16, x = hi + lo + r with |r| <= 2^-17 |x|, and a product of two is that of
three pairs, lo times lo left out: it is good to 2^-16 of its terms. The inverse is rounded to bf16 then, to
2^-9. (Ootomo and Yokota 2022, "Recovering single precision accuracy from Tensor Cores while surpassing the
FP32 theoretical peak performance", has such products and their errors.)
"""

import triton
import triton.language as tl


@triton.jit
def cut(b_x):
    """Return hi and lo, bf16, of fp32 b_x: hi is b_x rounded, ties away from zero, lo the rest rounded."""
    bits = (b_x.to(tl.int32, bitcast=True) + 0x8000) & -65536
    b_hi = bits.to(tl.float32, bitcast=True)  # a bf16 number: the conversion below is exact
    return b_hi.to(tl.bfloat16), (b_x - b_hi).to(tl.bfloat16)


@triton.jit
def cut_dot(b_ah, b_al, b_bh, b_bl):
    """Return a @ b in fp32 for a and b as `cut` returns them, smallest terms first."""
    return tl.dot(b_ah, b_bh, tl.dot(b_ah, b_bl, tl.dot(b_al, b_bh)))


@triton.jit
def whole_dot(b_a, b_b):
    """Return b_a @ b_b of fp32 operands, as good as in fp32.

    Each is cut in three, and six of nine pairs are multiplied. Three parts of 8 bits hold all 24, so that a
    product by 1 is exact; what is left out is 2^-24 of the terms.
    """
    b_ah, b_al = cut(b_a)
    b_am, b_al = cut(b_a - b_ah.to(tl.float32))
    b_bh, b_bl = cut(b_b)
    b_bm, b_bl = cut(b_b - b_bh.to(tl.float32))
    b_c = tl.dot(b_am, b_bm, tl.dot(b_al, b_bh, tl.dot(b_ah, b_bl)))
    return tl.dot(b_ah, b_bh, tl.dot(b_ah, b_bm, tl.dot(b_am, b_bh, b_c)))


@triton.jit
def lower_left(BT: tl.constexpr, s: tl.constexpr):
    """Return where in [BT, BT] the lower left quarters of the diagonal blocks of size 2^(s + 1) are."""
    i = tl.arange(0, BT)[:, None]
    j = tl.arange(0, BT)[None, :]
    return ((i >> (s + 1)) == (j >> (s + 1))) & ((i >> s) > (j >> s))


@triton.jit
def invert_16(b_L, BT: tl.constexpr):
    """Return the inverses of the diagonal [16, 16] blocks of I + b_L [BT, BT], as [BT // 16, 16, 16]."""
    N: tl.constexpr = BT // 16
    n = tl.arange(0, N)
    on = n[:, None, None, None] == n[None, None, :, None]
    b_D = tl.sum(tl.where(on, tl.reshape(b_L, [N, 16, N, 16]), 0.0), axis=2)
    b_Dh, b_Dl = cut(b_D)
    o = tl.arange(0, 16)
    b_X = tl.where((o[:, None] == o[None, :])[None], 1.0, 0.0) - tl.where(lower_left(16, 0)[None], b_D, 0.0)
    for s in tl.static_range(1, 4):
        b_Xh, b_Xl = cut(b_X)
        b_Ph, b_Pl = cut(tl.where(lower_left(16, s)[None], cut_dot(b_Xh, b_Xl, b_Dh, b_Dl), 0.0))
        b_X -= cut_dot(b_Ph, b_Pl, b_Xh, b_Xl)
    return b_X


@triton.jit
def invert_split(b_L, BT: tl.constexpr):
    """Return inv(I + b_L) [BT, BT] for b_L [BT, BT] fp32, zero on and above the diagonal. BT is 64."""
    N: tl.constexpr = BT // 16
    n = tl.arange(0, N)
    on = n[:, None, None, None] == n[None, None, :, None]
    b_X = tl.reshape(tl.where(on, invert_16(b_L, BT)[:, :, None, :], 0.0), [BT, BT])
    b_Lh, b_Ll = cut(b_L)
    for s in tl.static_range(4, 6):
        b_Xh, b_Xl = cut(b_X)
        b_Ph, b_Pl = cut(tl.where(lower_left(BT, s), cut_dot(b_Xh, b_Xl, b_Lh, b_Ll), 0.0))
        b_X -= cut_dot(b_Ph, b_Pl, b_Xh, b_Xl)
    return b_X
