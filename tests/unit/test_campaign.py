"""Campaigns: which batches there are, what becomes one finding, and what is told about it all."""

import dataclasses
import multiprocessing
import os
import re
from pathlib import Path
from typing import Any

import pytest

from diffgdn import campaign
from diffgdn.campaign import events, replay_findings, tasks
from diffgdn.campaign.ledger import Ledger
from diffgdn.campaign.rotation import BARREN_BATCHES, FIRST_CASES, MOST_CASES, Rotation
from diffgdn.campaign.tasks import Explore
from diffgdn.cases.case import Case
from diffgdn.cases.operations import OPERATIONS
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import Finding
from diffgdn.report.tally import Tally

TOYS = Path(__file__).with_name("toys.py")
DECODE = ("gdn.decode",)
FEW = ("gdn.extend", "kda.verify")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def rotation(
    operations: tuple[str, ...] = ("a", "b", "c"), max_cases: int | None = None, **options: Any
) -> Rotation:
    made = Rotation(operations, "interpret", options.pop("seed", 1), max_cases, 5.0, **options)
    made.start(options.get("max_time"), 0.0)
    return made


def batches(source: Rotation, count: int) -> list[Explore]:
    found = []
    for _ in range(count):
        task = source.next(frozenset())
        assert task is not None
        source.done(task, task.cases)
        found.append(task)
    return found


class TestRotation:
    def test_takes_the_operations_in_turn(self) -> None:
        assert [task.operation for task in batches(rotation(), 7)] == list("abcabca")

    def test_begins_with_small_batches(self) -> None:
        sizes = [task.cases for task in batches(rotation(("a",)), 8)]
        assert sizes[0] == FIRST_CASES["interpret"]
        assert sizes == sorted(sizes)
        assert sizes[-1] == MOST_CASES["interpret"]

    def test_no_two_batches_share_a_stream(self) -> None:
        seeds = [task.seed for seed in (1, 2) for task in batches(rotation(seed=seed), 30)]
        assert len(set(seeds)) == len(seeds)

    def test_the_same_seed_gives_the_same_batches(self) -> None:
        assert batches(rotation(), 10) == batches(rotation(), 10)

    def test_ends_after_the_number_of_cases(self) -> None:
        source, cases = rotation(max_cases=10), 0
        while task := source.next(frozenset()):
            source.done(task, task.cases)
            cases += task.cases
        assert cases == 10

    def test_cases_that_a_batch_left_over_go_to_another(self) -> None:
        source = rotation(("a",), max_cases=3)
        task = source.next(frozenset())
        assert task is not None
        assert source.next(frozenset()) is None
        source.done(task, 2)
        rest = source.next(frozenset())
        assert rest is not None
        assert rest.cases == 1

    def test_ends_when_the_time_is_up(self) -> None:
        clock = Clock()
        source = Rotation(("a",), "interpret", 1, None, 5.0, clock=clock)
        source.start(60.0, 10.0)
        task = source.next(frozenset())
        assert task is not None
        assert (task.deadline, task.shrink_until) == (60.0, 70.0)
        clock.now = 60.0
        assert source.next(frozenset()) is None

    def test_every_operation_has_a_batch_before_anything_is_shrunk(self) -> None:
        source = rotation()
        first = source.next(frozenset())
        assert first is not None
        assert not first.shrink
        source.done(first, 3, failed=True)
        following = [source.next(frozenset()) for _ in range(3)]
        assert [task and task.operation for task in following] == ["b", "c", "a"]
        assert following[2] == dataclasses.replace(first, shrink=True, again=True)

    def test_what_failed_is_shrunk_even_when_the_cases_are_used_up(self) -> None:
        source = rotation(max_cases=3)
        task = source.next(frozenset())
        assert task is not None
        source.done(task, 3, failed=True)
        again = source.next(frozenset())
        assert again is not None
        assert again.again

    def test_an_operation_without_new_cases_drops_out_and_says_so_once(self) -> None:
        source, said = rotation(("a", "b")), []
        for _ in range(2 * BARREN_BATCHES):
            task = source.next(frozenset())
            assert task is not None
            reason = source.done(task, 0 if task.operation == "a" else task.cases)
            said += [] if reason is None else [(task.operation, reason)]
        assert source.operations == ("b",)
        assert said == [
            ("a", f"{BARREN_BATCHES} batches in a row held no case that is new and that the target takes")
        ]

    def test_a_dropped_operation_is_not_shrunk_either(self) -> None:
        source = rotation(("a",))
        task = source.next(frozenset())
        assert task is not None
        source.done(task, 3, failed=True)
        assert source.drop("a")
        assert source.next(frozenset()) is None


def finding(
    kind: str = "beyond_bound", tensor: str | None = "o", place: str | None = None, **case: Any
) -> Finding:
    return Finding(Case("gdn.decode", **case), "vk", "interpret", kind, "it is wrong", tensor, place)


class TestLedger:
    def test_a_first_failure_is_saved_at_once(self, tmp_path: Path) -> None:
        ledger, found = Ledger(Corpus(tmp_path)), finding(lens=(5,))
        record = ledger.found(found, owner=0)
        assert record is not None
        assert Corpus(tmp_path).findings() == [found] == list(ledger.findings)

    def test_the_same_failure_on_another_case_is_no_second_finding(self, tmp_path: Path) -> None:
        ledger = Ledger(Corpus(tmp_path))
        ledger.found(finding(lens=(5,)), owner=0)
        assert ledger.found(finding(lens=(7,)), owner=1) is None
        assert ledger.owner(finding()) == 0
        assert len(Corpus(tmp_path).findings()) == 1

    def test_a_wrong_number_is_one_failure_however_exact_the_case(self, tmp_path: Path) -> None:
        ledger = Ledger(Corpus(tmp_path))
        ledger.found(finding(), owner=0)
        assert ledger.found(finding(kind="not_exact"), owner=1) is None

    @pytest.mark.parametrize(
        "other",
        [
            finding(kind="not_finite"),
            finding(tensor="state"),
            finding(place="(sequence 0, token 1)", lens=(2,)),
        ],
    )
    def test_another_kind_or_region_is(self, tmp_path: Path, other: Finding) -> None:
        ledger = Ledger(Corpus(tmp_path))
        ledger.found(finding(), owner=0)
        assert ledger.found(other, owner=1) is not None

    def test_a_shrunk_finding_replaces_its_larger_self(self, tmp_path: Path) -> None:
        ledger, large, small = Ledger(Corpus(tmp_path)), finding(lens=(5,)), finding(lens=(3,))
        ledger.found(large, owner=0)
        (changed,) = ledger.shrunk(large, small, owner=0)
        assert (changed[0].finding, changed[1]) == (small, large)
        assert Corpus(tmp_path).findings() == [small] == list(ledger.findings)

    def test_a_finding_that_shrinks_into_another_bucket_is_no_second_one(self, tmp_path: Path) -> None:
        """Its own bucket is known from then on as well."""
        ledger, first, small = Ledger(Corpus(tmp_path)), finding(lens=(5,)), finding(lens=(3,))
        later = finding(lens=(6,), place="(sequence 0, token 4)")
        ledger.found(first, owner=0)
        ledger.shrunk(first, small, owner=0)
        assert ledger.found(later, owner=1) is not None
        (changed,) = ledger.shrunk(later, finding(lens=(4,)), owner=1)
        assert (changed[0].finding, changed[1]) == (small, later)
        assert Corpus(tmp_path).findings() == [small] == list(ledger.findings)
        assert tasks.key(later) in ledger.known

    def test_two_unshrunk_findings_become_one(self, tmp_path: Path) -> None:
        """The smaller case is kept, although the one it belongs to is in another worker's hands."""
        ledger, first, small = Ledger(Corpus(tmp_path)), finding(lens=(5,)), finding(lens=(3,))
        later = finding(lens=(6,), place="(sequence 0, token 4)")
        ledger.found(first, owner=0)
        ledger.found(later, owner=1)
        changed = ledger.shrunk(later, finding(lens=(4,)), owner=1)
        assert [before for _, before in changed] == [later, first]
        assert Corpus(tmp_path).findings() == [finding(lens=(4,))] == list(ledger.findings)
        assert len(ledger.shrunk(first, small, owner=0)) == 1
        assert Corpus(tmp_path).findings() == [small] == list(ledger.findings)

    def test_two_old_findings_of_one_bucket_both_count(self, tmp_path: Path) -> None:
        ledger, one, other = Ledger(Corpus(tmp_path)), finding(lens=(5,)), finding(lens=(3,))
        for old in (one, other):
            ledger.replayed(old, Corpus(tmp_path).save(old))
        assert ledger.findings == (one, other)

    def test_what_another_campaign_left_stays_unless_its_own_bug_has_a_smaller_case(
        self, tmp_path: Path
    ) -> None:
        """It passed when it was replayed; now its case fails again, and shrinks to another bug."""
        old, known = finding(lens=(5,), tensor="state"), finding(lens=(3,))
        for one in (old, known):
            Corpus(tmp_path).save(one)
        ledger = Ledger(Corpus(tmp_path))
        ledger.replayed(dataclasses.replace(known, unshrunk=finding(lens=(9,)).case), tmp_path / "x.json")
        ledger.found(old, owner=0)
        ledger.shrunk(old, finding(lens=(4,)), owner=0)
        assert Corpus(tmp_path).findings() == sorted((old, known), key=lambda one: one.id)

    def test_a_finding_that_cannot_be_saved_is_kept_and_told_of(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And what is already on disk is not removed for a smaller one that is not."""
        ledger, large, small = Ledger(Corpus(tmp_path)), finding(lens=(5,)), finding(lens=(3,))
        ledger.found(large, owner=0)

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        ledger.shrunk(large, small, owner=0)
        assert ledger.problem == f"{tmp_path}: No space left on device: {small.id} is not saved"
        assert list(ledger.findings) == [small]
        assert Corpus(tmp_path).findings() == [large]

    def test_only_the_worker_that_has_it_in_hand_shrinks_it(self, tmp_path: Path) -> None:
        ledger, large, small = Ledger(Corpus(tmp_path)), finding(lens=(5,)), finding(lens=(3,))
        ledger.found(large, owner=0)
        assert ledger.shrunk(large, small, owner=1) == []
        assert ledger.findings == (large,)

    def test_a_failure_that_nobody_shrank_is_taken_up_again(self, tmp_path: Path) -> None:
        ledger = Ledger(Corpus(tmp_path))
        ledger.found(finding(), owner=0)
        assert tasks.key(finding()) in ledger.known
        ledger.release(0)
        assert tasks.key(finding()) not in ledger.known
        ledger.found(finding(), owner=1)
        assert ledger.owner(finding()) == 1

    def test_a_replayed_finding_is_known(self, tmp_path: Path) -> None:
        ledger, small = (
            Ledger(Corpus(tmp_path)),
            dataclasses.replace(finding(), unshrunk=finding(lens=(5,)).case),
        )
        ledger.replayed(small, tmp_path / "x.json")
        assert ledger.known == {tasks.key(small)}
        assert ledger.bare == []

    @pytest.mark.parametrize(
        ("shrink", "larger", "known"),
        [("complete", False, True), ("out of time", True, True), ("none", False, False), (None, True, True)],
    )
    def test_a_replayed_finding_is_shrunk_again_if_it_was_not_at_all(
        self, tmp_path: Path, shrink: str | None, larger: bool, known: bool
    ) -> None:
        """One that ran out of time goes on from where it is (`diffgdn shrink`), not from another case."""
        old = dataclasses.replace(
            finding(), shrink=shrink, unshrunk=finding(lens=(5,)).case if larger else None
        )
        ledger = Ledger(Corpus(tmp_path))
        ledger.replayed(old, tmp_path / "x.json")
        assert ledger.known == ({tasks.key(old)} if known else set())

    def test_the_file_of_a_finding_that_got_no_smaller_says_how_far_it_was_shrunk(
        self, tmp_path: Path
    ) -> None:
        ledger, found = Ledger(Corpus(tmp_path)), dataclasses.replace(finding(), shrink="none")
        ledger.found(found, owner=0)
        for shrink in ("out of time", "complete"):
            again = dataclasses.replace(found, shrink=shrink, message="told anew")
            Ledger(Corpus(tmp_path)).found(again, owner=0)
            assert Corpus(tmp_path).findings() == [dataclasses.replace(found, shrink=shrink)]
        Ledger(Corpus(tmp_path)).found(dataclasses.replace(found, shrink="out of time"), owner=0)
        assert Corpus(tmp_path).findings()[0].shrink == "complete"

    def test_a_replayed_finding_that_was_never_shrunk_may_yet_be(self, tmp_path: Path) -> None:
        ledger, large, small = Ledger(Corpus(tmp_path)), finding(lens=(5,)), finding(lens=(3,))
        ledger.replayed(large, Corpus(tmp_path).save(large))
        assert ledger.known == frozenset()
        assert ledger.found(finding(lens=(9,)), owner=1) is None
        assert len(ledger.shrunk(finding(lens=(9,)), small, owner=1)) == 1
        assert Corpus(tmp_path).findings() == [small] == list(ledger.findings)


def run(toy: str, corpus: Path, **options: Any) -> tuple[campaign.Outcome, list[events.Event]]:
    """A campaign of one worker on a toy, and all its events."""
    given: dict[str, Any] = {"operations": DECODE, "workers": 1, "seed": 7, "max_cases": 30, **options}
    told: list[events.Event] = []
    config = campaign.Config(target=f"{TOYS}:{toy}", backend="interpret", corpus=corpus, **given)
    outcome = campaign.run(config, told.append)
    assert multiprocessing.active_children() == []
    return outcome, told


def of(kind: type[events.Event], told: list[events.Event]) -> list[Any]:
    return [event for event in told if isinstance(event, kind)]


def test_a_right_target(tmp_path: Path) -> None:
    """Nothing is found, nothing written, and the events come in order."""
    outcome, told = run("right", tmp_path / "corpus", operations=tuple(OPERATIONS), workers=2)
    assert (outcome.exit_code, outcome.findings) == (0, ())
    assert list(tmp_path.iterdir()) == []
    assert isinstance(told[0], events.CampaignStarted)
    assert isinstance(told[-1], events.CampaignEnded)
    phases = [event.phase for event in told if isinstance(event, events.PhaseStarted | events.PhaseEnded)]
    assert phases == ["start", "start", "explore", "explore"]
    cases = of(events.CaseRun, told)
    assert len(cases) == 30
    assert {case.operation for case in cases} == {"gdn.decode", "kda.recurrent"}
    assert {event.operation for event in of(events.OperationSkipped, told)} == {*OPERATIONS} - {
        "gdn.decode",
        "kda.recurrent",
    }


def test_a_wrong_target(tmp_path: Path) -> None:
    """A failure is told of when found, shrunk to the smallest case, saved once, documented, and replayed."""
    outcome, told = run("wrong", tmp_path, max_time=18.0)
    assert outcome.exit_code == 1
    kinds = {found.kind for found in outcome.findings}
    assert kinds <= {"beyond_bound", "not_exact"}
    assert len(outcome.findings) == len(kinds)
    assert [found.case.total for found in outcome.findings] == [3] * len(kinds)
    assert Corpus(tmp_path).findings() == sorted(outcome.findings, key=lambda found: found.id)
    assert all((tmp_path / f"{found.id}.py").exists() for found in outcome.findings)
    for found in of(events.FindingFound, told):
        assert found in told[: [getattr(event, "before", None) for event in told].index(found.finding.id)]

    again, told = run("wrong", tmp_path, max_cases=6)
    assert [event.status for event in of(events.FindingReplayed, told)] == ["FAILED"] * len(kinds)
    assert {found.id for found in outcome.findings} <= {found.id for found in again.findings}
    assert not {event.finding.kind for event in of(events.FindingFound, told)} & kinds

    tally = Tally()
    for event in told:
        tally(event)
    assert set(tally.findings) == {found.id for found in again.findings}
    assert tally.cases == 6


def test_a_worker_that_dies(tmp_path: Path) -> None:
    """The case it died of becomes a finding, another takes over, and the operation is left out in the end."""
    outcome, told = run("dying", tmp_path, max_cases=100, isolation="none")
    assert {(found.kind, found.message) for found in outcome.findings} == {
        ("crashed", "the process that ran the kernel ended: killed by SIGSEGV")
    }
    deaths = of(events.WorkerDied, told)
    assert {death.reason for death in deaths} == {"killed by SIGSEGV"}
    assert deaths[0].case_id == outcome.findings[0].case.id
    assert len(of(events.WorkerStarted, told)) >= len(deaths)
    assert [event.operation for event in of(events.OperationSkipped, told)] == ["gdn.decode"]


def test_a_crash_is_replayed_with_the_last_words() -> None:
    found = Finding(Case("gdn.decode", lens=(3,)), f"{TOYS}:leaving", "interpret", "crashed", "it was gone")
    (result,) = replay_findings.run([found], repeat=2, trusted=True)
    assert (result.status, result.detail) == (
        "FAILED",
        "crashed: the process that ran the kernel ended: exit status 3: no more",
    )


def test_a_case_that_hangs(tmp_path: Path) -> None:
    outcome, told = run("hanging", tmp_path, max_time=8.0, max_cases=None, hang_seconds=1.0, isolation="none")
    (found,) = outcome.findings
    assert (found.kind, found.message) == ("hung", "no answer within 1 s")
    assert found.case.total >= 3
    assert of(events.WorkerDied, told)[0].reason == "no answer within 1 s"


def test_an_operation_whose_cases_are_all_refused(tmp_path: Path) -> None:
    outcome, told = run("refusing", tmp_path)
    assert {case.refused for case in of(events.CaseRun, told)} == {"not today"}
    [(op, reason)] = outcome.unreached.items()
    assert op == "gdn.decode"
    assert re.fullmatch(r"all \d+ cases refused: not today", reason)
    assert outcome.exit_code == 2
    assert run("refusing", tmp_path, allow_unreached=True)[0].exit_code == 0


def test_ctrl_c_keeps_what_was_found(tmp_path: Path) -> None:
    told: list[events.Event] = []

    def impatient(event: events.Event) -> None:
        told.append(event)
        if isinstance(event, events.FindingFound):
            raise KeyboardInterrupt

    config = campaign.Config(f"{TOYS}:wrong", DECODE, "interpret", 7, 1, tmp_path, max_time=60.0)
    outcome = campaign.run(config, impatient)
    assert outcome.interrupted
    assert outcome.exit_code == 1
    (found,) = Corpus(tmp_path).findings()
    assert (tmp_path / f"{found.id}.py").exists()
    assert isinstance(told[-1], events.CampaignEnded)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("nonesuch", "unknown target 'nonesuch'; built in: vk, kv, eager, "),
        (f"{TOYS}:no_target", "no_target is int, not a target"),
        ("sglang@nowhere.whl", "target sglang@nowhere.whl: nowhere.whl: no such wheel or folder"),
    ],
)
def test_a_target_that_cannot_be_had(tmp_path: Path, target: str, problem: str) -> None:
    told: list[events.Event] = []
    outcome = campaign.run(
        campaign.Config(target, DECODE, "interpret", 7, 1, tmp_path / "c", 5.0), told.append
    )
    assert outcome.exit_code == 2
    assert outcome.problem is not None
    assert problem in outcome.problem
    last: Any = told[-1]
    assert last == dataclasses.replace(last, stopped=outcome.problem, findings=())
    assert list(tmp_path.iterdir()) == []


def test_an_operation_that_the_target_has_not(tmp_path: Path) -> None:
    outcome, _ = run("right", tmp_path, operations=("gdn.verify",))
    assert outcome.exit_code == 2
    assert (
        outcome.problem
        == f"target {TOYS}:right implements none of gdn.verify; it has gdn.decode, kda.recurrent"
    )


@pytest.mark.parametrize(
    ("field", "value"), [("workers", 0), ("max_cases", 0), ("max_time", 0.0), ("operations", ())]
)
def test_a_campaign_that_makes_no_sense(tmp_path: Path, field: str, value: Any) -> None:
    config = campaign.Config("vk", DECODE, "interpret", 7, 1, tmp_path)
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(config, **{field: value})
