"""Conditions on cases: which cases meet them."""

from __future__ import annotations

from typing import Any

import pytest

from diffgdn import strategies
from diffgdn.cases import conditions, promise_axes
from diffgdn.cases.case import Case, Edit, Gates, Pool
from diffgdn.cases.lay import Lay
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.promises import AXES
from diffgdn.search.moves import bare


def decode(**fields: Any) -> Case:
    return Case("gdn.decode", **fields)


def two(indices: tuple[int, ...]) -> Case:
    return decode(lens=(1, 1), pool=Pool(slots=3, indices=indices))


@pytest.mark.parametrize(
    ("where", "holds", "fails"),
    [
        ({"dtype": "bfloat16"}, decode(dtype="bfloat16"), decode()),
        ({"K": [17, 33]}, decode(K=33), decode(K=32)),
        ({"K": {"least": 17, "most": 40}}, decode(K=40), decode(K=41)),
        ({"V": {"multiple": 8}}, decode(V=24), decode(V=25)),
        ({"pool.pitch": {"least": 1}}, decode(pool=Pool(pitch=3)), decode()),
        ({"padding": True}, two((0, -1)), two((0, 1))),
        ({"length": {"least": 3}}, decode(lens=(1, 4), pool=Pool(2, (0, 1))), decode(lens=(2,))),
        ({"length": {"not": 1}}, decode(lens=(1, 4), pool=Pool(2, (0, 1))), decode()),
        ({"pool.indices": {"least": 2}}, two((0, 2)), two((0, 1))),
        ({"sequences": {"least": 2}}, two((0, 1)), decode()),
        ({"gates.law": {"not": ["zero", "exact"]}}, decode(gates=Gates("constant")), decode()),
        ({"scale": "given"}, decode(scale=0.5), decode()),
        ({"state_dtype": "q"}, decode(pool=Pool(dtype="float32")), decode(dtype="bfloat16")),
        ({"edits.tensor": "v"}, decode(edits=(Edit("v", 0, 1.0),)), decode()),
        ({"K": 33, "l2norm": True}, decode(K=33, l2norm=True), decode(K=33)),
        ({"chunk_size": 16}, Case("gdn.extend", chunk_size=16), decode(chunk_size=16)),
        ({"gates.lower_bound": {"most": -1}}, Case("kda.decode", gates=Gates(lower_bound=-5.0)), decode()),
    ],
)
def test_a_condition_holds_where_the_case_has_what_it_asks(
    where: dict[str, Any], holds: Case, fails: Case
) -> None:
    read = conditions.read(where)
    assert conditions.hold(read, holds)
    assert not conditions.hold(read, fails)


def test_no_conditions_hold_always() -> None:
    assert conditions.hold(conditions.read({}), decode())


def test_each_axis_of_promises_is_a_word_and_says_what_a_case_has() -> None:
    plain = [bare(Case(op, **_least(op)), 1, 0) for op in OPERATIONS]
    cases = [case for op in OPERATIONS for case in strategies.geometries.cases(op)]
    cases += [case for case in plain if case is not None]
    cases.append(Case("kda.decode", gates=Gates(lower_bound=-5.0)))
    cases.append(
        Case("gdn.decode", lens=(2,), lay=(Lay("q", (1, 0, 0, 0)), Lay("k", (0, 1, 0, 0), offset=16)))
    )
    asked = set()
    for case in cases:
        for axis, value in promise_axes.asked(case):
            asked.add(axis)
            assert value in conditions.values_of(case, axis)
            assert conditions.hold(conditions.read({axis: value}), case)
    assert asked == {spec.name for spec in AXES}


def _least(op: str) -> dict[str, Any]:
    if not OPERATIONS[op].has_pool:
        return {"pool": Pool(indices=())}
    return {"pool": Pool(steps=1, buffer=1, rows=(0,))} if OPERATIONS[op].drafts else {}
