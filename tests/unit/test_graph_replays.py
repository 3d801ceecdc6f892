"""What replays of graphs are asked, of cases and of serving loops.

Graphs are those of a machine that records calls (`FakeMachine`); tests/gpu/test_executions.py has real ones.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from diffgdn import targets
from diffgdn.backend import selection
from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.execution import EXECUTIONS, TAILS
from diffgdn.cases.promises import Promises
from diffgdn.cases.trace import Trace
from diffgdn.cases.trace_steps import Step
from diffgdn.kernels import fused_recurrent_gated_delta_rule_update
from diffgdn.targets import FunctionTarget
from diffgdn.verdict import execute, executions
from diffgdn.verdict.executions import Call, CaptureFailed
from diffgdn.verdict.serving import graphs
from diffgdn.verdict.serving.play import play

if selection.detect() != "interpret":
    pytest.skip("a GPU has graphs of its own", allow_module_level=True)
selection.enter("interpret")

capturing = [False]


class FakeGraph:
    """A recorded call. Python runs again in a replay, as if it had been captured: `capturing` says so."""

    def __init__(self, call: Call) -> None:
        call()
        self._call = call
        try:
            self.returned = self._captured()
        except RuntimeError as error:
            raise CaptureFailed from error

    def _captured(self) -> dict[str, Tensor]:
        capturing[0] = True
        try:
            return self._call()
        finally:
            capturing[0] = False

    def replay(self) -> None:
        for name, tensor in self._captured().items():
            self.returned[name].copy_(tensor)


class FakeMachine:
    """One device, whose streams wait for each other."""

    devices = 1

    def capture(self, call: Call) -> FakeGraph:
        return FakeGraph(call)

    @contextmanager
    def aside(self, device: torch.device) -> Iterator[AbstractContextManager[object]]:
        yield nullcontext()


def machine(backend: str) -> FakeMachine:
    return FakeMachine()


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases and traces are executed as they say, in the interpreter."""
    monkeypatch.setattr(executions, "machine_of", machine)


def update(**given: object) -> Tensor:
    """Our gdn.update, which does not look at indices on the CPU, as on a GPU."""
    out: Tensor = fused_recurrent_gated_delta_rule_update(**given, validate=False)
    return out


UPDATE = Case(
    "gdn.update",
    lens=(2, 1, 3),
    H=1,
    HV=2,
    K=4,
    V=4,
    pool=Pool(4, (3, 0, 1)),
    gates=Gates("model", beta="uniform"),
    values=Values("normal"),
)


def target(function: Callable[..., Any] = update, **given: Any) -> FunctionTarget:
    """A target of gdn.update."""
    return FunctionTarget("toy", {"gdn.update": function}, **given)


def failure(function: Callable[..., Any], execution: str, case: Case = UPDATE) -> tuple[str, str | None]:
    """The kind of a failure on a case that is executed so, and its tensor."""
    found = execute.run(replace(case, execution=execution), target(function), "interpret").failure
    assert found is not None
    return found.kind, found.tensor


# --- replays ---


@pytest.mark.usefixtures("faked")
@pytest.mark.parametrize("execution", EXECUTIONS[:-1])
@pytest.mark.parametrize(
    "case",
    [
        UPDATE,
        replace(UPDATE, inplace=False, index_dtype="int64", edits=()),
        replace(UPDATE, pool=Pool(3, (2, -1, 0), steps=3, buffer=2, rows=(1, -1, -1)), parents=()),
        replace(UPDATE, packed=False, lens=(2, 2, 2)),
    ],
    ids=["in place", "read only", "steps", "dense"],
)
def test_a_right_launcher_leaves_the_same_bits_however_it_is_executed(case: Case, execution: str) -> None:
    if execution in TAILS and not case.packed:
        return
    verdict = execute.run(replace(case, execution=execution), target(), "interpret")
    assert (verdict.failure, verdict.refused) == (None, None)
    assert verdict.case.lens == case.lens


@pytest.mark.usefixtures("faked")
def test_a_second_device_is_asked_for_in_words() -> None:
    verdict = execute.run(replace(UPDATE, execution="device"), target(), "interpret")
    assert verdict.refused == "execution: device needs a second GPU of one kind, and this process sees one"


def test_in_the_interpreter_cases_are_called_plainly() -> None:
    verdict = execute.run(replace(UPDATE, execution="device"), target(), "interpret")
    assert (verdict.failure, verdict.refused, verdict.execution) == (None, None, "eager")


def _reads_tails(**given: Any) -> Tensor:
    """The states of all rows are gathered, and scattered again, those of empty sequences too."""
    pool, indices = given["initial_state_source"], given["initial_state_indices"]
    named = [(n, slot) for n, slot in enumerate(indices.tolist()) if 0 <= slot < pool.shape[0]]
    held = {n: pool[slot].clone() for n, slot in named}
    o = update(**given)
    starts = given["cu_seqlens"].tolist()
    for n, slot in named:
        if starts[n + 1] == starts[n] and capturing[0]:
            pool[slot] = held[n]
    return o


SEEN: list[Any] = [None]


def _decides_at_capture(**given: Any) -> Tensor:
    """Where sequences begin stays what it was when the graph was warmed up."""
    if not capturing[0]:
        SEEN[0] = given["cu_seqlens"].clone()
    return update(**{**given, "cu_seqlens": SEEN[0]})


def _adds_up(**given: Any) -> Tensor:
    """A workspace is made once, and holds what the last replay left there."""
    if not capturing[0]:
        SEEN[0] = torch.zeros(1)
    o = update(**given)
    o += SEEN[0]
    SEEN[0] += float(o.abs().sum() > 0)
    return o


def _zeroes_once(**given: Any) -> Tensor:
    """The rows behind the last sequence are zeroed when the call is made, not when it is replayed."""
    o = update(**given)
    if capturing[0]:
        o.view(-1, *o.shape[-2:])[int(given["cu_seqlens"][-1]) :] = 1.0
    return o


def _synchronises(**given: Any) -> Tensor:
    if capturing[0]:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")
    return update(**given)


def _hands_out_its_memory(**given: Any) -> Tensor:
    """What is allocated under capture goes to the next plain call as well."""
    o = update(**given)
    if capturing[0]:
        SEEN[0] = o
    elif SEEN[0] is not None and SEEN[0].shape == o.shape:
        o, SEEN[0] = SEEN[0].copy_(o), None
    return o


@pytest.mark.usefixtures("faked")
@pytest.mark.parametrize(
    ("function", "execution", "kind", "others"),
    [
        (_reads_tails, "graph_stale", ("execution_differs", "state"), ("graph", "stream")),
        (_decides_at_capture, "graph", ("execution_differs", "o"), ("stream",)),
        (_adds_up, "graph", ("execution_differs", "o"), ("stream",)),
        (_synchronises, "graph", ("not_captured", None), ("stream",)),
        (_hands_out_its_memory, "graph", ("execution_differs", "o"), ("stream",)),
    ],
)
def test_a_slip_that_only_a_replay_shows(
    function: Callable[..., Any], execution: str, kind: tuple[str, str | None], others: tuple[str, ...]
) -> None:
    SEEN[0] = None
    assert execute.run(UPDATE, target(function), "interpret").failure is None
    case = replace(UPDATE, lens=(3, 1), pool=Pool(4, (3, 0)))
    assert failure(function, execution, case) == kind
    for other in others:
        SEEN[0] = None
        ran = execute.run(replace(case, execution=other), target(function), "interpret")
        assert ran.failure is None


@pytest.mark.usefixtures("faked")
def test_rows_behind_the_last_sequence_are_zero_in_a_replay_too_where_that_is_promised() -> None:
    case = replace(UPDATE, lens=(3, 1), pool=Pool(4, (3, 0)), tail=2, execution="graph")
    promised = target(_zeroes_once, promises=Promises(tail_output="zero"))
    found = execute.run(case, promised, "interpret").failure
    assert found is not None
    assert found.kind == "tail_not_zero"
    assert "got 1 by the replay of its graph" in found.message
    for other, execution in ((promised, "stream"), (promised, "eager"), (target(_zeroes_once), "graph")):
        assert execute.run(replace(case, execution=execution), other, "interpret").failure is None


@pytest.mark.usefixtures("faked")
def test_rows_behind_the_last_sequence_are_zero_on_a_side_stream_too() -> None:
    def later(**given: Any) -> Tensor:
        o = update(**given)
        calls.append(1)
        o[:, -1] = float(len(calls) > 1)
        return o

    calls: list[int] = []
    promised = target(later, promises=Promises(tail_output="zero"))
    found = execute.run(replace(UPDATE, tail=1, execution="stream"), promised, "interpret").failure
    assert found is not None
    assert found.kind == "tail_not_zero"
    assert found.message.endswith("to be zero; got 1 by the call on a side stream (8 of 8 elements)")


@pytest.mark.usefixtures("faked")
def test_what_cannot_be_captured_says_why_in_one_line() -> None:
    found = execute.run(replace(UPDATE, execution="graph"), target(_synchronises), "interpret").failure
    assert str(found) == (
        "gdn.update: no CUDA graph can hold the call: RuntimeError: operation not permitted when stream is "
        "capturing"
    )


@pytest.mark.usefixtures("faked")
def test_no_memory_for_a_capture_is_no_fault_of_the_kernel() -> None:
    """As in the plain call, it goes through to who can wait for memory."""

    def full(**given: Any) -> Tensor:
        if capturing[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        o: Tensor = fused_recurrent_gated_delta_rule_update(**given)
        return o

    with pytest.raises(torch.OutOfMemoryError):
        execute.run(replace(UPDATE, execution="graph"), target(full), "interpret")


@pytest.mark.usefixtures("faked")
def test_a_difference_has_a_place() -> None:
    case = replace(UPDATE, execution="graph")
    SEEN[0] = None
    found = execute.run(case, target(_adds_up), "interpret").failure
    assert found is not None
    assert found.place == "(sequence 0, token 0, head 0, V 0)"
    assert "the replay of its graph left other bits than the plain call" in found.message


STALE = """
from diffgdn.backend import selection
selection.enter("interpret")
import torch
from diffgdn.backend import interpreter
interpreter.repair()
from diffgdn.kernels import chunk_{name} as extend
x = torch.ones(1, 3, 1, 16)
gates = dict(g=-x if "{name}" == "kda" else -x[..., 0], beta=x[..., 0])
pool, index = torch.ones(2, 1, 16, 16), torch.tensor([1, 1 << 40])
extend(x, x, x, **gates, initial_state=pool, initial_state_indices=index, validate=False,
    cu_seqlens=torch.tensor([0, 3, 3]))
print("same" if bool((pool[0] == 1).all()) and not bool((pool[1] == 1).any()) else "wrong")
"""


@pytest.mark.parametrize("name", ["gated_delta_rule", "kda"])
def test_an_extend_follows_no_index_of_a_sequence_without_tokens(name: str) -> None:
    """In a process of its own: it would end with SIGSEGV."""
    ran = subprocess.run(
        [sys.executable, "-c", STALE.format(name=name)], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, "same\n"), ran.stderr


# --- serving ---

SERVED = Trace(
    "gdn",
    (
        Step("arrive", (0,)),
        Step("arrive", (1,)),
        Step("extend", (0, 1), (5, 2)),
        Step("decode", (1, -1, 0), (1, 2, 3)),
        Step("verify", (0, 1), (3, 2), ((-1, 0, 0), (-1, 0))),
        Step("commit", (0, 1), accepted=(2, -1)),
        Step("decode", (0,)),
        Step("finish", (0,)),
        Step("decode", (-1, 1), (2, 1)),
        Step("verify", (1,), (2,)),
    ),
    slots=4,
    rows=3,
    HV=2,
    gate="uniform",
    beta="uniform",
    graphs=True,
)


def served(function: str | None = None) -> FunctionTarget:
    """Our kernels without a look at indices, gdn.decode replaced where one is given."""
    ours = targets.get("vk")
    assert isinstance(ours, FunctionTarget)

    def unasked(call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda **given: call(**given, validate=False)

    functions = {op: unasked(call) for op, call in ours.functions.items()}
    if function is not None:
        functions["gdn.decode"] = _keeps_its_batch(functions["gdn.decode"])
    return FunctionTarget("served", functions)


def _keeps_its_batch(call: Callable[..., Any]) -> Callable[..., Any]:
    def decode(**given: Any) -> Any:
        if not capturing[0]:
            SEEN[0] = given["cu_seqlens"].clone()
        return call(**{**given, "cu_seqlens": SEEN[0]})

    return decode


def test_a_trace_with_graphs_is_of_version_3() -> None:
    assert (SERVED.format_version, Trace.from_json(json.loads(json.dumps(SERVED.to_json())))) == (3, SERVED)
    plain = replace(SERVED, graphs=False)
    assert plain.format_version == 1
    assert "graphs" not in plain.to_json()


@pytest.mark.usefixtures("faked")
@pytest.mark.parametrize("family", ["gdn", "kda"])
def test_serving_runs_decode_and_verify_through_graphs(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    replays: list[str] = []
    replay = FakeGraph.replay

    def counted(graph: FakeGraph) -> None:
        replays.append("replay")
        replay(graph)

    monkeypatch.setattr(FakeGraph, "replay", counted)
    played = play(replace(SERVED, family=family), served(), "interpret")
    assert (played.failure, played.refused) == (None, None)
    assert len(replays) == 5


def test_serving_calls_plainly_where_there_are_no_graphs() -> None:
    assert play(SERVED, served(), "interpret").failure is None


@pytest.mark.usefixtures("faked")
def test_serving_finds_what_a_graph_was_captured_with() -> None:
    played = play(SERVED, served("kept"), "interpret")
    assert played.failure is not None
    assert (played.at, played.failure.operation) == (3, "gdn.decode")
    assert play(replace(SERVED, graphs=False), served("kept"), "interpret").failure is None


def test_calls_of_one_shape_share_a_graph() -> None:
    def shape(case: Case) -> Case:
        padded = graphs._padded(case)
        assert padded is not None
        return graphs._shape_of(padded)

    one = Case("gdn.decode", lens=(1, 2, 1), pool=Pool(4, (1, 2, 0)))
    same = Case("gdn.decode", lens=(2, 1, 2, 2), pool=Pool(4, (3, -1, 0, 1)), values=Values(seed=9))
    assert shape(one) == shape(same)
    assert shape(one) != shape(replace(one, lens=(1, 1, 1)))
    assert graphs._padded(Case("gdn.update")) is None
