"""The search for failing cases: what it reports, what it remembers, and when it ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from diffgdn.cases.case import Case, Pool
from diffgdn.search import hypothesis_search

HEADS = st.integers(1, 6)
CASES = st.builds(
    lambda lens, H, K: Case(
        op="gdn.decode", lens=tuple(lens), H=H, HV=H, K=K, pool=Pool(slots=9, indices=tuple(range(len(lens))))
    ),
    st.lists(st.integers(0, 80), min_size=1, max_size=8),
    HEADS,
    st.integers(1, 256),
)


class Wrong(AssertionError):
    """A failure of one kind."""

    kind = "one"


class Worse(AssertionError):
    """A failure of another."""

    kind = "another"


@dataclasses.dataclass
class Runner:
    """Gives verdicts by a rule, and counts how often each case was asked for."""

    rule: Callable[[Case], AssertionError | str | None]
    calls: dict[str, int] = dataclasses.field(default_factory=dict)

    def __call__(self, case: Case) -> Any:
        self.calls[case.id] = self.calls.get(case.id, 0) + 1
        answer = self.rule(case)
        return SimpleNamespace(
            case=case,
            failure=answer if isinstance(answer, AssertionError) else None,
            refused=answer if isinstance(answer, str) else None,
        )


class Clock:
    """Time that passes by `tick` at every look."""

    def __init__(self, tick: float) -> None:
        self.now, self.tick = 0.0, tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


def find(
    rule: Callable[[Case], AssertionError | str | None], **options: Any
) -> tuple[list[hypothesis_search.Found], Runner]:
    runner = Runner(rule)
    return hypothesis_search.find(CASES, runner, **{"max_examples": 200, "seed": 7, **options}), runner


def long(case: Case) -> AssertionError | None:
    return Wrong(f"{max(case.lens)} tokens") if max(case.lens) >= 17 else None


def test_a_failure_shrinks_to_the_smallest_case_and_keeps_the_first() -> None:
    seen: list[Any] = []
    found, _ = find(long, on_failure=seen.append)
    assert len(found) == 1
    assert found[0].case == Case(op="gdn.decode", lens=(17,), K=1, pool=Pool(slots=9, indices=(0,)))
    assert str(found[0].failure) == "17 tokens"
    assert [verdict.case for verdict in seen] == [found[0].unshrunk]
    assert max(found[0].unshrunk.lens) >= 17


@pytest.mark.parametrize("by_field", [False, True])
@pytest.mark.parametrize(("seconds", "complete"), [(2.0, False), (1e9, True)])
def test_a_shrink_says_whether_it_had_time_to_try_all(by_field: bool, seconds: float, complete: bool) -> None:
    """A look at the clock takes a second."""
    (found,), _ = find(long, by_field=by_field, max_shrink_seconds=seconds, clock=Clock(1.0))
    assert found.complete is complete


@pytest.mark.parametrize(("seconds", "complete"), [(2.0, False), (1e9, True)])
def test_a_shrink_is_taken_up_again(seconds: float, complete: bool) -> None:
    large = Case(op="gdn.decode", lens=(3, 40), K=60, pool=Pool(slots=9, indices=(5, 2)))
    found = hypothesis_search.again(large, "one", Runner(long), seconds, Clock(1.0))
    assert found is not None
    assert found.complete is complete
    assert (found.case == Case(op="gdn.decode", lens=(17,))) is complete
    assert hypothesis_search.again(large, "another", Runner(long), seconds) is None
    assert hypothesis_search.again(Case(op="gdn.decode"), "one", Runner(long), seconds) is None


def test_nothing_is_found_where_nothing_fails() -> None:
    found, runner = find(lambda case: None)
    assert found == []
    assert 100 < len(runner.calls) <= 200


def test_every_class_is_found_and_shrunk_on_its_own() -> None:
    def rule(case: Case) -> AssertionError | None:
        if case.K > 128:
            return Worse("wide")
        return long(case)

    found, _ = find(rule)
    smallest = {type(one.failure): (one.case.lens, one.case.K) for one in found}
    assert smallest == {Wrong: ((17,), 1), Worse: ((0,), 129)}


def test_a_class_that_always_fails_does_not_hide_another() -> None:
    found, _ = find(lambda case: long(case) or Worse("always"))
    assert {type(one.failure) for one in found} == {Wrong, Worse}


def test_a_class_first_seen_during_a_shrink_is_kept_and_does_not_mislead_the_shrink() -> None:
    seen: list[Any] = []
    rule = Runner(lambda case: Worse("narrow") if case.K == 1 else Wrong("any other"))
    search = hypothesis_search.Search(rule, on_failure=seen.append)
    with pytest.raises(hypothesis_search._Fails):
        search(Case(op="gdn.decode", K=2))
    search(Case(op="gdn.decode", K=1))
    assert [type(verdict.failure) for verdict in seen] == [Wrong, Worse]
    assert search.found[Worse.kind].case == search.found[Worse.kind].unshrunk == Case(op="gdn.decode", K=1)


def test_ignored_classes_count_as_passing() -> None:
    seen: list[Any] = []
    found, _ = find(long, ignore={Wrong.kind}, on_failure=seen.append)
    assert (found, seen) == ([], [])


def test_each_case_is_run_once() -> None:
    answers: list[Any] = []
    _, runner = find(long, on_verdict=answers.append)
    assert set(runner.calls.values()) == {1}
    assert len(answers) == len(runner.calls)


def test_a_kernel_that_answers_differently_is_no_flaky_test() -> None:
    count = iter(range(10**6))
    found, _ = find(lambda case: Wrong("now and then") if next(count) % 3 == 2 else None)
    kinds: list[type] = [type(one.failure) for one in found]
    assert kinds == [Wrong]


def test_after_the_shrink_limit_no_new_case_is_run() -> None:
    clock = Clock(0.0)
    times: list[float] = []

    def rule(case: Case) -> AssertionError | None:
        failure = long(case)
        if failure or clock.now:
            clock.now += 1.0
            times.append(clock.now)
        return failure

    # The first failure comes at 1, so the shrink may go on until 6; the deadline keeps later rounds from
    # running cases.
    found, _ = find(rule, clock=clock, max_shrink_seconds=5.0, deadline=6.0)
    assert len(found) == 1
    assert max(found[0].case.lens) >= 17
    assert max(times) <= 7.0


def test_the_deadline_ends_generation() -> None:
    found, runner = find(lambda case: None, clock=Clock(1.0), deadline=11.0, max_examples=10_000)
    assert found == []
    assert len(runner.calls) <= 10


def test_refused_cases_are_neither_counted_nor_reported() -> None:
    found, runner = find(lambda case: "too wide" if case.K > 8 else long(case))
    assert [one.case.lens for one in found] == [(17,)]
    assert len(runner.calls) > 200
    assert find(lambda case: "never")[0] == []


def test_the_same_seed_searches_the_same_cases() -> None:
    first, second, other = (find(long, seed=seed) for seed in (1, 1, 2))
    assert list(first[1].calls) == list(second[1].calls)
    assert first[0][0].unshrunk == second[0][0].unshrunk
    assert list(first[1].calls) != list(other[1].calls)


def test_a_fault_of_the_machinery_comes_out_unchanged() -> None:
    def rule(case: Case) -> None:
        if max(case.lens) > 3:
            raise OSError("disk full")

    with pytest.raises(OSError, match=r"^disk full$"):
        find(rule)


def test_a_strategy_without_cases_is_an_error() -> None:
    with pytest.raises(Unsatisfiable):
        hypothesis_search.find(CASES.filter(lambda case: False), Runner(long), max_examples=5, seed=0)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    find(lambda case: Worse("wide") if case.K > 128 else long(case))
    assert capfd.readouterr() == ("", "")
