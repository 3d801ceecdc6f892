"""Cases are drawn inside promises, none is thrown away, and all that is promised is reached."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, find, given, reject, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument
from hypothesis.statistics import collector

from diffgdn.cases.case import Case
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.promise_axes import Flag, Floats, Words
from diffgdn.cases.promises import AXES, EVERYTHING, Promises
from diffgdn.cases.spans import Span
from diffgdn.strategies import Menu, cases, representatives

BF16 = Promises(dtype=("bfloat16",))
Drawn = Callable[..., list[Case]]
NARROW = Promises(  # of one decode kernel
    dtype=("bfloat16",),
    state_dtype=("float32",),
    K=(64, 128),
    V=(64, 128),
    H=(2, 4),
    ratio=(2, 4),
    view=("packed",),
    batch=("packed",),
    l2norm=(True,),
    length=(1,),
    empty=False,
    padding=False,
    slot_zero=False,
    scale=("default",),
)
LIMITS = {"length": 20, "tail": 40, "pitch": 300}  # of what random promises name; elsewhere the axis' own


def _axis(name: str, axis: Any) -> st.SearchStrategy[Any]:
    """The strategy of what may be promised on an axis."""
    if isinstance(axis, Flag):
        return st.booleans()
    if isinstance(axis, Words):
        some = st.lists(st.sampled_from(axis.known), min_size=1, unique=True)
        return some.map(lambda words: ["eager", *words]) if name == "execution" else some
    if isinstance(axis, Floats):
        negative = st.floats(-10.0, -0.01)
        return st.one_of(st.lists(negative, min_size=1, max_size=3), negative.map(lambda low: Span(low, 0.0)))
    most = LIMITS.get(name, 64 if name in ("H", "HV", "ratio") else axis.most)
    number = st.integers(axis.least, most)
    spans = st.builds(
        lambda ends, multiple: Span(min(ends), max(*ends, min(multiple * max(1, min(ends)), most)), multiple),
        st.tuples(number, number),
        st.sampled_from((1, 1, 2, 8, 16)),
    )
    return st.one_of(st.lists(number, min_size=1, max_size=4), spans)


@st.composite
def narrow(draw: st.DrawFn, op: str) -> Promises:
    """Draw promises that leave cases of an operation, with few axes or many that are narrower than all."""
    names = draw(st.lists(st.sampled_from(AXES), max_size=len(AXES), unique_by=lambda spec: spec.name))
    fields = {spec.name: draw(_axis(spec.name, spec.metadata["axis"])) for spec in names}
    with contextlib.suppress(ValueError):
        promises = Promises(**fields)
        promises.of(op)
        return promises
    reject()


@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize("backend", ["interpret", "gpu"])
def test_every_case_lies_inside_random_promises(op: str, backend: str, drawn: Drawn) -> None:
    """Whatever is promised: without a menu, on one, and what is compiled ahead of time."""

    @seed(1)
    @settings(max_examples=25, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(promises=narrow(op), number=st.integers(0, 99))
    def test(promises: Promises, number: int) -> None:
        menu = Menu.draw(number, [op], backend=backend, promises=promises) if backend == "gpu" else None
        for build in menu.entries(op) if menu else ():
            for case in representatives(op, build, promises):
                assert promises.broken_by(case) is None
        for case in drawn(op, 12, number, backend=backend, menu=menu, promises=promises):
            assert promises.broken_by(case) is None

    test()


@pytest.mark.parametrize("pitch", [1, 64])
def test_a_pitch_of_one_kind_is_no_matter_where_no_state_is_given(pitch: int, drawn: Drawn) -> None:
    promises = Promises(pitch=(pitch,))
    found = drawn("kda.extend", 200, promises=promises)
    assert {case.pool.pitch for case in found if max(case.pool.indices) >= 0} == {pitch}
    assert any(max(case.pool.indices) < 0 for case in found)


def test_no_draw_is_thrown_away(drawn: Drawn) -> None:
    """By Hypothesis' own statistics, over 2,000 draws of a narrow target."""
    seen: dict[str, Any] = {}
    with collector.with_value(seen.update):  # type: ignore[arg-type]
        found = drawn("gdn.decode", 2000, promises=NARROW)
    ended = Counter(one["status"] for one in seen["generate-phase"]["test-cases"])
    assert ended["valid"] == len(found) == 2000
    assert ended["invalid"] == 0
    assert all(NARROW.broken_by(case) is None for case in found)


def test_narrow_promises_reach_all_that_they_allow(drawn: Drawn) -> None:
    found = drawn("gdn.decode", 1000, promises=NARROW)
    assert {(case.K, case.V) for case in found} == {(K, V) for K in (64, 128) for V in (64, 128)}
    assert {(case.H, case.HV) for case in found} == {(2, 4), (2, 8), (4, 8), (4, 16)}
    assert {case.gates.dtype for case in found} == {"float32", "bfloat16"}
    assert {case.pool.pitch for case in found} >= {0, 1, 64, 65}
    assert max(case.pool.pitch for case in found) == 0 or max(len(case.lens) for case in found) > 3
    assert {index for case in found for index in case.pool.indices} >= {1, 2, 3}


def test_numbers_that_are_never_drawn_otherwise_are_drawn_where_they_are_promised(drawn: Drawn) -> None:
    promises = Promises(
        K=(72, 200), V=Span(40, 80, 8), tail=(7,), length=(5, 9), lower_bound=(-3.5,), pitch=(24,)
    )
    promises = replace(promises, bounded=(True,), batch=("packed",))
    found = drawn("kda.verify", 1600, promises=promises)
    assert {case.K for case in found} == {72, 200}
    assert {case.V for case in found} == {40, 48, 56, 64, 72, 80}
    assert {case.tail for case in found} == {7}
    assert {n for case in found for n in case.lens} == {0, 5, 9}
    assert {case.gates.lower_bound for case in found} == {-3.5}
    assert {case.pool.pitch for case in found} == {24}


@pytest.mark.parametrize(
    "promises",
    [
        Promises(K=(8, 16), V=(8, 16), square=(False,)),
        Promises(K=(8,), V=Span(8, 9), square=(False,)),
        Promises(K=(8, 24), V=(16, 24), square=(True,)),
        Promises(K=(1,), scale=("default",)),  # where the scale makes a case tell more
        Promises(dtype=("bfloat16", "float16"), gate_dtype=("q",), state_dtype=("q",)),
        Promises(scale=("default",), l2norm=(False,)),
    ],
)
def test_values_that_depend_on_each_other_are_drawn_inside(promises: Promises, drawn: Drawn) -> None:
    found = drawn("gdn.recurrent", 150, promises=promises)
    assert [promises.broken_by(case) for case in found if promises.broken_by(case)] == []


def test_a_shrink_ends_at_the_simplest_that_is_promised() -> None:
    smallest = find(cases("gdn.decode", promises=NARROW), lambda case: case.total > 0)
    assert (smallest.K, smallest.V, smallest.H, smallest.HV) == (64, 64, 2, 4)
    assert (smallest.lens, smallest.pool.indices, smallest.pool.pitch) == ((1,), (1,), 0)
    assert (smallest.dtype, smallest.gates.dtype, smallest.view) == ("bfloat16", "float32", "packed")


def test_a_menu_inside_little_has_few_builds(drawn: Drawn) -> None:
    one = replace(
        NARROW, K=(64,), V=(64,), gate_dtype=("q",), pitch=(0,), index_dtype=("int64",), inplace=(True,)
    )
    one = replace(one, batch_invariant=(False,), cu_dtype=("int32",), strides=("compact",), alignment=(256,))
    entries = Menu.draw(3, ["gdn.decode"], promises=one).entries("gdn.decode")
    assert {(build.K, build.gate_dtype, build.index_dtype) for build in entries} == {
        (64, "bfloat16", "int64")
    }
    assert len(entries) == 2  # crowded, and not
    everything = Menu.draw(3, ["gdn.decode"])
    assert Menu.draw(3, ["gdn.decode"], promises=EVERYTHING) == everything
    # Entries outside are left out.
    for case in drawn("gdn.decode", 30, backend="gpu", menu=everything, promises=BF16):
        assert BF16.broken_by(case) is None
    with pytest.raises(InvalidArgument, match=r"no entry for .gdn\.decode. lies inside the promises"):
        cases("gdn.decode", backend="gpu", menu=everything, promises=Promises(K=(77,)))
