"""Options of states: what a case may ask, what a call then leaves behind, and what is drawn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diffgdn import kernels, targets
from diffgdn.backend import selection
from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.promises import Promises
from diffgdn.cases.state_options import COMPILED, StateOptions, options_of
from diffgdn.findings import repro
from diffgdn.findings.finding import Finding
from diffgdn.reference import oracle
from diffgdn.search import by_field
from diffgdn.strategies import Menu, representatives
from diffgdn.targets import FunctionTarget, refusal
from diffgdn.tensors import inputs
from diffgdn.tensors.layout import arrange
from diffgdn.tensors.results import result_of, results_of
from diffgdn.verdict import execute, relations

Drawn = Callable[..., list[Case]]
BACKEND = selection.detect()
TARGET = str(Path(__file__).with_name("state_option_functions.py")) + ":spoiled"
TWO: dict[str, Any] = {
    "K": 4,
    "V": 3,
    "gates": Gates(law="model", beta="uniform"),
    "values": Values("normal", seed=5),
}
STEPS = Pool(slots=4, indices=(3, 1), pitch=3, steps=4, buffer=4, rows=(2, 0))
SLOTS = StateOptions(slots=((5, -1, 3), (0, 2, 4), (-1, -1, -1)), accepted=(3, 1, 2))
CASES = {
    "slots for each token": Case(
        "gdn.verify", (2, 3, 1), HV=2, pool=Pool(7, (3, 0, -1)), state_options=SLOTS, **TWO
    ),
    "slots for each token of an update": Case(
        "kda.update", (0, 2, 1), HV=2, pool=Pool(7, (3, 0, -1)), state_options=SLOTS, **TWO
    ),
    "a buffer and the state": Case(
        "kda.verify", (3, 2), HV=2, pool=STEPS, state_options=StateOptions(step_update=True), **TWO
    ),
    "a tree and the state": Case(
        "gdn.update",
        (3, 2),
        HV=2,
        pool=STEPS,
        parents=((-1, 0, 0), (-1, 0)),
        state_options=StateOptions(step_update=True),
        **TWO,
    ),
    "rows that are slots": Case(
        "gdn.verify",
        (3, 2),
        HV=2,
        pool=replace(STEPS, rows=(3, 1)),
        state_options=StateOptions(step_rows="slots", cache_steps="longest"),
        **TWO,
    ),
    "no number of steps": Case(
        "gdn.verify", (3, 2), HV=2, pool=STEPS, state_options=StateOptions(cache_steps="none"), **TWO
    ),
    "no output": Case(
        "gdn.update", (3, 2), HV=2, pool=Pool(4, (3, 1)), state_options=StateOptions(output=False), **TWO
    ),
    "no slots": Case(
        "gdn.extend",
        (18, 0, 2),
        HV=2,
        pool=Pool(3, (0, 1, 2)),
        chunk_size=16,
        state_options=StateOptions(indices=False),
        **TWO,
    ),
    "flags": Case(
        "gdn.extend",
        (18, 0, 2),
        HV=2,
        pool=Pool(4, (3, 0, 1)),
        chunk_size=16,
        state_options=StateOptions(initial=(False, False, True)),
        **TWO,
    ),
    "tracked chunks": Case(
        "kda.extend",
        (34, 0, 2, 16),
        HV=2,
        dtype="bfloat16",
        pool=Pool(4, (3, 0, -1, 1)),
        chunk_size=16,
        state_options=StateOptions(track=(1, -1, 0, -1), initial=(True, False, False, True)),
        **TWO,
    ),
}


@pytest.mark.parametrize("target", ["vk", "kv", "eager"])
@pytest.mark.parametrize("name", CASES)
def test_targets_agree_with_the_oracle(name: str, target: str) -> None:
    verdict = execute.assert_correct(CASES[name], targets.get(target), BACKEND)
    assert verdict.refused is None
    left = {one.name: one.sure for one in results_of(CASES[name])}
    assert {name for name, sure in left.items() if sure} <= set(verdict.shares) <= set(left)


def test_they_are_read_back_from_json_and_from_their_words() -> None:
    for case in CASES.values():
        data = json.loads(json.dumps(case.to_json()))
        assert data["format_version"] == 4
        assert Case.from_json(data) == case
        assert eval(repr(case)) == case


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("no output", {"op": "gdn.decode"}, "state_options: gdn.decode has no no_output"),
    ("tracked chunks", {"op": "gdn.extend"}, "state_options: gdn.extend has no track"),
    ("flags", {"state_options": StateOptions(initial=(True,))}, "initial: one flag a sequence"),
    ("flags", {"state_options": StateOptions(track=(0, 0, 0))}, "gdn.extend has no track"),
    ("tracked chunks", {"state_options": StateOptions(track=(3, -1, 0, 0))}, "track: -1 or a chunk"),
    ("tracked chunks", {"state_options": StateOptions(track=(0, 0, 0, 0))}, "track: -1 or a chunk"),
    ("tracked chunks", {"state_options": StateOptions(track=(0,))}, "track: one chunk a sequence"),
    ("no slots", {"pool": Pool(3, (0, 2, 1))}, "indices: without them there is a row for each"),
    ("no slots", {"pool": Pool(4, (0, 1, 2))}, "indices: without them there is a row for each"),
    ("no output", {"state_options": StateOptions(cache_steps="none")}, "only with a buffer of steps"),
    ("no number of steps", {"state_options": StateOptions(cache_steps="some")}, "expected one of buffer"),
    ("no number of steps", {"state_options": StateOptions(step_rows="slots")}, "step_rows: rows are slots"),
    ("slots for each token", {"lens": (4, 1, 1)}, "slots: a slot for each token, got 3"),
    ("slots for each token", {"pool": Pool(7, (5, 0, -1))}, "pool.indices: the slot of the last accepted"),
    ("slots for each token", {"pool": Pool(5, (3, 0, -1))}, "slots: -1 to 4"),
    (
        "slots for each token",
        {"state_options": replace(SLOTS, accepted=(3, 1, 4))},
        "accepted: from 1 to 3, got",
    ),
    (
        "slots for each token",
        {"state_options": replace(SLOTS, slots=((5, -1, 3), (0, 3, 4), (-1, -1, -1)))},
        "slots: live ones must differ",
    ),
    (
        "slots for each token",
        {"state_options": replace(SLOTS, slots=((5, -1, 3), (0, 2, 4), (6, -1, -1)))},
        "slots: padding has none",
    ),
    (
        "slots for each token",
        {"parents": ((-1, 0), (-1, 0, 0), (-1,))},
        "slots: chains whose states are written alone",
    ),
    ("a buffer and the state", {"inplace": False}, "step_update: with inplace alone"),
    ("a buffer and the state", {"pool": replace(STEPS, indices=(3, 3))}, "live ones must differ"),
]


@pytest.mark.parametrize(("name", "changes", "said"), BAD)
def test_what_does_not_fit_is_refused(name: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(CASES[name], **changes)


def test_a_fresh_request_starts_from_zero_whatever_its_slot_holds() -> None:
    case = CASES["flags"]
    data = inputs.draw(case)
    assert bool(data["state"][0].any())
    other = data | {"state": data["state"].clone()}
    other["state"][:2] = 7.0
    one, two = oracle.expected(case, data), oracle.expected(case, other)
    assert torch.equal(one.state, two.state)
    assert not one.state[1].any()  # an empty one
    other["state"][2] = 7.0
    assert not torch.equal(one.state, oracle.expected(case, other).state)


def test_results_lie_where_the_options_say() -> None:
    steps = result_of(CASES["slots for each token"], "steps")
    assert (steps.lies, steps.at, steps.rows) == ("state", ((5,), (0,), (2,), (4,)), (0, 2, 3, 4))
    tracked = result_of(CASES["tracked chunks"], "tracked")
    assert (tracked.lies, tracked.at, tracked.rows) == ("track", ((0,), (2,)), (1, 3))
    assert tracked.dtype == "float32"
    names = [one.name for one in results_of(CASES["a buffer and the state"])]
    assert names == ["o", "state", "steps"]
    assert [one.name for one in results_of(CASES["no output"])] == ["state"]


@pytest.mark.parametrize(
    ("name", "tensor", "index", "said"),
    [
        ("slots for each token", "state", (6,), "slot 6: the slot was written, and no sequence names it"),
        ("tracked chunks", "track", (1,), "row 1: no chunk of this sequence is tracked"),
        ("rows that are slots", "buffer", (0,), "row 0 step 0"),
    ],
)
def test_what_must_stay_is_watched(name: str, tensor: str, index: tuple[int, ...], said: str) -> None:
    class Writing:
        name, layout, operations = "writing", "vk", tuple({case.op for case in CASES.values()})
        contract = targets.get("vk").contract

        def configurations(self, op: str) -> int:
            return 1

        def refuses(self, case: Case, backend: str) -> str | None:
            return None

        def run(self, case: Case, arguments: Any) -> dict[str, torch.Tensor]:
            results = targets.get("vk").run(case, arguments)
            arguments[tensor][index] = 0.5
            return results

    failure = execute.run(CASES[name], Writing(), "interpret").failure
    assert failure is not None
    assert failure.kind == "slot_changed"
    assert said in str(failure)


@pytest.mark.parametrize("name", CASES)
def test_a_script_says_what_a_replay_says(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    spoiled = {
        "tracked chunks": "track_state",
        "no slots": "initial_state",
        "flags": "initial_state",
        "a buffer and the state": "initial_state_source",
        "rows that are slots": "intermediate_states_buffer",
        "no number of steps": "intermediate_states_buffer",
    }.get(name, "initial_state_source")
    text = repro.script(Finding(case, TARGET, "interpret", "beyond_bound", "message", "o", "place"))
    assert "diffgdn.verdict" not in text
    script = tmp_path / "script.py"
    script.write_text(text)
    ends = {}
    for what in ("", spoiled):
        done = subprocess.run(
            [sys.executable, str(script)],
            capture_output=True,
            text=True,
            env={**os.environ, "SPOILED": what},
        )
        ends[what] = (done.returncode, done.stdout.splitlines()[-1:])
    assert ends == {"": (0, ["right"]), spoiled: (1, ["WRONG"])}, done.stderr


# --- promises, draws and shrinks ---


@pytest.mark.parametrize("op", ["gdn.extend", "kda.extend", "gdn.update", "kda.verify"])
def test_each_option_is_reached_and_most_cases_have_none(op: str, drawn: Drawn) -> None:
    found = drawn(op, 800, 11)
    seen = Counter(name for case in found for name in case.state_options.compiled)
    assert set(seen) == set(options_of(op))
    assert min(seen.values()) >= 5
    assert sum(bool(case.state_options.compiled) for case in found) < 0.25 * len(found)
    if op.endswith("verify"):
        assert {case.state_options.step_rows for case in found} == {"given", "slots"}
        assert {case.state_options.cache_steps for case in found} == {"buffer", "longest", "none"}
        slots = [case.state_options for case in found if case.state_options.slots]
        assert max(max(one.accepted) for one in slots) > 1


def test_operations_without_options_have_none(drawn: Drawn) -> None:
    for op in ("gdn.recurrent", "gdn.decode", "kda.packed_decode"):
        assert options_of(op) == ()
        assert {case.state_options for case in drawn(op, 30, 11)} == {StateOptions()}


ALWAYS = [
    ("gdn.verify", {"token_slots": (True,), "tree": (False,)}, "token_slots"),
    ("kda.verify", {"step_update": (True,), "token_slots": (False,)}, "step_update"),
    ("gdn.update", {"output": (False,)}, "no_output"),
    ("gdn.extend", {"indices": (False,), "initial_state": (True,)}, "no_indices"),
    ("gdn.extend", {"initial_flags": (True,), "initial_state": (True,)}, "flags"),
    ("kda.extend", {"track": (True,)}, "track"),
]


@pytest.mark.parametrize(("op", "fields", "option"), ALWAYS)
def test_what_is_promised_always_is_drawn_always(
    op: str, fields: dict[str, Any], option: str, drawn: Drawn
) -> None:
    promises = Promises(**fields)
    for case in drawn(op, 40, 11, promises=promises):
        assert option in case.state_options.compiled
        assert promises.broken_by(case) is None


def test_promises_that_leave_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="tree must allow false where token_slots is always true"):
        Promises(token_slots=(True,), tree=(True,)).of("gdn.verify")
    with pytest.raises(ValueError, match="indices must allow true where slot_zero is false"):
        Promises(indices=(False,), slot_zero=False).of("gdn.extend")


def test_a_menu_has_an_option_in_one_build_of_an_operation() -> None:
    reached: set[str] = set()
    for number in range(20):
        menu = Menu.draw(number, ["gdn.update", "kda.extend", "gdn.decode"])
        for op, found in menu.builds:
            with_options = [build for build in found if build.states]
            assert len(with_options) == (0 if op == "gdn.decode" else 1)
            assert len(found) == 6
            for build in with_options:
                reached.update(build.states)
                for case in representatives(op, build):
                    assert case.state_options.compiled == set(build.states)
    assert reached == set(COMPILED)
    narrow = Promises(token_slots=(False,), output=(True,), step_update=(False,))
    assert not any(
        build.states for build in Menu.draw(1, ["gdn.update"], promises=narrow).entries("gdn.update")
    )


def test_a_function_without_the_keyword_is_not_asked() -> None:
    def plain(q: Any, k: Any, v: Any, g: Any, beta: Any, initial_state: Any, cu_seqlens: Any) -> None: ...

    target = FunctionTarget("plain", {"gdn.extend": plain})
    assert target.promises.of("gdn.extend").initial_flags == (False,)
    assert refusal(target, CASES["flags"], "interpret") == (
        "outside the promises: initial_flags: false promised, true asked"
    )
    assert target.refuses(CASES["flags"], "interpret") == "it has no keyword has_initial_state"
    assert refusal(target, CASES["no slots"], "interpret") is None


def test_what_a_function_has_no_keyword_for_is_not_drawn() -> None:
    def plain(q: Any, k: Any, v: Any, initial_state: Any, cu_seqlens: Any) -> None: ...

    ops = ("gdn.extend", "kda.extend", "gdn.update", "gdn.verify")
    promises = FunctionTarget("plain", dict.fromkeys(ops, plain)).promises
    for op, axis, left in (
        ("gdn.extend", "initial_flags", (False,)),
        ("kda.extend", "track", (False,)),
        ("gdn.update", "output", (True,)),
        ("gdn.update", "token_slots", (False,)),
        ("gdn.verify", "token_slots", (False,)),
    ):
        assert getattr(promises.of(op), axis) == left

    # What a target says it has, and has no keyword for, it is not asked either.
    forced = FunctionTarget("forced", {"gdn.verify": plain}, promises=Promises(token_slots=(True,)))
    case = CASES["slots for each token"]
    assert refusal(forced, case, "interpret") == "it has no keyword num_accepted_tokens"


def test_shrinking_keeps_an_option_that_matters_and_drops_one_that_does_not() -> None:
    both = replace(
        CASES["tracked chunks"],
        state_options=replace(CASES["tracked chunks"].state_options, initial=(False,) * 4),
    )
    assert by_field.simplest(both, lambda case: bool(case.fresh)) == Case(
        "kda.extend", chunk_size=16, state_options=StateOptions(initial=(False,))
    )
    tracked = by_field.simplest(both, lambda case: max(case.state_options.track, default=-1) > 0)
    assert (tracked.lens, tracked.state_options) == ((17,), StateOptions(track=(1,)))
    accepted = by_field.simplest(
        CASES["slots for each token"], lambda case: max(case.state_options.accepted, default=0) > 1
    )
    assert accepted == Case(
        "gdn.verify", pool=Pool(2, (1,)), state_options=StateOptions(slots=((0, 1),), accepted=(2,))
    )
    for name, case in CASES.items():
        plain = by_field.simplest(case, lambda case: True)
        assert plain.state_options == StateOptions(), name


def test_relations_are_not_asked_about_them_but_for_the_same_call_again() -> None:
    target = targets.get("vk")
    for case in CASES.values():
        assert relations.run(case, target, "interpret", "twice").refused is None
        assert relations.run(case, target, "interpret", "rows").refused is not None


def test_kernels_take_what_a_count_names_without_counts() -> None:
    """Counts left out are ones, as in vLLM."""
    case = replace(
        CASES["slots for each token of an update"], state_options=replace(SLOTS, accepted=(3, 1, 1))
    )
    arguments = arrange(case, inputs.draw(case), "cpu")
    given = {name: arguments[name] for name in ("q", "k", "v", "g", "beta", "cu_seqlens")} | {
        "initial_state_source": arguments["state"],
        "initial_state_indices": arguments["indices"][1:2],
    }
    given["cu_seqlens"] = torch.tensor([0, 2], dtype=torch.int32)
    kernel = kernels.fused_recurrent_gated_delta_rule_update
    with_counts = kernel(**given, num_accepted_tokens=torch.ones(1, dtype=torch.int32))
    after = arguments["state"].clone()
    arguments.restore()
    assert torch.equal(kernel(**given)[:, :2], with_counts[:, :2])
    assert torch.equal(arguments["state"][:6].nan_to_num(), after[:6].nan_to_num())
