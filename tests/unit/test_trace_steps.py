"""Steps that keep and move states: what can follow what, what they read like, and what they leave."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from diffgdn import targets
from diffgdn.cases.promises import Promises
from diffgdn.cases.spans import Span
from diffgdn.cases.trace import Trace
from diffgdn.cases.trace_form import Form
from diffgdn.cases.trace_steps import CALLS, PADDING, Step, move
from diffgdn.search.traces.find import Search
from diffgdn.search.traces.smaller import _smaller
from diffgdn.verdict.failures import BeyondBound, InputChanged, NotExact, SlotChanged
from diffgdn.verdict.serving.loop import Loop
from diffgdn.verdict.serving.play import Player, play

ARRIVE = Step("arrive", (0,))
SNAPSHOT = Step("snapshot", (0,))
FORK = Step("fork", (1,), sources=(0,))
VERIFY = Step("verify", (0,), (3,))
STEPS = (
    ARRIVE,
    Step("extend", (-1, 0), (3, 33), chunks=(-1, 1)),
    FORK,
    Step("snapshot", (1,)),
    Step("decode", (0, 1)),
    Step("verify", (0, 1), (2, 3), ((-1, 0), (-1, 0, 0))),
    Step("verify", (-1, 1, 0), (1, 2, 1), accepted=(-1, 2, -1)),
    Step("finish", (0,)),
    Step("commit", (1, 0), accepted=(1, 0)),
    Step("compact", ()),
    Step("adopt", (2,), sources=(1,)),
    Step("drop", (0,)),
    Step("compact", ()),
    Step("decode", (1, 2)),
)
WORDS = [
    "0: arrive 0",
    "1: extend padding (3 tokens), 0 (33 tokens) with a snapshot before chunk 1",
    "2: fork 1 from a copy of the snapshot of 0",
    "3: snapshot 1",
    "4: decode 0, 1",
    "5: verify 0 (2 tokens), 1 (3 tokens) as a tree (-1, 0, 0)",
    "6: verify padding, 1 (2 tokens) again, after token 2 of its draft, "
    "0 again, nothing of its draft accepted",
    "7: finish 0",
    "8: commit 1 up to token 1, 0 up to token 0 (finished before)",
    "9: compact",
    "10: adopt 2 in the slot of the snapshot of 1",
    "11: drop the snapshot of 0",
    "12: compact",
    "13: decode 1, 2",
]
TRACE = Trace("gdn", STEPS, slots=5, chunk_size=16, HV=2, gate="model", beta="uniform")


def test_the_steps_read_as_what_happened() -> None:
    assert TRACE.words() == WORDS


def test_repr_and_json_give_the_trace_back() -> None:
    form = Form(index_dtype="int64", view="gapped", reserved=1)
    for trace in (TRACE, Trace("kda", (ARRIVE,), form=form, reuse=True)):
        assert eval(repr(trace)) == trace
        assert Trace.from_json(json.loads(json.dumps(trace.to_json()))) == trace
        assert trace.format_version == 3


def test_what_is_new_changes_nothing_in_a_trace_without_it() -> None:
    data = Trace("gdn", (ARRIVE, Step("decode", (0,)))).to_json()
    assert data["format_version"] == 1
    assert set(data["steps"][1]) == {"act", "requests", "lens", "parents", "accepted"}
    assert not {"form", "reuse", "order"} & set(data)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((ARRIVE, Step("drop", (0,))), "one request with a snapshot"),
        ((ARRIVE, SNAPSHOT, Step("fork", (1,), sources=(1,))), "fork: sources, one request with a snapshot"),
        ((ARRIVE, SNAPSHOT, Step("fork", (2,), sources=(0,))), "fork: the next request is 1"),
        ((ARRIVE, SNAPSHOT, FORK, Step("arrive", (2,))), "all 3 slots are taken"),
        ((ARRIVE, Step("arrive", (1,)), Step("arrive", (2,)), SNAPSHOT), "0 slots are free for snapshots"),
        ((ARRIVE, SNAPSHOT, Step("adopt", (1,), sources=(0,)), Step("drop", (0,))), "with a snapshot"),
        ((ARRIVE, Step("extend", (0,), (64,), chunks=(1,))), "chunks -1 to 0 of request 0, got 1"),
        ((ARRIVE, Step("decode", (0,), chunks=(0,))), "takes no chunks"),
        ((ARRIVE, Step("arrive", (1,), sources=(0,))), "takes no sources"),
        ((ARRIVE, VERIFY, VERIFY), "not all live and ready"),
        ((ARRIVE, VERIFY, Step("verify", (0,), accepted=(3,))), "verify: accepted -1 to 2, got 3"),
        ((ARRIVE, Step("verify", (0,), accepted=(0,))), "verify: accepted -1 to -1, got 0"),
        ((ARRIVE, Step("decode", (0,), accepted=(0,))), "only a commit or a verify accepts"),
        ((Step("compact", (0,)),), "compact: names no request"),
    ],
)
def test_steps_that_cannot_follow_each_other_are_refused(steps: tuple[Step, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trace("gdn", steps)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (Form(gate_dtype="float16"), "gate_dtype: expected one of float32, bfloat16"),
        (Form(view="wide"), "view: expected one of"),
        (Form(lower_bound=-5.0), "lower_bound: below 0 in a loop of kda"),
        (Form(raw=True), "only kda.extend"),
        (Form(reserved=3), "reserved: expected 0 to 2"),
    ],
)
def test_forms_that_cannot_be_are_refused(form: Form, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trace("gdn", dtype="bfloat16", form=form)


def test_a_dense_batch_has_even_rows() -> None:
    with pytest.raises(ValueError, match="rows of a dense batch are even"):
        Trace("gdn", (ARRIVE, Step("decode", (0, -1), (1, 2))), form=Form(batch="dense"))


@pytest.mark.parametrize("target", ["eager", "vk"])
@pytest.mark.parametrize(
    "form", [Form(), Form(batch="batched", index_dtype="int64", view="packed", reserved=1, scale=0.5)]
)
def test_a_right_loop_plays_them(target: str, form: Form) -> None:
    """Rounded in different dtypes on the way: the states before chunks come in bf16, and are kept in fp16."""
    steps = STEPS if form.batch == "packed" else tuple(step for step in STEPS if step.act != "verify")
    steps = tuple(step for step in steps if form.batch == "packed" or step.act != "commit")
    trace = Trace(
        "gdn",
        steps,
        slots=6,
        chunk_size=16,
        HV=2,
        gate="model",
        dtype="bfloat16",
        state="float16",
        form=form,
        reuse=True,
    )
    played = play(trace, targets.get(target), "interpret")
    assert played.failure is None
    assert played.refused is None
    assert 0 < played.share < 1


def failure_of(loop: type[Loop], steps: Sequence[Step] = STEPS) -> Any:
    trace = Trace("gdn", tuple(steps), slots=5, chunk_size=16, HV=2, gate="model")
    return play(trace, targets.get("eager"), "interpret", loop).failure


def test_a_snapshot_of_another_chunk_is_named() -> None:
    class Shifted(Loop):
        def track(self, request: int, states: Tensor, at: int) -> None:
            super().track(request, states, at - 1)

    found = failure_of(Shifted)
    assert isinstance(found, NotExact)
    assert "snapshot before chunk 1): not the state of request 0 of which the snapshot" in found.message


def test_a_snapshot_that_is_written_later_is_named_as_the_owner() -> None:
    class Written(Loop):
        def indices(self, requests: Sequence[int]) -> list[int]:
            if 0 in self.kept:
                self.memory.states[self.kept[0]] += 1
            return super().indices(requests)

    found = failure_of(Written)
    assert isinstance(found, SlotChanged)
    assert "the snapshot of request 0 was written" in found.message


def test_two_drafts_of_a_batch_in_one_row_are_told_of() -> None:
    class OneRow(Loop):
        def draft_rows(self, requests: Sequence[int]) -> list[int]:
            return [min(row, 0) for row in super().draft_rows(requests)]

    found = failure_of(OneRow)
    assert isinstance(found, SlotChanged)
    assert "request 1 got the row of 0" in found.message


def test_states_that_are_not_in_the_lowest_slots_are_not_compacted() -> None:
    class Idle(Loop):
        def compact(self) -> None:
            pass

    found = failure_of(Idle)
    assert isinstance(found, SlotChanged)
    assert "after a compaction" in found.message


def test_a_snapshot_that_is_another_requests_is_not_that_of_its_history() -> None:
    steps = (ARRIVE, Step("arrive", (1,)), Step("decode", (0, 1)), SNAPSHOT)
    player = Player(Trace("gdn", steps), targets.get("eager"), "interpret")
    for number in range(len(steps)):
        assert player.step(number) is None
    player.memory.states[player.kept[0]] = player.memory.states[player.slots[1]]
    with pytest.raises(BeyondBound, match="not the state of the history it was taken of"):
        player.histories.check("gdn.decode", player.memory.states, player.slots, player.kept)


class Watching:
    """The eager target, which looks at its tables of slots, and may write there."""

    name, layout = "watching", "vk"

    def __init__(self, writes: bool = False) -> None:
        self._eager, self._writes = targets.get("eager"), writes
        self.operations = self._eager.operations
        self.contract, self.configurations = self._eager.contract, self._eager.configurations
        self.refuses = self._eager.refuses
        self.tables: list[Tensor] = []

    def run(self, case: Any, arguments: Any) -> Any:
        self.tables.append(arguments["indices"])
        results = self._eager.run(case, arguments)
        if self._writes:
            arguments["indices"][0] = 1
        return results


@pytest.mark.parametrize("reuse", [False, True])
def test_calls_of_one_shape_get_one_table_which_is_overwritten(reuse: bool) -> None:
    trace = Trace("gdn", (ARRIVE, Step("decode", (0,)), Step("decode", (-1,))), reuse=reuse)
    target = Watching()
    assert play(trace, target, "interpret").failure is None
    first, second = target.tables
    assert (first is second) is reuse
    assert first.tolist() == ([-1] if reuse else [0])


def test_a_table_that_a_call_writes_is_an_input_that_changed() -> None:
    trace = Trace("gdn", (ARRIVE, Step("decode", (0,))), reuse=True)
    found = play(trace, Watching(writes=True), "interpret").failure
    assert isinstance(found, InputChanged)
    assert (found.tensor, found.place) == ("indices", "at element 0")


NARROW = {
    "sizes": Promises(dtype=("bfloat16",), state_dtype=("q",), K=(32, 64), square=(True,), ratio=(2,)),
    "calls": Promises(padding=False, empty=False, slot_zero=False, index_dtype=("int64",), view=("packed",)),
    "batches": Promises(batch=("dense",), length=Span(1, 3), tree=(True,), boundary=(True,)),
    "apart": Promises(
        operations={
            "kda.decode": {"dtype": ("bfloat16",), "l2norm": (True,)},
            "kda.extend": {"dtype": ("float16",), "raw_gates": (True,), "bounded": (True,)},
            "kda.verify": {"spare_steps": False, "length": (3,), "batch": ("batched",)},
        }
    ),
}


@pytest.mark.parametrize("name", NARROW)
def test_no_trace_asks_what_is_not_promised(name: str) -> None:
    """And each operation is called, also where no loop can call all of them."""
    promises, called = NARROW[name], set[str]()

    def ask(trace: Trace) -> None:
        slots: dict[int, int] = {}
        kept: dict[int, int] = {}
        for number, step in enumerate(trace.steps):
            move(step, range(trace.form.reserved, trace.slots), slots, kept)
            if step.act in CALLS:
                live = [one for one in step.requests if one != PADDING]
                rows = {one: row for row, one in enumerate(live)}
                assert promises.broken_by(trace.call(number, slots, rows)) is None
                called.add(step.act)

    search = Search(ask, lambda: False)
    operations = targets.get("eager").operations
    assert search.run("kda", operations, "interpret", 60, 0, promises=promises) is None
    assert search.traces >= 50
    assert called == set(CALLS)


def test_a_loop_that_nobody_can_serve_is_not_drawn() -> None:
    search = Search(lambda trace: None, lambda: False)
    promises = Promises(operations={"gdn.extend": {"inplace": (False,)}})
    assert search.run("gdn", ["gdn.extend"], "interpret", 5, 0, promises=promises) is None
    assert search.traces == 0


def test_every_smaller_trace_is_one_that_a_loop_could_do() -> None:
    """Without a request, its snapshot is gone with it, and those that start from there arrive anew."""
    for trace in _smaller(TRACE):
        assert len(trace.steps) <= len(TRACE.steps)
        assert trace != TRACE
    without = [trace.words() for trace in _smaller(TRACE)]
    assert any("0: arrive 0" in words and not any("fork" in line for line in words) for words in without)


def test_a_moved_state_may_lie_where_another_was() -> None:
    steps = (*(Step("arrive", (n,)) for n in range(3)), Step("decode", (0, 1, 2)), Step("finish", (0,)))
    player = Player(Trace("gdn", (*steps, Step("compact", ()))), targets.get("eager"), "interpret")
    for number in range(len(steps)):
        player.step(number)
    before = player.memory.states[[1, 2]].clone()
    player.step(len(steps))
    assert player.loop.slots == {1: 0, 2: 1}
    assert torch.equal(player.memory.states[[0, 1]], before)
