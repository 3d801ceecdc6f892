"""Promises: what they read, what they say of a case, and that cases are drawn inside them, all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, reject, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument

from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.promise_axes import Flag, Floats, Words
from diffgdn.cases.promises import AXES, EVERYTHING, Promises
from diffgdn.cases.spans import Span
from diffgdn.strategies import Menu, cases, representatives

LIMITS = {"length": 20, "tail": 40, "pitch": 300}  # of what random promises name; elsewhere the axis' own


def _axis(name: str, axis: Any) -> st.SearchStrategy[Any]:
    """The strategy of what may be promised on an axis."""
    if isinstance(axis, Flag):
        return st.booleans()
    if isinstance(axis, Words):
        return st.lists(st.sampled_from(axis.known), min_size=1, unique=True)
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


def sample(op: str, promises: Promises, count: int = 300, number: int = 1, **options: Any) -> list[Case]:
    """Cases of a stream; every example must come out as one, or the draw was thrown away."""
    found: list[Case] = []

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases(op, promises=promises, **options))
    def test(case: Case) -> None:
        found.append(case)

    test()
    return found


@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize("backend", ["interpret", "gpu"])
def test_every_case_lies_inside_random_promises(op: str, backend: str) -> None:
    """Whatever is promised: without a menu, on one, and what is compiled ahead of time."""

    @seed(1)
    @settings(max_examples=60, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(promises=narrow(op), number=st.integers(0, 99))
    def test(promises: Promises, number: int) -> None:
        menu = Menu.draw(number, [op], backend=backend, promises=promises) if backend == "gpu" else None
        for build in menu.entries(op) if menu else ():
            for case in representatives(op, build, promises):
                assert promises.broken_by(case) is None
        for case in sample(op, promises, 12, number, backend=backend, menu=menu):
            assert promises.broken_by(case) is None

    test()
