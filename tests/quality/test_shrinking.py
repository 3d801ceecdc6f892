"""What planted conditions on cases shrink to: nothing in the minimal case but what the condition is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis.strategies import SearchStrategy

from diffgdn.cases.case import Case, Edit, Gates, Pool, Values
from diffgdn.cases.operations import OPERATIONS
from diffgdn.strategies import Menu, cases

Condition = Callable[[Case], bool]
Minimal = Callable[[SearchStrategy[Case], Condition], Case]


def simplest(op: str, **changes: Any) -> Case:
    """The simplest case of an operation, with changes."""
    pool = Pool() if OPERATIONS[op].has_pool else Pool(indices=())
    if OPERATIONS[op].drafts:
        pool = Pool(steps=1, buffer=1, rows=(0,))
    chunk_size = 16 if OPERATIONS[op].is_chunked else Case.chunk_size
    return Case(**{"op": op, "pool": pool, "chunk_size": chunk_size, **changes})


class Planted(NamedTuple):
    """A condition, how the minimal case differs from the simplest one, and where it is planted."""

    condition: Condition
    changes: dict[str, Any]
    ops: tuple[str, ...]


PLANTED = {
    "more than 40 tokens": Planted(lambda c: max(c.lens) > 40, {"lens": (41,)}, ("gdn.extend",)),
    "whole chunks": Planted(
        lambda c: any(n > 0 and n % c.chunk_size == 0 for n in c.lens), {"lens": (16,)}, ("gdn.extend",)
    ),
    "chunks of 64, two of them": Planted(
        lambda c: c.chunk_size == 64 and max(c.lens) > 64, {"lens": (65,), "chunk_size": 64}, ("kda.extend",)
    ),
    "three tokens": Planted(
        lambda c: max(c.lens) > 2, {"lens": (3,)}, ("gdn.recurrent", "kda.update", "gdn.decode")
    ),
    "more value heads than query heads": Planted(
        lambda c: c.HV > c.H, {"HV": 2}, ("gdn.extend", "kda.recurrent", "kda.packed_decode")
    ),
    "K beyond 16": Planted(lambda c: c.K > 16, {"K": 17}, ("gdn.extend",)),
    "K unlike V": Planted(lambda c: c.K != c.V, {"V": 1}, ("gdn.extend",)),
    "V beyond 64": Planted(lambda c: c.V > 64, {"V": 65}, ("gdn.extend",)),
    "no tokens at all": Planted(lambda c: c.total == 0, {"lens": (0,)}, ("gdn.extend",)),
    "two sequences": Planted(
        lambda c: len(c.lens) > 1,
        {"lens": (1, 1), "pool": Pool(slots=2, indices=(0, 1))},
        ("kda.extend",),
    ),
    "an empty sequence between others": Planted(
        lambda c: any(a and not b and d for a, b, d in zip(c.lens, c.lens[1:], c.lens[2:], strict=False)),
        {"lens": (1, 0, 1), "pool": Pool(slots=3, indices=(0, 1, 2))},
        ("gdn.extend",),
    ),
    "a padding sequence": Planted(
        lambda c: -1 in c.pool.indices, {"pool": Pool(indices=(-1,))}, ("kda.update",)
    ),
    "padding beside a live slot 0": Planted(
        lambda c: {-1, 0} <= set(c.pool.indices),
        {"lens": (1, 1), "pool": Pool(indices=(0, -1))},
        ("kda.update",),
    ),
    "a slot far from the first": Planted(
        lambda c: max(c.pool.indices) > 9, {"pool": Pool(slots=11, indices=(10,))}, ("gdn.decode",)
    ),
    "slots out of order": Planted(
        lambda c: -1 < c.pool.indices[-1] < c.pool.indices[0],
        {"lens": (1, 1), "pool": Pool(slots=2, indices=(1, 0))},
        ("gdn.extend",),
    ),
    "padding tokens": Planted(lambda c: c.tail > 0, {"tail": 1}, ("gdn.extend",)),
    "a whole chunk of padding tokens": Planted(
        lambda c: c.tail >= c.chunk_size, {"tail": 16}, ("gdn.extend",)
    ),
    "a dense batch of two tokens": Planted(
        lambda c: not c.packed and c.lens[0] > 1,
        {"lens": (2,), "packed": False},
        ("gdn.update", "kda.decode"),
    ),
    "a batch with two leading axes": Planted(lambda c: c.batched, {"batched": True}, ("gdn.decode",)),
    "bf16": Planted(lambda c: c.dtype == "bfloat16", {"dtype": "bfloat16"}, ("kda.verify",)),
    "bf16 states, updated twice": Planted(
        lambda c: c.pool.dtype == "bfloat16" and max(c.lens) > 1,
        {"lens": (2,), "pool": Pool(dtype="bfloat16")},
        ("gdn.decode",),
    ),
    "l2norm of zero rows": Planted(
        lambda c: c.l2norm and c.values.law == "zero_rows",
        {"l2norm": True, "values": Values(law="zero_rows")},
        ("gdn.extend",),
    ),
    "near-parallel keys with beta near one": Planted(
        lambda c: c.values.law == "parallel" and c.gates.beta == "near_one",
        {"values": Values(law="parallel"), "gates": Gates(beta="near_one")},
        ("gdn.extend",),
    ),
    "a jump at a chunk boundary": Planted(
        lambda c: c.gates.law == "jump" and c.gates.at == c.chunk_size,
        {"lens": (17,), "gates": Gates(law="jump", at=16)},
        ("kda.extend",),
    ),
    "forgetting, in exact arithmetic": Planted(
        lambda c: c.gates.law == "exact" and c.values.law == "exact",
        {"gates": Gates(law="exact"), "values": Values(law="exact")},
        ("gdn.extend",),
    ),
    "raw gates with a lower bound": Planted(
        lambda c: c.gates.lower_bound is not None,
        {"gates": Gates(lower_bound=-5.0)},
        ("kda.decode",),
    ),
    "large values": Planted(
        lambda c: c.values.v_exponent > 3, {"values": Values(v_exponent=4)}, ("gdn.extend", "kda.decode")
    ),
    "a view with gaps": Planted(lambda c: c.view == "gapped", {"view": "gapped"}, ("gdn.extend",)),
    "boundary states of two chunks": Planted(
        lambda c: c.boundary and max(c.lens) > c.chunk_size,
        {"lens": (17,), "boundary": True},
        ("gdn.extend",),
    ),
    "a state that is not to be written": Planted(
        lambda c: not c.inplace, {"inplace": False}, ("gdn.extend", "kda.decode", "kda.recurrent")
    ),
    "an element of v set to zero": Planted(
        lambda c: any(edit.tensor == "v" and edit.value == 0.0 for edit in c.edits),
        {"edits": (Edit("v", 0, 0.0),)},
        ("gdn.extend",),
    ),
    "two conditions at once": Planted(
        lambda c: c.HV > c.H and max(c.lens) > c.chunk_size and c.l2norm,
        {"lens": (17,), "HV": 2, "l2norm": True},
        ("kda.extend",),
    ),
}
VERIFY: dict[str, tuple[Condition, dict[str, Any]]] = {
    "a parent that is not the previous token": (
        lambda c: any(parent < step - 1 for tree in c.parents for step, parent in enumerate(tree)),
        {"lens": (3,), "parents": ((-1, 0, 0),), "pool": Pool(steps=3, buffer=1, rows=(0,))},
    ),
    "a parent far back": (
        lambda c: any(parent < step - 3 for tree in c.parents for step, parent in enumerate(tree)),
        {"lens": (5,), "parents": ((-1, 0, 1, 2, 0),), "pool": Pool(steps=5, buffer=1, rows=(0,))},
    ),
    "a parent that is no root": (
        lambda c: any(0 < parent < step - 1 for tree in c.parents for step, parent in enumerate(tree)),
        {"lens": (4,), "parents": ((-1, 0, 1, 1),), "pool": Pool(steps=4, buffer=1, rows=(0,))},
    ),
    "states that are not kept": (
        lambda c: -1 in c.pool.rows and -1 not in c.pool.indices,
        {"pool": Pool(steps=1, buffer=1, rows=(-1,))},
    ),
    "two drafts from one slot": (
        lambda c: len(c.lens) > 1 and len(set(c.pool.indices)) == 1 and -1 not in c.pool.indices,
        {"lens": (1, 1), "pool": Pool(indices=(0, 0), steps=1, buffer=2, rows=(0, 1))},
    ),
    "room for more steps than are drafted": (
        lambda c: c.pool.steps > max(c.lens) > 0,
        {"pool": Pool(steps=2, buffer=1, rows=(0,))},
    ),
}


@pytest.mark.parametrize("op", OPERATIONS)
def test_without_a_condition_the_simplest_case_is_left(minimal: Minimal, op: str) -> None:
    """One sequence, one head, one token, ones, no gate, slot 0."""
    assert minimal(cases(op), lambda case: True) == simplest(op)


@pytest.mark.parametrize(
    ("op", "name"), [(op, name) for name, planted in PLANTED.items() for op in planted.ops]
)
def test_nothing_is_left_but_what_the_condition_needs(minimal: Minimal, op: str, name: str) -> None:
    """The minimal case is the simplest one with exactly the changes that the condition is about."""
    planted = PLANTED[name]
    expected = dict(planted.changes)
    pool = expected.get("pool")
    if pool is None or not OPERATIONS[op].has_pool:
        expected.pop("pool", None)
    assert minimal(cases(op), planted.condition) == simplest(op, **expected)


@pytest.mark.parametrize("name", VERIFY)
def test_trees_and_drafts_shrink_to_the_smallest_that_do(minimal: Minimal, name: str) -> None:
    """Trees keep the one branch that matters, drafts the one sequence."""
    condition, changes = VERIFY[name]
    assert minimal(cases("gdn.verify"), condition) == simplest("gdn.verify", **changes)


def test_a_pool_past_32_bits_shrinks_to_one_sequence_in_the_last_of_two_slots(minimal: Minimal) -> None:
    """Offsets beyond 2**31 elements need a wide pitch, and a 16-bit state to keep the pool small."""

    def far(case: Case) -> bool:
        slot = case.HV * case.V * case.K + case.pool.pitch
        return max(case.pool.indices) * slot >= 2**31

    pool = Pool(slots=2, indices=(1,), pitch=2**31, dtype="bfloat16")
    assert minimal(cases("gdn.decode"), far) == simplest("gdn.decode", pool=pool)


def test_a_menu_case_shrinks_to_the_simplest_entry_that_still_fails(minimal: Minimal) -> None:
    """On a menu the build cannot shrink past its entries; everything else does."""
    menu = Menu.draw(7, ["gdn.extend"])
    found = minimal(cases("gdn.extend", backend="gpu", menu=menu), lambda case: max(case.lens) > 70)
    build = menu.entries("gdn.extend")[0]
    assert (found.K, found.V, found.dtype, found.view) == (build.K, build.V, build.dtype, build.view)
    assert (found.H, found.HV, found.tail, found.gates.law, found.values.law) == (1, 1, 0, "zero", "ones")
    assert sum(found.lens) == 71 * (1 if build.packed else len(found.lens))
