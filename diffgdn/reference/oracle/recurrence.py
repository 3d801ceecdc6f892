"""The gated delta rule, step by step, as plainly as it reads.

    S <- S * exp(g);  d <- beta * (v - S k);  S <- S + d k^T;  o <- scale * S q

with S [V, K] per lane. This is the definition; everything else is measured against it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffgdn.reference.oracle.lanes import Lanes, Rounding

Parents = Sequence[Sequence[int]]  # [T][N]: the step that each sequence's step starts from, -1 for none


@dataclass(frozen=True)
class Step:
    """What one token computes, for whoever follows the recurrence: the state it starts from after the decay
    [..., L, V, K], S k, d and S q, each [..., L, V], and the next state."""

    time: int
    decayed: Tensor
    recalled: Tensor
    d: Tensor
    state: Tensor
    read: Tensor


Follow = Callable[[Step], None]


def run(
    lanes: Lanes,
    rounding: Rounding,
    parents: Parents | None = None,
    keep: bool = False,
    every: int = 0,
    follow: Follow | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Outputs [T, ..., L, V]; final states [..., L, V, K]; with `keep` the state after every step [T, ...,
    L, V, K]; with `every` the state before each step that is a multiple of it [ceil(T / every), ..., L, V,
    K].

    parents: None for a chain, which also means that steps past a lane's end leave its state alone. follow:
    is shown every step.
    """
    S = lanes.state
    outputs: list[Tensor] = []
    kept: list[Tensor] = []
    before: list[Tensor] = []
    for t in range(lanes.steps):
        if every and t % every == 0:
            before.append(S)
        q, k, beta = lanes.q[t], lanes.k[t], lanes.beta[t].unsqueeze(-1)
        start = S if parents is None else from_parents(lanes.state, kept, parents[t])
        decayed = start * torch.exp(rounding.exponent(lanes.g[t])).unsqueeze(-2)
        recalled = rounding.dot(k.unsqueeze(-2), decayed.mT).squeeze(-2)
        d = rounding.accumulate(beta * (lanes.v[t] - recalled))
        S = rounding.state(torch.addcmul(decayed, d.unsqueeze(-1), k.unsqueeze(-2)))
        read = rounding.dot(q.unsqueeze(-2), S.mT).squeeze(-2)
        outputs.append(rounding.accumulate(lanes.scale * read))
        if keep or parents is not None:
            kept.append(S)
        if follow is not None:
            follow(Step(t, decayed, recalled, d, S, read))

    def stack(parts: list[Tensor], like: Tensor) -> Tensor:
        return torch.stack(parts) if parts else like.new_empty(0, *like.shape)

    return (
        torch.stack(outputs) if outputs else lanes.v,
        S,
        stack(kept, S) if keep else None,
        stack(before, S) if every else None,
    )


def from_parents(initial: Tensor, kept: Sequence[Tensor], parents: Sequence[int]) -> Tensor:
    """What each sequence starts a step from: [..., L, a, b] out of the initial value and those kept after
    each earlier step, lanes of one sequence side by side."""
    if all(parent == len(kept) - 1 for parent in parents):
        return kept[-1] if kept else initial
    heads = initial.shape[-3] // len(parents)
    parts = []
    for n, parent in enumerate(parents):
        states = initial if parent < 0 else kept[parent]
        parts.append(states[..., n * heads : (n + 1) * heads, :, :])
    return torch.cat(parts, dim=-3)
