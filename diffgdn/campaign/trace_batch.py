"""One batch of traces of one family: drawn, played, told of, and shrunk if one fails in a new way."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import replace

from diffgdn.campaign import tasks
from diffgdn.campaign.case_batch import FAMILIAR, Worker, case_run
from diffgdn.cases.prelude import Call
from diffgdn.cases.trace import Trace
from diffgdn.findings.finding import COMPLETE, OUT_OF_TIME, Finding
from diffgdn.runner.confirm import Confirmed
from diffgdn.search.traces.find import Search, shrunk
from diffgdn.search.traces.smaller import Outcome
from diffgdn.verdict.failures import CheckFailure, Verdict


class TraceBatch:
    """A search that lets a known failure pass, and ends with the first trace that fails in a new way."""

    def __init__(self, task: tasks.Explore, worker: Worker) -> None:
        self._task, self._worker = task, worker
        self._known = set(task.known)
        self._explored = 0
        self._shrinking = task.again
        self._failed: dict[str, Verdict] = {}  # by id of the trace, as far as its failing step
        self._stopped = False

    def stop(self) -> None:
        """End the search before its next trace; what is being shrunk stays as small as it has become."""
        self._stopped = True

    def search(self, operations: Collection[str]) -> tasks.Done:
        """Look for a failing trace of the task's family, among the operations that the target has."""
        task, worker = self._task, self._worker
        search = Search(self._explore, lambda: math.isinf(self._clock()) or self._is_late())
        family = task.operation.partition(".")[0]
        found = search.run(family, operations, worker.harness.backend, task.cases + FAMILIAR, task.seed)
        if found is not None:
            self._tell(*found)
        return tasks.Done(cases=self._explored, findings=int(found is not None))

    def _explore(self, trace: Trace) -> Outcome:
        if self._worker.passed.get(trace, self._task.question) is not None:
            return None
        outcome = self._play(trace)
        if outcome is None:
            return None
        key = self._worker.key(Call(trace), outcome[0])
        return outcome if key not in self._known and self._worker.has_turn(key, self._known) else None

    def _play(self, trace: Trace) -> Outcome:
        """Play a trace: its failure and the number of its step. One that the target refuses counts as
        passing, and so
        does one that fails as is known."""
        question, worker = self._task.question, self._worker
        self._known |= worker.listen()
        verdict = worker.harness.ask(trace, worker.target, question)
        known = verdict.failure is not None and worker.key(Call(trace), verdict.failure) in self._known
        self._explored += not self._shrinking and verdict.refused is None
        worker.send(case_run(verdict, "explore", trace, question, self._shrinking, known))
        if verdict.failure is None or verdict.known is not None:
            worker.passed.add(trace, question, verdict)
            return None
        at = len(trace.steps) - 1 if verdict.step is None else verdict.step
        self._failed[replace(trace, steps=trace.steps[: at + 1]).id] = verdict
        return verdict.failure, at

    def _tell(self, trace: Trace, failure: CheckFailure) -> None:
        """Tell of a trace that fails in a new way, and make it smaller if it is for this batch to do."""
        worker, began = self._worker, time.monotonic()
        sure = self._confirm(trace, failure)
        first = self._finding(sure)
        if tasks.key(first) in self._known or sure.verdict.known is not None:
            return
        shrinks = sure.alone and self._task.shrink
        worker.send(tasks.Failed(first, shrinks, again=sure.reproduced and not sure.alone))
        if shrinks:
            self._shrinking = True
            smaller = self._shrink(trace, sure)
            worker.send(tasks.Shrunk(first, smaller, time.monotonic() - began))

    def _shrink(self, trace: Trace, first: Confirmed) -> Finding:
        """Make a trace smaller that fails alone. Where the smallest does not, the shrink was led astray by
        what other traces had left in the process, which is a failure of its own.
        """
        found, failure, _, complete = shrunk(
            trace, first.failure, self._play, self._task.shrink_seconds, self._clock
        )
        sure = first if found == trace else self._confirm(found, failure)
        if sure.verdict.known is not None:
            sure, complete = first, False
        elif not sure.alone:
            astray = self._finding(sure)
            self._worker.send(tasks.Failed(astray, shrinks=False, again=sure.reproduced))
            sure, complete = first, False
        return replace(self._finding(sure), shrink=COMPLETE if complete else OUT_OF_TIME)

    def _confirm(self, trace: Trace, failure: CheckFailure) -> Confirmed:
        verdict = replace(self._failed[trace.id], failure=failure)
        return self._worker.confirm(Call(trace), verdict, self._task.question)

    def _finding(self, sure: Confirmed) -> Finding:
        worker = self._worker
        failure = worker.harness.explained(sure.failure, sure.call, worker.target)
        told = replace(sure, verdict=replace(sure.verdict, failure=failure))
        return worker.harness.finding(told, worker.target)

    def _is_late(self) -> bool:
        deadline = self._task.deadline
        return not self._shrinking and deadline is not None and time.monotonic() >= deadline

    def _clock(self) -> float:
        """Ends the search, by being late, when the traces are used up; a shrink, when all shrinks must
        end."""
        if self._stopped:
            return math.inf
        now, until = time.monotonic(), self._task.shrink_until
        if self._shrinking:
            return math.inf if until is not None and now >= until else now
        return math.inf if self._explored >= self._task.cases else now
