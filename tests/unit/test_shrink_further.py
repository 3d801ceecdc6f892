"""Moves out of where a shrink may get stuck: stronger laws, fewer slots, plain structure around content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.lay import Lay
from diffgdn.cases.sparsity import Only
from diffgdn.cases.state_options import StateOptions
from diffgdn.mutants.known_smallest import least
from diffgdn.search import by_field, kept_content, moves, sparsify

STEP = Pool(steps=1, buffer=1, rows=(0,))
STRONG = Gates("constant", strength=moves.STRONG)
FAR = 1 << 30
SHORT: dict[str, Any] = {"chunk_size": 16}


def overflows(case: Case) -> bool:
    """As fp16 does under a law of checkpoints, and fp32 past what it holds."""
    gates = case.gates
    wide = gates.law == "constant" and gates.strength > 100.0
    return wide or (gates.law == "checkpoint" and case.dtype == "float16")


def reaches(case: Case) -> bool:
    """Whether the last token of k lies past 2^31, beside another tensor that lies far."""
    gaps = {one.tensor: max(one.gaps, default=0) for one in case.lay}
    others = gaps.get("cu_seqlens", 0) * len(case.lens)
    return gaps.get("k", 0) * (case.total - 1) >= 2 * FAR and others >= FAR


FAR_K = (Lay("k", gaps=(0, 56512768, 0, 0)), Lay("cu_seqlens", gaps=(FAR,)))


@pytest.mark.parametrize(
    ("case", "fails", "expected"),
    [
        (
            Case("gdn.extend", dtype="float16", gates=Gates("checkpoint"), **SHORT),
            overflows,
            {"gates": STRONG},
        ),
        (
            Case("gdn.extend", values=Values("exact"), gates=Gates("exact"), **SHORT),
            lambda case: (case.gates.law, case.values.law) == ("exact", "exact") or overflows(case),
            {"gates": STRONG},
        ),
        (
            Case("gdn.verify_commit", pool=STEP, state_options=StateOptions(accepted=(1,))),
            lambda case: True,
            {"pool": STEP},
        ),
        (
            Case(
                "kda.update",
                pool=Pool(slots=2, indices=(1,)),
                state_options=StateOptions(slots=((0, 1),), accepted=(2,)),
            ),
            lambda case: case.keeps_steps,
            {"pool": STEP},
        ),
        (
            Case("gdn.verify", pool=Pool(indices=(-1,), steps=1, buffer=1, rows=(-1,))),
            lambda case: -1 in case.pool.rows,
            {"pool": Pool(steps=1, buffer=1, rows=(-1,))},
        ),
        (
            Case("gdn.update", pool=Pool(slots=3, indices=(2,), pitch=FAR)),
            lambda case: case.pool.pitch * case.pool.indices[0] >= 2 * FAR,
            {"pool": Pool(slots=2, indices=(1,), pitch=2 * FAR)},
        ),
        (
            Case("gdn.decode", pool=Pool(slots=8, indices=(0,))),
            lambda case: case.pool.slots > 1,
            {"pool": Pool(slots=2, indices=(0,))},
        ),
        (
            Case("kda.extend", lens=(9,), **SHORT),
            lambda case: case.total > 8 or (case.values.law == "uniform" and case.total > 1),
            {"lens": (2,), "values": Values("uniform")},
        ),
        (
            Case("kda.extend", lens=(13,), values=Values("parallel"), **SHORT),
            lambda case: case.values.law == "parallel" and case.total > 12 - (case.values.seed == 3),
            {"lens": (12,), "values": Values("parallel", seed=3)},
        ),
    ],
)
def test_what_is_left_is_the_simplest(
    case: Case, fails: Callable[[Case], bool], expected: dict[str, Any]
) -> None:
    assert fails(case)
    assert by_field.simplest(case, fails) == least(case.op, **expected)


def test_what_lies_far_by_many_tokens_lies_far_by_few() -> None:
    pool = Pool(slots=2, indices=(0, 1))
    found = by_field.simplest(Case("gdn.extend", (34, 5), pool=pool, lay=FAR_K, **SHORT), reaches)
    assert found.total <= 3
    assert reaches(found)


def sparse(case: Case, *kept: str) -> bool:
    """Whether all of q, k and v that are not kept are zero."""
    zero = {one.tensor for one in case.only if one.empty}
    return {"q", "k", "v"} - zero <= {*kept}


def test_a_tree_and_a_dimension_go_once_the_content_is_sparse() -> None:
    """Where equal rows hide the failure, all else had to be uneven for it to show."""

    def fails(case: Case) -> bool:
        return case.values.law == "ones" and (sparse(case, "k") or (case.K == 3 and bool(case.parents)))

    pool = Pool(steps=2, buffer=1, rows=(0,))
    case = Case("gdn.verify", (2,), K=3, pool=pool, parents=((-1, 0),))
    found = sparsify.simplest(case, fails)
    assert (found.K, found.parents) == (16, ())
    assert sparse(found, "k")


@pytest.mark.parametrize("only", [(), (Only("g", heads=(1,), value=-1.0),)])
def test_a_state_stands_for_the_token_before(only: tuple[Only, ...]) -> None:
    case = Case("kda.extend", (2,), HV=2, values=Values(state="zero"), only=only, **SHORT)

    def fails(one: Case) -> bool:
        gates = [entry for entry in one.only if entry.tensor == "g"]
        return (one.total == 2 or one.values.state == "law") and len(gates) == len(only)

    found = by_field.follow(kept_content.from_state, case, fails, lambda: False, {case.id})
    assert (found.lens, found.values.state) == ((1,), "law")
    assert found.only == only


def test_what_needs_its_tokens_keeps_its_state_of_zeros() -> None:
    case = Case("gdn.extend", (2,), values=Values(state="zero"), **SHORT)
    asked = list(kept_content.from_state(case))
    assert all(one is None or one.total < case.total for one in asked)
    assert not list(kept_content.from_state(replace(case, values=Values())))
    assert not list(kept_content.from_state(replace(case, lens=(1,))))
