"""Which operands a call passes, in which dtypes, and the options that go with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffgdn.cases.json_record import Record

if TYPE_CHECKING:
    from diffgdn.cases.case import Case


@dataclass(frozen=True, repr=False)
class Operands(Record):
    """Operands that differ from the usual ones of an operation."""


def check(case: Case) -> None:
    """Check the operands of a case. Raises ValueError."""
