"""How a case is executed: what it may be, when it is drawn, how it is padded for a graph, and how it shrinks.

What replays are asked is in test_graph_replays.py.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from diffgdn import targets
from diffgdn.backend import selection
from diffgdn.campaign.replay_findings import PLAINLY, Result
from diffgdn.cases import padding
from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.execution import EXECUTIONS, GRAPHS
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.promises import Promises
from diffgdn.cases.state_options import StateOptions
from diffgdn.cases.trace import Trace
from diffgdn.cases.trace_steps import Step
from diffgdn.findings import bucket, repro
from diffgdn.findings.finding import Finding
from diffgdn.kernels import fused_recurrent_gated_delta_rule_update
from diffgdn.search import by_field
from diffgdn.strategies import cases
from diffgdn.targets import FunctionTarget
from diffgdn.tensors import inputs
from diffgdn.tensors.layout import arrange
from diffgdn.verdict import executions

if selection.detect() != "interpret":
    pytest.skip("a GPU has graphs of its own", allow_module_level=True)
selection.enter("interpret")

DRAWN = settings(
    max_examples=25, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
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


# --- what a case may be ---


@pytest.mark.parametrize(
    ("case", "execution", "said"),
    [
        (UPDATE, "lazy", "execution: expected one of eager, graph, .*, got 'lazy'"),
        (Case("gdn.extend", boundary=True), "graph", "no graph holds boundary states of a packed batch"),
        (replace(UPDATE, packed=False, lens=(2, 2, 2)), "graph_stale", "graph_stale needs a packed batch"),
        (Case("kda.packed_decode"), "graph_poisoned", "graph_poisoned needs a packed batch"),
        (Case("gdn.recurrent", pool=Pool(indices=())), "graph_stale", "a pool"),
        (Case("gdn.extend"), "graph_stale", "no result of an empty sequence"),
    ],
)
def test_what_an_execution_cannot_be(case: Case, execution: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(case, execution=execution)


def test_boundary_states_of_a_dense_batch_and_tails_without_final_states_can_be() -> None:
    assert replace(Case("gdn.extend", packed=False), boundary=True, execution="graph")
    assert Case("gdn.extend", final=False, execution="graph_poisoned")


def test_a_plain_case_keeps_its_id_and_another_reads_back() -> None:
    assert Case("gdn.update").format_version == 1
    other = Case("gdn.update", execution="graph")
    assert (other.format_version, Case.from_json(json.loads(json.dumps(other.to_json())))) == (4, other)
    assert repr(other) == "Case(op='gdn.update', execution='graph')"


def test_eager_must_be_promised() -> None:
    with pytest.raises(ValueError, match='execution must allow "eager"'):
        Promises(execution=("graph",)).of("gdn.update")


# --- draws ---


@pytest.mark.parametrize("op", ["gdn.extend", "kda.recurrent", "gdn.verify"])
def test_on_a_gpu_one_case_in_eight_is_executed_otherwise(op: str) -> None:
    seen: Counter[str] = Counter()

    @settings(DRAWN, max_examples=1000)
    @given(cases(op, backend="gpu"))
    def draw(case: Case) -> None:
        seen[case.execution] += 1

    draw()
    assert 0.06 < 1 - seen["eager"] / seen.total() < 0.19
    assert seen["graph"] and seen["stream"]  # noqa: PT018


@pytest.mark.parametrize(
    ("backend", "promised"), [("interpret", EXECUTIONS), ("gpu", ("eager",)), ("gpu", ("eager", "stream"))]
)
def test_only_what_is_promised_is_drawn_and_in_the_interpreter_nothing(
    backend: str, promised: tuple[str, ...]
) -> None:
    seen = set()

    @settings(DRAWN, max_examples=600)
    @given(cases("gdn.update", backend=backend, promises=Promises(execution=promised)))
    def draw(case: Case) -> None:
        seen.add(case.execution)

    draw()
    assert seen == (set(promised) if backend == "gpu" else {"eager"})


def test_what_is_promised_of_executions_changes_no_other_draw() -> None:
    found: list[list[Case]] = []
    for promised in (EXECUTIONS, ("eager",)):
        found.append([])

        @DRAWN
        @given(cases("gdn.verify", promises=Promises(execution=promised)))
        def draw(case: Case) -> None:
            found[-1].append(case)

        draw()
    assert found[0] == found[1]


# --- padding ---


@pytest.mark.parametrize("op", OPERATIONS)
def test_a_padded_batch_has_other_contents_of_the_same_shapes(op: str) -> None:
    counted: Counter[str] = Counter()

    @settings(DRAWN, max_examples=120)
    @given(cases(op, backend="interpret"))
    def ask(case: Case) -> None:
        if case.state_options != StateOptions():
            return  # they go by the number of sequences
        live = len(case.lens)
        first = next(padding.for_graph(case))
        other = padding.other_contents(first, live)
        assert other is not None
        assert first.lens[:live] == case.lens
        assert first.pool.indices[:live] == case.pool.indices
        assert set(first.pool.indices[live:]) <= {-1}
        counted["padded"] += len(first.lens) > live
        if first.pool.slots * (first.HV * first.K * first.V + first.pool.pitch) > 1 << 24:
            return
        data = inputs.draw(first)
        one = arrange(first, data, "cpu")
        two = arrange(other, executions.other_data(first, other, data), "cpu")
        assert [(r.name, r.start, r.shape, r.strides) for r in one.regions] == [
            (r.name, r.start, r.shape, r.strides) for r in two.regions
        ]
        counted["other"] += not one.arena.equal(two.arena)
        counted["all live"] += -1 not in other.pool.indices
        for name in ("indices", "rows"):
            if one.get(name) is not None and first.lens != other.lens:
                counted["other slots"] += not one[name].equal(two[name])

    ask()
    assert counted["padded"] > 10
    assert counted["other"] > 15
    if OPERATIONS[op].has_pool:
        assert counted["all live"] > 15


def test_captured_sizes_are_powers_of_two() -> None:
    assert [padding.captured_size(n) for n in (1, 2, 3, 4, 5, 8, 9)] == [1, 2, 4, 4, 8, 8, 16]


def test_behind_the_live_rows_tables_held_the_slots_of_live_ones() -> None:
    padded = next(padding.for_graph(replace(UPDATE, lens=(2,), pool=Pool(3, (2,)))))
    other = padding.other_contents(padded, 1)
    assert (padded.pool.indices, padded.lens, padded.tail) == ((2, -1), (2, 0), 1)
    assert other is not None
    assert (other.pool.indices, other.lens, other.tail) == ((1, 2), (1, 2), 0)


def test_a_target_gets_no_more_padding_than_it_promises() -> None:
    case = replace(UPDATE, execution="graph")
    functions = {"gdn.update": fused_recurrent_gated_delta_rule_update}
    for promised, sequences, tail in (
        (Promises(), 4, 1),
        (Promises(tail=(0,)), 4, 0),
        (Promises(padding=False), 3, 0),
        (Promises(empty=False), 3, 0),
    ):
        toy = FunctionTarget("toy", functions, promises=promised)
        ran = next(
            one for one in padding.for_graph(case) if one == case or not targets.refusal(toy, one, "gpu")
        )
        assert (len(ran.lens), ran.tail) == (sequences, tail)


# --- shrinking, findings ---


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (lambda c: True, Case("gdn.update")),
        (lambda c: c.execution in GRAPHS, Case("gdn.update", execution="graph")),
        (lambda c: c.execution == "graph_poisoned", Case("gdn.update", execution="graph_poisoned")),
    ],
)
def test_an_execution_shrinks_to_the_plainest(condition: Callable[[Case], bool], expected: Case) -> None:
    case = replace(UPDATE, execution="graph_poisoned", tail=3, l2norm=True)
    assert by_field.simplest(case, condition) == expected


def test_an_extend_keeps_its_tails_while_they_are_needed() -> None:
    case = Case("gdn.extend", lens=(20, 3), pool=Pool(3, (2, 1)), final=False, execution="graph_stale")
    expected = Case("gdn.extend", chunk_size=16, final=False, execution="graph_stale")
    assert by_field.simplest(case, lambda c: c.execution == "graph_stale") == expected


FOUND = Finding(
    case=replace(UPDATE, execution="graph"),
    target="vk",
    backend="gpu",
    kind="execution_differs",
    message="it did",
    tensor="o",
    place="(sequence 0, token 0, head 0, V 0)",
)


def test_a_finding_of_a_graph_has_a_script_that_makes_the_graph() -> None:
    source = repro.script(FOUND)
    assert "from diffgdn.scripts import" in source
    assert "execution='graph'" in source
    assert "from diffgdn.scripts import" not in repro.script(replace(FOUND, backend="interpret"))
    assert bucket.of(FOUND) == bucket.of(replace(FOUND, tensor="state", place=None))


def test_a_replay_in_the_interpreter_says_that_it_was_plain() -> None:
    assert Result(FOUND, "interpret", [None]).detail == PLAINLY
    assert Result(FOUND, "gpu", [None]).detail is None
    traced = replace(FOUND, trace=Trace("gdn", (Step("arrive", (0,)),), graphs=True))
    assert Result(traced, "interpret", [None]).detail == PLAINLY
    assert Result(replace(FOUND, case=UPDATE), "interpret", [None]).detail is None
