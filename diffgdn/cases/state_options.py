"""What a call does with states, apart from what its operation does always."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffgdn.cases.json_record import Record

if TYPE_CHECKING:
    from diffgdn.cases.case import Case


@dataclass(frozen=True, repr=False)
class StateOptions(Record):
    """Options of where states come from and go to."""


def check(case: Case) -> None:
    """Check the options of states of a case. Raises ValueError."""
