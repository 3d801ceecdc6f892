"""Faults injected into campaigns: what is saved, what it shrinks to, and that the campaign goes on.

docs/faults.md is the table of these. The faults that only a GPU shows are in tests/gpu/test_faults.py.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from diffgdn import campaign, events
from diffgdn.campaign import engine, replay
from diffgdn.case import Case, Pool
from diffgdn.corpus import Corpus, Finding

FAULTS = Path(__file__).with_name("faults.py")
ENDED = "the process that ran the kernel ended: "
HANG_SECONDS = 8.0
MEMORY_BYTES = 1 << 30
CASES = 36  # of all operations: the first batches of each

Until = Callable[[Callable[[], bool]], None]


class Ran(NamedTuple):
    """A campaign that has ended."""

    outcome: campaign.Outcome
    told: list[events.Event]
    corpus: Corpus

    def of(self, kind: type[events.Event]) -> list[Any]:
        return [event for event in self.told if isinstance(event, kind)]


def run(target: str, operations: tuple[str, ...], corpus: Path, **options: Any) -> Ran:
    """A campaign in which shrinking has all the time it needs, so that a busy machine finds the same."""
    given: dict[str, Any] = {"workers": 1, "seed": 7, "max_cases": CASES, **options}
    config = campaign.Config(
        f"{FAULTS}:{target}",
        operations,
        "interpret",
        corpus=corpus,
        **given,
    )
    told: list[events.Event] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "shrink_seconds", lambda max_time: 600.0)
        outcome = campaign.run(config, told.append)
    return Ran(outcome, told, Corpus(corpus))


def replayed(findings: list[Finding], repeat: int = 1) -> list[str]:
    return [result.status for result in replay.run(findings, repeat=repeat)]


# --- faults of the process that runs the kernel ---

BY_OPERATION = {
    "gdn.decode": ("crashed", f"{ENDED}killed by SIGSEGV"),
    "kda.decode": ("crashed", f"{ENDED}exit status 3: no more"),
    "gdn.update": ("hung", "no answer within 8 s"),
    "kda.update": ("crashed", rf"{ENDED}ended for its [1-3]\.\d GB of host memory"),
}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A campaign over four operations, each with a fault of its own on padding."""
    limits = {"hang_seconds": HANG_SECONDS, "memory_bytes": MEMORY_BYTES}
    return run("many", tuple(BY_OPERATION), tmp_path_factory.mktemp("many"), workers=2, **limits)


@pytest.mark.parametrize("op", BY_OPERATION)
def test_a_fault_is_saved_shrunk_and_passed_by(many: Ran, op: str) -> None:
    kind, message = BY_OPERATION[op]
    (found,) = [finding for finding in many.outcome.findings if finding.operation == op]
    assert found.kind == kind
    assert re.fullmatch(message, found.message)
    assert found.case == Case(op, pool=Pool(indices=(-1,)))
    assert found in many.corpus.findings()
    assert (many.corpus.path / f"{found.id}.py").exists()
    seen = next(n for n, event in enumerate(many.told) if _is_found(event, op))
    later = [event for event in many.told[seen:] if isinstance(event, events.CaseRun)]
    assert any(event.operation == op and event.failure is None for event in later)


def test_a_campaign_full_of_faults_runs_all_its_cases(many: Ran) -> None:
    """And no worker: it is children that die."""
    explored = [event for event in many.of(events.CaseRun) if not event.shrinking]
    assert len(explored) == CASES
    assert {event.failure for event in explored} <= {None, "crashed", "hung"}
    assert many.of(events.WorkerDied) == many.of(events.OperationSkipped) == []
    assert len(many.outcome.findings) == len(BY_OPERATION)
    assert (many.outcome.exit_code, many.outcome.problem) == (1, None)


def _is_found(event: events.Event, op: str) -> bool:
    return isinstance(event, events.FindingFound) and event.finding.operation == op


def test_a_crash_from_41_tokens_on_in_slot_minus_one_shrinks_to_exactly_that(tmp_path: Path) -> None:
    ran = run("sticky_crash", ("gdn.extend",), tmp_path, max_cases=40)
    (found,) = ran.outcome.findings
    assert (found.kind, found.message) == ("crashed", f"{ENDED}killed by SIGSEGV")
    assert found.case == Case("gdn.extend", lens=(41,), pool=Pool(indices=(-1,)), chunk_size=16)
    assert found.unshrunk is not None
    assert replayed([found]) == ["FAILED"]


def test_a_child_that_is_killed_once_is_told_of_as_such(tmp_path: Path, strikes: Path) -> None:
    """The case is saved as it was: there is nothing to shrink by."""
    ran = run("killed_once", ("gdn.update",), tmp_path / "corpus", max_cases=12)
    (found,) = ran.outcome.findings
    assert (found.kind, found.unshrunk) == ("crashed", None)
    assert found.message == f"{ENDED}killed by SIGKILL; not again in a fresh process"
    explored = [event for event in ran.of(events.CaseRun) if not event.shrinking]
    assert len(explored) == 12
    assert sum(event.failure is not None for event in explored) == 1
    assert ran.outcome.exit_code == 1
    assert replayed([found]) == ["FIXED"]


def test_a_kernel_that_fails_one_time_in_three_is_flaky_in_replay(tmp_path: Path, strikes: Path) -> None:
    ran = run("flaky", ("gdn.packed_decode",), tmp_path / "corpus", max_cases=12, isolation="none")
    (found,) = ran.outcome.findings
    assert (found.kind, found.message) == ("raised", "RuntimeError: launch failed")
    assert ran.corpus.findings() == [found]
    (status,) = replayed([found], repeat=9)
    assert re.fullmatch("FLAKY [1-8]/9", status)


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


def fuzz(target: str, folder: Path) -> subprocess.Popen[str]:
    """The command line in a session of its own, as in a terminal."""
    command = [sys.executable, "-m", "diffgdn", "fuzz", "--target", f"{FAULTS}:{target}", "--workers", "1"]
    options = ["--op", "gdn.decode", "--seed", "7", "--lane", "interpret", "--max-time", "10m"]
    return subprocess.Popen(
        [*command, *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("target", "found", "status"),
    [("counting", 0, 130), ("slowly_wrong", 1, 1)],
    ids=["fuzzing", "shrinking"],
)
def test_ctrl_c_keeps_what_was_found_and_leaves_nobody_behind(
    tmp_path: Path, strikes: Path, until: Until, target: str, found: int, status: int
) -> None:
    corpus = Corpus(tmp_path / "findings")
    process = fuzz(target, tmp_path)
    until(lambda: bool(corpus.findings()) if found else strikes.exists())
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert (process.returncode, error) == (status, "")
    assert len(corpus.findings()) == found
    assert [path.name for path in corpus.path.glob(".*")] == []
    until(lambda: members(process.pid) == set())


KILLED_WHILE_IT_SAVES = """
import os, signal, sys
from pathlib import Path
from diffgdn import campaign

os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
config = campaign.Config(sys.argv[1], ("gdn.decode",), "interpret", 7, 1, Path(sys.argv[2]), max_cases=12)
campaign.run(config, lambda event: None)
"""


def test_a_campaign_that_is_killed_while_it_saves_leaves_no_half_finding(
    tmp_path: Path, until: Until
) -> None:
    """The next one finds the same."""
    command = [sys.executable, "-c", KILLED_WHILE_IT_SAVES, f"{FAULTS}:crashing", str(tmp_path)]
    process = subprocess.Popen(command, start_new_session=True)
    assert process.wait() == -signal.SIGKILL
    until(lambda: members(process.pid) == set())
    (left,) = tmp_path.iterdir()
    assert left.suffix == ".tmp"
    assert Corpus(tmp_path).findings() == []
    ran = run("crashing", ("gdn.decode",), tmp_path, max_cases=12)
    (found,) = ran.outcome.findings
    assert (found.kind, found.case) == ("crashed", Case("gdn.decode", lens=(3,)))
    assert Corpus(tmp_path).findings() == [found]


def test_workers_end_with_a_campaign_that_is_killed(tmp_path: Path, strikes: Path, until: Until) -> None:
    """Also one in which a kernel runs that never returns."""
    process = fuzz("stuck", tmp_path)
    until(strikes.exists)
    process.kill()
    process.communicate()
    until(lambda: members(process.pid) == set())
