"""Breadth first: which finding a campaign shrinks next, and when it had better explore."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from diffgdn import campaign
from diffgdn.campaign import events, tasks
from diffgdn.campaign.astray import smallest_alone
from diffgdn.campaign.depth import FEW_TOKENS, QUICK_SECONDS, Shrinks
from diffgdn.campaign.ledger import Ledger
from diffgdn.campaign.rotation import Rotation
from diffgdn.cases.case import Case
from diffgdn.cases.prelude import Call
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import Finding
from diffgdn.runner.confirm import Confirmed
from diffgdn.verdict.failures import BeyondBound, Verdict

HERE = Path(__file__).parent


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Campaign:
    """Two operations, two workers, and 60 seconds of which none has passed."""

    def __init__(self, folder: Path, max_time: float | None = 60.0, max_cases: int | None = None) -> None:
        self.clock, self.ledger = Clock(), Ledger(Corpus(folder), apart=True)
        self.rotation = Rotation(("a", "b"), "interpret", 1, max_cases, 10.0, clock=self.clock, shrinks=False)
        self.rotation.start(max_time, 10.0)
        self.shrinks = Shrinks(self.ledger, 10.0, 2, max_time, self.clock)

    def explore(self, batches: int, failed: bool = False) -> None:
        for _ in range(batches):
            task = self.rotation.next(frozenset())
            assert task is not None
            assert not task.shrink
            self.rotation.done(task, task.cases, failed)

    def found(self, tokens: int, kind: str = "beyond_bound") -> Finding:
        case = Case("gdn.decode", lens=(tokens,))
        one = Finding(case, "vk", "interpret", kind, "wrong", "o", shrink="none")
        assert self.ledger.found(one, None) is not None
        return one

    def next(self) -> tasks.Shrink | None:
        return self.shrinks.next(self.rotation)


def test_a_large_case_is_shrunk_for_a_moment_once_all_operations_have_begun(tmp_path: Path) -> None:
    one = Campaign(tmp_path)
    large = one.found(FEW_TOKENS + 1)
    one.explore(1, failed=True)
    assert one.next() is None
    one.clock.now = 59.0  # however little time is left
    assert one.next() is None
    one.clock.now = 0.0
    one.explore(1, failed=True)
    assert one.next() == tasks.Shrink(large, QUICK_SECONDS, last=False)
    one.ledger.take(large, 0)
    assert one.next() is None  # it is in a worker's hands
    smaller = dataclasses.replace(large, case=Case("gdn.decode"), shrink="out of time")
    one.ledger.shrunk(large, smaller, 0, last=False)
    assert one.next() is None  # the rest of it waits
    assert tasks.key(large) in one.ledger.known


def test_what_is_small_waits_until_nothing_new_comes_up_the_untouched_first(tmp_path: Path) -> None:
    one = Campaign(tmp_path)
    large, small = one.found(FEW_TOKENS + 1), one.found(2, kind="not_finite")
    one.ledger.take(large, 0)
    smaller = dataclasses.replace(large, case=Case("gdn.decode"), shrink="out of time")
    one.ledger.shrunk(large, smaller, 0, last=False)
    one.explore(2, failed=True)
    assert one.next() is None
    one.explore(2)
    assert one.next() == tasks.Shrink(small, 10.0, last=True)
    one.ledger.take(small, 0)
    assert one.next() == tasks.Shrink(smaller, 10.0, last=True)


def test_shrinks_begin_in_time_though_new_failures_go_on_coming_up(tmp_path: Path) -> None:
    one = Campaign(tmp_path)
    first = one.found(1)
    one.explore(4, failed=True)
    one.clock.now = 49.0
    assert one.next() is None
    one.clock.now = 50.0  # one takes ten seconds
    assert one.next() == tasks.Shrink(first, 10.0, last=True)
    for kind in ("not_finite", "raised", "never_written", "poison_leaked", "input_changed"):
        one.found(1, kind)
    one.clock.now = 39.0
    assert one.next() is None
    one.clock.now = 40.0  # six take thirty, on two workers; no more than a third is kept for them
    assert one.next() is not None
    one.clock.now = 58.0
    task = one.next()
    assert task is not None
    assert task.seconds == 4.0  # twelve seconds are left for six, on two workers
    one.clock.now = 60.0
    assert one.next() is None  # none begins when the time is up


def test_a_crash_has_more_time_as_each_step_costs_a_process(tmp_path: Path) -> None:
    one = Campaign(tmp_path, max_time=None, max_cases=6)
    one.found(1, kind="hung")
    one.explore(1, failed=True)
    assert one.next() is None
    one.explore(1, failed=True)  # the cases are used up
    task = one.next()
    assert task is not None
    assert (task.seconds, task.last) == (40.0, True)


def test_a_shrink_that_comes_to_nothing_is_not_tried_for_ever(tmp_path: Path) -> None:
    one = Campaign(tmp_path)
    found = one.found(1)
    one.ledger.take(found, 0)
    one.ledger.tried(found, 1, last=True)  # another worker's word
    one.ledger.release(0)
    assert len(one.ledger.waiting) == 1
    one.ledger.take(found, 0)
    one.ledger.tried(found, 0, last=True)
    assert one.ledger.waiting == []
    assert one.ledger.findings == (found,)


def test_a_finding_that_becomes_another_that_is_small_already_gives_way_to_it(tmp_path: Path) -> None:
    one = Campaign(tmp_path)
    first, other = one.found(2), one.found(9, kind="not_finite")
    one.ledger.take(first, 0)
    one.ledger.shrunk(first, dataclasses.replace(first, shrink="out of time"), 0, last=False)
    one.ledger.take(other, 1)
    one.ledger.shrunk(other, dataclasses.replace(first, case=Case("gdn.decode", lens=(5,))), 1, last=False)
    assert [record.case.lens for record in one.ledger.findings] == [(2,)]


def test_a_shrink_ends_at_the_smallest_case_that_fails_alone() -> None:
    """What other calls have left makes cases of fewer than five tokens fail too."""
    cases = [Case("gdn.decode", lens=(tokens,)) for tokens in (9, 8, 6, 5, 4, 2, 1)]
    steps = [Verdict(case, "x", "interpret", BeyondBound("gdn.decode", "o", None, "off")) for case in cases]
    told: list[Confirmed] = []

    def confirm(case: Case, verdict: Verdict) -> Confirmed:
        return Confirmed(Call(case), verdict, () if case.total >= 5 else (Call(cases[0]),))

    first = Confirmed(Call(cases[0]), steps[0])
    assert smallest_alone(steps, cases[-1], first, confirm, told.append).verdict.case.total == 5
    assert [sure.verdict.case.total for sure in told] == [1]
    assert smallest_alone(steps, cases[3], first, confirm, told.append).verdict.case.total == 5
    assert smallest_alone(steps, cases[0], first, confirm, told.append) is first
    assert len(told) == 1


def test_a_campaign_tells_of_every_failure_before_it_shrinks_one_to_its_end(tmp_path: Path) -> None:
    """Ten faults, two in each of five operations."""
    told: list[events.Event] = []
    given: dict[str, Any] = {"workers": 1, "seed": 3, "max_cases": 250, "isolation": "none"}
    operations = ("gdn.decode", "kda.decode", "gdn.recurrent", "kda.recurrent", "gdn.update")
    config = campaign.Config(
        f"{HERE / 'known_toys.py'}:ten", operations, "interpret", corpus=tmp_path, **given
    )
    outcome = campaign.run(config, told.append)
    kinds = [(one.operation, one.kind) for one in outcome.findings]
    assert {kind for kind in kinds if kind[1] == "raised"} == {(op, "raised") for op in operations}
    assert {op for op, kind in kinds if kind != "raised"} == set(operations)
    assert all(one.shrink == "complete" and one.case.total == 1 for one in outcome.findings)
    found = [n for n, event in enumerate(told) if isinstance(event, events.FindingFound)]
    deep = [n for n, event in enumerate(told) if isinstance(event, events.FindingShrunk) and event.last]
    assert sum(n < deep[0] for n in found) >= 5
    assert len(list(tmp_path.glob("*.py"))) == len(outcome.findings)


@pytest.mark.parametrize("mode", ["serving", "oracle"])
def test_traces_are_shrunk_by_their_batch(mode: str, tmp_path: Path) -> None:
    config = campaign.Config("vk", ("gdn.decode",), "interpret", 1, 1, tmp_path, mode=mode)
    assert config.shrinks_apart == (mode == "oracle")
    assert not dataclasses.replace(config, backend="gpu").shrinks_apart
