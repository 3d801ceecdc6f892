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

from diffgdn.cases.case import Case
from diffgdn.cases.prelude import Call, fitting
from diffgdn.cases.trace import Trace, call_of
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import COMPLETE, OUT_OF_TIME, UNFINISHED, UNSHRUNK, Finding, today, versions
from diffgdn.runner import ways
from diffgdn.runner.confirm import Confirm, Confirmed, again, apart
from diffgdn.runner.running_case import CurrentCase, current
from diffgdn.runner.running_case import calls as ran
from diffgdn.runner.ways import Runner
from diffgdn.search import by_field, preludes
from diffgdn.verdict.failures import (
    FAULTS,
    CheckFailure,
    KernelCrashed,
    PoisonLeaked,
    Verdict,
    relation_of,
)

SHRINK_SECONDS = 60.0  # for each class of failure; Hypothesis alone would take up to five minutes
FAULT_KINDS = tuple(fault.kind for fault in FAULTS)


class TimeUp(BaseException):
    """Leaves Hypothesis, and the test, at once. Not an Exception: Hypothesis would take that for a failing
    case.
    """


@dataclass
class Answers:
    """The verdicts of one test, so that a case has one answer, and an end to the time that it takes.

    confirm: asks a failure on a target again in fresh processes; shorter: makes what depends on others of
    less, until it is told to stop. first: called with the first failure of each class and the target, when it
    is seen and has been asked again. most_seconds: of exploration. ran_out: whether a shrink ran out of time.
    company: by case and target, the failures that need other calls before them, or did not come again.
    """

    first: Callable[[Verdict, Confirmed, str], None] = lambda verdict, sure, target: None
    most_seconds: float = math.inf
    verdicts: dict[tuple[str, str], Verdict] = field(default_factory=dict)
    kinds: set[type] = field(default_factory=set)
    until: float = math.inf
    ran_out: bool = False
    confirm: Callable[[Call, Verdict, str], Confirmed] = lambda call, verdict, target: Confirmed(
        call, verdict
    )
    shorter: Callable[[Confirmed, str, Callable[[], bool]], Confirmed] = lambda sure, target, expired: sure
    company: dict[tuple[str, str], Confirmed] = field(default_factory=dict)
    _began: float | None = None
    _error: Exception | None = None

    def verdict(
        self, case: Case, target: str, run: Callable[[Case], Verdict], relation: str | None = None
    ) -> Verdict | None:
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
                raise TimeUp if self._error is None else self._error
            try:
                verdict = run(case)
            except Exception as error:  # Hypothesis asks again; time that is up must not hide it
                self._error = error
                raise
            if verdict.failure is not None and type(verdict.failure) not in self.kinds:
                self.kinds.add(type(verdict.failure))
                self.until = time.monotonic() + SHRINK_SECONDS
                sure = self.confirm(Call(case, relation), verdict, target)
                self.first(verdict, sure, target)
                if not sure.alone:
                    sure = self.shorter(sure, target, lambda: time.monotonic() >= self.until)
                    self.company[key] = sure
                    verdict, self.until = replace(verdict, failure=sure.failure), -math.inf
                elif isinstance(verdict.failure, FAULTS) and verdict.confirmed:
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

    def shrunk(self, verdict: Verdict, drawn: bool) -> str:
        """How far a failing case was shrunk, one of finding.SHRINKS. drawn: by Hypothesis, which shrinks."""
        if not verdict.confirmed or not (drawn or isinstance(verdict.failure, FAULTS)):
            return UNSHRUNK
        return OUT_OF_TIME if self.ran_out else COMPLETE

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

        return verdicts[by_field.simplest(verdict.case, fails, expired).id]


class Harness:
    """Runs cases for the tests of one process, on one backend.

    isolation: as asked, or None. findings: the folder that findings are saved to. folder: where the case that
    runs is noted and children print to, under the name of this process; None for one of its own.
    hang_seconds: after which a child's case counts as hung; None for what suits the backend.
    """

    def __init__(
        self,
        backend: str,
        isolation: str | None,
        findings: Path,
        name: str = "main",
        folder: Path | None = None,
        hang_seconds: float | None = None,
    ) -> None:
        self.backend, self.isolation, self.findings, self.name = backend, isolation, Corpus(findings), name
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
        return self._by_way(ways.chosen(asked, target, self.backend))

    def _by_way(self, way: str) -> Runner:
        if way not in self._runners:
            log = self.folder / f"{self.name}.log"
            self._runners[way] = ways.runner(way, self.backend, log, self.hang_seconds)
        return self._runners[way]

    @property
    def fresh(self) -> ways.Isolated:
        """What runs calls in fresh processes, however cases are run otherwise."""
        runner = self._by_way("child")
        assert isinstance(runner, ways.Isolated)
        return runner

    def confirm(self, call: Call, verdict: Verdict, target: str) -> Confirmed:
        """A failure, asked again in fresh processes."""
        asked = None if isinstance(self.runner(target), ways.Isolated) else False
        return Confirm(self.fresh, target)(call, verdict, asked)

    def shorter(self, sure: Confirmed, target: str, expired: Callable[[], bool]) -> Confirmed:
        """What depends on other calls, after fewer and simpler ones."""
        return preludes.shorter(Confirm(self.fresh, target), sure, expired)

    def replay(self, finding: Finding) -> Verdict:
        """The verdict on a finding, run as it was found. Raises RunnerError."""
        if apart(finding):
            return again(finding, self.fresh)
        return self.run(finding.trace or finding.case, finding.target, finding.kind)

    def left_behind(self, name: str) -> Finding | None:
        """What another process of this folder, which has ended, was running, as a finding that has been asked
        again; None if it ended between cases.
        """
        found = current(_note(self.folder, name))
        if found is None:
            return None
        case, about = found
        target, calls = about["target"], ran(_note(self.folder, name), about["target"])
        message = f"the pytest worker {name} ended while this case ran"
        failure = KernelCrashed(case.op, None, None, message)
        seen = Verdict(case, target, about["backend"], failure, before=calls[:-1])
        try:
            sure = Confirm(self.fresh, target)(calls[-1] if calls else Call(case), seen, asked=False)
        except ways.RunnerError:
            sure = Confirmed(Call(case), seen, reproduced=False)
        return self.finding(replace(sure, verdict=seen) if sure.alone else sure, target)

    def run(self, case: Case | Trace, target: str, kind: str | None = None) -> Verdict:
        """The verdict on a case or a trace, which lies on disk meanwhile. Raises RunnerError."""
        runner = self.runner(target, kind)
        self._current = self._current or CurrentCase(_note(self.folder, self.name))
        in_child = isinstance(runner, ways.Isolated)
        call = Call(case, relation_of(kind))
        self._current.write(call, target, backend=self.backend, in_child=in_child)
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

    def finding(self, sure: Confirmed, target: str, unshrunk: Case | None = None) -> Finding:
        """What was confirmed, as a finding."""
        if self._device is None and self.backend == "gpu":
            self._device = self.runner(target).about(None).device
        case, failure = call_of(sure.call.subject), sure.failure
        return Finding(
            case=case,
            target=target,
            backend=self.backend,
            kind=failure.kind,
            message=failure.message,
            tensor=failure.tensor,
            place=failure.place,
            versions=versions(self._device),
            found=today(),
            unshrunk=None if unshrunk == case else unshrunk,
            prelude=fitting(sure.prelude),
            reproduced=sure.reproduced,
            shrink=UNSHRUNK,
        )

    def documented(self, finding: Finding) -> list[str]:
        """Lay a script, and a picture, beside a finding's file; what they are, in lines."""
        try:
            runner = self.fresh if finding.prelude else self.runner(finding.target, finding.kind)
            picture = finding.kind not in FAULT_KINDS
            script, *pictures = runner.document(finding, self.findings.path, picture)
            return [f"script {script}", *(f"picture {one}" for one in pictures)]
        except Exception as error:
            # The finding is on disk and must be told; what else is made of it may fail, and says so.
            return [f"no script or picture: {type(error).__name__}: {error}"]


def leaves(error: BaseException) -> Iterator[CheckFailure]:
    """The checked failures in an exception, which Hypothesis groups where there are several."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    elif "diffgdn" in error.__dict__:
        yield error  # type: ignore[misc]


def unfinished(finding: Finding, path: Path) -> list[str]:
    """That a finding may yet become smaller, and how, in lines; none of one that has been shrunk."""
    word = UNFINISHED.get(finding.shrink or "")
    return [] if word is None else [f"{word}; to take it up again:", f"    diffgdn shrink {path}"]


def _note(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"
