"""The part of a worker that takes up the shrink of a finding, of a case or of a trace."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from multiprocessing.connection import Connection

from diffgdn.campaign import tasks
from diffgdn.campaign.astray import smallest_alone
from diffgdn.campaign.case_batch import case_run
from diffgdn.cases.case import Case
from diffgdn.cases.prelude import Call
from diffgdn.cases.trace import Trace
from diffgdn.findings import bucket
from diffgdn.findings.finding import COMPLETE, OUT_OF_TIME, Finding, versions
from diffgdn.runner.confirm import Confirmed
from diffgdn.runner.harness import Harness
from diffgdn.search import hypothesis_search
from diffgdn.verdict.failures import CheckFailure, Verdict
from diffgdn.verdict.question import Subject, question_of


class _Resumed:
    """A shrink of one finding. It ends early, with what it has, when it is told to stop."""

    def __init__(self, finding: Finding, harness: Harness, pipe: Connection) -> None:
        self.finding, self._harness, self._pipe = finding, harness, pipe
        self._stopped = False
        self._failed: list[Verdict] = []
        self.last: Verdict | None = None  # of the case that was run last
        self.ran = finding.provenance  # where it failed last

    def clock(self) -> float:
        """The time; past all limits once the worker has been told to stop."""
        while self._pipe.poll():
            self._stopped |= isinstance(self._pipe.recv(), tasks.Stop)
        return math.inf if self._stopped else time.monotonic()

    def run(self, subject: Subject) -> Verdict:
        """Ask what the finding was asked. What does not come again in a fresh process counts as passing, and
        so does what is known, unless the finding itself is.
        """
        finding = self.finding
        question = question_of(Call(subject, finding.call.relation))
        verdict = self._harness.ask(subject, finding.target, question, finding.kind)
        self._pipe.send(case_run(verdict, "explore", subject, question, shrinking=True))
        self.last = verdict
        slides = verdict.known is not None and self._harness.known.of(finding) is None
        if not verdict.confirmed or slides:
            return replace(verdict, failure=None)
        if verdict.failure is not None and bucket.fault(verdict.failure.kind) == bucket.fault(finding.kind):
            self._failed.append(verdict)
            self.ran = {**self.ran, **verdict.provenance}
        return verdict

    def of_case(self, seconds: float) -> Finding | None:
        finding = self.finding
        promises = self._harness.about(finding.target).promises
        found = hypothesis_search.again(finding.case, finding.kind, self.run, seconds, self.clock, promises)
        if found is None:
            return None
        first = Confirmed(self._call(finding.case), self._failed[0])
        sure = smallest_alone(self._failed, found.case, first, self._confirm, self._tell)
        case, complete = sure.verdict.case, found.complete and sure.verdict.case == found.case
        failure = self._harness.explained(sure.failure, sure.call, finding.target)
        before = finding.unshrunk or (None if case == finding.case else finding.case)
        return _described(replace(finding, case=case, unshrunk=before), failure, complete)

    def _call(self, case: Case) -> Call:
        return Call(case, self.finding.call.relation)

    def _confirm(self, case: Case, verdict: Verdict) -> Confirmed:
        sure = self._harness.confirm(self._call(case), verdict, self.finding.target)
        if self._harness.known.of(self.finding) is None:
            return sure
        return replace(sure, verdict=replace(sure.verdict, known=None))  # what is known itself may stay so

    def _tell(self, sure: Confirmed) -> None:
        """Of what does not fail alone."""
        if sure.verdict.known is None:
            astray = self._harness.finding(sure, self.finding.target)
            self._pipe.send(tasks.Failed(astray, shrinks=False, again=sure.reproduced))

    def of_trace(self, trace: Trace, seconds: float) -> Finding | None:
        from diffgdn.search.traces.find import shrunk

        failure = self.run(trace).failure
        if failure is None or bucket.fault(failure.kind) != bucket.fault(self.finding.kind):
            return None
        smaller, failure, _, complete = shrunk(trace, failure, self._play, seconds, self.clock)
        changed = replace(self.finding, case=smaller.last_call(), trace=smaller)
        return _described(changed, failure, complete)

    def _play(self, trace: Trace) -> tuple[CheckFailure, int] | None:
        verdict = self.run(trace)
        if verdict.failure is None:
            return None
        return verdict.failure, len(trace.steps) - 1 if verdict.step is None else verdict.step


def shrink_finding(task: tasks.Shrink, harness: Harness, pipe: Connection) -> tasks.Done:
    """Do the task: send the smaller finding, or answer with what the finding does now. Raises RunnerError."""
    began, resumed = time.monotonic(), _Resumed(task.finding, harness, pipe)
    trace = task.finding.trace
    smaller = resumed.of_case(task.seconds) if trace is None else resumed.of_trace(trace, task.seconds)
    if smaller is not None:
        smaller = replace(
            smaller, backend=harness.backend, versions=versions(harness.device), provenance=resumed.ran
        )
        pipe.send(tasks.Shrunk(task.finding, smaller, time.monotonic() - began))
        return tasks.Done()
    assert resumed.last is not None
    failure = resumed.last.failure
    return tasks.Done(failure=None if failure is None else failure.to_json(), refused=resumed.last.refused)


def _described(finding: Finding, failure: CheckFailure, complete: bool) -> Finding:
    return replace(
        finding,
        kind=failure.kind,
        message=failure.message,
        tensor=failure.tensor,
        place=failure.place,
        shrink=COMPLETE if complete else OUT_OF_TIME,
    )
