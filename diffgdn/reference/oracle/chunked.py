"""Derive the gated delta rule a second time, chunk by chunk (the WY form), as chunk kernels compute it.

Within a chunk, with G the cumulative log decay since its start, i and j tokens and D_ij = exp(G_i - G_j)
for i >= j:

    A = (I + tril(beta_i k_i . D_ij k_j, -1))^-1,   u = A (beta v),   w = A (beta exp(G) k)
    v_new = u - w S,   o = scale * (q exp(G) S + tril(q_i . D_ij k_j) v_new),
    S <- exp(G_last) S + v_new^T (exp(G_last - G) k)

In float64 it agrees with the recurrence to rounding; under a Rounding it shows how far the roundings that
chunk kernels are allowed carry.

A product of Householder-like factors as I - W Y^T: Bischof and Van Loan, "The WY representation for
products of Householder matrices", 1987. For the delta rule: Yang, Wang, Zhang, Shen and Kim, "Parallelizing
Linear Transformers with the Delta Rule over Sequence Length", 2024, section 3. With one gate a head: Yang,
Kautz and Hatamizadeh, "Gated Delta Networks", 2024, section 3.3. With D per channel: Kimi Team, "Kimi
Linear", 2025, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffgdn.reference.oracle.lanes import Lanes, Rounding

BLOCK = 8  # tokens that a decay per channel is taken for pair by pair
# The same on a GPU, where launches count more than work, while a block has no more numbers than that.
GPU_BLOCK = 32
GPU_BLOCK_NUMBERS = 1 << 23


@dataclass(frozen=True)
class Chunk:
    """Show what one chunk of C tokens computes, to a follower, in the words of the formulas above. All
    tensors float64.

    Attributes:
        time: the steps that the chunk covers.
        S, after: [..., L, V, K], the state that it starts from and the one it ends with.
        q, k: [..., L, C, K]. g, G: [..., L, C, 1 or K], natural logs.
        beta: [..., L, C, 1].
        kk, qk: [..., L, C, C], the pairwise products k_i . D_ij k_j for i > j and q_i . D_ij k_j for i >=
            j, without beta.
        A: [..., L, C, C].
        beta_v, u, v_new, read: [..., L, C, V]; read is o before the scale.
        beta_k, w: [..., L, C, K]; beta_k = beta exp(G) k.
        q_decayed, k_decayed: [..., L, C, K], q exp(G) and k exp(G_last - G).
    """

    time: slice
    S: Tensor
    q: Tensor
    k: Tensor
    g: Tensor
    beta: Tensor
    G: Tensor
    kk: Tensor
    qk: Tensor
    A: Tensor
    beta_v: Tensor
    beta_k: Tensor
    u: Tensor
    w: Tensor
    v_new: Tensor
    q_decayed: Tensor
    k_decayed: Tensor
    read: Tensor
    after: Tensor


Follow = Callable[[Chunk], None]


def block_of(k: Tensor) -> int:
    """Choose how many tokens make a block along the diagonal, for keys [..., C, K] of a chunk.

    32 on a GPU if the block's numbers fit GPU_BLOCK_NUMBERS, since launches cost more than work there; else
    8.
    """
    fits = k[..., 0, :].numel() * GPU_BLOCK**2 <= GPU_BLOCK_NUMBERS
    return GPU_BLOCK if k.is_cuda and fits else BLOCK


def _pairwise(q: Tensor, k: Tensor, G: Tensor, rounding: Rounding) -> tuple[Tensor, Tensor]:
    """Sum x_i * exp(G_i - G_j) * k_j over the channels, for each pair of tokens of a chunk.

    Args:
        q, k: [..., L, C, K].
        G: [..., L, C, 1 or K], cumulative natural log decay since the chunk's start.

    Returns:
        kk with x = k for i > j, and qk with x = q for i >= j, [..., L, C, C] each, zero elsewhere. No
            exponential above 1 is taken, so
        that strong gates do not overflow.
    """
    C = k.shape[-2]
    seen = torch.ones(C, C, dtype=torch.bool, device=k.device).tril()
    past = seen.tril(-1)
    q, k = rounding.operand(q), rounding.operand(k)
    if G.shape[-1] == 1:
        decay = torch.exp(torch.where(seen, rounding.exponent(G - G.transpose(-1, -2)), -torch.inf))
        kk, qk = (rounding.accumulate(rounding.dot(x, k.transpose(-1, -2)) * decay) for x in (k, q))
        return torch.where(past, kk, 0.0), qk
    # Per channel the decay stands inside the sum. Blocks left of the diagonal take it in two factors,
    # anchored at the block's first row, both of them at most 1; blocks on the diagonal element by element.
    kk, qk = (torch.zeros(*k.shape[:-1], C, dtype=k.dtype, device=k.device) for _ in range(2))
    block = block_of(k)
    for start in range(0, C, block):
        part = slice(start, min(start + block, C))
        here = G[..., part, :]
        if start:
            anchor = G[..., start : start + 1, :]
            fall = torch.exp(rounding.exponent(here - anchor))
            right = k[..., :start, :] * torch.exp(rounding.exponent(anchor - G[..., :start, :]))
            for out, x in ((kk, k), (qk, q)):
                out[..., part, :start] = rounding.dot(x[..., part, :] * fall, right.transpose(-1, -2))
        difference = here.unsqueeze(-3) - here.unsqueeze(-2)  # [..., j, i, K]
        inside = seen[part, part].T.unsqueeze(-1)
        decay = torch.exp(torch.where(inside, rounding.exponent(difference), -torch.inf)).mul_(
            k[..., part, :].unsqueeze(-2)
        )
        for out, x in ((kk, k), (qk, q)):
            # x_i . decay_ji for each pair: [..., i, 1, K] @ [..., i, K, j]
            pairs = rounding.dot(x[..., part, :].unsqueeze(-2), decay.movedim(-3, -1))
            out[..., part, part] = pairs.squeeze(-2)
    return torch.where(past, kk, 0.0), qk


def run(
    lanes: Lanes, rounding: Rounding, chunk: int, follow: Follow | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the chunked form over all tokens of a batch of lanes.

    Args:
        lanes: the inputs, T steps of L lanes; where a lane has ended, its beta and g are zero.
        rounding: what happens to values at the points where a chunk kernel may round.
        chunk: tokens of a chunk; the last one may be shorter.
        follow: called with every `Chunk`, after it has been computed.

    Returns:
        outputs [T, ..., L, V], final states [..., L, V, K], and the states before every chunk [chunks, ...,
            L, V, K], all float64.
    """
    S = lanes.state
    outputs: list[Tensor] = []
    boundaries: list[Tensor] = []
    for start in range(0, lanes.steps, chunk):
        time = slice(start, min(start + chunk, lanes.steps))
        # Time moves inside: [..., L, C, d].
        q, k, v, g, beta = (
            x[time].movedim(0, -2) for x in (lanes.q, lanes.k, lanes.v, lanes.g, lanes.beta.unsqueeze(-1))
        )
        boundaries.append(S)
        G = rounding.cumulative(g)
        since_start = torch.exp(rounding.exponent(G))
        eye = torch.eye(k.shape[-2], dtype=k.dtype, device=k.device)
        kk, qk = _pairwise(q, k, G, rounding)
        lower = eye + rounding.accumulate(beta * kk)
        inverse = torch.linalg.solve_triangular(lower, eye.expand_as(lower), upper=False, unitriangular=True)
        A = rounding.operand(inverse)
        beta_v = rounding.operand(beta * v)
        beta_k = rounding.operand(beta * since_start * k)
        u = rounding.operand(rounding.dot(A, beta_v))
        w = rounding.operand(rounding.dot(A, beta_k))
        h = rounding.operand(S).transpose(-1, -2)  # [..., L, K, V]
        v_new = rounding.accumulate(u - rounding.dot(w, h))
        q_decayed = rounding.operand(q * since_start)
        read = rounding.accumulate(
            rounding.dot(q_decayed, h) + rounding.dot(rounding.operand(qk), rounding.operand(v_new))
        )
        outputs.append(rounding.accumulate(lanes.scale * read).movedim(-2, 0))
        last = G[..., -1:, :]
        k_decayed = rounding.operand(k * torch.exp(rounding.exponent(last - G)))
        written = rounding.dot(rounding.operand(v_new).transpose(-1, -2), k_decayed)
        after = rounding.state(rounding.accumulate(S * torch.exp(rounding.exponent(last))) + written)
        if follow is not None:
            follow(
                Chunk(
                    time,
                    S,
                    q,
                    k,
                    g,
                    beta,
                    G,
                    kk,
                    qk,
                    A,
                    beta_v,
                    beta_k,
                    u,
                    w,
                    v_new,
                    q_decayed,
                    k_decayed,
                    read,
                    after,
                )
            )
        S = after
    if not outputs:
        return lanes.v, S, S.new_empty(0, *S.shape)
    return torch.cat(outputs), S, torch.stack(boundaries)
