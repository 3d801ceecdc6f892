"""The float64 truth: what an operation's results are, before any rounding.

Imports nothing from the kernels. `expected` runs the recurrence; `chunked_form` the second, independent
derivation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffgdn.case import Case
from diffgdn.oracle import chunked, lanes, recurrence
from diffgdn.oracle.lanes import Exact, Rounding

__all__ = ["Exact", "Expected", "Rounding", "chunked_form", "expected"]


@dataclass(frozen=True)
class Expected:
    """Results in float64, with a leading dimension of samples where a Rounding asks for them.

    o [..., total, HV, V], tokens of sequences only, one sequence after another; state [..., N, HV, V, K]
    after the last token; steps [..., total, HV, V, K], the state after every token (verify), else None;
    boundary [..., NT, HV, V, K], the state before every chunk, sequence by sequence (extend with
    `boundary`), else None.
    """

    o: Tensor
    state: Tensor
    steps: Tensor | None = None
    boundary: Tensor | None = None

    def items(self) -> dict[str, Tensor]:
        """The results that exist, by name."""
        pairs = {"o": self.o, "state": self.state, "steps": self.steps, "boundary": self.boundary}
        return {name: tensor for name, tensor in pairs.items() if tensor is not None}


def _by_sequence(case: Case, states: Tensor) -> Tensor:
    """[..., L, V, K] to [..., N, HV, V, K]."""
    return states.unflatten(-3, (len(case.lens), case.HV))


def _pick(case: Case, padded: Tensor, inner: int, counts: list[int]) -> Tensor:
    """[T, ..., L, d...] with `inner` dimensions d to [..., sum(counts), HV, d...]: the first counts[n]
    entries of each sequence n."""
    device, N = padded.device, len(case.lens)
    repeats = torch.tensor(counts, device=device)
    sequence = torch.repeat_interleave(torch.arange(N, device=device), repeats)
    time = torch.arange(sum(counts), device=device) - (repeats.cumsum(0) - repeats)[sequence]
    lane_axis = padded.dim() - inner - 1
    split = padded.unflatten(lane_axis, (N, case.HV)).movedim(lane_axis, 1)  # [T, N, ..., HV, d...]
    return split[time, sequence].movedim(0, lane_axis - 1)


def _chunk_counts(case: Case) -> list[int]:
    return [-(-length // case.chunk_size) for length in case.lens]


def _parents(case: Case, device: torch.device | str) -> Tensor | None:
    """[T, L] parents of a case's trees; past a sequence's end, the previous step."""
    if not case.parents:
        return None
    rows = [list(tree) + list(range(len(tree) - 1, max(case.lens) - 1)) for tree in case.parents]
    return torch.tensor(rows, device=device).T.repeat_interleave(case.HV, dim=1)


def expected(
    case: Case, data: dict[str, Tensor], rounding: Rounding | None = None, device: torch.device | str = "cpu"
) -> Expected:
    """The recurrence in float64 (or under a Rounding) on `inputs.draw`'s tensors."""
    rounding = rounding or Exact()
    batch = lanes.make(case, data, rounding, device)
    every = case.chunk_size if case.operation.is_chunked and case.boundary else 0
    o, S, kept, before = recurrence.run(batch, rounding, _parents(case, device), case.keeps_steps, every)
    return Expected(
        o=_pick(case, o, 1, list(case.lens)),
        state=_by_sequence(case, S),
        steps=None if kept is None else _pick(case, kept, 2, list(case.lens)),
        boundary=None if before is None else _pick(case, before, 2, _chunk_counts(case)),
    )


def chunked_form(
    case: Case, data: dict[str, Tensor], rounding: Rounding | None = None, device: torch.device | str = "cpu"
) -> Expected:
    """The chunked form in float64 (or under a Rounding); the same results as `expected`, chains only."""
    if case.parents:
        raise ValueError("the chunked form has no trees")
    rounding = rounding or Exact()
    batch = lanes.make(case, data, rounding, device)
    o, S, before = chunked.run(batch, rounding, case.chunk_size)
    boundary = (
        _pick(case, before, 2, _chunk_counts(case)) if case.operation.is_chunked and case.boundary else None
    )
    return Expected(o=_pick(case, o, 1, list(case.lens)), state=_by_sequence(case, S), boundary=boundary)
