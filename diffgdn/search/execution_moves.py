"""Moves on how a case is executed: called plainly, or in a plainer way than it is."""

from __future__ import annotations

from collections.abc import Iterator

from diffgdn.cases.case import Case
from diffgdn.cases.execution import TAILS
from diffgdn.search.changes import changed


def execution(case: Case) -> Iterator[Case | None]:
    """Call the case plainly; else replay it from a graph with -1 behind its live rows."""
    if case.execution != Case.execution:
        yield changed(case, execution=Case.execution)
    if case.execution in TAILS:
        yield changed(case, execution="graph")


def kept(case: Case) -> str:
    """Return the execution under which a bare case of the same operation may fail as this one does.

    A bare case of extend returns final states, and has no tails that nobody reads.
    """
    return "graph" if case.operation.is_chunked and case.execution in TAILS else case.execution
