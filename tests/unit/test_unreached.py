"""No silent nothing: what did not end, or was never reached, is named, and is no success."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from diffgdn import campaign
from diffgdn.campaign import engine, events
from diffgdn.campaign.reach import Reach, problem
from diffgdn.cli import run
from diffgdn.findings.corpus import Corpus

FAULTS = Path(__file__).with_name("faults.py")
TOYS = Path(__file__).with_name("toys.py")
HANG_SECONDS = 6.0
DECODE = ("gdn.decode", "kda.decode")


def explore(target: str, folder: Path, **options: Any) -> tuple[campaign.Outcome, list[events.Event]]:
    """A campaign of one worker in the interpreter, and all that it told."""
    given: dict[str, Any] = {"operations": ("gdn.decode",), "workers": 1, "seed": 7, **options}
    told: list[events.Event] = []
    config = campaign.Config(target=target, backend="interpret", corpus=folder, **given)
    return campaign.run(config, told.append), told


@pytest.mark.parametrize("isolation", ["child", "none"])
def test_a_hang_is_found_though_all_time_is_up_before_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolation: str
) -> None:
    """The case in flight is waited for, and told of; the finding says that it is not shrunk, and has a
    script.
    """
    monkeypatch.setattr(engine, "GRACE_SECONDS", 0.0)
    limits: dict[str, Any] = {"max_time": 1.0, "hang_seconds": HANG_SECONDS}
    outcome, told = explore(f"{FAULTS}:endless_decode", tmp_path, isolation=isolation, **limits)
    (found,) = outcome.findings
    assert (found.kind, found.unshrunk, outcome.exit_code) == ("hung", None, 1)
    assert found.shrink in ("none", "out of time")
    assert outcome.unreached == {}
    assert Corpus(tmp_path).findings() == [found]
    assert (tmp_path / f"{found.id}.py").exists()
    (awaited,) = [event for event in told if isinstance(event, events.CaseAwaited)]
    assert (awaited.operation, awaited.most) == ("gdn.decode", HANG_SECONDS)


def test_operations_that_a_hanging_one_kept_the_worker_from_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the screen, in the report and on stderr."""
    monkeypatch.chdir(tmp_path)
    line = f"fuzz --target {FAULTS}:never_gdn --op *.decode --max-time 1s --hang-after {HANG_SECONDS:g}s"
    assert run(f"{line} --workers 1 --seed 7 --backend interpret --json report.json".split()) == 1
    shown, report = capsys.readouterr(), json.loads(Path("report.json").read_text())
    reason = "no case of it ended within 1 s"
    assert report["unreached"] == {"kda.decode": reason}
    assert f"\nnot reached: kda.decode: {reason}\n" in shown.out
    assert "the time is up: waiting for a case of gdn.decode that has run for " in shown.out
    assert "\n  not shrunk; to take it up again:\n    diffgdn shrink " in shown.out.replace(
        "its shrink ran out of time", "not shrunk"
    )
    told = f"1 of 2 operations not reached: kda.decode: {reason} (--allow-unreached lets this pass)"
    assert shown.err == f"diffgdn: {told}\n"
    assert report["problem"] == told


def test_a_campaign_in_which_no_case_ended_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless it was asked to be one. It never says that nothing was found."""
    monkeypatch.chdir(tmp_path)
    line = f"fuzz --target {TOYS}:refusing --op gdn.decode --max-cases 3 --workers 1 --backend interpret"
    reason = "gdn.decode: all (\\d+) cases refused: not today"
    assert run([*line.split(), "--json", "report.json"]) == 2
    shown, report = capsys.readouterr(), json.loads(Path("report.json").read_text())
    ended = re.fullmatch(
        f"diffgdn: no case ended: ({reason}) \\(--allow-unreached lets this pass\\)\n", shown.err
    )
    assert ended is not None
    assert f"\nnot reached: {ended[1]}\n" in shown.out
    assert shown.out.endswith(": no case ended, so nothing is known.\n")
    assert report["unreached"] == {"gdn.decode": ended[1].partition(": ")[2]}
    assert run([*line.split(), "--json", "report.json", "--allow-unreached"]) == 0
    shown, report = capsys.readouterr(), json.loads(Path("report.json").read_text())
    assert shown.err == ""
    assert shown.out.endswith(": no case ended, so nothing is known.\n")
    assert (report["problem"], set(report["unreached"])) == (None, {"gdn.decode"})


def test_cases_that_are_used_up_before_every_operation_had_its_turn(tmp_path: Path) -> None:
    outcome, _ = explore("eager", tmp_path, operations=(*DECODE, "gdn.update"), max_cases=3)
    reason = "the 3 cases were used up before its turn"
    assert outcome.unreached == {"kda.decode": reason, "gdn.update": reason}
    assert outcome.exit_code == 2
    assert outcome.problem == (
        f"2 of 3 operations not reached: kda.decode, gdn.update: {reason} (--allow-unreached lets this pass)"
    )


def test_operations_that_the_target_lacks_are_not_asked_of_it_by_a_pattern(tmp_path: Path) -> None:
    """One by name is: see test_campaign."""
    outcome, _ = explore(f"{TOYS}:right", tmp_path, operations=DECODE, max_cases=3)
    assert (outcome.unreached, outcome.problem, outcome.exit_code) == ({}, None, 0)


def test_an_interrupt_is_no_problem_of_its_own(tmp_path: Path) -> None:
    def impatient(event: events.Event) -> None:
        if isinstance(event, events.PhaseStarted) and event.phase == "explore":
            raise KeyboardInterrupt

    config = campaign.Config("eager", DECODE, "interpret", 7, 1, tmp_path, max_time=60.0)
    outcome = campaign.run(config, impatient)
    assert (set(outcome.unreached), outcome.problem, outcome.exit_code) == (set(DECODE), None, 130)


def test_an_operation_that_was_given_up_counts_as_unreached_though_cases_ended() -> None:
    reach = Reach()
    for _ in range(5):
        reach.ran(events.CaseRun("gdn.decode", "explore", 1.0, failure="hung"))
    reach.left_out["gdn.decode"] = "it hung in 5 cases"
    unreached = reach.unreached(("gdn.decode",), 60.0, None)
    assert unreached == {"gdn.decode": "left out: it hung in 5 cases"}
    assert problem(unreached, 1) is not None
    assert problem({}, 1) is None


@pytest.mark.parametrize("event", [{"phase": "replay"}, {"phase": "compile"}, {"shrinking": True}])
def test_what_explores_nothing_reaches_nothing(event: dict[str, Any]) -> None:
    reach = Reach()
    reach.ran(events.CaseRun(**{"operation": "gdn.decode", "phase": "explore", "seconds": 1.0, **event}))
    assert reach.unreached(("gdn.decode",), None, None) == {"gdn.decode": "no case of it ended"}
