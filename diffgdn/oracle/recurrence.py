"""The gated delta rule, step by step, as plainly as it reads.

    S <- S * exp(g);  d <- beta * (v - S k);  S <- S + d k^T;  o <- scale * S q

with S [V, K] per lane. This is the definition; everything else is measured against it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffgdn.oracle.lanes import Lanes, Rounding


def step(
    S: Tensor, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, scale: float, rounding: Rounding
) -> tuple[Tensor, Tensor]:
    """One token: state [..., L, V, K] to the next state and the output [..., L, V]. g is [..., L, 1 or K],
    beta [..., L]."""
    S = S * torch.exp(rounding.exponent(g)).unsqueeze(-2)
    recalled = rounding.dot(S, k.unsqueeze(-1)).squeeze(-1)
    d = rounding.accumulate(beta.unsqueeze(-1) * (v - recalled))
    S = rounding.state(S.addcmul_(d.unsqueeze(-1), k.unsqueeze(-2)))
    o = rounding.accumulate(scale * rounding.dot(S, q.unsqueeze(-1)).squeeze(-1))
    return S, o


def run(
    lanes: Lanes, rounding: Rounding, parents: Tensor | None = None, keep: bool = False, every: int = 0
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Outputs [T, ..., L, V]; final states [..., L, V, K]; with `keep` the state after every step [T, ...,
    L, V, K]; with `every` the state before each step that is a multiple of it [ceil(T / every), ..., L, V,
    K].

    parents [T, L]: the step whose state a step starts from, -1 for the initial state; None for a chain,
    which also means that steps past a lane's end leave its state alone.
    """
    S = lanes.state
    outputs: list[Tensor] = []
    kept: list[Tensor] = []
    before: list[Tensor] = []
    for t in range(lanes.steps):
        if every and t % every == 0:
            before.append(S)
        start = S if parents is None or t == 0 else _from_parents(lanes.state, kept, parents[t])
        S, o = step(
            start, lanes.q[t], lanes.k[t], lanes.v[t], lanes.g[t], lanes.beta[t], lanes.scale, rounding
        )
        outputs.append(o)
        if keep or parents is not None:
            kept.append(S)

    def stack(parts: list[Tensor], like: Tensor) -> Tensor:
        return torch.stack(parts) if parts else like.new_empty(0, *like.shape)

    return (
        torch.stack(outputs) if outputs else lanes.v,
        S,
        stack(kept, S) if keep else None,
        stack(before, S) if every else None,
    )


def _from_parents(initial: Tensor, kept: list[Tensor], parent: Tensor) -> Tensor:
    """State each lane starts this step from: [..., L, V, K] picked by lane from the earlier steps' states."""
    states = torch.stack([initial.expand_as(kept[0]), *kept])  # [1 + t, ..., L, V, K]
    lane = torch.arange(parent.numel(), device=parent.device)
    return states.movedim(-3, 1)[parent + 1, lane].movedim(0, -3)
