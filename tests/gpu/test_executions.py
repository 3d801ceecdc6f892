"""CUDA graphs, side streams and second devices: what only a GPU can show of a launcher."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diffgdn import campaign, targets
from diffgdn.campaign import events
from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.execution import EXECUTIONS, GRAPHS
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.trace import Trace
from diffgdn.cases.trace_steps import Step
from diffgdn.runner.ways import InChild
from diffgdn.verdict import execute, executions
from diffgdn.verdict.serving.play import play

pytestmark = pytest.mark.gpu

SLIPS = Path(__file__).with_name("execution_slips.py")
SECONDS = 60.0
TWO = torch.cuda.device_count() > 1


def small(op: str, execution: str, **changes: Any) -> Case:
    """Two sequences of an operation, as it is executed; skips what cannot be."""
    operation = OPERATIONS[op]
    length = 1 if operation.single_token else 3
    pool = Pool(3, (2, 0)) if operation.has_pool else Pool(indices=())
    if operation.drafts:
        pool = replace(pool, steps=4, buffer=2, rows=(1, 0))
    case = Case(op, (length, length), 1, 2, 32, 32, pool=pool, final=not operation.is_chunked)
    case = replace(case, gates=Gates("model", beta="uniform"), values=Values("normal"), **changes)
    try:
        return replace(case, execution=execution)
    except ValueError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "dense"])
@pytest.mark.parametrize("execution", EXECUTIONS[1:])
@pytest.mark.parametrize("op", OPERATIONS)
def test_our_kernels_leave_the_same_bits_however_they_are_executed(
    op: str, execution: str, packed: bool
) -> None:
    if execution == "device" and not TWO:
        pytest.skip("this process sees one GPU")
    verdict = execute.run(small(op, execution, packed=packed), targets.get("vk"), "gpu")
    assert verdict.failure is None
    assert verdict.refused is None


def test_a_second_device_is_asked_for_in_words_where_there_is_none() -> None:
    if TWO:
        pytest.skip("there is one")
    verdict = execute.run(small("gdn.update", "device"), targets.get("vk"), "gpu")
    assert verdict.refused == "execution: device needs a second GPU of one kind, and this process sees one"


def test_states_at_chunk_boundaries_of_a_dense_batch_can_be_captured() -> None:
    case = small("gdn.extend", "graph", packed=False, boundary=True)
    assert execute.run(case, targets.get("vk"), "gpu").failure is None


WRONG = {
    "reads_tails": ("graph_stale", "execution_differs"),
    "decides_at_capture": ("graph", "execution_differs"),
    "synchronises": ("graph", "not_captured"),
    "keeps_what_it_allocated": ("graph", "execution_differs"),
    "on_the_default_stream": ("stream", "execution_differs"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_slip_shows_in_the_execution_that_it_is_about_alone(name: str) -> None:
    execution, kind = WRONG[name]
    target = targets.get(f"{SLIPS}:{name}")
    case = small("gdn.update", execution, lens=(2, 1))
    for _ in range(2):  # what a capture that failed leaves behind must not reach the next
        verdict = execute.run(case, target, "gpu")
        assert verdict.failure is not None
        assert verdict.failure.kind == kind, verdict.failure
        assert execute.run(replace(case, execution="eager"), target, "gpu").failure is None
        for other in (*GRAPHS, "stream"):
            assert execute.run(replace(case, execution=other), targets.get("vk"), "gpu").failure is None
    torch.cuda.synchronize()


@pytest.mark.skipif(not TWO, reason="one GPU")
def test_a_launcher_without_a_device_guard_is_found(tmp_path: Path) -> None:
    """In a child: it may break its context."""
    runner = InChild("gpu", tmp_path / "log", 60.0)
    try:
        case = small("gdn.update", "device")
        target = f"{SLIPS}:without_a_guard"
        assert runner.run(replace(case, execution="eager"), target).failure is None
        failure = runner.run(case, target).failure
        assert failure is not None
        assert failure.kind in ("raised", "crashed", "execution_differs")
        print(failure.kind, failure)
    finally:
        runner.close()


PLAIN = Case("gdn.update")
SMALLEST = {
    "reads_tails": Case("gdn.update", execution="graph_stale"),
    "decides_at_capture": Case("gdn.update", lens=(0,), execution="graph"),
    "synchronises": Case("gdn.update", execution="graph"),
    "keeps_what_it_allocated": Case("gdn.update", execution="graph"),
    "on_the_default_stream": Case("gdn.update", execution="stream"),
    "without_a_guard": Case("gdn.update", execution="device"),
}


def without_its_build(case: Case) -> Case:
    """A case with what kernels are compiled for at its default: a shrink on a GPU keeps to the menu."""
    simple = {
        name: getattr(PLAIN, name) for name in ("K", "V", "dtype", "view", "l2norm", "packed", "inplace")
    }
    simple |= {
        name: getattr(PLAIN, name) for name in ("cu_dtype", "index_dtype", "batch_invariant", "operands")
    }
    pool = replace(case.pool, dtype=Pool.dtype, pitch=0, steps=0, buffer=0, rows=())
    return replace(case, **simple, pool=pool, parents=(), gates=replace(case.gates, dtype=Gates.dtype))


@pytest.mark.parametrize("name", SMALLEST)
def test_fuzz_finds_a_slip_within_a_minute_and_shrinks_it_to_the_smallest(name: str, tmp_path: Path) -> None:
    if name == "without_a_guard" and not TWO:
        pytest.skip("this process sees one GPU")
    began, found = time.perf_counter(), list[float]()

    def watch(event: events.Event) -> None:
        if isinstance(event, events.FindingFound):
            found.append(time.perf_counter() - began)
        elif isinstance(event, events.FindingShrunk) and event.finding.kind != "crashed":
            raise KeyboardInterrupt

    target = f"{SLIPS}:{name}"
    config = campaign.Config(target, ("gdn.update",), "gpu", 3, 1, tmp_path, max_time=SECONDS)
    outcome = campaign.run(config, watch)
    print(f"{name}: found after {found} s, shrunk {time.perf_counter() - began:.1f} s")
    assert found[0] < SECONDS
    # What reads a poisoned index may end its process as well, in a case that Hypothesis met by chance.
    first = next(finding for finding in outcome.findings if finding.kind != "crashed")
    print(f"{name}: {first.kind} {first.case}")
    assert without_its_build(first.case) == SMALLEST[name]
    assert name not in WRONG or first.kind == WRONG[name][1]


LOOP = Trace(
    "gdn",
    (
        *(Step("arrive", (n,)) for n in range(3)),
        Step("extend", (0, 1, 2), (5, 2, 70)),
        Step("decode", (1, -1, 0), (1, 2, 3)),
        Step("verify", (0, 1), (3, 2), ((-1, 0, 0), (-1, 0))),
        Step("commit", (0, 1), accepted=(2, -1)),
        Step("decode", (2, 0), (3, 1)),
        Step("finish", (0,)),
        *(Step("decode", (-1, 1, 2), (2, 1, 3)),) * 3,
        Step("verify", (1,), (2,)),
    ),
    slots=4,
    HV=2,
    K=32,
    V=32,
    gate="uniform",
    beta="uniform",
    graphs=True,
)


@pytest.mark.parametrize("family", ["gdn", "kda"])
def test_a_serving_loop_runs_through_graphs(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    captured: list[int] = []
    capture = executions.Captured.__init__

    def counted(graph: executions.Captured, call: executions.Call) -> None:
        captured.append(1)
        capture(graph, call)

    monkeypatch.setattr(executions.Captured, "__init__", counted)
    played = play(replace(LOOP, family=family), targets.get("vk"), "gpu")
    assert (played.failure, played.refused) == (None, None)
    assert len(captured) == 4  # decode of 4 and of 2 sequences, verify of 2 and of 1


def test_a_serving_loop_finds_what_a_graph_was_captured_with() -> None:
    slip = targets.get(f"{SLIPS}:decodes_what_was_captured")
    decodes = tuple(step for step in LOOP.steps if step.act in ("arrive", "decode", "finish"))
    loop = replace(LOOP, steps=decodes)
    assert play(replace(loop, graphs=False), slip, "gpu").failure is None
    played = play(loop, slip, "gpu")
    assert played.failure is not None
    assert played.failure.operation == "gdn.decode"


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """After each test the GPU is usable, and no capture is under way."""
    yield
    assert not torch.cuda.is_current_stream_capturing()
    torch.cuda.synchronize()
    assert float(torch.ones(3, device="cuda").sum()) == 3.0
    assert executions.machine_of("gpu") is not None
