"""Compute the truth in float64: what an operation's results are, before any rounding.

Imports nothing from the kernels. `expected` runs the recurrence, which is the definition; `chunked_form`
runs a second, independent derivation, which agrees with it to the rounding of float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.reference.oracle import chunked, lanes, recurrence
from diffgdn.reference.oracle.lanes import Exact, Rounding
from diffgdn.tensors.transfer import move

__all__ = ["Exact", "Expected", "Rounding", "chunked_form", "expected"]


@dataclass(frozen=True)
class Expected:
    """Hold the results of a case in float64; a Rounding with samples puts a leading dimension before all.

    Attributes:
        o: [..., total, HV, V], tokens of sequences only, one sequence after another.
        state: [..., N, HV, V, K], after the last token.
        steps: [..., total, HV, V, K], the state after every token (verify, verify_commit), else None.
        boundary: [..., NT, HV, V, K], the state before every chunk, sequence by sequence (extend with
            `boundary` or a tracked chunk), else None.
    """

    o: Tensor
    state: Tensor
    steps: Tensor | None = None
    boundary: Tensor | None = None

    def items(self) -> dict[str, Tensor]:
        """Map the names of the results that exist to their tensors: o, state, steps, boundary."""
        pairs = {"o": self.o, "state": self.state, "steps": self.steps, "boundary": self.boundary}
        return {name: tensor for name, tensor in pairs.items() if tensor is not None}


def _by_sequence(case: Case, states: Tensor) -> Tensor:
    """Split lanes into sequences and value heads: [..., L, V, K] to [..., N, HV, V, K]."""
    return torch.unflatten(states, -3, (len(case.lens), case.HV))


def _pick(case: Case, padded: Tensor, inner: int, counts: list[int]) -> Tensor:
    """Gather the first counts[n] entries in time of each sequence n, one sequence after another.

    Args:
        padded: [T, ..., L, d...], time first, lanes before the inner dimensions d.
        inner: how many dimensions d there are.
        counts: entries of each sequence, N of them.

    Returns:
        [..., sum(counts), HV, d...].
    """
    lane_axis, N = padded.dim() - inner - 1, len(case.lens)
    if N == 1:
        return padded[: counts[0]].movedim(0, lane_axis - 1)
    time = [t for count in counts for t in range(count)]
    sequence = [n for n, count in enumerate(counts) for _ in range(count)]
    index = move({"index": torch.tensor([time, sequence], dtype=torch.int64)}, padded.device)["index"]
    split = torch.unflatten(padded, lane_axis, (N, case.HV)).movedim(lane_axis, 1)  # [T, N, ..., HV, d...]
    return split[index[0], index[1]].movedim(0, lane_axis - 1)


def _chunk_counts(case: Case) -> list[int]:
    """Count the chunks of each sequence; an empty sequence has none."""
    return [-(-length // case.chunk_size) for length in case.lens]


def by_token(case: Case, padded: Tensor) -> Tensor:
    """Gather what belongs to tokens, [T, ..., L, d], as [..., total, HV, d]."""
    return _pick(case, padded, 1, list(case.lens))


def by_chunk(case: Case, padded: Tensor) -> Tensor:
    """Gather states of chunks, [chunks, ..., L, V, K], as [..., NT, HV, V, K], sequence by sequence."""
    return _pick(case, padded, 2, _chunk_counts(case))


def parents(case: Case) -> recurrence.Parents | None:
    """List the parents of a case's draft trees by time and sequence, [T][N]; None for chains.

    An entry is the step that a sequence's token continues from, -1 for the state it starts with. Past the
    end of a sequence it is the step before.
    """
    if not case.parents:
        return None
    steps = range(max(case.lens))
    return [[tree[t] if t < len(tree) else t - 1 for tree in case.parents] for t in steps]


def every(case: Case) -> int:
    """Give the number of steps between the states that a case returns from before its chunks; 0 if it
    returns none."""
    asked = case.boundary or bool(case.state_options.track)
    return case.chunk_size if case.operation.is_chunked and asked else 0


def assemble(
    case: Case, o: Tensor, S: Tensor, kept: Tensor | None = None, before: Tensor | None = None
) -> Expected:
    """Make the results of a case from tensors laid out by time and lane, such as `recurrence.run` returns.

    Args:
        o: [T, ..., L, V], outputs.
        S: [..., L, V, K], states after the last token.
        kept: [T, ..., L, V, K], states after every step, or None.
        before: [chunks, ..., L, V, K], states before every chunk, or None.
    """
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
    """Run the recurrence on a case, in float64 or under a Rounding.

    Args:
        data: the tensors of `inputs.draw`, in their own dtypes; they are not changed.
        rounding: what happens at the points where a kernel may round; None for exact arithmetic.
        device: where it is computed, and where the results lie.
        follow: called with every `recurrence.Step`.

    Returns:
        `Expected` in float64, with shapes as documented there.
    """
    rounding = rounding or Exact()
    return along(case, lanes.make(case, data, rounding, device), rounding, follow)


def along(
    case: Case, batch: lanes.Lanes, rounding: Rounding, follow: recurrence.Follow | None = None
) -> Expected:
    """Run the recurrence on lanes that have been made already.

    The other arguments, and what is returned, are those of `expected`.
    """
    steps = recurrence.run(batch, rounding, parents(case), case.needs_steps, every(case), follow)
    return assemble(case, *steps)


def chunked_form(
    case: Case, data: dict[str, Tensor], rounding: Rounding | None = None, device: torch.device | str = "cpu"
) -> Expected:
    """Run the chunked (WY) form on a case, in float64 or under a Rounding.

    Arguments and results are those of `expected`, but for `follow` and for `steps`, which is None: the
    state after single tokens does not occur in this form.

    Raises:
        ValueError: the case has trees; the form is for chains.
    """
    if case.parents:
        raise ValueError("the chunked form has no trees")
    rounding = rounding or Exact()
    return chunks_along(case, lanes.make(case, data, rounding, device), rounding)


def chunks_along(case: Case, batch: lanes.Lanes, rounding: Rounding) -> Expected:
    """Run the chunked form on lanes that have been made already; results are those of `chunked_form`."""
    o, S, before = chunked.run(batch, rounding, case.chunk_size)
    return assemble(case, o, S, None, before if every(case) else None)
