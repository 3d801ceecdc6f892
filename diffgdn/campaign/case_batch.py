"""One batch of cases of one operation: generated, run, told of, and shrunk if one fails in a new way."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from hypothesis.strategies import SearchStrategy

from diffgdn.campaign import tasks
from diffgdn.campaign.astray import smallest_alone
from diffgdn.campaign.events import CaseRun
from diffgdn.cases.case import Case
from diffgdn.cases.prelude import Call
from diffgdn.cases.promises import EVERYTHING, Promises
from diffgdn.cases.trace import Trace, call_of
from diffgdn.findings import bucket
from diffgdn.findings.finding import COMPLETE, OUT_OF_TIME, Finding
from diffgdn.runner.confirm import Confirmed
from diffgdn.runner.harness import Harness
from diffgdn.search import hypothesis_search
from diffgdn.verdict.failures import CheckFailure, Verdict
from diffgdn.verdict.question import Question, Subject

FAMILIAR = 5  # examples of a batch that may have been run before: the simplest ones come first in each
REMEMBERED = 5000
COMPANY = "after calls that the case names"  # stands for a region, where turns are counted


class Passed:
    """Verdicts on the latest cases that passed: every batch begins with the simplest cases again."""

    def __init__(self) -> None:
        self._verdicts: OrderedDict[tuple[str, Question], Verdict] = OrderedDict()

    def get(self, subject: Subject, question: Question) -> Verdict | None:
        """Look up the verdict on a case or a trace; None for one that is new, or was long ago."""
        return self._verdicts.get((subject.id, question))

    def add(self, subject: Subject, question: Question, verdict: Verdict) -> None:
        """Remember a verdict that passed."""
        self._verdicts[subject.id, question] = verdict
        if len(self._verdicts) > REMEMBERED:
            self._verdicts.popitem(last=False)


@dataclass(frozen=True)
class Worker:
    """What a batch needs of the worker that runs it.

    send: takes events and answers for the campaign. listen: gives what other workers have found since it was
    last asked. doubts: how often failures were met that may be those of a finding that takes other calls
    before it. count: takes each case and trace that was run to explore.
    """

    harness: Harness
    target: str
    send: Callable[[Any], None]
    listen: Callable[[], set[tasks.Key]]
    passed: Passed
    doubts: Counter[tasks.Key]
    count: Callable[[Subject], None] = lambda subject: None

    def confirm(self, call: Call, verdict: Verdict, question: Question) -> Confirmed:
        """Ask a failure again in fresh processes; without a kernel there is nothing to ask."""
        if not question.calls_kernel:
            return Confirmed(call, verdict)
        return self.harness.confirm(call, verdict, self.target)

    def key(self, call: Call, failure: CheckFailure) -> tasks.Key:
        """The key of a failure that comes alone."""
        seen = Verdict(call_of(call.subject), "", "", failure)
        return tasks.key(self.harness.finding(Confirmed(call, seen), self.target))

    def has_turn(self, key: tasks.Key, known: Collection[tasks.Key]) -> bool:
        """Whether to ask a failure again that no known finding stands for. Where one of its kind takes other
        calls before it, was seen once, or damages the heap for others, it will mostly be that: it is asked
        the first time, the second, the fourth and so on, as each time takes a process.
        """
        doubtful = {f"{key.fault}, {word}" for word in bucket.COMPANY}
        damage = [one for one in known if one.region == bucket.HEAP and one.fault == key.fault]
        if not damage and not any(one.fault in doubtful and one[:2] == key[:2] for one in known):
            return True
        self.doubts[key] += 1
        return self.doubts[key].bit_count() == 1


class CaseBatch:
    """A search that lets a known failure pass, so that exploration goes past it."""

    def __init__(self, task: tasks.Explore, worker: Worker, promises: Promises = EVERYTHING) -> None:
        self._task, self._worker, self._promises = task, worker, promises
        self._known = set(task.known)
        self._announced: dict[str, tuple[Finding, float]] = {}  # by kind of failure, with the time
        self._finished: set[str] = set()  # kinds of failure
        self._explored = 0
        self._shrinking = task.again
        self._kind: str | None = None  # of failure, that is being shrunk
        self._failed: dict[str, Verdict] = {}  # by id of the case, while it is being shrunk
        self._stopped = False

    def stop(self) -> None:
        """End the search before its next case; what is being shrunk stays as small as it has become."""
        self._stopped = True

    def search(self, strategy: SearchStrategy[Case]) -> tasks.Done:
        task = self._task
        hypothesis_search.find(
            strategy,
            self._answer,
            max_examples=task.cases + FAMILIAR,
            seed=task.seed,
            max_shrink_seconds=task.shrink_seconds,
            deadline=math.inf if task.deadline is None else task.deadline,
            clock=self._clock,
            on_shrunk=self._shrunk,
            by_field=task.menu is None,  # a case off the menu would have to be compiled for
            promises=self._promises,
        )
        return tasks.Done(cases=self._explored, findings=len(self._announced))

    def _answer(self, case: Case) -> Verdict:
        question, worker = self._task.question, self._worker
        self._known |= worker.listen()
        before = worker.passed.get(case, question)
        if before is not None:
            return before
        verdict = worker.harness.ask(
            case, worker.target, question, familiar=lambda fault: self._is_familiar(case, fault)
        )
        failure = verdict.failure
        known = failure is not None and self._key(case, failure) in self._known
        if not self._shrinking and verdict.refused is None:
            worker.count(case)
        # What a target refuses proves nothing. What a relation does not apply to is counted: else one that
        # seldom applies would take the time of the others.
        self._explored += not self._shrinking and (verdict.refused is None or question.relation is not None)
        worker.send(case_run(verdict, "explore", case, question, self._shrinking, known))
        passing = dataclasses.replace(verdict, failure=None, comparison=None)
        if failure is None or verdict.known is not None:
            # A known failure is let pass, also in a shrink: what is new must not become smaller as another.
            worker.passed.add(case, question, passing)
        elif bucket.fault(failure.kind) == self._kind:
            # Also into a known bucket: a bug that shows in many places ends in one of them, as one finding.
            # Also one that takes other calls before it: what comes out of the shrink is asked again.
            if verdict.confirmed:
                self._failed[case.id] = verdict
                return verdict
        elif not known and bucket.fault(failure.kind) not in self._finished and self._is_to_be_asked(verdict):
            sure = self._confirm(case, verdict)
            if sure.verdict.known is not None:
                return passing
            if not sure.alone:
                self._tell(sure)
            elif self._key(case, sure.failure) not in self._known:
                kind = bucket.fault(sure.failure.kind)
                self._announce(sure)
                if self._task.shrink:
                    self._shrinking = True
                    if self._kind is None:
                        self._kind, self._failed = kind, {case.id: sure.verdict}
                    return sure.verdict
        return passing

    def _call(self, case: Case) -> Call:
        return Call(case, self._task.question.relation)

    def _confirm(self, case: Case, verdict: Verdict) -> Confirmed:
        return self._worker.confirm(self._call(case), verdict, self._task.question)

    def _key(self, case: Case, failure: CheckFailure) -> tasks.Key:
        return self._worker.key(self._call(case), failure)

    def _is_to_be_asked(self, verdict: Verdict) -> bool:
        """Whether to ask a failure again that no finding stands for."""
        assert verdict.failure is not None
        told = bucket.fault(verdict.failure.kind) in self._announced
        if told and (self._kind is not None or not self._task.shrink):
            return False  # it is for a later round, or batch, to shrink that one
        key = self._key(verdict.case, verdict.failure)
        # A case that makes calls before its own may show each time what others show by chance.
        named = key._replace(region=COMPANY) if verdict.case.before else key
        return self._worker.has_turn(named, self._known)

    def _tell(self, sure: Confirmed) -> None:
        """Of what cannot be shrunk in this process: it takes others before it, or did not come again."""
        finding = self._worker.harness.finding(sure, self._worker.target)
        if tasks.key(finding) not in self._known and sure.verdict.known is None:
            self._known.add(tasks.key(finding))
            self._worker.send(tasks.Failed(finding, shrinks=False, again=sure.reproduced))

    def _is_familiar(self, case: Case, fault: CheckFailure) -> bool:
        """Whether a fault needs no confirmation: here or elsewhere it has been confirmed on another case."""
        if self._shrinking:
            return False
        mine = {tasks.key(finding) for finding, _ in self._announced.values()}
        return self._key(case, fault) in self._known | mine

    def _announce(self, sure: Confirmed) -> None:
        kind = bucket.fault(sure.failure.kind)
        if kind not in self._announced:
            finding = self._finding(sure)
            self._announced[kind] = finding, time.monotonic()
            self._worker.send(tasks.Failed(finding, self._task.shrink))

    def _shrunk(self, found: hypothesis_search.Found) -> None:
        kind = bucket.fault(found.failure.kind)
        self._finished.add(kind)
        self._shrinking, self._kind = self._task.again, None
        first, since = self._announced[kind]
        sure = self._smallest_alone(found)
        astray = sure.verdict.case != found.case
        done = found.complete and not astray
        smaller = dataclasses.replace(
            self._finding(sure, found.unshrunk), shrink=COMPLETE if done else OUT_OF_TIME
        )
        self._worker.send(tasks.Shrunk(first, smaller, time.monotonic() - since))

    def _finding(self, sure: Confirmed, unshrunk: Case | None = None) -> Finding:
        """A finding whose failure says as much as it can."""
        worker = self._worker
        failure = worker.harness.explained(sure.failure, sure.call, worker.target)
        told = dataclasses.replace(sure, verdict=dataclasses.replace(sure.verdict, failure=failure))
        return worker.harness.finding(told, worker.target, unshrunk)

    def _smallest_alone(self, found: hypothesis_search.Found) -> Confirmed:
        """The smallest case of a shrink that fails alone. The first one does."""
        steps = list(self._failed.values())
        first = Confirmed(self._call(steps[0].case), steps[0])
        return smallest_alone(steps, found.case, first, self._confirm, self._tell)

    def _clock(self) -> float:
        """Ends the search, by being late, when the cases are used up; a shrink, when all shrinks must end."""
        if self._stopped:
            return math.inf
        now, until = time.monotonic(), self._task.shrink_until
        if self._shrinking:
            return math.inf if until is not None and now >= until else now
        return math.inf if self._explored >= self._task.cases else now


def case_run(
    verdict: Verdict,
    phase: str,
    subject: Subject,
    question: Question,
    shrinking: bool = False,
    repeated: bool = False,
) -> CaseRun:
    """Make the event that tells of a verdict on a case or a trace."""
    failure = verdict.failure
    return CaseRun(
        operation=subject.op,
        phase=phase,
        seconds=sum(verdict.seconds.values()),
        share=max(verdict.shares.values(), default=None),
        exact=verdict.exact,
        failure=None if failure is None else failure.kind,
        refused=verdict.refused,
        shrinking=shrinking,
        repeated=repeated,
        relation=question.relation,
        parts=verdict.seconds,
        case=verdict.case,
        rejected=verdict.rejected,
        errors=verdict.errors,
        known=verdict.known,
        calls=tuple(dict.fromkeys(subject.operations)) if isinstance(subject, Trace) else (subject.op,),
        steps=len(subject.steps) if isinstance(subject, Trace) else None,
    )
