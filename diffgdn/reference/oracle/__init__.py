"""The float64 truth: what an operation's results are, before any rounding.

Imports nothing from the kernels. `expected` runs the recurrence; `chunked_form` the second, independent
derivation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.reference.oracle import chunked, lanes, recurrence
from diffgdn.reference.oracle.lanes import Exact, Rounding
from diffgdn.tensors.transfer import moved

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
    lane_axis, N = padded.dim() - inner - 1, len(case.lens)
    if N == 1:
        return padded[: counts[0]].movedim(0, lane_axis - 1)
    time = [t for count in counts for t in range(count)]
    sequence = [n for n, count in enumerate(counts) for _ in range(count)]
    index = moved({"index": torch.tensor([time, sequence], dtype=torch.int64)}, padded.device)["index"]
    split = padded.unflatten(lane_axis, (N, case.HV)).movedim(lane_axis, 1)  # [T, N, ..., HV, d...]
    return split[index[0], index[1]].movedim(0, lane_axis - 1)


def _chunk_counts(case: Case) -> list[int]:
    return [-(-length // case.chunk_size) for length in case.lens]


def parents(case: Case) -> recurrence.Parents | None:
    """Parents of a case's trees by time and sequence; past a sequence's end, the previous step."""
    if not case.parents:
        return None
    steps = range(max(case.lens))
    return [[tree[t] if t < len(tree) else t - 1 for tree in case.parents] for t in steps]


def every(case: Case) -> int:
    """How many steps lie between the states that a case wants from before its chunks; 0 if it wants none."""
    return case.chunk_size if case.operation.is_chunked and case.boundary else 0


def assemble(
    case: Case, o: Tensor, S: Tensor, kept: Tensor | None = None, before: Tensor | None = None
) -> Expected:
    """Results of a case from what `recurrence.run` returns by time and lane, or of tensors so laid out."""
    return Expected(
        o=_pick(case, o, 1, list(case.lens)),
        state=_by_sequence(case, S),
        steps=None if kept is None else _pick(case, kept, 2, list(case.lens)),
        boundary=None if before is None else _pick(case, before, 2, _chunk_counts(case)),
    )


def expected(
    case: Case,
    data: dict[str, Tensor],
    rounding: Rounding | None = None,
    device: torch.device | str = "cpu",
    follow: recurrence.Follow | None = None,
) -> Expected:
    """The recurrence in float64 (or under a Rounding) on `inputs.draw`'s tensors. follow: is shown every
    step."""
    rounding = rounding or Exact()
    return along(case, lanes.make(case, data, rounding, device), rounding, follow)


def along(
    case: Case, batch: lanes.Lanes, rounding: Rounding, follow: recurrence.Follow | None = None
) -> Expected:
    """The recurrence on lanes that are made already."""
    steps = recurrence.run(batch, rounding, parents(case), case.keeps_steps, every(case), follow)
    return assemble(case, *steps)


def chunked_form(
    case: Case, data: dict[str, Tensor], rounding: Rounding | None = None, device: torch.device | str = "cpu"
) -> Expected:
    """The chunked form in float64 (or under a Rounding); the same results as `expected`, chains only."""
    if case.parents:
        raise ValueError("the chunked form has no trees")
    rounding = rounding or Exact()
    o, S, before = chunked.run(lanes.make(case, data, rounding, device), rounding, case.chunk_size)
    return assemble(case, o, S, None, before if case.operation.is_chunked and case.boundary else None)
