"""The questions asked of a run: each `check_...` raises its own class of failure, or returns None.

They are asked in a fixed order, and the first that fails is the verdict. A message names the operation, the
tensor, the place and the size of the trouble, in that order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.reference import noise
from diffgdn.tensors import poison
from diffgdn.tensors.poison import Stray
from diffgdn.tensors.region import Change
from diffgdn.tensors.results import WrongForm, result_of
from diffgdn.verdict.comparison import Comparison, describe_place
from diffgdn.verdict.failures import (
    FORMS,
    BeyondBound,
    ExecutionDiffers,
    GuardWritten,
    InputChanged,
    NeverWritten,
    NotExact,
    NotFinite,
    NotRepeatable,
    PoisonLeaked,
    SlotChanged,
    TailNotZero,
)

STATE_ARGUMENTS = (
    "state",
    "buffer",
    "changes",
    "track",
)  # of which a call may write some rows alone


def _count(mask: Tensor) -> str:
    return f"{int(mask.sum())} of {mask.numel()} elements"


def _first(mask: Tensor) -> tuple[int, ...]:
    """Index of the first True."""
    return tuple(int(i) for i in mask.nonzero()[0])


def refuse_form(case: Case, error: WrongForm) -> NoReturn:
    """Raise the failure of a result that did not come, or in another shape or dtype than its own."""
    failure = next(form for form in FORMS if form.kind == error.kind)
    raise failure(case.op, error.name, None, str(error)) from None


def check_memory(case: Case, change: Change | None) -> None:
    """Raise InputChanged if a read-only input was written, GuardWritten if a guard zone or a gap was.

    change: the first one outside the documented writes, if any; `check_slots` speaks of states.
    """
    if change is None or (change.where == "element" and change.tensor in STATE_ARGUMENTS):
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
        f"memory {describe_side(change)} was written ({change.count} 16-bit words changed)",
    )


def describe_side(change: Change) -> str:
    """Say on which side of a tensor changed memory lies that is none of its elements."""
    if change.offset < 0:
        return "before its start"
    return "past its end" if change.where == "guard" else "between its rows or slots"


def check_fresh_memory(case: Case, stray: Stray | None, name: str | None) -> None:
    """Raise GuardWritten if the call wrote beside memory that it had allocated itself.

    name: of the result that lies in that memory; None for a workspace.
    """
    if stray is not None:
        where = "before its start" if stray.offset < 0 else "past its end"
        shape = f"{list(stray.tensor.shape)} {str(stray.tensor.dtype).removeprefix('torch.')}"
        raise GuardWritten(
            case.op,
            name or "workspace",
            f"at element {stray.offset}",
            f"memory {where} was written ({stray.count} bytes changed; it is {shape})",
        )


def check_slots(case: Case, change: Change | None) -> None:
    """Raise SlotChanged if a slot or buffer row was written that the operation must leave alone.

    A dense state that must only be read counts as an input: InputChanged. change: the first one outside the
    documented writes, if any.
    """
    if change is None or change.where != "element" or change.tensor not in STATE_ARGUMENTS:
        return
    row = change.index[0]
    if change.tensor == "track":
        raise SlotChanged(
            case.op,
            "track",
            f"row {row}",
            "no chunk of this sequence is tracked, and its row was written "
            f"({change.count} 16-bit words changed)",
        )
    if change.tensor in ("buffer", "changes"):
        owner = f"row {row} step {change.index[1]}"
        raise SlotChanged(
            case.op,
            change.tensor,
            owner,
            f"a step that no draft token owns was written ({change.count} 16-bit words changed)",
        )
    if not case.operation.has_pool:
        raise InputChanged(case.op, "state", f"sequence {row}", "the initial state was written")
    slots = case.state_options.slots or [(slot,) for slot in case.pool.indices]
    users = [n for n, own in enumerate(slots) if row in own]
    why = f"sequence {users[0]} only reads it" if users else "no sequence names it"
    raise SlotChanged(
        case.op,
        "state",
        f"slot {row}",
        f"the slot was written, and {why} ({change.count} 16-bit words changed)",
    )


def check_written(comparison: Comparison) -> None:
    """Raise NeverWritten if an element of a result still holds what its memory was filled with."""
    mask = comparison.unwritten
    if mask.any():
        index = _first(mask)
        raise NeverWritten(
            comparison.case.op, comparison.name, comparison.place(index), f"never written ({_count(mask)})"
        )


def check_finite(
    comparison: Comparison,
    clean: Callable[[], Tensor | None] = lambda: None,
    source: Callable[[Tensor], str | None] = lambda mask: None,
) -> None:
    """Raise if an element is infinite or NaN that a correct kernel leaves finite.

    PoisonLeaked if all such elements are finite once no memory holds poison, else NotFinite.

    clean: gives the result, in the comparison's shape, of a run without poison; None if there is none.
    source: names the memory that leaked into the elements of a mask; None if it is not known.
    """
    mask = ~comparison.got.isfinite()
    if mask.any():
        mask &= ~comparison.overflows
    if not mask.any():
        return
    index = _first(mask)
    rerun = clean()
    if rerun is not None and bool(rerun[mask].isfinite().all()):
        raise PoisonLeaked(
            comparison.case.op,
            comparison.name,
            comparison.place(index),
            f"memory that must not be read reached the result{_name_leak(source(mask))} "
            f"({_count(mask)}; finite once it is zero)",
        )
    raise NotFinite(
        comparison.case.op,
        comparison.name,
        comparison.place(index),
        f"got {float(comparison.got[index])}, expected {float(comparison.expected[index]):.6g} "
        f"({_count(mask)})",
    )


def _name_leak(source: str | None) -> str:
    """Append the leaking memory to a message, if it is known."""
    return "" if source is None else f": {source}"


def check_exact(comparison: Comparison) -> None:
    """Raise NotExact unless every element equals the oracle's; the sign of a zero is free."""
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


def check_bounded(comparison: Comparison) -> None:
    """Raise BeyondBound if an error is larger than the bound of its element."""
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


def check_tail(case: Case, rows: Tensor, pattern: int = poison.FRESH, how: str = "") -> None:
    """Raise TailNotZero unless every output row behind the last sequence is zero, of either sign.

    rows: [tail, HV, V], in the dtype in which they came. pattern: the 16-bit pattern that their memory was
    filled with. how: the call, if it was executed otherwise than plainly, in words.
    """
    mask = rows != 0
    if mask.any():
        index = _first(mask)
        if poison.unwritten(rows, pattern).view(rows.shape)[index]:
            what = "it was never written"
        else:
            what = f"got {float(rows[index]):.6g}"
        place = f"(padding token {index[0]}, head {index[1]}, V {index[2]})"
        by = f" by {how}" if how else ""
        message = (
            f"an output row behind the last sequence is promised to be zero; {what}{by} ({_count(mask)})"
        )
        raise TailNotZero(case.op, "o", place, message)


def check_repeatable(case: Case, first: Tensor, second: Tensor, name: str, turned: bool = False) -> None:
    """Raise NotRepeatable unless two runs from the same memory left the same bits.

    first, second: int16, the words of a result or of the memory. name: of the result, or "memory".
    turned: whether the second ran the programs of each grid in the opposite order.
    """
    if not torch.equal(first, second):
        count = int((first != second).sum())
        how = "; the second time, programs ran in the opposite order" if turned else ""
        raise NotRepeatable(
            case.op, name, None, f"the same call twice gave different bits ({count} 16-bit words{how})"
        )


def check_not_shared(case: Case, name: str, shared: bool) -> None:
    """Raise NotRepeatable if a second call returned the memory that the first had returned."""
    if shared:
        raise NotRepeatable(
            case.op,
            name,
            None,
            "the second call returned the memory of the first call's result, and overwrote it",
        )


def check_executed(case: Case, first: Tensor, second: Tensor, name: str, how: str) -> None:
    """Raise ExecutionDiffers unless a call that was executed otherwise left the bits of the plain call.

    first, second: a result, or with name "memory" all of it as 16-bit words. how: the other call, in words.
    """
    size = first.element_size()
    words = {2: torch.int16, 4: torch.int32, 8: torch.int64}[size]
    different = first.contiguous().view(words) != second.contiguous().view(words)
    if bool(different.any()):
        index, place = _first(different), None
        if name != "memory":
            rows = result_of(case, name).rows
            row = index[0] if rows is None else rows[index[0]]
            place = describe_place(case, name, (row, *index[1:]))
        what = "16-bit words" if name == "memory" else "elements"
        count = f"{int(different.sum())} of {different.numel()} {what}"
        raise ExecutionDiffers(case.op, name, place, f"{how} left other bits than the plain call ({count})")


def check_kept(case: Case, before: Tensor, now: Tensor, name: str) -> None:
    """Raise ExecutionDiffers if a replay wrote to what a plain call had returned.

    before, now: its 16-bit words.
    """
    if not torch.equal(before, now):
        message = "the replay of its graph overwrote what a plain call before it had returned"
        raise ExecutionDiffers(case.op, name, None, message)
