"""Content shrinking: to what the failure needs, in few runs, in the time there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.sparsity import Only
from diffgdn.search import sparsify
from diffgdn.tensors import inputs

FIRST = Case(
    "gdn.recurrent",
    lens=(20, 13),
    H=2,
    HV=4,
    K=16,
    V=8,
    pool=Pool(indices=()),
    gates=Gates("uniform"),
    values=Values("normal", seed=5),
)
MOST_RUNS = 105


class Runs:
    """A condition on a case's tensors that counts how often it is asked."""

    def __init__(self, condition: Callable[[inputs.Data], bool]) -> None:
        self.condition, self.asked = condition, list[str]()

    def __call__(self, case: Case) -> bool:
        self.asked.append(case.id)
        data = inputs.draw(case)
        data.setdefault("state", data["v"].new_zeros(2, 4, 8, 16))
        try:
            return self.condition(data)
        except IndexError:
            return False  # the case has no such element


def some(*elements: tuple[str, tuple[int, ...]]) -> Callable[[inputs.Data], bool]:
    """All of these elements are nonzero."""
    return lambda data: all(bool(data[name][index] != 0) for name, index in elements)


PLAIN = Values(state="zero")
CASES: dict[str, tuple[Callable[[inputs.Data], bool], Values, Gates, tuple[Only, ...]]] = {
    "nothing": (lambda data: True, Values("zero"), Gates(), ()),
    "one value": (
        some(("v", (25, 3, 6))),
        PLAIN,
        Gates(),
        (Only("q", tokens=()), Only("k", tokens=()), Only("v", tokens=(25,), heads=(3,), V=(6,))),
    ),
    "a key and a value of one token": (
        some(("k", (7, 1, 9)), ("v", (7, 2, 0))),
        PLAIN,
        Gates(),
        (
            Only("q", tokens=()),
            Only("k", tokens=(7,), heads=(1,), K=(9,)),
            Only("v", tokens=(7,), heads=(2,), V=(0,)),
        ),
    ),
    "a query and the key of an earlier token": (
        some(("q", (30, 0, 1)), ("k", (2, 0, 1))),
        PLAIN,
        Gates(),
        (
            Only("q", tokens=(30,), K=(1,)),  # a case of one head is enough
            Only("k", tokens=(2,), K=(1,)),
            Only("v", tokens=()),
        ),
    ),
    "two tokens of a run": (
        some(("v", (4, 0, 0)), ("v", (5, 0, 0))),
        PLAIN,
        Gates(),
        (Only("q", tokens=()), Only("k", tokens=()), Only("v", tokens=((4, 5),), V=(0,))),
    ),
    "a state": (
        some(("state", (1, 2, 3, 4))),
        Values(),
        Gates(),
        (
            Only("q", tokens=()),
            Only("k", tokens=()),
            Only("v", tokens=()),
            Only("state", sequences=(1,), heads=(2,), V=(3,), K=(4,)),
        ),
    ),
    "a gate": (
        some(("g", (6, 1))),
        Values("zero"),
        Gates(),
        (Only("g", tokens=(6,), heads=(1,), value=-1.0),),
    ),
    "gates of two tokens": (
        lambda data: 0.25 < -float(data["g"][6, 1]) < -float(data["g"][9, 2]),
        Values("zero"),
        Gates("uniform"),
        (Only("g", tokens=(6, 9), heads=((1, 2),)),),
    ),
    "a size that ones do not have": (
        lambda data: float(data["v"][8, 1, 2]) > 1.5,
        Values(),
        Gates(),
        (Only("q", tokens=()), Only("k", tokens=()), Only("v", tokens=(8,), heads=(1,), V=(2,), value=2.0)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_only_the_elements_that_the_failure_needs_are_left(name: str) -> None:
    condition, values, gates, only = CASES[name]
    runs = Runs(condition)
    seeded = next(
        case for seed in range(99) if runs(case := replace(FIRST, values=Values("normal", seed=seed)))
    )
    runs.asked.clear()
    found = sparsify.simplest(seeded, runs)
    assert runs(found)
    assert (found.values.law, found.values.state, found.gates.law, found.only) == (
        values.law,
        values.state,
        gates.law,
        only,
    )
    assert len(runs.asked) <= MOST_RUNS + 1
    assert len(set(runs.asked[:-1])) == len(runs.asked) - 1


def test_a_hint_saves_runs() -> None:
    """Where the case is wrong is the first guess at what matters."""
    condition = some(("v", (25, 3, 6)))
    plain, helped = Runs(condition), Runs(condition)
    place = {"sequence": 1, "token": 5, "head": 3, "V": 6}
    assert sparsify.simplest(FIRST, plain) == sparsify.simplest(FIRST, helped, hint=lambda case: place)
    assert len(helped.asked) <= len(plain.asked) - 10


def test_no_case_is_asked_for_once_the_time_is_up() -> None:
    runs = Runs(some(("v", (25, 3, 6))))
    found = sparsify.simplest(FIRST, runs, lambda: len(runs.asked) >= 6)
    assert len(runs.asked) == 6
    assert runs(found)


def test_what_cannot_be_simpler_is_kept() -> None:
    assert sparsify.simplest(FIRST, lambda case: False) == FIRST


def test_a_key_is_not_made_longer_than_one() -> None:
    """Without l2norm the recurrence itself would explode."""

    def fails(data: inputs.Data) -> bool:
        key = data["k"][3, 0]
        return bool((key != 0).all()) and not bool((key == key[0]).all())

    found = sparsify.simplest(FIRST, Runs(fails))
    assert float(inputs.draw(found)["k"].square().sum(-1).max()) < 1.01
