"""How a case is executed on a GPU: called plainly, or in another way that must give the same answer.

eager: the call is made on the current stream of the current device, as in the interpreter all are. graph: the
batch is padded to a size that an engine captures (`padding`), the call is captured in a CUDA graph while its
arguments hold other contents, and replayed with the case's own. graph_stale, graph_poisoned: the same, and in
the rows of sequences without tokens the index tables hold what they held at capture, or poison, in place of
-1. stream: the call is made on a side stream, and nothing waits for the default one. device: the arguments
lie on a second GPU while the first is current.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from diffgdn.cases.json_record import require

if TYPE_CHECKING:
    from diffgdn.cases.case import Case

EXECUTIONS: tuple[str, ...] = ("eager", "graph", "graph_stale", "graph_poisoned", "stream", "device")
GRAPHS = ("graph", "graph_stale", "graph_poisoned")
TAILS = GRAPHS[1:]


def check(case: Case) -> None:
    """Check the execution of a case. Raises ValueError."""
    names = ", ".join(EXECUTIONS)
    require(case.execution in EXECUTIONS, f"execution: expected one of {names}, got {case.execution!r:.40}")
    if case.execution in GRAPHS:
        require(
            can_be_captured(case),
            "execution: no graph holds boundary states of a packed batch, whose number is on the GPU",
        )
    if case.execution in TAILS:
        require(
            has_tails(case),
            f"execution: {case.execution} needs a packed batch, a pool, and no result of an empty sequence",
        )


def can_be_captured(case: Case) -> bool:
    """Tell whether a CUDA graph can hold the call at all: no shape goes by values that lie on the GPU."""
    return not (case.operation.is_chunked and case.boundary and case.packed)


def has_tails(case: Case) -> bool:
    """Tell whether index tables may hold anything in the rows of sequences without tokens: nothing that the
    call leaves behind goes by them.
    """
    ragged = case.packed and not case.batched and not case.operation.single_token
    read = case.operation.is_chunked and case.final  # the final state of an empty sequence is its initial one
    return ragged and case.operation.has_pool and case.values.state != "none" and not read


def asked(case: Case) -> Iterator[tuple[str, Any]]:
    """List (axis, value) for the axis of promises that this is about."""
    yield "execution", case.execution
