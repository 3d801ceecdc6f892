"""Serving as a campaign: traces are its cases, told of, replayed and put into buckets as cases are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffgdn import campaign
from diffgdn.campaign import events
from diffgdn.cases.trace import Trace
from diffgdn.cases.trace_steps import Step
from diffgdn.findings import bucket
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import Finding
from diffgdn.report.jsonfile import summary
from diffgdn.report.tally import Tally

TOYS = Path(__file__).with_name("toys.py")  # of gdn.decode, wrong from three tokens on
LOOPS = ("gdn.serving", "kda.serving")
THREE = Trace("gdn", (*(Step("arrive", (n,)) for n in range(3)), Step("decode", (0, 1, 2))))


class Ran:
    """A campaign over loops on a target, with what it told, in a tally too."""

    def __init__(self, target: str, folder: Path, **options: Any) -> None:
        given: dict[str, Any] = {"operations": LOOPS[:1], "workers": 1, "max_cases": 12, **options}
        config = campaign.Config(
            target, backend="interpret", seed=1, corpus=folder, mode="serving", isolation="none", **given
        )
        self.told: list[events.Event] = []
        self.tally = Tally()
        self.outcome = campaign.run(config, self._listen)

    def _listen(self, event: events.Event) -> None:
        self.told.append(event)
        self.tally(event)

    def of(self, kind: type[events.Event]) -> list[Any]:
        return [event for event in self.told if isinstance(event, kind)]

    @property
    def explored(self) -> list[events.CaseRun]:
        ran = self.of(events.CaseRun)
        return [event for event in ran if event.phase == "explore" and not event.shrinking]


def test_a_trace_is_told_of_with_its_steps_and_the_operations_that_it_called(tmp_path: Path) -> None:
    ran = Ran("eager", tmp_path, operations=LOOPS, allow_unreached=True)
    assert (ran.outcome.problem, ran.outcome.findings) == (None, ())
    assert len(ran.explored) == 12
    assert {event.operation for event in ran.explored} == set(LOOPS)
    for event in ran.explored:
        family = event.operation.partition(".")[0]
        assert 1 <= (event.steps or 0) <= 16
        assert len(set(event.calls)) == len(event.calls)
        assert {name.partition(".")[0] for name in event.calls} <= {family}  # none of one that only arrives
        assert event.seconds == event.parts["trace"] > 0
    assert {event.operation for event in ran.explored if event.calls} == set(LOOPS)
    steps = {loop: sum(one.steps or 0 for one in ran.explored if one.operation == loop) for loop in LOOPS}
    shown = summary(ran.tally)
    assert (shown["mode"], shown["steps"]) == ("serving", steps)
    cases = [shown["operations"][loop]["cases"] for loop in LOOPS]
    assert (sum(cases), min(cases) >= 3) == (12, True)


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, Path]:
    """A campaign of two workers on a target that is wrong."""
    folder = tmp_path_factory.mktemp("corpus")
    return Ran(f"{TOYS}:wrong", folder, workers=2, max_cases=30), folder


def test_two_workers_play_all_traces_and_find_one_of_each_bucket(wrong: tuple[Ran, Path]) -> None:
    ran, folder = wrong
    assert {event.worker for event in ran.of(events.WorkerStarted)} == {0, 1}
    assert ran.of(events.WorkerDied) == []
    assert ran.outcome.findings
    keys = [bucket.of(finding) for finding in ran.outcome.findings]
    assert len(set(keys)) == len(keys)
    assert Corpus(folder).findings() == sorted(ran.outcome.findings, key=lambda finding: finding.id)
    for found in ran.outcome.findings:
        assert (found.operation, found.shrink) == ("gdn.serving", "complete")
        assert found.trace is not None
        assert sum(sum(step.lengths) for step in found.trace.steps if step.act == "decode") == 3
        assert (folder / f"{found.id}.py").exists()


def test_serving_goes_on_after_what_it_knows(wrong: tuple[Ran, Path]) -> None:
    """What fails as a finding does is counted, and neither told of again nor the end."""
    ran, _ = wrong
    assert len(ran.explored) == 30
    first = next(n for n, event in enumerate(ran.told) if isinstance(event, events.FindingFound))
    later = [event for event in ran.told[first:] if event in ran.explored]
    assert any(event.failure is None for event in later)
    assert any(event.repeated for event in later)
    told = [bucket.of(event.finding) for event in ran.of(events.FindingFound)]
    assert len(set(told)) == len(told)


def test_old_traces_are_played_first_and_are_known(wrong: tuple[Ran, Path]) -> None:
    before, folder = wrong
    ran = Ran(f"{TOYS}:wrong", folder, max_cases=6)
    replayed = ran.of(events.FindingReplayed)
    assert [(event.finding, event.status) for event in replayed] == [
        (finding, "FAILED") for finding in Corpus(folder).findings()
    ]
    assert ran.told.index(replayed[-1]) < ran.told.index(events.PhaseStarted("explore"))
    known = {bucket.of(finding) for finding in before.outcome.findings}
    assert not {bucket.of(event.finding) for event in ran.of(events.FindingFound)} & known
    assert len(ran.explored) == ran.tally.cases == 6


@pytest.mark.nightly
def test_a_loop_whose_old_traces_end_worker_after_worker_is_left_out(tmp_path: Path) -> None:
    """By its own name, not by that of the operation that a trace called last."""
    corpus, target = Corpus(tmp_path), f"{TOYS}:dying"
    for seed in range(3):
        trace = Trace(THREE.family, THREE.steps, seed=seed)
        corpus.save(Finding(trace.last_call(), target, "interpret", "beyond_bound", "why", "o", trace=trace))
    ran = Ran(target, tmp_path)
    assert {event.operation for event in ran.of(events.WorkerDied)} == {"gdn.serving"}
    assert [event.status for event in ran.of(events.FindingReplayed)] == ["FAILED"] * 3
    reason = "it cost 3 workers, the last: killed by SIGSEGV"
    assert [(event.operation, event.reason) for event in ran.of(events.OperationSkipped)] == [
        ("gdn.serving", reason)
    ]
    assert ran.explored == []
    assert ran.outcome.unreached == {"gdn.decode": f"left out: {reason}"}
