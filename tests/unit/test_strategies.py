"""What the strategies reach, what they refuse, and that menus keep compilation small."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import InvalidArgument

from diffgdn.cases.case import Case
from diffgdn.cases.case_checks import GATE_LAWS, VALUE_LAWS
from diffgdn.cases.operations import OPERATIONS
from diffgdn.strategies import Build, Menu, cases, geometries, representative, representatives

SAMPLE = 400
ROUND = 10  # examples after which Hypothesis turns to variations of the latest one: new rounds differ more


@cache
def sample(
    op: str, backend: str = "interpret", menu: Menu | None = None, count: int = SAMPLE, first: int = 0
) -> list[Case]:
    """Cases of a strategy under fixed seeds, from `first` on."""
    found: list[Case] = []
    for number in range(first, first + count // ROUND):

        @seed(number)
        @settings(
            max_examples=ROUND,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=cases(op, backend=backend, menu=menu))
        def collect(case: Case) -> None:
            found.append(case)

        collect()
    return found


def kinds(*names: str) -> tuple[str, ...]:
    return tuple(op for op, operation in OPERATIONS.items() if operation.kind in names)


EVERY = tuple(OPERATIONS)
POOLED = kinds("extend", "update", "decode", "packed_decode", "verify", "verify_commit")
MANY_TOKENS = kinds("extend", "recurrent", "update", "decode", "verify", "verify_commit")
EXTEND = kinds("extend")
VERIFY = kinds("verify", "verify_commit")
COMMIT = kinds("verify_commit")
GIVEN_GATES = kinds("extend", "recurrent", "update")


def around(change: int) -> Callable[[Case], bool]:
    return lambda c: any(n > 0 and n % c.chunk_size == change % c.chunk_size for n in c.lens)


def ratio(c: Case) -> int:
    return c.HV // c.H


def slot_bytes(c: Case) -> int:
    return c.HV * c.V * c.K + c.pool.pitch


def live(c: Case) -> list[int]:
    return [index for index in c.pool.indices if index >= 0]


def steps(c: Case) -> list[tuple[int, int]]:
    return [(step, parent) for tree in c.parents for step, parent in enumerate(tree) if step > 0]


class Item(NamedTuple):
    """Something that cases must reach: in which operations, and in what share of the cases at least."""

    reached: Callable[[Case], bool]
    ops: tuple[str, ...] = EVERY
    share: float = 0.0


SIGMOID_GATING = tuple(op for op in EVERY if OPERATIONS[op].is_sigmoid_gating)  # softplus has numbers there


def beta_is(law: str) -> Callable[[Case], bool]:
    return lambda case: case.gates.beta == law


def gates_are(law: str) -> Callable[[Case], bool]:
    return lambda case: case.gates.law == law


def values_are(law: str) -> Callable[[Case], bool]:
    return lambda case: case.values.law == law


ITEMS = {
    "an empty sequence": Item(lambda c: 0 in c.lens, MANY_TOKENS, 0.05),
    "one token": Item(lambda c: 1 in c.lens, share=0.1),
    "a chunk less one": Item(around(-1), EXTEND, 0.03),
    "whole chunks": Item(around(0), EXTEND, 0.05),
    "a chunk and one": Item(lambda c: any(n > 1 and n % c.chunk_size == 1 for n in c.lens), EXTEND, 0.03),
    "several chunks": Item(lambda c: max(c.lens) > 2 * c.chunk_size, EXTEND, 0.05),
    "a chunk boundary crossed": Item(lambda c: max(c.lens) > c.chunk_size, EXTEND, 0.2),
    "mixed lengths": Item(lambda c: len(set(c.lens)) > 2, MANY_TOKENS, 0.03),
    "empty before others": Item(lambda c: c.lens[0] == 0 and c.total > 0, MANY_TOKENS, 0.01),
    "empty between others": Item(
        lambda c: any(a and not b and d for a, b, d in zip(c.lens, c.lens[1:], c.lens[2:], strict=False)),
        MANY_TOKENS,
    ),
    "empty after others": Item(lambda c: c.lens[-1] == 0 and c.total > 0, MANY_TOKENS, 0.01),
    "no tokens at all": Item(lambda c: c.total == 0, MANY_TOKENS),
    "padding sequences": Item(lambda c: -1 in c.pool.indices, POOLED, 0.1),
    "padding sequences only": Item(lambda c: set(c.pool.indices) == {-1}, POOLED),
    "padding beside live slots": Item(
        lambda c: len({-1, *c.pool.indices}) == len(set(c.pool.indices)) > 1, POOLED
    ),
    "slot 0 beside padding": Item(lambda c: {-1, 0} <= set(c.pool.indices), POOLED),
    "permuted slots": Item(lambda c: live(c) != sorted(live(c)), POOLED, 0.01),
    "the last slot": Item(lambda c: c.pool.slots > 1 and c.pool.slots - 1 in c.pool.indices, POOLED, 0.05),
    "a far slot": Item(lambda c: max(c.pool.indices) > 8, POOLED, 0.01),
    "a pool with room to spare": Item(lambda c: c.pool.slots > len(c.lens) + 1, POOLED, 0.05),
    "an envelope pool": Item(lambda c: 0 < c.pool.pitch < 2**20, POOLED, 0.1),
    "a live slot past 2**31": Item(lambda c: max(c.pool.indices) * slot_bytes(c) >= 2**31, POOLED),
    "shared slots": Item(lambda c: len(set(live(c))) < len(live(c)), kinds("verify")),
    "HV = H": Item(lambda c: ratio(c) == 1, share=0.1),
    "HV = 2H": Item(lambda c: ratio(c) == 2, share=0.05),
    "HV = 3H": Item(lambda c: ratio(c) == 3, share=0.03),
    "HV = 4H": Item(lambda c: ratio(c) == 4),
    "H = 1": Item(lambda c: c.H == 1, share=0.2),
    "H > 1 with HV > H": Item(lambda c: c.HV > c.H > 1, share=0.05),
    "K no power of two": Item(lambda c: c.K & (c.K - 1) > 0, share=0.2),
    "V no power of two": Item(lambda c: c.V & (c.V - 1) > 0, share=0.2),
    "K unlike V": Item(lambda c: c.K != c.V, share=0.2),
    "K = 1": Item(lambda c: c.K == 1),
    "K beyond 64": Item(lambda c: c.K > 64),
    "V beyond 64": Item(lambda c: c.V > 64),
    "packed views": Item(lambda c: c.view == "packed", share=0.1),
    "views with gaps": Item(lambda c: c.view == "gapped", share=0.1),
    "strides where HV = H": Item(lambda c: c.view != "contiguous" and c.HV == c.H, share=0.03),
    "dense batches": Item(lambda c: not c.packed and len(c.lens) > 1, MANY_TOKENS, 0.03),
    "two leading axes": Item(lambda c: c.batched, kinds("decode", "verify", "verify_commit"), 0.03),
    "padding tokens": Item(lambda c: c.tail > 0, MANY_TOKENS, 0.1),
    "a chunk of padding tokens": Item(lambda c: c.tail > c.chunk_size, EXTEND, 0.03),
    "a jump at a chunk boundary": Item(
        lambda c: c.gates.law == "jump" and c.gates.at > 0 and c.gates.at % c.chunk_size == 0, EXTEND
    ),
    "beta of two": Item(lambda c: c.gates.beta == "two", GIVEN_GATES),
    **{
        f"beta {law}": Item(beta_is(law), share=0.02)
        for law in ("one", "zero", "half", "exact", "uniform", "near_one")
    },
    **{f"gates {law}": Item(gates_are(law), share=0.01) for law in GATE_LAWS if law != "threshold"},
    "gates threshold": Item(gates_are("threshold"), SIGMOID_GATING),
    "values ones": Item(lambda c: c.values.law == "ones"),
    **{
        f"values {law}": Item(values_are(law), share=0.02)
        for law in VALUE_LAWS
        if law not in ("zero", "ones")  # zero comes from shrinking alone; ones tell nothing: they are rare
    },
    "near-parallel keys, beta near one": Item(
        lambda c: c.values.law == "parallel" and c.gates.beta == "near_one", share=0.01
    ),
    "near-parallel keys, weak decay": Item(lambda c: c.values.law == "parallel" and c.gates.law == "zero"),
    "zero rows under l2norm": Item(lambda c: c.values.law == "zero_rows" and c.l2norm),
    "large values": Item(lambda c: c.values.v_exponent > 6, share=0.004),
    "tiny values": Item(lambda c: c.values.v_exponent < -6, share=0.004),
    "large or tiny keys": Item(lambda c: c.values.q_exponent != 0 and c.l2norm, share=0.02),
    "exact arithmetic": Item(lambda c: c.values.law == "exact", share=0.2),
    "an initial state of zero": Item(lambda c: c.values.state == "zero", share=0.05),
    "no initial state": Item(lambda c: c.values.state == "none", kinds("extend", "recurrent"), 0.05),
    "edits": Item(lambda c: len(c.edits) > 0, share=0.02),
    "an edited gate": Item(lambda c: any(edit.tensor == "g" for edit in c.edits), GIVEN_GATES),
    "bf16": Item(lambda c: c.dtype == "bfloat16", share=0.2),
    "fp16": Item(lambda c: c.dtype == "float16", share=0.1),
    "gates in the dtype of q": Item(lambda c: c.gates.dtype == c.dtype != "float32", share=0.05),
    "16-bit states": Item(lambda c: c.pool.dtype != "float32", share=0.2),
    "a scale of its own": Item(lambda c: c.scale is not None, share=0.2),
    "64-bit cu_seqlens": Item(lambda c: c.cu_dtype == "int64", MANY_TOKENS, 0.2),
    "64-bit indices": Item(lambda c: c.index_dtype == "int64", POOLED, 0.2),
    "batch invariance": Item(lambda c: c.batch_invariant, share=0.1),
    "chunks of 32 and 64": Item(lambda c: c.chunk_size > 16 and max(c.lens) > c.chunk_size, EXTEND, 0.02),
    "boundary states": Item(lambda c: c.boundary and max(c.lens) > c.chunk_size, EXTEND, 0.05),
    "states not written": Item(lambda c: not c.inplace, kinds("extend", "update", "decode"), 0.05),
    "final states not asked for": Item(lambda c: not c.final, kinds("extend", "recurrent"), 0.1),
    "raw gates": Item(lambda c: c.gates.raw, ("kda.extend",), 0.2),
    "a lower bound": Item(
        lambda c: c.gates.lower_bound is not None,
        ("kda.extend", "kda.decode", "kda.packed_decode", "kda.verify", "kda.verify_commit"),
        0.03,
    ),
    "several tokens": Item(
        lambda c: max(c.lens) > 1, kinds("update", "decode", "verify", "verify_commit"), 0.2
    ),
    "steps kept by update": Item(lambda c: c.pool.steps > 0, kinds("update"), 0.1),
    "nothing accepted": Item(
        lambda c: any(n and not count for n, count in zip(c.lens, c.accepted, strict=True)), COMMIT, 0.1
    ),
    "a part accepted": Item(
        lambda c: any(0 < count < n for n, count in zip(c.lens, c.accepted, strict=True)), COMMIT, 0.1
    ),
    "all accepted": Item(lambda c: c.accepted == c.lens, COMMIT, 0.1),
    "an accepted path that skips": Item(
        lambda c: any(path != tuple(range(len(path))) for path in c.accepted_paths), COMMIT, 0.02
    ),
    "trees": Item(lambda c: len(c.parents) > 0, VERIFY, 0.2),
    "a tree that is a chain": Item(
        lambda c: max(c.lens) > 2 and bool(steps(c)) and all(parent == step - 1 for step, parent in steps(c)),
        VERIFY,
    ),
    "a star": Item(
        lambda c: any(len(tree) > 2 and set(tree[1:]) == {0} for tree in c.parents),
        VERIFY,
    ),
    "a parent far back": Item(lambda c: any(parent < step - 2 for step, parent in steps(c)), VERIFY, 0.02),
    "a branch off a branch": Item(lambda c: any(0 < parent < step - 1 for step, parent in steps(c)), VERIFY),
    "steps not kept of a live sequence": Item(
        lambda c: any(row < 0 <= index for row, index in zip(c.pool.rows, c.pool.indices, strict=False)),
        VERIFY,
        0.03,
    ),
    "a draft of more than 32 steps": Item(lambda c: max(c.lens) > 32, VERIFY),
    "a tree of more than 32 steps": Item(lambda c: max(c.lens) > 32 and len(c.parents) > 0, VERIFY),
    "more than 64 sequences": Item(lambda c: len(c.lens) > 64 and c.total > 0, EXTEND),
    "boundary states behind whole chunks": Item(
        lambda c: c.boundary and any(n > 0 and n % c.chunk_size == 0 and m > 0 for n, m in pairwise(c.lens)),
        EXTEND,
        0.015,
    ),
    "a scale of zero": Item(lambda c: c.scale == 0.0, share=0.003),
    "another order of programs": Item(lambda c: c.order != "ascending", share=0.05),
    "more steps than drafts": Item(lambda c: c.pool.steps > max(c.lens), VERIFY, 0.1),
}


@pytest.mark.parametrize("op", OPERATIONS)
def test_everything_that_matters_is_reached(op: str) -> None:
    """Each item of the table, as often as it says, within a small sample, or a few together: what one sample
    holds depends on Hypothesis' version, and on the constants of the modules that happen to be imported."""
    found: list[Case] = []
    for part in range(12):
        found += sample(op, first=part * SAMPLE)
        shares = {
            name: sum(map(item.reached, found)) / len(found) for name, item in ITEMS.items() if op in item.ops
        }
        missed = {
            name: f"{share:.3f} of {ITEMS[name].share}"
            for name, share in shares.items()
            if share <= ITEMS[name].share
        }
        if not missed:
            break
    assert missed == {}


@pytest.mark.parametrize("op", ["gdn.extend", "kda.decode"])
def test_a_gpu_sample_reaches_large_heads_and_many_tokens(op: str) -> None:
    """On the GPU backend cases have published heads, many sequences and long ones."""
    # of several menus: one may have no build that is small enough for many sequences
    found = [case for number in (3, 4, 5) for case in sample(op, "gpu", Menu.draw(number, [op]), 200)]
    assert any(c.HV >= 16 for c in found)
    assert any((c.H, c.HV) in geometries.heads(c.operation.family) and c.HV >= 32 for c in found)
    assert max(len(c.lens) for c in found) > 8
    assert max(c.total for c in found) > (200 if op == "gdn.extend" else 20)


@pytest.mark.parametrize("op", OPERATIONS)
def test_interpreted_cases_stay_small(op: str) -> None:
    """The interpreter pays for programs and tokens: half of the cases have few of either, none has many."""
    costs = []
    for case in sample(op):
        units = sum(-(-n // case.chunk_size) for n in case.lens) if case.operation.is_chunked else case.total
        costs.append(units * case.HV)
    limit, most = (8, 24) if op in EXTEND else (16, 80)
    assert sorted(costs)[len(costs) // 2] <= limit
    assert max(costs) <= most


def test_a_far_slot_is_the_last_one_that_is_live_so_that_it_can_be_left_out() -> None:
    """A case whose slots are out of order then needs no far pool to keep them so."""
    far = [c for op in ("gdn.decode", "gdn.extend") for c in sample(op) if c.pool.pitch > 1 << 29]
    several = [c for c in far if len(c.lens) == 2 and 0 not in c.lens and -1 not in c.pool.indices]
    assert several
    assert all(c.pool.indices[0] < c.pool.indices[1] for c in several if not c.state_options.slots)


@pytest.mark.parametrize("op", ["gdn.verify", "kda.extend"])
def test_the_same_seed_gives_the_same_cases(op: str) -> None:
    """Generation depends on Hypothesis' seed alone."""
    assert sample(op, count=60) == sample.__wrapped__(op, count=60)


@pytest.mark.parametrize("op", ["gdn.extend", "kda.verify"])
def test_generated_cases_print_and_store(op: str) -> None:
    """A generated case evaluates back from its repr and from its JSON form."""
    from diffgdn.cases.case import Edit, Gates, Pool, Values
    from diffgdn.cases.lay import Lay
    from diffgdn.cases.operand_options import Operands
    from diffgdn.cases.state_options import StateOptions

    records = (Case, Edit, Gates, Lay, Operands, Pool, StateOptions, Values)
    names = {record.__name__: record for record in records}
    for case in sample(op)[:100]:
        assert eval(repr(case), names) == case
        assert case.id == eval(repr(case), names).id


def specialised(case: Case) -> Build:
    """The build that a case was drawn with, as far as a case shows it."""
    # A stage of an extend has one tile, whatever the number of states.
    pool, crowd = case.pool, len(case.lens) * case.HV > 64 and not case.operation.is_chunked
    return Build(
        K=case.K,
        V=case.V,
        dtype=case.dtype,
        gate_dtype=case.gates.dtype,
        state_dtype=pool.dtype,
        l2norm=case.l2norm,
        chunk_size=case.chunk_size,
        raw=case.gates.raw,
        bounded=case.gates.lower_bound is not None,
        packed=case.packed,
        one=not case.packed and case.lens[0] == 1,
        steps=case.op.endswith("update") and case.keeps_steps,
        tree=len(case.parents) > 0,
        view=case.view,
        odd_pitch=pool.pitch % 8 > 0,
        cu_dtype=case.cu_dtype,
        index_dtype=case.index_dtype,
        given=case.values.state != "none",
        inplace=case.inplace,
        boundary=case.boundary,
        final=case.final,
        batch_invariant=case.batch_invariant,
        crowded=crowd,
        operands=case.operands,
        lay=_lay(case),
        states=tuple(sorted(case.state_options.compiled)),
    )


def _lay(case: Case) -> str:
    """What a build says of strides and alignment, as a case drawn for a GPU shows it."""
    if any(one.offset == 2 for one in case.lay):
        return "odd"
    states = [one for one in case.lay if one.tensor in ("state", "buffer") and one.gaps]
    return "rows" if any(one.gaps[-2] for one in states) else "even"


@pytest.mark.parametrize("op", OPERATIONS)
def test_on_a_menu_cases_need_no_other_build(op: str) -> None:
    """What kernels specialise on comes from the menu, and every entry is used."""
    from dataclasses import replace

    menu = Menu.draw(11, [op])
    allowed = {
        replace(build, crowded=crowd) for build in menu.entries(op) for crowd in {False, build.crowded}
    }
    met = {specialised(case) for case in sample(op, "gpu", menu, 150)}
    assert met <= allowed
    assert {replace(build, crowded=False) for build in met} == {replace(b, crowded=False) for b in allowed}


@pytest.mark.parametrize("op", OPERATIONS)
def test_representatives_are_cases_of_their_build(op: str) -> None:
    """What is compiled ahead of time is what the campaign runs."""
    for build in Menu.draw(5, [op]).entries(op):
        for case in representatives(op, build):
            assert specialised(case).__dict__ | {"crowded": build.crowded} == build.__dict__
        assert representative(op, build) == representatives(op, build)[0]
        kernels = 2 if OPERATIONS[op].commits else 1  # each compiled for one case
        assert len(representatives(op, build)) == (1 if op in EXTEND else build.variants(op) // kernels)


def test_a_menu_compiles_no_more_than_200_kernels() -> None:
    """All operations together, whatever the seed."""
    assert max(Menu.draw(number, OPERATIONS).variants for number in range(200)) <= 200


def test_menus_differ_between_seeds_and_repeat_for_one() -> None:
    """Many campaigns reach everything; one campaign can be repeated."""
    assert Menu.draw(1, OPERATIONS) == Menu.draw(1, OPERATIONS)
    met = {build for number in range(20) for build in Menu.draw(number, ["kda.extend"]).entries("kda.extend")}
    assert len(met) > 80
    assert {build.K for build in met} >= {16, 64, 128, 256}
    assert Menu.draw(1, ["gdn.extend", "kda.verify"]).entries("kda.verify") == Menu.draw(
        1, OPERATIONS
    ).entries("kda.verify")


@pytest.mark.parametrize("op", OPERATIONS)
def test_published_geometries_have_full_heads(op: str) -> None:
    """Every published head count of the family at K = V = 128, on the build that every menu has."""
    found = geometries.cases(op)
    family = OPERATIONS[op].family
    assert {(case.H, case.HV) for case in found} == set(geometries.heads(family))
    assert {(case.K, case.V, case.dtype) for case in found} == {(128, 128, "bfloat16")}
    assert len({case.id for case in found}) == len(found)
    menu = Menu.draw(0, [op])
    bounded = [case for case in found if case.gates.lower_bound is not None] or found
    kept = {(b.K, b.dtype, b.bounded, b.chunk_size) for b in menu.entries(op)}
    build = specialised(bounded[0])
    assert (build.K, build.dtype, build.bounded, build.chunk_size) in kept


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"op": "gdn.prefill"}, "op='gdn.prefill': expected one of gdn.extend"),
        ({"op": "gdn.extend", "backend": "cpu"}, "backend='cpu': expected one of interpret, gpu"),
        ({"op": "gdn.extend", "configs": 0}, "configs=0: expected a whole number of 1 or more"),
        ({"op": "gdn.extend", "configs": True}, "configs=True: expected"),
        ({"op": "gdn.extend", "layout": "vv"}, "layout='vv': gdn.extend has vk and kv"),
        ({"op": "kda.recurrent", "layout": "kv"}, "layout='kv': kda.recurrent has vk"),
        ({"op": "gdn.extend", "menu": 3}, "menu=3: expected a Menu or None"),
        (
            {"op": "gdn.extend", "menu": Menu.draw(0, ["kda.extend"])},
            "no entries for 'gdn.extend', only for kda.extend",
        ),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], said: str) -> None:
    """An invalid argument is refused at once, with its value."""
    with pytest.raises(InvalidArgument) as error:
        cases(**arguments)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"operations": ["gdn.prefill"]}, "'gdn.prefill' is not one of gdn.extend"),
        ({"operations": ["gdn.extend"], "backend": "tpu"}, "backend='tpu'"),
        ({"operations": ["gdn.extend"], "per_operation": 0}, "per_operation=0"),
    ],
)
def test_wrong_menus_are_named(arguments: dict[str, Any], said: str) -> None:
    """A menu is refused with the value that was wrong."""
    with pytest.raises(InvalidArgument) as error:
        Menu.draw(0, **arguments)
    assert said in str(error.value)


def test_configurations_are_drawn_up_to_their_number() -> None:
    """A foreign kernel's configuration is one more dimension of a case; with one there is nothing to draw."""
    met: set[int] = set()

    @seed(1)
    @settings(max_examples=60, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=cases("gdn.extend", configs=3))
    def collect(case: Case) -> None:
        met.add(case.config)

    collect()
    assert met == {0, 1, 2}
    assert {case.config for case in sample("gdn.extend")} == {0}
