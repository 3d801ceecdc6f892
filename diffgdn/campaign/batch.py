"""One batch of cases of one operation: generated, run, told of, and shrunk where one fails in a new way."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from hypothesis.strategies import SearchStrategy

from diffgdn import bucket, shrink
from diffgdn.campaign import tasks
from diffgdn.case import Case
from diffgdn.corpus import COMPLETE, OUT_OF_TIME, Finding
from diffgdn.events import CaseRun
from diffgdn.isolate import Familiar
from diffgdn.verdict import CheckFailure, Verdict

FAMILIAR = 5  # examples of a batch that may have been run before: the simplest ones come first in each
REMEMBERED = 5000


class Passed:
    """Verdicts on the latest cases that passed: every batch begins with the simplest cases again."""

    def __init__(self) -> None:
        self._verdicts: OrderedDict[tuple[str, str | None], Verdict] = OrderedDict()

    def get(self, case: Case, relation: str | None) -> Verdict | None:
        return self._verdicts.get((case.id, relation))

    def add(self, verdict: Verdict, relation: str | None) -> None:
        self._verdicts[verdict.case.id, relation] = verdict
        if len(self._verdicts) > REMEMBERED:
            self._verdicts.popitem(last=False)


class Batch:
    """A search that lets a known failure pass, so that exploration goes past it.

    run: gives the verdict on a case, as `Runner.run`. send: takes events and answers for the campaign.
    listen: gives what other workers have found since it was last asked. finding: makes one of a case, its
    failure and the case it was first seen on. explain: gives a failure in more words.
    """

    def __init__(
        self,
        task: tasks.Explore,
        run: Callable[[Case, Familiar], Verdict],
        send: Callable[[Any], None],
        listen: Callable[[], set[tasks.Key]],
        finding: Callable[[Case, CheckFailure, Case | None], Finding],
        passed: Passed,
        explain: Callable[[Case, CheckFailure], CheckFailure] = lambda case, failure: failure,
    ) -> None:
        self._task, self._run, self._send, self._listen = task, run, send, listen
        self._finding, self._passed, self._explain = finding, passed, explain
        self._known = set(task.known)
        self._announced: dict[str, tuple[Finding, float]] = {}  # by kind of failure, with the time
        self._finished: set[str] = set()  # kinds of failure
        self._explored = 0
        self._shrinking = task.again
        self._kind: str | None = None  # of failure, that is being shrunk
        self._stopped = False

    def stop(self) -> None:
        """End the search before its next case; what is being shrunk stays as small as it has become."""
        self._stopped = True

    def search(self, strategy: SearchStrategy[Case]) -> tasks.Done:
        task = self._task
        shrink.find(
            strategy,
            self._answer,
            max_examples=task.cases + FAMILIAR,
            seed=task.seed,
            max_shrink_seconds=task.shrink_seconds,
            deadline=math.inf if task.deadline is None else task.deadline,
            clock=self._clock,
            on_shrunk=self._shrunk,
            by_field=task.menu is None,  # a case off the menu would have to be compiled for
        )
        return tasks.Done(cases=self._explored, findings=len(self._announced))

    def _answer(self, case: Case) -> Verdict:
        self._known |= self._listen()
        before = self._passed.get(case, self._task.relation)
        if before is not None:
            return before
        verdict = self._run(case, lambda fault: self._is_familiar(case, fault))
        failure = verdict.failure
        known = failure is not None and self._is_known(case, failure)
        self._explored += not self._shrinking
        self._send(case_run(verdict, "explore", self._shrinking, known, self._task.relation))
        if failure is None:
            self._passed.add(verdict, self._task.relation)
        elif not verdict.confirmed:
            # What does not come again cannot be made smaller; but it was seen, and is told of.
            if not known:
                self._send(tasks.Failed(self._finding(case, failure, None), shrinks=False))
        else:
            kind = bucket.fault(failure.kind)
            if kind == self._kind:
                # Also into a known bucket: a bug that shows in many places ends in one of them, as one
                # finding.
                return verdict
            if not known and kind not in self._finished:
                self._announce(case, failure)
                if self._task.shrink:
                    self._shrinking = True
                    self._kind = self._kind or kind
                    return verdict
        return dataclasses.replace(verdict, failure=None, comparison=None)

    def _is_known(self, case: Case, failure: CheckFailure) -> bool:
        return tasks.key(self._finding(case, failure, None)) in self._known

    def _is_familiar(self, case: Case, fault: CheckFailure) -> bool:
        """Whether a fault needs no confirmation: here or elsewhere it has been confirmed on another case."""
        if self._shrinking:
            return False
        mine = {tasks.key(finding) for finding, _ in self._announced.values()}
        return tasks.key(self._finding(case, fault, None)) in self._known | mine

    def _announce(self, case: Case, failure: CheckFailure) -> None:
        kind = bucket.fault(failure.kind)
        if kind not in self._announced:
            finding = self._finding(case, self._explain(case, failure), None)
            self._announced[kind] = finding, time.monotonic()
            self._send(tasks.Failed(finding, self._task.shrink))

    def _shrunk(self, found: shrink.Found) -> None:
        kind = bucket.fault(found.failure.kind)
        self._finished.add(kind)
        self._shrinking, self._kind = self._task.again, None
        first, since = self._announced[kind]
        smaller = self._finding(found.case, self._explain(found.case, found.failure), found.unshrunk)
        smaller = dataclasses.replace(smaller, shrink=COMPLETE if found.complete else OUT_OF_TIME)
        self._send(tasks.Shrunk(first, smaller, time.monotonic() - since))

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
    shrinking: bool = False,
    repeated: bool = False,
    relation: str | None = None,
) -> CaseRun:
    """The event that tells of a verdict."""
    failure = verdict.failure
    return CaseRun(
        operation=verdict.case.op,
        phase=phase,
        seconds=sum(verdict.seconds.values()),
        share=max(verdict.shares.values(), default=None),
        exact=verdict.exact,
        failure=None if failure is None else failure.kind,
        refused=verdict.refused,
        shrinking=shrinking,
        repeated=repeated,
        relation=relation,
        parts=verdict.seconds,
        case=verdict.case,
        rejected=verdict.rejected,
        errors=verdict.errors,
    )
