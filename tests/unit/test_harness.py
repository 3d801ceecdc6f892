"""The harness: what is noted while a question is asked, and what becomes of a runner that has broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffgdn.cases.case import Case
from diffgdn.cases.prelude import Call
from diffgdn.runner import ways
from diffgdn.runner.harness import Harness
from diffgdn.runner.messages import RunnerError
from diffgdn.runner.running_case import calls, current
from diffgdn.verdict.failures import KernelCrashed, Verdict
from diffgdn.verdict.question import ORACLE, AskRelation, Question

CASE, OTHER = Case("gdn.decode"), Case("gdn.decode", lens=(3,))
REASON = "the GPU context is gone"


class Breaking:
    """A runner whose context breaks over every case of more than one token."""

    def __init__(self) -> None:
        self.broken: str | None = None
        self.asked: list[tuple[Case, Question | None]] = []
        self.noted: list[Case | None] = []
        self.note = Path()

    def run(self, subject: Any, target: str, question: Question | None = None, *_: Any) -> Verdict:
        self.asked.append((subject, question))
        found = current(self.note)
        self.noted.append(None if found is None else found[0])
        if subject.total == 1:
            return Verdict(subject, target, "interpret")
        self.broken = REASON
        failure = KernelCrashed(subject.op, None, None, REASON)
        return Verdict(subject, target, "interpret", failure)

    def close(self) -> None:
        """Nothing was started."""


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Breaking:
    made = Breaking()
    monkeypatch.setattr(ways, "runner", lambda *_: made)
    return made


def harness(runner: Breaking, folder: Path, **options: Any) -> Harness:
    runner.note = folder / "note.json"
    return Harness("interpret", runner.note, folder / "log", "none", **options)


def test_nothing_is_asked_of_a_runner_that_has_broken(runner: Breaking, tmp_path: Path) -> None:
    """What it said last is still told; what comes after it would be worthless."""
    asking = harness(runner, tmp_path)
    assert asking.ask(CASE, "vk").ok
    assert not asking.ask(OTHER, "vk").ok
    with pytest.raises(RunnerError, match=f"^{REASON}; --isolation child goes on after it$"):
        asking.ask(CASE, "vk")
    assert [case for case, _ in runner.asked] == [CASE, OTHER]


def test_who_is_told_of_a_broken_runner_still_finds_the_case_noted(runner: Breaking, tmp_path: Path) -> None:
    """With all that ran before it; a worker ends there, and the campaign reads what it died of."""
    note, told = tmp_path / "note.json", []

    def on_broken(reason: str) -> None:
        found = current(note)
        told.append((reason, None if found is None else found[0], calls(note, "vk")))

    asking = harness(runner, tmp_path, on_broken=on_broken)
    asking.ask(CASE, "vk")
    assert told == []
    asking.ask(OTHER, "vk", AskRelation("split"))
    assert told == [(REASON, OTHER, (Call(CASE), Call(OTHER, "split")))]
    assert current(note) is None


def test_a_case_is_noted_while_it_runs_and_no_longer(runner: Breaking, tmp_path: Path) -> None:
    """Also where the machinery fails over it."""
    asking = harness(runner, tmp_path)
    asking.ask(CASE, "vk")
    assert runner.noted == [CASE]
    assert current(runner.note) is None
    runner.run = lambda *_: 1 / 0  # type: ignore[assignment, method-assign]
    with pytest.raises(ZeroDivisionError):
        asking.ask(CASE, "vk")
    assert current(runner.note) is None


def test_a_case_is_asked_whether_it_is_right_unless_told_otherwise(runner: Breaking, tmp_path: Path) -> None:
    asking = harness(runner, tmp_path)
    asking.ask(CASE, "vk")
    asking.ask(CASE, "vk", AskRelation("twice"))
    assert [question for _, question in runner.asked] == [ORACLE, AskRelation("twice")]


@pytest.mark.parametrize(
    ("target", "kind", "isolation", "way"),
    [
        ("vk", None, None, "none"),
        ("vk", "crashed", None, "child"),
        ("vk", "hung", None, "child"),
        ("vk", "beyond_bound", None, "none"),
        ("vk", "crashed", "none", "none"),
        ("own.py:mine", None, None, "child"),
        ("own.py:mine", None, "none", "none"),
    ],
)
def test_what_has_crashed_or_hung_runs_in_a_child_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    target: str,
    kind: str | None,
    isolation: str | None,
    way: str,
) -> None:
    monkeypatch.setattr(ways, "runner", lambda chosen, *_: chosen)
    asking = Harness("interpret", tmp_path / "note", tmp_path / "log", isolation)
    assert asking.runner(target, kind) == way  # type: ignore[comparison-overlap]
