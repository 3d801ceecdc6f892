"""The questions asked of a run, one exception class each, in a fixed order; the first that fails is the
verdict.

A message names the operation, the tensor, the place and the size of the trouble, in that order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.reference import noise
from diffgdn.tensors import poison
from diffgdn.tensors.poison import Stray
from diffgdn.tensors.region import Change
from diffgdn.tensors.results import result_of
from diffgdn.verdict.failures import (
    ALL,
    BeyondBound,
    CheckFailure,
    GuardWritten,
    InputChanged,
    KernelCrashed,
    KernelHung,
    KernelRaised,
    NeverWritten,
    NotExact,
    NotFinite,
    NotRepeatable,
    PoisonLeaked,
    RelationBroken,
    SlotChanged,
)

__all__ = [
    "ALL",
    "BeyondBound",
    "CheckFailure",
    "Comparison",
    "GuardWritten",
    "InputChanged",
    "KernelCrashed",
    "KernelHung",
    "KernelRaised",
    "NeverWritten",
    "NotExact",
    "NotFinite",
    "NotRepeatable",
    "PoisonLeaked",
    "RelationBroken",
    "SlotChanged",
    "bounded",
    "describe_place",
    "exact",
    "finite",
    "memory",
    "not_shared",
    "repeatable",
    "slots",
    "unwritten_mask",
    "written",
]


@dataclass(frozen=True)
class Comparison:
    """One result beside the oracle's, everything in float64 on the CPU and of one shape.

    bound is the largest error that passes; noise what it is made from, without the final rounding.
    """

    case: Case
    name: str
    dtype: torch.dtype
    got: Tensor
    expected: Tensor
    noise: Tensor
    half_ulp: Tensor
    unwritten: Tensor

    @property
    def error(self) -> Tensor:
        return (self.got - self.expected).abs()

    @property
    def bound(self) -> Tensor:
        return noise.bound_of(self.half_ulp, self.noise)

    @cached_property
    def overflows(self) -> Tensor:
        """Elements that a correct kernel may round to infinity, as the format ends within the bound; False
        for all where there is none, which takes no pass over them."""
        most = torch.finfo(self.dtype).max
        if self.got.numel():
            size = max(-float(self.expected.min()), float(self.expected.max()))
            bound = float(self.half_ulp.max()) + noise.MAX_SIGMAS * float(self.noise.max()) + noise.TINY
            if not size + bound < most:  # not: of a NaN too
                return noise.overflows(self.expected, self.bound, self.dtype)
        return torch.zeros((), dtype=torch.bool)

    @cached_property
    def error_in_sigmas(self) -> Tensor:
        """Each error, less the unavoidable final rounding, in sigmas, MAX_SIGMAS of which pass; 0 where the
        format may end."""
        excess = noise.error_in_sigmas(self.error, self.half_ulp, self.noise)
        return excess.masked_fill_(self.overflows, 0.0) if self.overflows.any() else excess

    @property
    def share(self) -> float:
        """Worst error, less the unavoidable final rounding, as a share of MAX_SIGMAS sigmas."""
        return float(self.error_in_sigmas.max()) / noise.MAX_SIGMAS if self.got.numel() else 0.0

    def worst(self) -> tuple[int, ...]:
        """Index of the element whose error is the largest multiple of its bound."""
        ratio = (self.error / self.bound).nan_to_num_(nan=torch.inf)
        if self.overflows.any():
            ratio.masked_fill_(self.overflows, 0.0)
        return tuple(int(i) for i in torch.unravel_index(ratio.argmax(), ratio.shape))

    @property
    def origins(self) -> list[int]:
        """For each row of the result its token (o, steps), chunk (boundary) or sequence (state, final) in the
        whole batch: a result holds only what the operation leaves behind."""
        rows = result_of(self.case, self.name).rows
        return list(range(self.got.shape[0]) if rows is None else rows)

    def place(self, index: tuple[int, ...]) -> str:
        """An index in the words of the result: sequence, token, head, row, column."""
        return describe_place(self.case, self.name, (self.origins[index[0]], *index[1:]))

    def first(self, mask: Tensor) -> tuple[int, ...]:
        return tuple(int(i) for i in mask.nonzero()[0])


def describe_place(case: Case, name: str, index: tuple[int, ...]) -> str:
    """Words for an index into a result of a case (see `oracle.Expected` for the shapes)."""
    if name in ("o", "steps"):
        sequence = max(n for n in range(len(case.lens)) if case.starts[n] <= index[0] and case.lens[n] > 0)
        words = [f"sequence {sequence}", f"token {index[0] - case.starts[sequence]}"]
    elif name == "boundary":
        chunk, sequence = index[0], 0
        while chunk >= -(-case.lens[sequence] // case.chunk_size):
            chunk -= -(-case.lens[sequence] // case.chunk_size)
            sequence += 1
        words = [f"sequence {sequence}", f"chunk {chunk}"]
    else:
        words = [f"sequence {index[0]}"]
    words.append(f"head {index[1]}")
    words += [f"{axis} {i}" for axis, i in zip(("V", "K"), index[2:], strict=False)]
    return "(" + ", ".join(words) + ")"


def _count(mask: Tensor) -> str:
    return f"{int(mask.sum())} of {mask.numel()} elements"


def memory(case: Case, change: Change | None) -> None:
    """Nothing outside the documented writes differs from the snapshot: inputs, guards, gaps."""
    if change is None or (change.where == "element" and change.tensor in ("state", "buffer")):
        return
    if change.where == "element":
        raise InputChanged(
            case.op,
            change.tensor,
            f"{list(change.index)}",
            f"a read-only input was written ({change.count} 16-bit words changed)",
        )
    raise GuardWritten(
        case.op,
        change.tensor,
        f"at element {change.offset}",
        f"memory {side(change)} was written ({change.count} 16-bit words changed)",
    )


def side(change: Change) -> str:
    """Where memory that is no element of a tensor lies."""
    if change.offset < 0:
        return "before its start"
    return "past its end" if change.where == "guard" else "between its rows or slots"


def fresh(case: Case, stray: Stray | None, name: str | None) -> None:
    """Nothing was written beside memory that the call itself allocated. name: of the result that lies in it,
    None for a workspace."""
    if stray is not None:
        where = "before its start" if stray.offset < 0 else "past its end"
        shape = f"{list(stray.tensor.shape)} {str(stray.tensor.dtype).removeprefix('torch.')}"
        raise GuardWritten(
            case.op,
            name or "workspace",
            f"at element {stray.offset}",
            f"memory {where} was written ({stray.count} bytes changed; it is {shape})",
        )


def slots(case: Case, change: Change | None) -> None:
    """Slots and buffer rows that the operation does not write are bit-identical."""
    if change is None or change.where != "element" or change.tensor not in ("state", "buffer"):
        return
    row = change.index[0]
    if change.tensor == "buffer":
        owner = f"row {row} step {change.index[1]}"
        raise SlotChanged(
            case.op,
            "buffer",
            owner,
            f"a step that no draft token owns was written ({change.count} 16-bit words changed)",
        )
    if not case.operation.has_pool:
        raise InputChanged(case.op, "state", f"sequence {row}", "the initial state was written")
    users = [n for n, slot in enumerate(case.pool.indices) if slot == row]
    why = f"sequence {users[0]} only reads it" if users else "no sequence names it"
    raise SlotChanged(
        case.op,
        "state",
        f"slot {row}",
        f"the slot was written, and {why} ({change.count} 16-bit words changed)",
    )


def written(comparison: Comparison) -> None:
    """Every element of a result was written."""
    mask = comparison.unwritten
    if mask.any():
        index = comparison.first(mask)
        raise NeverWritten(
            comparison.case.op, comparison.name, comparison.place(index), f"never written ({_count(mask)})"
        )


def finite(
    comparison: Comparison, clean: Callable[[], Tensor | None], source: Callable[[Tensor], str | None]
) -> None:
    """Finite where the oracle is. `clean` gives the same result from a run without poison, to tell a leak
    from an overflow; `source` the memory that leaked into the elements of a mask, in words."""
    mask = ~comparison.got.isfinite()
    if mask.any():
        mask &= ~comparison.overflows
    if not mask.any():
        return
    index = comparison.first(mask)
    rerun = clean()
    if rerun is not None and bool(rerun[mask].isfinite().all()):
        raise PoisonLeaked(
            comparison.case.op,
            comparison.name,
            comparison.place(index),
            f"memory that must not be read reached the result{_named(source(mask))} "
            f"({_count(mask)}; finite once it is zero)",
        )
    raise NotFinite(
        comparison.case.op,
        comparison.name,
        comparison.place(index),
        f"got {float(comparison.got[index])}, expected {float(comparison.expected[index]):.6g} "
        f"({_count(mask)})",
    )


def _named(source: str | None) -> str:
    return "" if source is None else f": {source}"


def exact(comparison: Comparison) -> None:
    """Bit for bit what the oracle says, signs of zeros apart."""
    mask = comparison.got != comparison.expected
    if mask.any():
        index = comparison.worst()
        raise NotExact(
            comparison.case.op,
            comparison.name,
            comparison.place(index),
            f"got {float(comparison.got[index]):.9g}, "
            f"expected exactly {float(comparison.expected[index]):.9g} ({_count(mask)} differ)",
        )


def bounded(comparison: Comparison) -> None:
    """Every error within its bound."""
    if comparison.share > 1.0:
        mask = comparison.error_in_sigmas > noise.MAX_SIGMAS
        index = comparison.worst()
        error, bound = float(comparison.error[index]), float(comparison.bound[index])
        raise BeyondBound(
            comparison.case.op,
            comparison.name,
            comparison.place(index),
            f"got {float(comparison.got[index]):.9g}, expected {float(comparison.expected[index]):.9g}: "
            f"error {error:.3g} is {error / bound:.3g} times the bound {bound:.3g} "
            f"({_count(mask)} beyond theirs)",
        )


def repeatable(case: Case, first: Tensor, second: Tensor, names: str) -> None:
    """Two runs from the same memory left the same bits."""
    if not torch.equal(first, second):
        count = int((first != second).sum())
        raise NotRepeatable(
            case.op, names, None, f"the same call twice gave different bits ({count} 16-bit words)"
        )


def not_shared(case: Case, name: str, shared: bool) -> None:
    """A second call's result is not the memory that the first call returned."""
    if shared:
        raise NotRepeatable(
            case.op,
            name,
            None,
            "the second call returned the memory of the first call's result, and overwrote it",
        )


def unwritten_mask(tensor: Tensor, pattern: int = poison.FRESH) -> Tensor:
    """Where a result in its own dtype still holds what its memory started with."""
    return poison.unwritten(tensor, pattern).view(tensor.shape)
