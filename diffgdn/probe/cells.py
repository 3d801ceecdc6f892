"""What came of a probe: a matrix of cells, one for each feature of an operation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from diffgdn.cases.case import Case
from diffgdn.cases.promises import EVERYTHING, Promises
from diffgdn.verdict.failures import Verdict

RIGHT, WRONG, RAISES, CRASHES, HANGS = "right", "wrong", "raises", "crashes", "hangs"
REFUSED, NOT_REACHED = "refused", "not reached"
STATUSES = (RIGHT, WRONG, RAISES, CRASHES, HANGS, REFUSED, NOT_REACHED)
FAILED = (WRONG, RAISES, CRASHES, HANGS)
DOUBTFUL = (WRONG, CRASHES, HANGS)  # of which nobody but the user can say whether they are promised
PLAIN = "plain"
_OF_KIND = {"raised": RAISES, "crashed": CRASHES, "hung": HANGS}


def status_of(verdict: Verdict) -> str:
    """Say what a verdict means for a cell. A result of another size is wrong, though it shows as raised."""
    if verdict.refused is not None:
        return REFUSED
    if verdict.failure is None:
        return RIGHT
    status = _OF_KIND.get(verdict.failure.kind, WRONG)
    return WRONG if status == RAISES and verdict.failure.tensor else status


@dataclass(frozen=True)
class Cell:
    """What a target does with a feature in an operation.

    name: AXIS=VALUE, of a pair both, or "plain". status: of STATUSES. promised: whether the target promises
    the case that decided it. case: that case; of a wrong cell the smallest that was found. asked: cases that
    ran. kind, message: of the failure, or why it was refused or not reached. known: the entry of known
    failures that it is known by.
    """

    op: str
    name: str
    axis: str
    value: Any
    status: str
    promised: bool = True
    case: Case | None = None
    asked: int = 0
    kind: str | None = None
    message: str | None = None
    known: str | None = None

    @property
    def breaks_promise(self) -> bool:
        """Tell whether something that is promised is not right, and nobody knows of it."""
        return self.promised and self.status in FAILED and self.known is None


@dataclass(frozen=True)
class Row:
    """The cells of an operation.

    instead: features that its plain case has in place of the usual ones, as the target takes no usual case.
    plain_values: what the plain case has on each axis. pairs: of features, asked about together, which were
    not right; pairs_asked and pairs_left: how many there were, and for how many there was no time.
    """

    op: str
    plain: Cell
    instead: tuple[str, ...] = ()
    plain_values: tuple[tuple[str, Any], ...] = ()
    cells: tuple[Cell, ...] = ()
    pairs: tuple[Cell, ...] = ()
    pairs_asked: int = 0
    pairs_left: int = 0

    @property
    def every(self) -> tuple[Cell, ...]:
        """List the plain cell, those of features, and pairs that are not right."""
        return (self.plain, *self.cells, *self.pairs)


@dataclass(frozen=True)
class Matrix:
    """What a probe found.

    seconds: that it took. declared: what the target promises by itself. package: a released one and its
    version, "" of others. interrupted: the user ended it, and what had not been asked is not reached.
    """

    target: str
    backend: str
    device: str
    rows: tuple[Row, ...]
    seconds: float
    declared: Promises = field(default=EVERYTHING)
    package: str = ""
    interrupted: bool = False

    @property
    def every(self) -> Iterator[Cell]:
        """Iterate over all cells."""
        for row in self.rows:
            yield from row.every

    @property
    def broken(self) -> tuple[Cell, ...]:
        """List the cells that are promised and not right."""
        return tuple(cell for cell in self.every if cell.breaks_promise)

    @property
    def exit_code(self) -> int:
        """Return 130 after Ctrl-C, 1 if a promised cell is not right, 2 if an operation has no plain case,
        else 0."""
        if self.interrupted:
            return 130
        if self.broken:
            return 1
        return 2 if any(row.plain.status != RIGHT for row in self.rows) else 0
