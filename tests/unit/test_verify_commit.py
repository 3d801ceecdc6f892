"""verify_commit, a draft of which accepted steps reach the pool: what a case may ask, what is checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from diffgdn.backend import selection

selection.enter(selection.detect())

import torch  # noqa: E402

from diffgdn import kernels, targets  # noqa: E402
from diffgdn.cases.case import Case, Gates, Pool, Values  # noqa: E402
from diffgdn.cases.company import earlier  # noqa: E402
from diffgdn.cases.lay import Lay  # noqa: E402
from diffgdn.cases.padding import padded  # noqa: E402
from diffgdn.cases.state_options import StateOptions  # noqa: E402
from diffgdn.kernels.step_changes import parts  # noqa: E402
from diffgdn.reference import oracle  # noqa: E402
from diffgdn.search import by_field  # noqa: E402
from diffgdn.targets import FunctionTarget  # noqa: E402
from diffgdn.targets.calls import FUNCTIONS  # noqa: E402
from diffgdn.tensors import inputs  # noqa: E402
from diffgdn.tensors.layout import arrange  # noqa: E402
from diffgdn.tensors.results import result_of  # noqa: E402
from diffgdn.verdict import execute, failures, relations  # noqa: E402

BACKEND = selection.detect()
TREE = (-1, 0, 0, 1, 2)
CASE = Case(
    "gdn.verify_commit",
    lens=(3, 5, 2, 1),
    HV=2,
    K=4,
    V=3,
    pool=Pool(6, (3, 0, -1, 5), steps=6, buffer=4, rows=(2, 0, -1, 1)),
    gates=Gates(law="model", beta="uniform"),
    values=Values("normal", seed=5),
    state_options=StateOptions(accepted=(2, 4, 2, 0)),
)
TREES = replace(CASE, parents=((-1, 0, 0), TREE, (-1, 0), (-1,)))
KDA = replace(CASE, op="kda.verify_commit")
ANY = pytest.mark.parametrize("case", [CASE, TREES, KDA], ids=("chain", "tree", "kda"))
ONE_EACH = "accepted: one count of 0 or more a sequence"
COMMON = ("initial_state_source", "initial_state_indices", "step_changes", "step_change_indices", "layout")


def spoiled(spoil: Callable[..., Any]) -> FunctionTarget:
    """The kernels with something done to the arguments of their commit before it is made."""
    verify, commit = kernels.fused_sigmoid_gating_delta_rule_verify, kernels.commit_accepted_steps

    def both(*, num_accepted_steps: Any, accepted_path: Any = None, **given: Any) -> Any:
        o = verify(**given)
        asked = {name: given[name] for name in (*COMMON, "is_kda")}
        asked |= {"num_accepted_steps": num_accepted_steps, "accepted_path": accepted_path}
        commit(**asked | (spoil(**asked) or {}))
        return o

    return FunctionTarget("spoiled", {op: both for op in FUNCTIONS if op.endswith("verify_commit")})


# -- what a case may ask --


def test_steps_are_counted_up_to_the_last_accepted_one_and_all_are_by_default() -> None:
    assert CASE.accepted == (2, 4, 2, 0)
    assert CASE.accepted_paths == ((0, 1), (0, 1, 2, 3), (0, 1), ())
    assert TREES.accepted_paths == ((0, 1), (0, 1, 3), (0, 1), ())
    assert replace(CASE, state_options=StateOptions()).accepted == CASE.lens
    assert replace(CASE, state_options=StateOptions(accepted=(9, 9, 9, 9))).accepted == CASE.lens
    assert CASE.stored == (0, 1)
    assert replace(CASE, pool=replace(CASE.pool, rows=(-1, 0, -1, 1))).stored == (1,)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state_options": StateOptions(accepted=(1, 1))}, ONE_EACH),
        ({"state_options": StateOptions(accepted=(1, 1, 1, -1))}, ONE_EACH),
        ({"state_options": StateOptions(step_update=True)}, "has no step_update"),
        ({"state_options": StateOptions(cache_steps="longest")}, "has accepted alone"),
        ({"inplace": False}, "always writes its states"),
        ({"pool": replace(CASE.pool, indices=(3, 3, -1, 5))}, "live ones must differ"),
        ({"pool": replace(CASE.pool, steps=4)}, "pool.steps: at least the longest draft"),
    ],
)  # fmt: skip
def test_what_is_outside_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(CASE, **changes)


def test_it_has_a_json_form_of_its_own_version() -> None:
    data = json.loads(json.dumps(TREES.to_json()))
    assert Case.from_json(data) == TREES
    assert replace(CASE, state_options=StateOptions()).to_json()["format_version"] == 5
    with pytest.raises(ValueError, match="needs version 5, got 4"):
        Case.from_json(data | {"format_version": 4})


def test_sequences_of_padding_accept_nothing_and_other_calls_as_much_as_they_have() -> None:
    assert padded(CASE, 6).accepted == (2, 4, 2, 0, 0, 0)
    bigger = earlier(CASE, "bigger_batch")
    assert bigger is not None
    assert bigger.accepted == CASE.accepted * 2


# -- what is right --


@ANY
@pytest.mark.parametrize("target", ["vk", "kv", "eager"])
def test_the_slot_has_the_state_after_the_accepted_steps(case: Case, target: str) -> None:
    assert execute.run(case, targets.get(target), BACKEND).ok


@ANY
def test_the_truth_of_a_slot_is_that_of_its_last_accepted_token(case: Case) -> None:
    result = result_of(case, "state")
    assert (result.truth, result.at) == ("steps", ((3,), (0,)))
    assert result.rows == (1, 6)
    alone = replace(case, lens=case.accepted, parents=(), state_options=StateOptions(), pool=CASE.pool)
    if not case.parents:
        data = inputs.draw(case)
        tokens = [case.starts[n] + t for n, count in enumerate(case.accepted) for t in range(count)]
        per_token = ("q", "k", "v", "a", "b")
        short = {name: x[tokens] if name in per_token else x for name, x in data.items()}
        state = oracle.expected(alone, short).state
        steps = oracle.expected(case, data).steps
        assert steps is not None
        torch.testing.assert_close(steps[[1, 6]], state[:2], rtol=1e-12, atol=1e-12)


def test_changes_lie_with_strides_of_their_own_too() -> None:
    case = replace(TREES, lay=(Lay("changes", gaps=(3, 5, 0), offset=4), Lay("rows", gaps=(2,))))
    data = inputs.draw(case)
    changes = arrange(case, data, "cpu")["changes"]
    assert changes.shape == (4, 6, case.numbers)
    assert not changes.is_contiguous()
    assert case.numbers == kernels.change_numbers(case.H, case.HV, case.K, case.V)
    assert execute.run(case, targets.get("vk"), BACKEND).ok


# -- what is wrong --


def one_more(num_accepted_steps: Any, **_: Any) -> dict[str, Any]:
    return {"num_accepted_steps": num_accepted_steps + (num_accepted_steps == 2).int()}


def touch_a_slot(initial_state_source: Any, **_: Any) -> None:
    initial_state_source[5, 0, 0, 0] += 1.0


def write_behind_a_draft(step_changes: Any, **_: Any) -> None:
    step_changes[2, 3, 0] = 1.0


def forget_the_decay(step_changes: Any, **_: Any) -> None:
    parts(step_changes, 1, 2, 4, 3)[2][[2, 0]] = 0.0


WRONG: list[tuple[Callable[..., Any], type[failures.CheckFailure], str]] = [
    (one_more, failures.BeyondBound, "gdn.verify_commit state (sequence 0, token 1, head"),
    (forget_the_decay, failures.BeyondBound, "gdn.verify_commit state (sequence"),
    (touch_a_slot, failures.SlotChanged, "state slot 5: the slot was written, and sequence 3 only reads"),
    (write_behind_a_draft, failures.SlotChanged, "changes row 2 step 3: a step that no draft token owns"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "failure", "words"), WRONG, ids=[spoil.__name__ for spoil, _, _ in WRONG])
def test_a_wrong_commit_is_found_and_named(
    spoil: Callable[..., Any], failure: type[failures.CheckFailure], words: str
) -> None:
    found = execute.run(CASE, spoiled(spoil), BACKEND).failure
    assert isinstance(found, failure)
    assert words in str(found)


def test_a_right_one_made_of_both_calls_passes() -> None:
    assert execute.run(TREES, spoiled(lambda **_: None), BACKEND).ok


def test_a_wrong_count_shrinks_to_two_tokens_of_which_one_is_accepted() -> None:
    target = spoiled(
        lambda num_accepted_steps, **_: {"num_accepted_steps": num_accepted_steps + 1, "validate": False}
    )
    found = by_field.simplest(CASE, lambda case: not execute.run(case, target, BACKEND).ok)
    assert sum(found.lens) <= 2
    assert (found.K, found.V, found.HV) == (16, 16, 1)


# -- relations --


@pytest.mark.parametrize("name", ["stored", "steps", "permuted", "separate", "append", "padding"])
def test_relations_hold_and_say_something(name: str) -> None:
    verdict = relations.run(CASE, targets.get("vk"), BACKEND, name)
    assert verdict.ok
    assert verdict.refused is None


@pytest.mark.parametrize("name", ["stored", "steps"])
def test_a_step_too_many_breaks_what_it_is_compared_with(name: str) -> None:
    own = targets.get("vk")
    assert isinstance(own, FunctionTarget)
    functions = own.functions | spoiled(one_more).functions
    verdict = relations.run(CASE, FunctionTarget("spoiled", functions), BACKEND, name)
    assert verdict.failure is not None
    assert verdict.failure.kind == f"relation_broken.{name}"
