"""The part of a worker that imports torch, Hypothesis and the target, and runs tasks."""

from __future__ import annotations

import dataclasses
import math
import os
import time
import traceback
from collections import OrderedDict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from hypothesis.strategies import SearchStrategy

from diffgdn import corpus, execute, localize, repro, shrink, strategies, targets
from diffgdn.campaign import tasks
from diffgdn.campaign.worker import CurrentCase, Setup, say
from diffgdn.case import Case
from diffgdn.checks import CheckFailure, KernelCrashed, KernelHung
from diffgdn.corpus import Finding
from diffgdn.events import CaseRun
from diffgdn.execute import Verdict
from diffgdn.targets import Target

if TYPE_CHECKING:
    from diffgdn.strategies import Menu

FAMILIAR = 5  # examples of a batch that may well have been run before: the simplest ones come first in each
REMEMBERED = 5000  # passing cases a worker remembers: every batch begins with the simplest ones again


class SetupError(Exception):
    """This worker cannot work; one line for the user."""


class Session:
    """What a worker keeps between tasks: targets, strategies, the ids of cases that passed."""

    def __init__(self, setup: Setup, pipe: Connection, current: CurrentCase) -> None:
        torch.set_num_threads(1)
        self._setup, self._pipe, self._current = setup, pipe, current
        self._targets: dict[str, Target] = {}
        self._strategies: dict[str, SearchStrategy[Case]] = {}
        self._passed: OrderedDict[str, Verdict] = OrderedDict()
        if setup.lane == "gpu" and not torch.cuda.is_available():
            raise SetupError("lane gpu: torch finds no usable GPU")
        self._device = torch.cuda.get_device_name() if setup.lane == "gpu" else "cpu"
        self._versions = corpus.versions(self._device)

    def ready(self) -> tasks.Ready:
        """What the campaign must know about the target before it plans."""
        if self._setup.target is None:
            return tasks.Ready(self._device, self._versions, (), "vk")
        target = self.target(self._setup.target)
        configurations = {op: target.configurations(op) for op in target.operations}
        return tasks.Ready(self._device, self._versions, target.operations, target.layout, configurations)

    def target(self, name: str) -> Target:
        """A target, loaded once. Raises SetupError."""
        if name not in self._targets:
            reason = targets.missing(name, self._setup.lane)
            if reason is not None:
                raise SetupError(f"target {name}: {reason}")
            try:
                self._targets[name] = targets.get(name)
            except targets.TargetError as error:
                raise SetupError(str(error)) from None
        return self._targets[name]

    def do(self, task: tasks.Task) -> tasks.Done:
        """Run a task. A fault of the machinery, not of a kernel, becomes an error in the answer."""
        try:
            if isinstance(task, tasks.Explore):
                return self._explore(task)
            if isinstance(task, tasks.RunCase):
                return self._run_case(task)
            if isinstance(task, tasks.Document):
                return self._document(task)
            raise TypeError(f"unknown task {task!r}")
        except SetupError as error:
            return tasks.Done(error=str(error))
        except (OSError, EOFError):
            raise  # the pipe
        except Exception as error:
            say(traceback.format_exc())
            frame = traceback.extract_tb(error.__traceback__)[-1]
            line = (str(error).strip() or "no message").splitlines()[0]
            where = f"{os.path.basename(frame.filename)}:{frame.lineno}"
            return tasks.Done(error=f"{type(error).__name__} at {where}: {line}")

    def _run(self, case: Case, target: Target) -> Verdict:
        """Run and check a case, its file in place meanwhile.

        Does not return if the kernel broke the GPU context.
        """
        self._current.write(case)
        suspicious = True
        try:
            verdict = execute.run(case, target, self._setup.lane)
            suspicious = verdict.failure is not None
        finally:
            if self._setup.lane == "gpu" and suspicious:
                self._leave_if_poisoned()
            self._current.clear()
        return verdict

    def _leave_if_poisoned(self) -> None:
        try:
            torch.cuda.synchronize()
        except Exception as error:
            say(str(error).splitlines()[0])
            os._exit(tasks.POISONED)

    def _run_case(self, task: tasks.RunCase) -> tasks.Done:
        verdict = self._run(task.case, self.target(task.target))
        self._pipe.send(_case_run(verdict, task.phase))
        failure = verdict.failure
        if failure is not None and task.finding is None and not task.picture:
            self._pipe.send(tasks.Failed(self._finding(task.case, failure), shrinks=False))
        return tasks.Done(
            cases=1,
            seconds=sum(verdict.seconds.values()),
            failure=None if failure is None else failure.to_json(),
            refused=verdict.refused,
            text=_picture(verdict) if task.picture else None,
        )

    def _document(self, task: tasks.Document) -> tasks.Done:
        finding, folder = task.finding, Path(task.folder)
        target = self.target(finding.target)
        repro.write(finding, folder)
        if finding.kind not in (KernelCrashed.kind, KernelHung.kind):
            comparison = self._run(finding.case, target).comparison
            if comparison is not None:
                localize.picture(comparison, folder / f"{finding.id}.png")
        return tasks.Done()

    def _explore(self, task: tasks.Explore) -> tasks.Done:
        assert self._setup.target is not None
        target = self.target(self._setup.target)
        known = set(task.known)
        announced: dict[type[CheckFailure], tuple[Finding, float]] = {}
        finished: set[type[CheckFailure]] = set()
        explored, shrinking = 0, False

        def run(case: Case) -> Verdict:
            nonlocal explored, shrinking
            self._listen(known)
            if case.id in self._passed:
                return self._passed[case.id]
            verdict = self._run(case, target)
            failure = verdict.failure
            repeated = failure is not None and (case.op, failure.kind, failure.tensor) in known
            explored += not shrinking
            self._pipe.send(_case_run(verdict, "explore", shrinking, repeated))
            if failure is not None and not repeated and type(failure) not in finished:
                shrinking = True
                if type(failure) not in announced:
                    announced[type(failure)] = self._finding(case, failure), time.monotonic()
                    self._pipe.send(tasks.Failed(announced[type(failure)][0], shrinks=True))
            if failure is None or repeated:
                # a known failure counts as passing: exploration goes past it, and a shrink cannot slip into
                # it
                verdict = dataclasses.replace(verdict, failure=None, comparison=None)
                self._remember(case, verdict)
            return verdict

        def clock() -> float:
            """Ends the search, by being late, when the cases are used up, and shrinks when theirs is up."""
            now = time.monotonic()
            late = (
                explored >= task.cases
                if not shrinking
                else task.shrink_until is not None and now >= task.shrink_until
            )
            return math.inf if late else now

        def shrunk(found: shrink.Found) -> None:
            nonlocal shrinking
            shrinking = False
            finished.add(type(found.failure))
            first, since = announced[type(found.failure)]
            smaller = self._finding(found.case, found.failure, found.unshrunk)
            self._pipe.send(tasks.Shrunk(first, smaller, time.monotonic() - since))

        shrink.find(
            self._strategy(task.operation, target, task.menu),
            run,
            max_examples=task.cases + FAMILIAR,
            seed=task.seed,
            max_shrink_seconds=task.shrink_seconds,
            deadline=math.inf if task.deadline is None else task.deadline,
            clock=clock,
            on_shrunk=shrunk,
        )
        return tasks.Done(cases=explored)

    def _remember(self, case: Case, verdict: Verdict) -> None:
        self._passed[case.id] = verdict
        if len(self._passed) > REMEMBERED:
            self._passed.popitem(last=False)

    def _listen(self, known: set[tasks.Key]) -> None:
        """Take in what other workers have found meanwhile."""
        while self._pipe.poll():
            message = self._pipe.recv()
            if isinstance(message, tasks.Known):
                known.add(message.key)

    def _strategy(self, operation: str, target: Target, menu: Menu | None) -> SearchStrategy[Case]:
        """Of the one menu that a campaign has; made once, as that takes Hypothesis a while."""
        if operation not in self._strategies:
            self._strategies[operation] = strategies.cases(
                operation,
                lane=self._setup.lane,
                menu=menu,
                configs=target.configurations(operation),
                layout=target.layout,
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
        )


def _case_run(verdict: Verdict, phase: str, shrinking: bool = False, repeated: bool = False) -> CaseRun:
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
    )


def _picture(verdict: Verdict) -> str | None:
    return None if verdict.comparison is None else localize.text(verdict.comparison)
