"""Shrinking field by field: to the same minimal cases as Hypothesis, in a few dozen runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from diffgdn.cases.case import Case, Edit, Gates, Pool, Values
from diffgdn.cases.state_options import StateOptions
from diffgdn.search import by_field, moves
from diffgdn.tensors import inputs

# An unlucky case of each kind: many sequences, heads and flags.
EXTEND = Case(
    op="kda.extend",
    lens=(8, 0, 70, 1, 44),
    H=2,
    HV=6,
    K=60,
    V=33,
    dtype="bfloat16",
    pool=Pool(slots=12, indices=(-1, 2, 3, 11, 6), pitch=65, dtype="float16"),
    gates=Gates(law="jump", strength=0.125, at=32, beta="near_one", lower_bound=-5.0, raw=True),
    values=Values(law="parallel", seed=663, v_exponent=-14, q_exponent=3),
    tail=33,
    cu_dtype="int64",
    view="gapped",
    l2norm=True,
    scale=0.5,
    chunk_size=32,
    boundary=True,
    final=False,
    edits=(Edit("v", 700, 0.0), Edit("k", 9, 1.0)),
)
VERIFY = Case(
    op="gdn.verify",
    lens=(5, 2, 6),
    HV=4,
    K=7,
    V=31,
    pool=Pool(slots=9, indices=(4, -1, 4), steps=8, buffer=5, rows=(3, -1, 1)),
    gates=Gates(law="model", beta="uniform"),
    values=Values(law="normal", seed=5),
    parents=((-1, 0, 0, 2, 1), (-1, 0), (-1, 0, 1, 1, 0, 4)),
)
UPDATE = Case(
    op="kda.update",
    lens=(4, 4),
    H=3,
    HV=3,
    K=256,
    V=255,
    pool=Pool(slots=30, indices=(29, 1), steps=6, buffer=2, rows=(0, 1)),
    packed=False,
)
SLOT: dict[str, Any] = {"chunk_size": 16}
KEPT = Pool(steps=1, buffer=1, rows=(0,))
MOST_RUNS = 60


class Runs:
    """A condition that counts how often it is asked, and about which cases."""

    def __init__(self, condition: Callable[[Case], bool]) -> None:
        self.condition, self.asked, self.met = condition, list[str](), list[str]()

    def __call__(self, case: Case) -> bool:
        self.asked.append(case.id)
        self.met += [case.id] if self.condition(case) else []
        return self.condition(case)


@pytest.mark.parametrize(
    ("first", "condition", "expected"),
    [
        (EXTEND, lambda c: True, Case("kda.extend", **SLOT)),
        (EXTEND, lambda c: max(c.lens) > 16, Case("kda.extend", lens=(17,), **SLOT)),
        (EXTEND, lambda c: max(c.lens) > c.chunk_size, Case("kda.extend", lens=(17,), **SLOT)),
        (EXTEND, lambda c: c.HV > c.H, Case("kda.extend", HV=2, **SLOT)),
        (EXTEND, lambda c: c.K > 16, Case("kda.extend", K=17, **SLOT)),
        (EXTEND, lambda c: c.K != c.V, Case("kda.extend", V=1, **SLOT)),
        (EXTEND, lambda c: c.chunk_size == 32, Case("kda.extend", chunk_size=32)),
        (EXTEND, lambda c: 0 in c.lens, Case("kda.extend", lens=(0,), **SLOT)),
        (EXTEND, lambda c: -1 in c.pool.indices, Case("kda.extend", pool=Pool(indices=(-1,)), **SLOT)),
        (
            EXTEND,
            lambda c: max(c.pool.indices) > 5,
            Case("kda.extend", pool=Pool(slots=7, indices=(6,)), **SLOT),
        ),
        (EXTEND, lambda c: c.pool.pitch > 0, Case("kda.extend", pool=Pool(pitch=1), **SLOT)),
        (EXTEND, lambda c: c.tail > 15, Case("kda.extend", tail=16, **SLOT)),
        (
            EXTEND,
            lambda c: c.gates.law == "jump" and c.gates.at >= c.chunk_size,
            Case("kda.extend", lens=(17,), gates=Gates(law="jump", at=16), **SLOT),
        ),
        (
            EXTEND,
            lambda c: c.gates.lower_bound is not None,
            Case("kda.extend", gates=Gates(lower_bound=-5.0, raw=True), **SLOT),
        ),
        (
            EXTEND,
            lambda c: any(edit.tensor == "v" for edit in c.edits),
            Case("kda.extend", edits=(Edit("v", 0, 0.0),), **SLOT),
        ),
        (
            EXTEND,
            lambda c: c.values.v_exponent < -3,
            Case("kda.extend", values=Values(v_exponent=-4), **SLOT),
        ),
        (VERIFY, lambda c: True, Case("gdn.verify", pool=KEPT)),
        (
            VERIFY,
            lambda c: any(p < s - 1 for tree in c.parents for s, p in enumerate(tree)),
            Case("gdn.verify", (3,), pool=Pool(steps=3, buffer=1, rows=(0,)), parents=((-1, 0, 0),)),
        ),
        (
            VERIFY,
            lambda c: max(c.pool.indices.count(slot) for slot in range(c.pool.slots)) > 1,
            Case("gdn.verify", (1, 1), pool=Pool(indices=(0, 0), steps=1, buffer=2, rows=(0, 1))),
        ),
        (
            VERIFY,
            lambda c: c.pool.steps > max(c.lens),
            Case("gdn.verify", pool=Pool(steps=2, buffer=1, rows=(0,))),
        ),
        (VERIFY, lambda c: c.total > 6, Case("gdn.verify", (7,), pool=Pool(steps=7, buffer=1, rows=(0,)))),
        (UPDATE, lambda c: not c.packed, Case("kda.update", packed=False)),
        (UPDATE, lambda c: c.V > 64, Case("kda.update", V=65)),
    ],
)
def test_only_what_the_failure_needs_is_left(
    first: Case, condition: Callable[[Case], bool], expected: Case
) -> None:
    runs = Runs(condition)
    assert condition(first)
    assert by_field.simplest(first, runs) == expected
    assert len(runs.asked) <= MOST_RUNS
    assert len(set(runs.asked)) == len(runs.asked)


def test_what_cannot_be_simpler_is_kept() -> None:
    assert by_field.simplest(EXTEND, lambda case: False) == EXTEND


def test_no_case_is_asked_for_once_the_time_is_up() -> None:
    runs = Runs(lambda case: case.l2norm)
    found = by_field.simplest(EXTEND, runs, lambda: len(runs.asked) >= 9)
    assert len(runs.asked) == 9
    assert found.id == runs.met[-1]


def test_groups_of_heads_become_two_of_two() -> None:
    case = Case("gdn.decode", H=4, HV=16)
    assert by_field.simplest(case, lambda c: 1 < c.H < c.HV) == Case("gdn.decode", H=2, HV=4)
    assert by_field.simplest(case, lambda c: c.H == 4 and c.HV > 4) == Case("gdn.decode", H=4, HV=8)


def test_a_chunk_of_64_becomes_one_of_32_where_16_is_too_short() -> None:
    case = Case("kda.extend", lens=(50,), pool=Pool(indices=(-1,)), chunk_size=64)
    found = by_field.simplest(case, lambda c: min(max(c.lens), c.chunk_size) >= 20)
    assert found == Case("kda.extend", lens=(20,), chunk_size=32)


def test_a_rare_number_is_looked_for_under_other_seeds_before_it_costs_a_head_or_a_token() -> None:
    """Raw gates past 88, of which there is one in three."""

    def fails(case: Case) -> bool:
        return case.gates.law == "extreme" and bool((inputs.draw(case)["a"] > 88.0).any())

    alone = replace(Case("gdn.decode"), gates=Gates(law="extreme"))
    assert not fails(alone)
    found = by_field.simplest(replace(alone, lens=(3,), HV=3), fails)
    assert (found.lens, found.HV, found.values.law) == ((1,), 1, "ones")
    assert fails(found)


def test_a_buffer_of_steps_goes_with_what_is_said_of_it() -> None:
    steps = StateOptions(step_update=True, output=False)
    pool = Pool(steps=1, buffer=1, rows=(0,))
    update = Case("gdn.update", pool=pool, state_options=steps)

    def no_final_state(case: Case) -> bool:
        """It is written where there is no buffer, and beside one that is updated too."""
        options = case.state_options
        return not options.output and (not case.pool.steps or options.step_update)

    found = by_field.simplest(update, no_final_state)
    assert found == Case("gdn.update", state_options=StateOptions(output=False))


EIGHTY = replace(EXTEND, K=80, V=80)


@pytest.mark.parametrize(
    ("condition", "K", "most"),
    [
        (lambda c: c.K >= 48, 48, 55),
        (lambda c: c.K >= 53, 53, 70),
        (lambda c: c.K % 16 == 0 and c.K & (c.K - 1) != 0, 48, 55),
        (lambda c: c.K % 4 == 0 and c.K > 64, 68, 65),
    ],
    ids=["from 48 on", "from 53 on", "multiples of 16 that are no power of two", "multiples of 4 beyond 64"],
)
def test_a_dimension_ends_at_the_smallest_that_fails(
    condition: Callable[[Case], bool], K: int, most: int
) -> None:
    """Not at the last half that does, and not one by one."""
    runs = Runs(condition)
    assert by_field.simplest(EIGHTY, runs) == Case("kda.extend", K=K, **SLOT)
    assert len(runs.asked) <= most


GRID = Case(
    "gdn.decode",
    lens=(1,) * 20,
    H=2,
    HV=4,
    K=64,
    V=64,
    dtype="bfloat16",
    pool=Pool(slots=40, indices=tuple(range(39, 19, -1)), pitch=5, dtype="bfloat16"),
    gates=Gates(law="model", beta="uniform"),
    values=Values(law="normal", seed=5),
    tail=3,
    cu_dtype="int64",
    index_dtype="int64",
    view="gapped",
    l2norm=True,
    scale=0.5,
)


def test_a_case_that_stays_large_is_plain_after_a_few_runs() -> None:
    """A failure of grids of 32 programs and more, whose every run is slow: no dozen of flags is left."""
    runs = Runs(lambda case: len(case.lens) * case.HV >= 32)
    found = by_field.simplest(GRID, runs, lambda: len(runs.asked) >= 10)
    assert [name for name, default in moves.FLAGS.items() if getattr(found, name) != default] == []
    assert (found.pool.pitch, found.pool.dtype) == (0, "float32")
    assert (found.gates, found.values) == (Gates(), Values())
    runs = Runs(runs.condition)
    found = by_field.simplest(GRID, runs)
    assert found == Case("gdn.decode", lens=(1,) * 8, HV=4, pool=Pool(slots=8, indices=tuple(range(8))))
    assert len(runs.asked) <= MOST_RUNS


def test_few_runs_fail_on_the_way() -> None:
    """Each that does may cost a process."""
    failed: list[Case] = []

    def crashes(case: Case) -> bool:
        pairs = zip(case.pool.indices, case.lens, strict=True)
        failed.extend([case] if any(slot < 0 and length > 40 for slot, length in pairs) else [])
        return case in failed

    first = replace(EXTEND, lens=(8, 0, 70, 1, 130), pool=replace(EXTEND.pool, indices=(3, 2, -1, 11, -1)))
    assert by_field.simplest(first, crashes) == Case(
        "kda.extend", lens=(41,), pool=Pool(indices=(-1,)), chunk_size=16
    )
    assert len(failed) <= 8


def test_the_slow_goes_first() -> None:
    """After a dozen runs the case is small, whatever else is left of it."""
    runs = Runs(lambda case: case.l2norm)
    found = by_field.simplest(EXTEND, runs, lambda: len(runs.asked) >= 12)
    assert (len(found.lens), found.H, found.HV, found.K, found.V) == (1, 1, 1, 16, 16)


@pytest.mark.parametrize("first", [EXTEND, VERIFY, UPDATE, GRID], ids=lambda case: case.op)
def test_no_move_changes_the_operation_or_makes_a_case_larger(first: Case) -> None:
    for move in moves.MOVES:
        for case in move(first):
            if case is None:
                continue
            assert case.op == first.op
            assert len(case.lens) <= len(first.lens)
            assert case.tokens <= first.tokens + first.lens.count(0)
            assert case.H <= first.H
            assert case.HV <= first.HV
            assert max(first.K, moves.SIMPLEST_DIM) >= case.K
            assert max(first.V, moves.SIMPLEST_DIM) >= case.V
            assert len(case.edits) <= len(first.edits)
