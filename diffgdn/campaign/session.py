"""The part of a worker that imports Hypothesis and does tasks. Kernels run where the runner runs them."""

from __future__ import annotations

import os
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis.strategies import SearchStrategy

from diffgdn import corpus, isolate, strategies
from diffgdn.campaign import resume, tasks
from diffgdn.campaign.batch import Batch, Passed, case_run
from diffgdn.campaign.worker import Setup, child_log, say
from diffgdn.case import Case
from diffgdn.corpus import Finding
from diffgdn.isolate import About, Familiar, Runner, RunnerError, SetupError, unfamiliar
from diffgdn.isolate.current import CurrentCase
from diffgdn.trace import Trace, call_of
from diffgdn.verdict import FAULTS, CheckFailure, PoisonLeaked, Verdict, relation_of

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
        self._versions = corpus.versions(about.device)
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
            if isinstance(task, tasks.Shrink):
                device = self._runner(task.finding.target).about(None).device
                return resume.shrink_finding(task, self._run, self._pipe, self._setup.lane, device)
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
        way, lane = isolate.chosen(asked, target, self._setup.lane), self._setup.lane
        if way not in self._runners:
            limits = self._setup.hang_seconds, self._setup.memory_bytes
            self._runners[way] = isolate.runner(way, lane, self._log, *limits)
        return self._runners[way]

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
        self._current.write(call_of(case), in_child=isinstance(runner, isolate.Isolated))
        try:
            verdict = runner.run(case, target, picture, familiar, relation, self._setup.purpose)
        finally:
            if runner.broken is not None:
                say(runner.broken)
                os._exit(tasks.POISONED)
            self._current.clear()
        return verdict

    def _run_case(self, task: tasks.RunCase) -> tasks.Done:
        kind = None if task.finding is None else task.finding.kind
        relation = relation_of(kind)
        case = task.case if task.finding is None else task.finding.trace or task.case
        verdict = self._run(case, task.target, kind, task.picture, relation=relation)
        self._pipe.send(case_run(verdict, task.phase, relation=relation))
        failure = verdict.failure
        if failure is not None and task.finding is None and not task.picture:
            self._pipe.send(tasks.Failed(self._finding(task.case, failure), shrinks=False))
        return tasks.Done(
            cases=1,
            seconds=sum(verdict.seconds.values()),
            failure=None if failure is None else failure.to_json(),
            refused=verdict.refused,
            text=verdict.picture,
        )

    def _document(self, task: tasks.Document) -> tasks.Done:
        finding = task.finding
        runner = self._runner(finding.target, finding.kind)
        runner.document(finding, Path(task.folder), picture=finding.kind not in FAULT_KINDS)
        return tasks.Done()

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
                lane=self._setup.lane,
                menu=menu,
                configs=about.configurations[operation],
                layout=about.layout,
            )
        return self._strategies[operation]

    def _finding(self, case: Case, failure: CheckFailure, unshrunk: Case | None = None) -> Finding:
        assert self._setup.target is not None
        return Finding(
            case=case,
            target=self._setup.target,
            lane=self._setup.lane,
            kind=failure.kind,
            message=failure.message,
            tensor=failure.tensor,
            place=failure.place,
            versions=self._versions,
            seed=self._setup.seed,
            found=corpus.today(),
            unshrunk=None if unshrunk == case else unshrunk,
            shrink=corpus.UNSHRUNK,
        )


__all__ = ["Session", "SetupError"]
