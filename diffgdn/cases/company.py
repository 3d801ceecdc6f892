"""Calls that a case makes before its own, in the same process: each is named by how it differs from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffgdn.cases.case import Case

EARLIER: tuple[str, ...] = ()


def check(case: Case) -> None:
    """Check the earlier calls of a case. Raises ValueError."""
