"""The promises that fit what a probe saw.

What a target refuses or raises on is left out. What is wrong, crashes or hangs stays in: nobody but the user
can say whether it is a fault or a promise not made, so it is put beside as the choice that it is. What was
not reached stays as the target promises it, and so does what it says of results.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from diffgdn.cases import spans
from diffgdn.cases.promise_axes import Flag, Whole, Words
from diffgdn.cases.promises import AXES, EVERYTHING, SAID, Promises
from diffgdn.cases.spans import Span
from diffgdn.probe.cells import DOUBTFUL, NOT_REACHED, RIGHT, Cell, Matrix, Row

ALWAYS = {"strides": ("compact",), "alignment": (256,), "execution": ("eager",)}  # are taken by all
STEPS = (64, 32, 16, 8, 4, 2, 1)  # of spans that are tried
ALIASES = {"q", "gate"}  # dtypes of promises that stand for those of other operands


@dataclass(frozen=True)
class Line:
    """What is promised on an axis.

    value: what fits without a decision; None for all. why: what was left out, and why. doubts: what is wrong,
    crashes or hangs. stricter: what would be promised without these; None if there are none.
    """

    axis: str
    value: Any
    why: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    stricter: Any = None


@dataclass(frozen=True)
class Fitted:
    """Lines of promises: those of all operations, and of single ones; pairs that are not right, in words."""

    common: tuple[Line, ...]
    own: dict[str, tuple[Line, ...]]
    pairs: tuple[str, ...] = ()

    def promises(self, strict: bool = False) -> Promises:
        """Make promises of the lines. strict: with everything left out that is in doubt."""
        own = {op: _fields(lines, strict) for op, lines in self.own.items()}
        return Promises(**_fields(self.common, strict), operations={op: own[op] for op in own if own[op]})


def _fields(lines: Iterable[Line], strict: bool) -> dict[str, Any]:
    found = {}
    for line in lines:
        value = line.stricter if strict and line.doubts and line.stricter is not None else line.value
        if value is not None:
            found[line.axis] = value
    return found


def fit(matrix: Matrix) -> Fitted:
    """Return the promises that fit a matrix; operations without a right plain case have none."""
    rows = [row for row in matrix.rows if row.plain.status == RIGHT]
    found = {row.op: {line.axis: line for line in _lines(row, matrix.declared)} for row in rows}
    asked = {row.op: {a for a, _ in row.plain_values} | {c.axis for c in row.cells} | {*SAID} for row in rows}
    common = []
    for name in (*(spec.name for spec in AXES), *SAID):
        here = [found[op].get(name) for op in found if name in asked[op]]
        first = here[0] if here else None
        if first is not None and all(one == first for one in here):
            common.append(first)
    shared = {line.axis for line in common}
    own = {
        op: tuple(line for axis, line in lines.items() if axis not in shared) for op, lines in found.items()
    }
    pairs = tuple(f"{c.op}: {c.name}: {c.status}" for row in rows for c in row.pairs)
    return Fitted(tuple(common), {op: lines for op, lines in own.items() if lines}, pairs)


def _lines(row: Row, declared: Promises) -> Iterator[Line]:
    """Iterate over what an operation promises on each axis where that is not all, or in doubt."""
    own = declared.of(row.op)
    plain: dict[str, list[Any]] = {}
    for axis, value in row.plain_values:
        plain.setdefault(axis, []).append(value)
    for spec in AXES:
        cells = _cells(row, spec.name)
        if not cells:
            continue
        kind, all_of = spec.metadata["axis"], getattr(EVERYTHING, spec.name)
        promised = getattr(own, spec.name)
        doubts = [cell for cell in cells if cell.status in DOUBTFUL]
        takes = [cell.value for cell in cells if _is_in(cell, promised, kind)] + plain.get(spec.name, [])
        loose: Any = _value(spec.name, kind, takes + [cell.value for cell in doubts], cells, promised)
        strict: Any = _value(spec.name, kind, takes, cells, promised) if doubts else loose
        why = _why(cells)
        if loose == all_of:
            loose, why = None, ()
        if loose is None and not doubts:
            continue
        yield Line(spec.name, loose, why, _said(doubts), strict if doubts and strict != loose else None)
    for name in SAID:
        if getattr(own, name) != getattr(EVERYTHING, name):
            yield Line(name, getattr(own, name))


def _cells(row: Row, axis: str) -> list[Cell]:
    """List the cells that say something about an axis.

    K and V are asked about together and each by itself; by itself says which of them is to blame.
    """
    found = [cell for cell in row.cells if cell.axis == axis]
    if axis == "V":
        together = [cell for cell in row.cells if cell.axis == "K" and cell.name.startswith("K=V")]
        alone = {cell.value: cell for cell in found if cell.status != NOT_REACHED}
        return [alone.get(cell.value, cell) for cell in together]
    if axis == "K":
        together = [cell for cell in found if cell.name.startswith("K=V")]
        alone = {c.value: c for c in found if not c.name.startswith("K=V") and c.status != NOT_REACHED}
        return [alone.get(cell.value, cell) for cell in together]
    return found


def _is_in(cell: Cell, promised: Any, kind: Any) -> bool:
    """Tell whether a value is in the promises without a decision: right, or promised and not reached."""
    return cell.status == RIGHT or (cell.status == NOT_REACHED and bool(kind.takes(promised, cell.value)))


def _value(axis: str, kind: Any, takes: list[Any], cells: list[Cell], promised: Any) -> Any:
    """Return the promise of an axis that takes these values, and no others that were asked about."""
    others = [cell.value for cell in cells if cell.value not in takes]
    if isinstance(kind, Flag):
        return True in takes
    if isinstance(kind, Words):
        asked = {cell.value for cell in cells} | set(takes)
        kept = [one for one in kind.known if one in takes or one in ALWAYS.get(axis, ())]
        kept += [one for one in promised if one not in asked and one not in kept and one not in ALIASES]
        if not others:
            kept += [one for one in kind.known if one in ALIASES and one in promised]
        return kind.read(axis, kept)
    if not others:
        return getattr(EVERYTHING, axis)
    if isinstance(kind, Whole):
        return kind.read(axis, numbers(takes, others, kind.least, kind.most))
    return tuple(sorted(set(takes))) or promised


def numbers(takes: list[int], others: list[int], least: int, most: int) -> spans.Numbers:
    """Return numbers that have all of `takes` and none of `others`: a span, its ends open where they can be,
    of the largest multiple that all of them are; else a list.
    """
    low, high = min(takes), max(takes)
    if low == high:
        return (low,)
    for first, last in ((None, None), (None, high), (low, None), (low, high)):
        for multiple in STEPS:
            start, end = least if first is None else first, most if last is None else last
            if all(n % multiple == 0 for n in takes) and not any(
                start <= n <= end and n % multiple == 0 for n in others
            ):
                return Span(first, last, multiple)
    return tuple(sorted(set(takes)))


def _why(cells: list[Cell]) -> tuple[str, ...]:
    """Say for each status that is neither right nor in doubt, which values have it."""
    found: dict[str, list[str]] = {}
    for cell in cells:
        if cell.status not in (RIGHT, *DOUBTFUL, NOT_REACHED):
            found.setdefault(cell.status, []).append(_word(cell.value))
    return tuple(f"{', '.join(values)}: {status}" for status, values in found.items())


def _said(doubts: list[Cell]) -> tuple[str, ...]:
    """Say what is in doubt, those that fail alike together."""
    found: dict[str, list[str]] = {}
    for cell in doubts:
        found.setdefault(f"{cell.status} ({cell.kind})", []).append(_word(cell.value))
    axis = "K, V" if doubts and doubts[0].name.startswith("K=V") else doubts[0].axis if doubts else ""
    return tuple(f"{axis} {', '.join(values)}: {how}" for how, values in found.items())


def _word(value: Any) -> str:
    if isinstance(value, float) and math.isinf(value):
        return "no limit"
    return str(value).lower() if isinstance(value, bool) else str(value)
