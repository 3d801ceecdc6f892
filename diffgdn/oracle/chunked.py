"""The same rule derived a second time, chunk by chunk (the WY form), for the operations that kernels compute that way.

Within a chunk, with G the cumulative log decay since its start, i and j tokens and D_ij = exp(G_i - G_j) for i >= j:

    A = (I + tril(beta_i k_i . D_ij k_j, -1))^-1,   u = A (beta v),   w = A (beta exp(G) k)
    v_new = u - w S,   o = scale * (q exp(G) S + tril(q_i . D_ij k_j) v_new),   S <- exp(G_last) S + v_new^T (exp(G_last - G) k)

(Yang et al., Gated Delta Networks, 2024, section 3.3; with D per channel, Kimi Linear, 2025, section 3). In float64 it agrees
with the recurrence to rounding; under a Rounding it shows how far the roundings that chunk kernels are allowed carry.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffgdn.oracle.lanes import Lanes, Rounding


COLUMNS = 16


def _pairwise(rows: Tensor, columns: Tensor, G: Tensor, strict: bool, rounding: Rounding) -> Tensor:
    """[..., L, C, C]: sum over channels of rows_i * exp(G_i - G_j) * columns_j, for i > j (strict) or i >= j, zero elsewhere."""
    C = rows.shape[-2]
    mask = torch.ones(C, C, dtype=torch.bool, device=rows.device).tril(-1 if strict else 0)
    rows, columns = rounding.operand(rows), rounding.operand(columns)
    if G.shape[-1] == 1:
        decay = torch.exp(torch.where(mask, rounding.exponent(G - G.transpose(-1, -2)), -torch.inf))
        return rounding.accumulate(rounding.dot(rows, columns.transpose(-1, -2)) * decay)
    # Per channel: the decay stands inside the sum; a few tokens of columns at a time bound the memory.
    parts = []
    for start in range(0, C, COLUMNS):
        stop = min(start + COLUMNS, C)
        difference = G.unsqueeze(-2) - G[..., start:stop, :].unsqueeze(-3)  # [..., C, c, K]
        decay = torch.exp(torch.where(mask[:, start:stop, None], rounding.exponent(difference), -torch.inf))
        weighted = rows.unsqueeze(-2) * decay  # [..., C, c, K]
        # For each column j, [..., c, C, K] @ [..., c, K, 1].
        sums = rounding.dot(weighted.transpose(-2, -3), columns[..., start:stop, :].unsqueeze(-1))
        parts.append(sums.squeeze(-1).transpose(-1, -2))
    return torch.cat(parts, dim=-1)


def run(lanes: Lanes, rounding: Rounding, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs [T, ..., L, V], final states [..., L, V, K], and the state before every chunk [chunks, ..., L, V, K]."""
    S = lanes.state
    outputs: list[Tensor] = []
    boundaries: list[Tensor] = []
    for start in range(0, lanes.steps, chunk):
        part = slice(start, min(start + chunk, lanes.steps))
        # Time moves inside: [..., L, C, d].
        q, k, v, g, beta = (x[part].movedim(0, -2) for x in (lanes.q, lanes.k, lanes.v, lanes.g, lanes.beta.unsqueeze(-1)))
        boundaries.append(S)
        G = rounding.cumulative(g)
        since_start = torch.exp(rounding.exponent(G))
        eye = torch.eye(k.shape[-2], dtype=k.dtype, device=k.device)
        lower = eye + rounding.accumulate(beta * _pairwise(k, k, G, True, rounding))
        inverse = torch.linalg.solve_triangular(lower, eye.expand_as(lower), upper=False, unitriangular=True)
        A = rounding.operand(inverse)
        u = rounding.operand(rounding.dot(A, rounding.operand(beta * v)))
        w = rounding.operand(rounding.dot(A, rounding.operand(beta * since_start * k)))
        h = rounding.operand(S).transpose(-1, -2)  # [..., L, K, V]
        v_new = rounding.accumulate(u - rounding.dot(w, h))
        inside = rounding.operand(_pairwise(q, k, G, False, rounding))
        o = rounding.dot(rounding.operand(q * since_start), h) + rounding.dot(inside, rounding.operand(v_new))
        outputs.append(rounding.accumulate(lanes.scale * rounding.accumulate(o)).movedim(-2, 0))
        last = G[..., -1:, :]
        kept = torch.exp(rounding.exponent(last - G))
        written = rounding.dot(rounding.operand(v_new).transpose(-1, -2), rounding.operand(k * kept))
        S = rounding.state(rounding.accumulate(S * torch.exp(rounding.exponent(last))) + written)
    if not outputs:
        return lanes.v, S, S.new_empty(0, *S.shape)
    return torch.cat(outputs), S, torch.stack(boundaries)
