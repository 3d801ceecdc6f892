"""Run the gated delta rule step by step, as plainly as it reads.

    S <- S * exp(g);  d <- beta * (v - S k);  S <- S + d k^T;  o <- scale * S q

with S [V, K] per lane, k and q [K], v [V], g a natural log decay: one number, or one for each channel of K.
This is the definition; everything else is measured against it.

The delta rule (g = 0): Schlag, Irie and Schmidhuber, "Linear Transformers Are Secretly Fast Weight
Programmers", 2021, section 4. With one gate a head: Yang, Kautz and Hatamizadeh, "Gated Delta Networks",
2024, section 3.1. With a gate for each channel: Kimi Team, "Kimi Linear", 2025, section 3.
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
    """Show what one token computes, to a follower of the recurrence. All tensors float64.

    Attributes:
        time: the index of the step, the same for all lanes.
        decayed: [..., L, V, K], the state that the step starts from, after the decay.
        recalled: [..., L, V], S k of the decayed state.
        d: [..., L, V], beta * (v - S k).
        state: [..., L, V, K], the state after the step.
        read: [..., L, V], S q of that state, before the scale.
    """

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
    """Run the recurrence over all steps of a batch of lanes.

    Args:
        lanes: the inputs, T steps of L lanes.
        rounding: what happens to values at the points where a kernel may round.
        parents: [T][N], the step that each sequence's step starts from, -1 for the initial state; None for
            a chain. Only in a chain do
        steps past a lane's end leave its state alone.
        keep: return the state after every step.
        every: return the state before each step whose index is a multiple of this; 0 for none.
        follow: called with every step, after it has been computed.

    Returns:
        outputs [T, ..., L, V]; final states [..., L, V, K]; with `keep` the states after the steps [T, ...,
            L, V, K], else None; with
        `every` the states before steps [ceil(T / every), ..., L, V, K], else None. All float64.
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
    """Choose what each sequence starts a step from.

    Args:
        initial: [..., L, a, b], what step -1 stands for; the lanes of one sequence lie side by side.
        kept: tensors of that shape, one after each earlier step.
        parents: for each of N sequences the index into `kept`, or -1.

    Returns:
        [..., L, a, b]; one of the arguments itself if all sequences take the latest step.
    """
    if all(parent == len(kept) - 1 for parent in parents):
        return kept[-1] if kept else initial
    heads = initial.shape[-3] // len(parents)
    parts = []
    for n, parent in enumerate(parents):
        states = initial if parent < 0 else kept[parent]
        parts.append(states[..., n * heads : (n + 1) * heads, :, :])
    return torch.cat(parts, dim=-3)
