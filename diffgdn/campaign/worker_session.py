"""The part of a worker that imports Hypothesis and does tasks. Kernels run where the runner runs them."""

from __future__ import annotations

import dataclasses
import os
import time
import traceback
from collections import Counter
from collections.abc import Collection, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis.strategies import SearchStrategy

from diffgdn import strategies
from diffgdn.campaign import resume, tasks
from diffgdn.campaign.case_batch import Batch, Passed, case_run
from diffgdn.campaign.worker import Setup, child_log, say
from diffgdn.cases.case import Case
from diffgdn.cases.prelude import Call, fitting
from diffgdn.cases.trace import Trace, call_of
from diffgdn.findings import bucket
from diffgdn.findings.finding import (
    COMPLETE,
    OUT_OF_TIME,
    UNSHRUNK,
    Finding,
    shows_in_company,
    today,
    versions,
)
from diffgdn.runner import ways
from diffgdn.runner.confirm import Confirm, Confirmed, again, apart
from diffgdn.runner.running_case import CurrentCase
from diffgdn.runner.ways import About, Familiar, Runner, RunnerError, SetupError, unfamiliar
from diffgdn.search import preludes
from diffgdn.verdict.failures import DAMAGED, FAULTS, CheckFailure, PoisonLeaked, Verdict

if TYPE_CHECKING:
    from diffgdn.strategies import Menu

FAULT_KINDS = tuple(fault.kind for fault in FAULTS)


class Session:
    """What a worker keeps between tasks: runners, strategies, the verdicts on cases that passed."""

    def __init__(self, setup: Setup, pipe: Connection, current: CurrentCase, index: int) -> None:
        self._setup, self._pipe, self._current = setup, pipe, current
        self._log = child_log(Path(setup.folder), index)
        self._runners: dict[str, Runner] = {}
        self._strategies: dict[str, SearchStrategy[Case]] = {}
        self._passed = Passed()
        self._doubts: Counter[tasks.Key] = Counter()
        self._batch: Batch | None = None  # the latest
        if setup.target is not None:
            self._runner(setup.target)  # a child starts while Hypothesis gets ready

    def close(self) -> None:
        """End what was started."""
        for runner in self._runners.values():
            runner.close()

    def ready(self) -> tasks.Ready:
        """What the campaign must know about the target before it plans. Raises SetupError."""
        target = self._setup.target
        if target is None:
            return tasks.Ready("", {}, (), "vk")
        self._about = about = self._runner(target).about(target)
        self._versions = versions(about.device)
        return tasks.Ready(about.device, self._versions, about.operations, about.layout, about.configurations)

    def do(self, task: tasks.Task) -> tasks.Done:
        """Run a task. A fault of the machinery, not of a kernel, becomes an error in the answer."""
        try:
            if isinstance(task, tasks.Explore):
                return self._explore(task)
            if isinstance(task, tasks.RunCase):
                return self._run_case(task)
            if isinstance(task, tasks.Document):
                return self._document(task)
            if isinstance(task, tasks.Confirm):
                return self._confirm(task)
            if isinstance(task, tasks.Shrink) and shows_in_company(task.finding):
                return self._shrink_in_company(task)
            if isinstance(task, tasks.Shrink):
                device = self._runner(task.finding.target).about(None).device
                return resume.shrink_finding(task, self._run, self._pipe, self._setup.backend, device)
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

    def _runner(self, target: str, kind: str | None = None) -> Runner:
        """What runs a target's cases; one that has crashed or hung runs in a child in any case."""
        asked = "child" if kind in FAULT_KINDS and not self._setup.isolation else self._setup.isolation
        return self._by_way(ways.chosen(asked, target, self._setup.backend))

    def _by_way(self, way: str) -> Runner:
        if way not in self._runners:
            limits = self._setup.hang_seconds, self._setup.memory_bytes
            self._runners[way] = ways.runner(way, self._setup.backend, self._log, *limits)
        return self._runners[way]

    @property
    def _fresh(self) -> ways.Isolated:
        """What runs calls in fresh processes, however cases are run otherwise."""
        runner = self._by_way("child")
        assert isinstance(runner, ways.Isolated)
        return runner

    def _confirmed(self, call: Call, verdict: Verdict) -> Confirmed:
        """A failure of the target, asked again; without a kernel there is nothing to ask."""
        assert self._setup.target is not None
        if self._setup.purpose == "vacuity":
            return Confirmed(call, verdict)
        return self._asking(self._setup.target)(call, verdict)

    def _asking(self, target: str) -> Confirm:
        return Confirm(_Noted(self._fresh, self._current), target)

    def _run(
        self,
        case: Case | Trace,
        target: str,
        kind: str | None = None,
        picture: bool = False,
        familiar: Familiar = unfamiliar,
        relation: str | None = None,
    ) -> Verdict:
        """Run and check a case, its file in place meanwhile.

        Does not return if the kernel broke the GPU context of this process.
        """
        runner = self._runner(target, kind)
        in_child = isinstance(runner, ways.Isolated)
        self._current.write(Call(case, relation), target, in_child=in_child)
        try:
            verdict = runner.run(case, target, picture, familiar, relation, self._setup.purpose)
        finally:
            if runner.broken is not None:
                say(runner.broken)
                os._exit(tasks.POISONED)
            self._current.clear()
        return verdict

    def _run_case(self, task: tasks.RunCase) -> tasks.Done:
        finding = task.finding
        call = Call(task.case) if finding is None else finding.call
        if finding is not None and (task.fresh or apart(finding)):
            verdict = again(finding, _Noted(self._fresh, self._current), task.picture)
        else:
            kind = None if finding is None else finding.kind
            verdict = self._run(call.subject, task.target, kind, task.picture, relation=call.relation)
        self._pipe.send(case_run(verdict, task.phase, relation=call.relation))
        failure = verdict.failure
        if failure is not None and finding is None and not task.picture:
            sure = self._confirmed(call, verdict)
            found = self._finding(sure)
            self._pipe.send(tasks.Failed(found, shrinks=False, again=sure.reproduced and not sure.alone))
        return tasks.Done(
            cases=1,
            seconds=sum(verdict.seconds.values()),
            failure=None if failure is None else failure.to_json(),
            refused=verdict.refused,
            text=verdict.picture,
        )

    def _document(self, task: tasks.Document) -> tasks.Done:
        finding = task.finding
        runner = self._fresh if finding.prelude else self._runner(finding.target, finding.kind)
        runner.document(finding, Path(task.folder), picture=finding.kind not in FAULT_KINDS)
        return tasks.Done()

    def _confirm(self, task: tasks.Confirm) -> tasks.Done:
        """Of a finding that another process has told of: alone first, if that has not been asked."""
        began = time.monotonic()
        smaller = self._shorter(task.finding, task.until)
        self._pipe.send(tasks.Shrunk(task.finding, smaller, time.monotonic() - began))
        return tasks.Done()

    def _shrink_in_company(self, task: tasks.Shrink) -> tasks.Done:
        """As `resume.shrink_finding`, of what takes a process of its own."""
        began = time.monotonic()
        verdict = again(task.finding, _Noted(self._fresh, self._current))
        failure = verdict.failure
        if failure is None or bucket.fault(failure.kind) != bucket.fault(task.finding.kind):
            return tasks.Done(failure=None if failure is None else failure.to_json(), refused=verdict.refused)
        smaller = self._shorter(task.finding, began + task.seconds)
        self._pipe.send(tasks.Shrunk(task.finding, smaller, time.monotonic() - began))
        return tasks.Done()

    def _shorter(self, first: Finding, until: float) -> Finding:
        """A finding that takes a process of its own, made smaller."""
        failure = CheckFailure.from_json(
            {"operation": first.operation, "tensor": first.tensor, "place": first.place}
            | {"kind": first.kind, "message": first.message}
        )
        verdict = Verdict(first.case, first.target, first.backend, failure, before=first.prelude)
        confirm = self._asking(first.target)
        if first.reproduced:
            heap = failure.message.startswith(DAMAGED)
            sure = Confirmed(first.call, verdict, first.prelude, heap=heap)
        else:
            sure = confirm(first.call, verdict, asked=False)
        sure = preludes.shorter(confirm, sure, lambda: time.monotonic() >= until)
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
            unshrunk=None if before == case else before,
            prelude=fitting(sure.prelude),
            reproduced=sure.reproduced,
            shrink=OUT_OF_TIME if time.monotonic() >= until else COMPLETE,
        )

    def _explore(self, task: tasks.Explore) -> tasks.Done:
        target = self._setup.target
        assert target is not None
        self._batch = batch = Batch(
            task=task,
            run=lambda case, familiar: self._run(case, target, familiar=familiar, relation=task.relation),
            send=self._pipe.send,
            listen=self._listen,
            finding=self._finding,
            passed=self._passed,
            confirm=self._confirmed,
            doubts=self._doubts,
            explain=lambda case, failure: self._explained(case, target, failure),
        )
        return batch.search(self._strategy(task.operation, self._about, task.menu))

    def _explained(self, case: Case, target: str, failure: CheckFailure) -> CheckFailure:
        """A leak, traced to the memory it comes from."""
        if not isinstance(failure, PoisonLeaked):
            return failure
        again = self._run(case, target, picture=True).failure
        return again if isinstance(again, PoisonLeaked) else failure

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
        """Of the one menu that a campaign has; made once, as that takes Hypothesis a while."""
        if operation not in self._strategies:
            self._strategies[operation] = strategies.cases(
                operation,
                backend=self._setup.backend,
                menu=menu,
                configs=about.configurations[operation],
                layout=about.layout,
            )
        return self._strategies[operation]

    def _finding(self, sure: Confirmed, unshrunk: Case | None = None) -> Finding:
        assert self._setup.target is not None
        case, failure = call_of(sure.call.subject), sure.failure
        return Finding(
            case=case,
            target=self._setup.target,
            backend=self._setup.backend,
            kind=failure.kind,
            message=failure.message,
            tensor=failure.tensor,
            place=failure.place,
            versions=self._versions,
            seed=self._setup.seed,
            found=today(),
            unshrunk=None if unshrunk == case else unshrunk,
            prelude=fitting(sure.prelude),
            reproduced=sure.reproduced,
            shrink=UNSHRUNK,
        )


class _Noted:
    """Runs calls in fresh processes, the last of them noted on disk meanwhile: who watches this process knows
    that it is at work.
    """

    def __init__(self, fresh: ways.Isolated, current: CurrentCase) -> None:
        self._fresh, self._current = fresh, current

    def afresh(
        self, calls: Sequence[Call], target: str, picture: bool = False, looks: Collection[int] = ()
    ) -> tuple[int, Verdict]:
        self._current.write(calls[-1], target, in_child=True)
        try:
            return self._fresh.afresh(calls, target, picture, looks)
        finally:
            self._current.clear()


__all__ = ["Session", "SetupError"]
