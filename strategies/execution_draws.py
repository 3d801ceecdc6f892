"""Draws how a case is executed: on a GPU one in eight otherwise than plainly."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from diffgdn.cases.case import Case
from diffgdn.cases.execution import GRAPHS, TAILS, can_be_captured, has_tails
from diffgdn.cases.promises import EVERYTHING, Promises
from diffgdn.strategies.batch_layout import among

# Of 128, plain ones first. Few machines have a second GPU; on others such a case is refused.
SHARES = {"eager": 112, "graph": 6, "graph_stale": 3, "graph_poisoned": 3, "stream": 3, "device": 1}
DRAWN = tuple(name for name, share in SHARES.items() for _ in range(share))


def apart(own: Promises) -> tuple[Promises, tuple[str, ...]]:
    """Return promises without what they say of executions, and that: everything else is drawn as if all
    executions were promised.
    """
    return replace(own, execution=EVERYTHING.execution), own.execution


def draw_execution(draw: st.DrawFn, case: Case, backend: str, promised: tuple[str, ...]) -> Case:
    """Return the case with an execution that it can have and that is promised. backend: only "gpu" has any
    but the plain one.
    """
    if backend != "gpu":
        return case
    execution = draw(among(*DRAWN))
    if execution in TAILS and not (has_tails(case) and execution in promised):
        execution = "graph"
    if execution in GRAPHS and not can_be_captured(case):
        execution = "stream"
    return replace(case, execution=execution if execution in promised else Case.execution)
