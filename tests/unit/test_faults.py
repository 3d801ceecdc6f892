"""Faults injected into campaigns: what is saved, what it shrinks to, and that the campaign goes on.

docs/faults.md is the table of these. The faults that only a GPU shows are in tests/gpu/test_faults.py.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from diffgdn import campaign, strategies
from diffgdn.campaign import engine, events, replay_findings, tasks
from diffgdn.campaign.case_batch import CaseBatch, Passed, Worker
from diffgdn.cases.case import Case, Pool
from diffgdn.cases.prelude import Call
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import Finding
from diffgdn.runner.confirm import Confirmed
from diffgdn.runner.harness import Harness
from diffgdn.runner.ways import Familiar
from diffgdn.verdict.failures import KernelCrashed, Verdict

FAULTS = Path(__file__).with_name("faults.py")
ENDED = "the process that ran the kernel ended: "
HANG_SECONDS = 8.0
MEMORY_BYTES = 1 << 30
CASES = 27  # the first two batches of three operations

Until = Callable[[Callable[[], bool]], None]


class Ran(NamedTuple):
    """A campaign that has ended."""

    outcome: campaign.Outcome
    told: list[events.Event]
    corpus: Corpus

    def of(self, kind: type[events.Event]) -> list[Any]:
        return [event for event in self.told if isinstance(event, kind)]

    def index(self, kind: type[Any], op: str) -> int:  # type: ignore[override]
        """The first event of a kind about a finding of an operation."""
        return next(n for n, e in enumerate(self.told) if isinstance(e, kind) and e.finding.operation == op)

    @property
    def explored(self) -> list[events.CaseRun]:
        return [event for event in self.of(events.CaseRun) if not event.shrinking]


def run(
    target: str, operations: tuple[str, ...], corpus: Path, later: int | None = None, **options: Any
) -> Ran:
    """A campaign in which shrinking has all the time it needs, so that a busy machine finds the same.

    later: cases after a first shrink with which it has shown enough.
    """
    given: dict[str, Any] = {"workers": 1, "seed": 7, "max_cases": CASES, **options}
    config = campaign.Config(
        f"{FAULTS}:{target}",
        operations,
        "interpret",
        corpus=corpus,
        **given,
    )
    told: list[events.Event] = []
    after: list[events.Event] = []  # the first shrink: cases

    def tell(event: events.Event) -> None:
        told.append(event)
        shrunk = any(isinstance(one, events.FindingShrunk) for one in told)
        after.extend([event] if shrunk and isinstance(event, events.CaseRun) else [])
        if len(after) == later and event is after[-1]:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "shrink_seconds", lambda max_time: 600.0)
        outcome = campaign.run(config, tell)
    return Ran(outcome, told, Corpus(corpus))


def replayed(findings: list[Finding], repeat: int = 1) -> list[str]:
    return [result.status for result in replay_findings.run(findings, repeat=repeat)]


# --- faults of the process that runs the kernel ---

BY_OPERATION = {
    "gdn.decode": ("crashed", f"{ENDED}killed by SIGSEGV"),
    "kda.decode": ("crashed", f"{ENDED}exit status 3: no more"),
    "gdn.update": ("hung", "no answer within 8 s"),
}


def test_a_campaign_full_of_faults_finds_each_and_goes_on(tmp_path: Path) -> None:
    """Each operation has a fault of its own, on padding. It is children that die, not workers."""
    ran = run("many", tuple(BY_OPERATION), tmp_path, workers=2, hang_seconds=HANG_SECONDS)
    found = {finding.operation: finding for finding in ran.outcome.findings}
    assert {op: (finding.kind, finding.message) for op, finding in found.items()} == BY_OPERATION
    assert ran.corpus.findings() == sorted(ran.outcome.findings, key=lambda finding: finding.id)
    for op, finding in found.items():
        assert finding.case == Case(op, pool=Pool(indices=(-1,)))
        assert (tmp_path / f"{finding.id}.py").exists()
        later = ran.told[ran.index(events.FindingFound, op) :]
        assert any(e.operation == op and not e.failure for e in later if isinstance(e, events.CaseRun))
    assert len(ran.explored) == CASES
    assert {event.failure for event in ran.explored} <= {None, "crashed", "hung"}
    assert ran.of(events.WorkerDied) == ran.of(events.OperationSkipped) == []
    assert (ran.outcome.exit_code, ran.outcome.problem) == (1, None)


def test_a_kernel_that_takes_the_memory_of_the_machine(tmp_path: Path) -> None:
    """Its child is ended at the limit, long before the machine is."""
    ran = run("hungry", ("kda.update",), tmp_path, max_cases=9, memory_bytes=MEMORY_BYTES)
    (found,) = ran.outcome.findings
    assert found.kind == "crashed"
    assert re.fullmatch(rf"{ENDED}ended for its [1-3]\.\d GB of host memory", found.message)
    assert found.case == Case("kda.update", pool=Pool(indices=(-1,)))
    assert len(ran.explored) == 9
    assert {event.failure for event in ran.explored} == {None, "crashed"}


def test_a_crash_is_confirmed_once_a_batch(tmp_path: Path) -> None:
    """Each confirmation costs a child."""
    asked: list[bool] = []

    class Crashing(Harness):
        def ask(self, subject: Any, target: str, *_: Any, familiar: Familiar, **options: Any) -> Verdict:  # type: ignore[override]
            failure = KernelCrashed(subject.op, None, None, f"{ENDED}killed by SIGSEGV")
            asked.append(familiar(failure))
            return Verdict(subject, target, self.backend, failure)

        def confirm(self, call: Call, verdict: Verdict, target: str) -> Confirmed:
            return Confirmed(call, verdict)

    harness = Crashing("interpret", tmp_path / "note", tmp_path / "log")
    worker = Worker(harness, "vk", lambda message: None, set, Passed(), Counter())
    task = tasks.Explore("gdn.decode", cases=4, seed=1, shrink_seconds=1.0, shrink=False)
    CaseBatch(task, worker).search(strategies.cases("gdn.decode"))
    assert asked == [False, True, True, True]


@pytest.mark.nightly
def test_a_crash_from_41_tokens_on_in_slot_minus_one_shrinks_to_exactly_that(tmp_path: Path) -> None:
    ran = run("sticky_crash", ("gdn.extend",), tmp_path, later=4, max_cases=64)
    (found,) = ran.outcome.findings
    assert (found.kind, found.message) == ("crashed", f"{ENDED}killed by SIGSEGV")
    assert found.case == Case("gdn.extend", lens=(41,), pool=Pool(indices=(-1,)), chunk_size=16)
    assert found.unshrunk is not None
    later = ran.told[ran.index(events.FindingShrunk, "gdn.extend") :]
    assert any(not event.failure for event in later if isinstance(event, events.CaseRun))
    assert replayed([found]) == ["FAILED"]


def test_a_child_that_is_killed_once_is_told_of_as_such(tmp_path: Path, strikes: Path) -> None:
    """The case is saved as it was: there is nothing to shrink by."""
    ran = run("killed_once", ("gdn.update",), tmp_path / "corpus", max_cases=12)
    (found,) = ran.outcome.findings
    assert (found.kind, found.unshrunk) == ("crashed", None)
    again = "not again in a fresh process, nor after the calls before it"
    assert found.message == f"{ENDED}killed by SIGKILL; {again}"
    assert len(ran.explored) == 12
    assert sum(event.failure is not None for event in ran.explored) == 1
    assert ran.outcome.exit_code == 1
    assert not found.reproduced
    assert replayed([found]) == ["FLAKY 0/1"]


def test_a_kernel_that_fails_one_time_in_three_is_flaky_in_replay(tmp_path: Path, strikes: Path) -> None:
    """Seen once, or met again when it is asked again: two findings at most, and neither is called FIXED."""
    ran = run("flaky", ("gdn.packed_decode",), tmp_path / "corpus", max_cases=12, isolation="none")
    found = list(ran.outcome.findings)
    assert {one.kind for one in found} == {"raised"}
    assert all(one.message.startswith("RuntimeError: launch failed") for one in found)
    assert sorted(one.id for one in ran.corpus.findings()) == sorted(one.id for one in found)
    statuses = replayed(found, repeat=7)
    assert all(re.fullmatch("FLAKY [0-6]/7", status) for status in statuses)
    assert any(re.fullmatch("FLAKY [1-6]/7", status) for status in statuses)


# --- what happens to the campaign itself ---


def members(session: int) -> set[int]:
    """Processes of a session that have not ended."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, owner = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(owner) == session and state not in "ZX":
            found.add(int(entry.name))
    return found


Fuzz = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def fuzz(tmp_path: Path) -> Iterator[Fuzz]:
    """Starts the command line in a session of its own, as a terminal; what is left ends with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(target: str, *more: str) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            "diffgdn",
            "fuzz",
            "--target",
            f"{FAULTS}:{target}",
            "--workers",
            "1",
        ]
        options = ["--op", "gdn.decode", "--seed", "7", "--backend", "interpret", "--max-time", "10m"]
        process = subprocess.Popen(
            [*command, *options, *more],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(
                signal.SIGINT, signal.SIG_DFL
            ),  # ignored where pytest ignores it
        )
        started.append(process)
        return process

    yield start
    for process in started:
        for left in members(process.pid):
            os.kill(left, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize(
    ("target", "found", "status"),
    [("counting", 0, 130), ("slowly_wrong", 1, 1)],
    ids=["fuzzing", "shrinking"],
)
def test_ctrl_c_keeps_what_was_found_and_leaves_nobody_behind(
    tmp_path: Path, strikes: Path, until: Until, fuzz: Fuzz, target: str, found: int, status: int
) -> None:
    corpus = Corpus(tmp_path / "findings")
    process = fuzz(target)
    until(lambda: bool(corpus.findings()) if found else strikes.exists())
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert (process.returncode, error) == (status, "")
    assert len(corpus.findings()) == found
    assert len(list(corpus.path.glob("*.py"))) == found
    assert [path.name for path in corpus.path.glob(".*")] == []
    until(lambda: members(process.pid) == set())


KILLED_WHILE_IT_SAVES = """
import os, signal, sys
from pathlib import Path
from diffgdn import campaign

os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
target, corpus = sys.argv[1], Path(sys.argv[2])
config = campaign.Config(target, ("gdn.decode",), "interpret", 7, 1, corpus, max_cases=12, isolation="none")
campaign.run(config, lambda event: None)
"""


def test_a_campaign_that_is_killed_while_it_saves_leaves_no_half_finding(
    tmp_path: Path, until: Until
) -> None:
    """The next one finds the same."""
    command = [sys.executable, "-c", KILLED_WHILE_IT_SAVES, f"{FAULTS}:wrong", str(tmp_path)]
    process = subprocess.Popen(command, start_new_session=True)
    assert process.wait() == -signal.SIGKILL
    until(lambda: members(process.pid) == set())
    (left,) = tmp_path.iterdir()
    assert left.suffix == ".tmp"
    assert Corpus(tmp_path).findings() == []
    ran = run("wrong", ("gdn.decode",), tmp_path, max_cases=12, isolation="none")
    (found,) = ran.outcome.findings
    assert found.case.total == 3
    assert Corpus(tmp_path).findings() == [found]


def test_workers_end_with_a_campaign_that_is_killed(strikes: Path, until: Until, fuzz: Fuzz) -> None:
    """Also one that itself runs a kernel that never returns."""
    process = fuzz("stuck", "--isolation", "none")
    until(strikes.exists)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    until(lambda: members(process.pid) == set())
