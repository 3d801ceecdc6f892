"""The part of a worker that imports Hypothesis and does tasks. Kernels run where the runner runs them."""

from __future__ import annotations

import dataclasses
import os
import time
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis.strategies import SearchStrategy

from diffgdn import strategies
from diffgdn.campaign import resume, tasks
from diffgdn.campaign.case_batch import CaseBatch, Passed, Worker, case_run
from diffgdn.campaign.config import Workers
from diffgdn.campaign.coverage import Counts
from diffgdn.campaign.events import COUNTED
from diffgdn.campaign.trace_batch import TraceBatch
from diffgdn.cases.case import Case
from diffgdn.cases.prelude import Call, fitting
from diffgdn.cases.trace import Trace, call_of
from diffgdn.findings import bucket
from diffgdn.findings.finding import COMPLETE, OUT_OF_TIME, Finding, shows_in_company, versions
from diffgdn.runner.child_process import say
from diffgdn.runner.confirm import Confirmed
from diffgdn.runner.harness import Harness
from diffgdn.runner.messages import About, RunnerError, SetupError
from diffgdn.search import preludes
from diffgdn.verdict.failures import DAMAGED, CheckFailure, Verdict
from diffgdn.verdict.question import PlayTrace, Subject, question_of

if TYPE_CHECKING:
    from diffgdn.strategies import Menu


class Session:
    """What a worker keeps between tasks: the harness, strategies, the verdicts on cases that passed."""

    def __init__(self, workers: Workers, pipe: Connection, note: Path, log: Path) -> None:
        self._workers, self._pipe = workers, pipe
        self._harness = Harness(
            workers.backend,
            note,
            log,
            workers.isolation,
            workers.hang_seconds,
            workers.memory_bytes,
            workers.seed,
            on_broken=_end,
            known=workers.known,
            base=workers.base,
        )
        self._strategies: dict[str, SearchStrategy[Case]] = {}
        self._passed = Passed()
        self._doubts: Counter[tasks.Key] = Counter()
        self._batch: CaseBatch | TraceBatch | None = None  # the latest
        self._counts = Counts()  # of the task that is being done
        if workers.target is not None:
            self._harness.runner(workers.target)  # a child starts while Hypothesis gets ready

    def close(self) -> None:
        """End what was started."""
        self._harness.close()

    def ready(self) -> tasks.Ready:
        """Tell what the campaign must know about the target before it plans. Raises SetupError."""
        target = self._workers.target
        if target is None:
            return tasks.Ready("", {}, (), "vk")
        self._about = about = self._harness.about(target)
        known = versions(about.device)
        return tasks.Ready(
            about.device,
            known,
            about.operations,
            about.layout,
            about.configurations,
            about.promises,
            about.heads_compiled,
        )

    def do(self, task: tasks.Task) -> tasks.Done:
        """Run a task. A fault of the machinery, not of a kernel, becomes an error in the answer."""
        self._counts = Counts()
        done = self._do(task)
        return dataclasses.replace(done, coverage=self._counts) if self._counts.cases else done

    def _count(self, subject: Subject) -> None:
        """Count what a case or a trace reaches, if that is asked for."""
        if self._workers.coverage:
            self._counts.add(subject)

    def _do(self, task: tasks.Task) -> tasks.Done:
        try:
            match task:
                case tasks.Explore():
                    return self._explore(task)
                case tasks.RunCase():
                    return self._run_case(task)
                case tasks.Document():
                    self._harness.document(task.finding, Path(task.folder))
                    return tasks.Done()
                case tasks.Confirm():
                    return self._confirm(task)
                case tasks.Shrink() if shows_in_company(task.finding):
                    return self._shrink_in_company(task)
                case tasks.Shrink():
                    return resume.shrink_finding(task, self._harness, self._pipe)
            raise TypeError(f"unknown task {task!r}")
        except RunnerError as error:
            return tasks.Done(error=str(error))
        except (OSError, EOFError):
            raise  # the pipe
        except Exception as error:
            say(traceback.format_exc())
            frame = traceback.extract_tb(error.__traceback__)[-1]
            line = (str(error).strip() or "no message").splitlines()[0]
            where = f"{os.path.basename(frame.filename)}:{frame.lineno}"
            return tasks.Done(error=f"{type(error).__name__} at {where}: {line}")

    def _run_case(self, task: tasks.RunCase) -> tasks.Done:
        finding, question = task.finding, task.question
        if finding is None:
            call = Call(task.case, question.relation)
            verdict = self._harness.ask(task.case, task.target, question, picture=task.picture)
        else:
            call = finding.call
            question = question_of(call)
            verdict = self._harness.replay(finding, task.picture, task.fresh)
        if task.phase in COUNTED and verdict.refused is None:
            self._count(call.subject)
        self._pipe.send(case_run(verdict, task.phase, call.subject, question))
        failure = verdict.failure
        if failure is not None and finding is None and not task.picture and verdict.known is None:
            sure = self._harness.confirm(call, verdict, task.target)
            if sure.verdict.known is None:
                found = self._harness.finding(sure, task.target)
                self._pipe.send(tasks.Failed(found, shrinks=False, again=sure.reproduced and not sure.alone))
        return tasks.Done(
            cases=1,
            seconds=sum(verdict.seconds.values()),
            failure=None if failure is None else failure.to_json(),
            refused=verdict.refused,
            text=verdict.picture,
            known=verdict.known,
        )

    def _explore(self, task: tasks.Explore) -> tasks.Done:
        target = self._workers.target
        assert target is not None
        worker = Worker(
            self._harness,
            target,
            self._pipe.send,
            self._listen,
            self._passed,
            self._doubts,
            self._count,
        )
        if isinstance(task.question, PlayTrace):
            self._batch = traces = TraceBatch(task, worker)
            return traces.search(self._about.operations, self._about.promises)
        self._batch = cases = CaseBatch(task, worker, self._about.promises)
        return cases.search(self._strategy(task.operation, self._about, task.menu))

    def _listen(self) -> set[tasks.Key]:
        """What other workers have found meanwhile."""
        keys = set()
        while self._pipe.poll():
            message = self._pipe.recv()
            if isinstance(message, tasks.Known):
                keys.add(message.key)
            elif isinstance(message, tasks.Stop) and self._batch is not None:
                self._batch.stop()
        return keys

    def _strategy(self, operation: str, about: About, menu: Menu | None) -> SearchStrategy[Case]:
        """Make the strategy of an operation, on the one menu that a campaign has; once, as that takes
        Hypothesis a while."""
        if operation not in self._strategies:
            self._strategies[operation] = strategies.cases(
                operation,
                backend=self._workers.backend,
                menu=menu,
                configs=about.configurations[operation],
                layout=about.layout,
                promises=about.promises,
            )
        return self._strategies[operation]

    def _confirm(self, task: tasks.Confirm) -> tasks.Done:
        """Ask a finding again that another process has told of: alone first, if that has not been asked."""
        began = time.monotonic()
        smaller = self._shorter(task.finding, task.until)
        self._pipe.send(tasks.Shrunk(task.finding, smaller, time.monotonic() - began))
        return tasks.Done()

    def _shrink_in_company(self, task: tasks.Shrink) -> tasks.Done:
        """As `resume.shrink_finding`, for what takes a process of its own."""
        began = time.monotonic()
        verdict = self._harness.replay(task.finding)
        failure = verdict.failure
        if failure is None or bucket.fault(failure.kind) != bucket.fault(task.finding.kind):
            return tasks.Done(failure=None if failure is None else failure.to_json(), refused=verdict.refused)
        smaller = self._shorter(task.finding, began + task.seconds)
        self._pipe.send(tasks.Shrunk(task.finding, smaller, time.monotonic() - began))
        return tasks.Done()

    def _shorter(self, first: Finding, until: float) -> Finding:
        """Make a finding smaller that takes a process of its own."""
        failure = CheckFailure.from_json(
            {"operation": first.operation, "tensor": first.tensor, "place": first.place}
            | {"kind": first.kind, "message": first.message}
        )
        verdict = Verdict(first.case, first.target, first.backend, failure, before=first.prelude)
        confirm = self._harness.asking(first.target)
        if first.reproduced:
            heap = failure.message.startswith(DAMAGED)
            sure = Confirmed(first.call, verdict, first.prelude, heap=heap)
        else:
            sure = confirm(first.call, verdict, asked=False)
        promises = self._harness.about(first.target).promises
        sure = preludes.shorter(confirm, sure, lambda: time.monotonic() >= until, promises)
        case, failure = call_of(sure.call.subject), sure.failure
        before = first.unshrunk or first.case
        return dataclasses.replace(
            first,
            case=case,
            trace=sure.call.subject if isinstance(sure.call.subject, Trace) else None,
            kind=failure.kind,
            message=failure.message,
            tensor=failure.tensor,
            place=failure.place,
            unshrunk=None if before == case or first.trace is not None else before,
            prelude=fitting(sure.prelude),
            reproduced=sure.reproduced,
            shrink=OUT_OF_TIME if time.monotonic() >= until else COMPLETE,
        )


def _end(reason: str) -> None:
    """End this worker: a kernel has broken its GPU context. The case stays noted, and the campaign reads
    it."""
    say(reason)
    os._exit(tasks.POISONED)


__all__ = ["Session", "SetupError"]
