"""How one argument lies in memory, where the case's view does not say it: strides and alignment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffgdn.cases.json_record import Record

if TYPE_CHECKING:
    from diffgdn.cases.case import Case


@dataclass(frozen=True, repr=False)
class Lay(Record):
    """Strides and alignment of one argument.

    tensor: its name. gaps: for each of its axes, elements between the end of what lies inside the axis and
    its next index; empty for none. nesting: its axes from the outermost to the innermost; empty for their
    own order. offset: bytes from a 256-byte boundary to its first element.
    """

    tensor: str
    gaps: tuple[int, ...] = ()
    nesting: tuple[int, ...] = ()
    offset: int = 0


def check(case: Case) -> None:
    """Check how the arguments of a case lie. Raises ValueError."""
