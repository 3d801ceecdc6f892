"""What a pytest process runs and keeps: runners, the case on disk, what a test has found so far.

The pytest plugin is made of it. It imports no torch.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from diffgdn import corpus, isolate, simplify
from diffgdn.case import Case
from diffgdn.corpus import Corpus, Finding
from diffgdn.isolate import Runner
from diffgdn.isolate.current import CurrentCase, current
from diffgdn.trace import Trace, call_of
from diffgdn.verdict import FAULTS, CheckFailure, KernelCrashed, PoisonLeaked, Verdict, relation_of

SHRINK_SECONDS = 60.0  # for each class of failure; Hypothesis alone would take up to five minutes
FAULT_KINDS = tuple(fault.kind for fault in FAULTS)


class TimeUp(BaseException):
    """Leaves Hypothesis, and the test, at once. Not an Exception: Hypothesis would take that for a failing
    case.
    """


@dataclass
class Answers:
    """The verdicts of one test, so that a case has one answer, and an end to the time that it takes.

    first: called with the first failure of each class and the target, when it is seen. most_seconds: of
    exploration. ran_out: whether a shrink ran out of time.
    """

    first: Callable[[Verdict, str], None] = lambda verdict, target: None
    most_seconds: float = math.inf
    verdicts: dict[tuple[str, str], Verdict] = field(default_factory=dict)
    kinds: set[type] = field(default_factory=set)
    until: float = math.inf
    ran_out: bool = False
    _began: float | None = None

    def verdict(self, case: Case, target: str, run: Callable[[Case], Verdict]) -> Verdict | None:
        """The verdict on a case, remembered or new; None for a new case once the time for shrinking is up.

        Raises TimeUp when exploration has had its time. A crash or a hang comes back as that of the smallest
        case that has it: Hypothesis, which needs hundreds of runs, would cost as many processes.
        """
        key = (case.id, target)
        if key not in self.verdicts:
            now = time.monotonic()
            if now >= self.until:
                self.ran_out |= self.until > -math.inf
                return None
            self._began = now if self._began is None else self._began
            if not self.kinds and now >= self._began + self.most_seconds:
                raise TimeUp
            verdict = run(case)
            if verdict.failure is not None and type(verdict.failure) not in self.kinds:
                self.kinds.add(type(verdict.failure))
                self.until = time.monotonic() + SHRINK_SECONDS
                self.first(verdict, target)
                if isinstance(verdict.failure, FAULTS) and verdict.confirmed:
                    verdict = self._simplest(verdict, run)
                    self.until = -math.inf
            self.verdicts[key] = replace(verdict, comparison=None)  # tensors, of which a shrink may see many
        return self.verdicts[key]

    @property
    def nothing(self) -> str | None:
        """Why no case has ended, in one line; None if one has."""
        refusals = [verdict.refused for verdict in self.verdicts.values()]
        if None in refusals:
            return None
        if not refusals:
            return "no case ended"
        return f"no case ended: all {len(refusals)} were refused, the last: {refusals[-1]}"

    def _simplest(self, verdict: Verdict, run: Callable[[Case], Verdict]) -> Verdict:
        verdicts = {verdict.case.id: verdict}

        def fails(case: Case) -> bool:
            again = run(case)
            if type(again.failure) is not type(verdict.failure) or not again.confirmed:
                return False
            verdicts[case.id] = again
            return True

        def expired() -> bool:
            self.ran_out |= time.monotonic() >= self.until
            return self.ran_out

        return verdicts[simplify.simplest(verdict.case, fails, expired).id]


class Harness:
    """Runs cases for the tests of one process, on one lane.

    isolation: as asked, or None. findings: the folder that findings are saved to. folder: where the case that
    runs is noted and children print to, under the name of this process; None for one of its own.
    hang_seconds: after which a child's case counts as hung; None for what suits the lane.
    """

    def __init__(
        self,
        lane: str,
        isolation: str | None,
        findings: Path,
        name: str = "main",
        folder: Path | None = None,
        hang_seconds: float | None = None,
    ) -> None:
        self.lane, self.isolation, self.findings, self.name = lane, isolation, Corpus(findings), name
        self.hang_seconds = hang_seconds
        self._own = None if folder is not None else Path(tempfile.mkdtemp(prefix="diffgdn-"))
        self.folder = folder or self._own or Path()
        self._current: CurrentCase | None = None
        self._runners: dict[str, Runner] = {}
        self._device: str | None = None

    def close(self) -> None:
        for runner in self._runners.values():
            runner.close()
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)

    def runner(self, target: str, kind: str | None = None) -> Runner:
        """What runs a target's cases; one that has crashed or hung runs in a child in any case."""
        asked = "child" if kind in FAULT_KINDS and not self.isolation else self.isolation
        way = isolate.chosen(asked, target, self.lane)
        if way not in self._runners:
            log = self.folder / f"{self.name}.log"
            self._runners[way] = isolate.runner(way, self.lane, log, self.hang_seconds)
        return self._runners[way]

    def run(self, case: Case | Trace, target: str, kind: str | None = None) -> Verdict:
        """The verdict on a case or a trace, which lies on disk meanwhile. Raises RunnerError."""
        runner = self.runner(target, kind)
        self._current = self._current or CurrentCase(_note(self.folder, self.name))
        self._current.write(call_of(case), target=target, lane=self.lane)
        try:
            verdict = runner.run(case, target, relation=relation_of(kind))
        finally:
            self._current.clear()
        return verdict

    def explained(self, verdict: Verdict, target: str) -> CheckFailure:
        """A failure; a leak traced to the memory that it comes from."""
        failure = verdict.failure
        assert failure is not None
        if isinstance(failure, PoisonLeaked):
            again = self.runner(target).run(verdict.case, target, picture=True).failure
            return again if isinstance(again, PoisonLeaked) else failure
        return failure

    def finding(self, verdict: Verdict, target: str, unshrunk: Case | None = None) -> Finding:
        """A failing verdict as a finding."""
        failure = verdict.failure
        assert failure is not None
        if self._device is None and self.lane == "gpu":
            self._device = self.runner(target).about(None).device
        return _finding(verdict.case, target, verdict.lane, failure, self._device, unshrunk)

    def documented(self, finding: Finding) -> list[str]:
        """Lay a script, and a picture, beside a finding's file; what they are, in lines."""
        try:
            runner, picture = self.runner(finding.target, finding.kind), finding.kind not in FAULT_KINDS
            script, *pictures = runner.document(finding, self.findings.path, picture)
            return [f"script {script}", *(f"picture {one}" for one in pictures)]
        except Exception as error:
            # The finding is on disk and must be told; what else is made of it may fail, and says so.
            return [f"no script or picture: {type(error).__name__}: {error}"]


def _finding(
    case: Case,
    target: str,
    lane: str,
    failure: CheckFailure,
    device: str | None = None,
    unshrunk: Case | None = None,
) -> Finding:
    return Finding(
        case=case,
        target=target,
        lane=lane,
        kind=failure.kind,
        message=failure.message,
        tensor=failure.tensor,
        place=failure.place,
        versions=corpus.versions(device),
        found=corpus.today(),
        unshrunk=None if unshrunk == case else unshrunk,
        shrink=corpus.UNSHRUNK,
    )


def leaves(error: BaseException) -> Iterator[CheckFailure]:
    """The checked failures in an exception, which Hypothesis groups where there are several."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    elif "diffgdn" in error.__dict__:
        yield error  # type: ignore[misc]


def left_behind(folder: Path, name: str) -> Finding | None:
    """What a process that has ended was running, as a finding; None if it ended between cases."""
    found = current(_note(folder, name))
    if found is None:
        return None
    case, about = found
    failure = KernelCrashed(case.op, None, None, f"the pytest worker {name} ended while this case ran")
    return _finding(case, about["target"], about["lane"], failure)


def _note(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"
