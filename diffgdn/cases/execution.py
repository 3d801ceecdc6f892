"""How a case is executed on a GPU: called plainly, or in another way that must give the same answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffgdn.cases.case import Case

EXECUTIONS: tuple[str, ...] = ("eager",)


def check(case: Case) -> None:
    """Check the execution of a case. Raises ValueError."""
