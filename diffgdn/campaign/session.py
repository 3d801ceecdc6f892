"""The part of a worker that imports torch, Hypothesis and the target, and runs tasks."""

from __future__ import annotations

import os
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from hypothesis.strategies import SearchStrategy

from diffgdn import corpus, execute, localize, repro, strategies, targets
from diffgdn.campaign import tasks
from diffgdn.campaign.batch import Batch, Passed, case_run
from diffgdn.campaign.worker import CurrentCase, Setup, say
from diffgdn.case import Case
from diffgdn.checks import CheckFailure, KernelCrashed, KernelHung
from diffgdn.corpus import Finding
from diffgdn.execute import Verdict
from diffgdn.targets import Target

if TYPE_CHECKING:
    from diffgdn.strategies import Menu


MEMORY_TRIES = 4


class SetupError(Exception):
    """This worker cannot work; one line for the user."""


class Session:
    """What a worker keeps between tasks: targets, strategies, the ids of cases that passed."""

    def __init__(self, setup: Setup, pipe: Connection, current: CurrentCase) -> None:
        torch.set_num_threads(1)
        self._setup, self._pipe, self._current = setup, pipe, current
        self._targets: dict[str, Target] = {}
        self._strategies: dict[str, SearchStrategy[Case]] = {}
        self._passed = Passed()
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
            verdict = self._with_room(case, target)
            suspicious = verdict.failure is not None
        finally:
            if self._setup.lane == "gpu" and suspicious:
                self._leave_if_poisoned()
            self._current.clear()
        return verdict

    def _with_room(self, case: Case, target: Target) -> Verdict:
        """The verdict on a case. Workers share a GPU's memory; one that finds it full waits for others."""
        verdict = None
        for attempt in range(MEMORY_TRIES):
            if attempt:
                torch.cuda.empty_cache()
                time.sleep(attempt)
            try:
                verdict = execute.run(case, target, self._setup.lane)
            except torch.OutOfMemoryError:
                continue
            if verdict.failure is None or not verdict.failure.message.startswith("OutOfMemoryError"):
                return verdict
        return verdict or Verdict(case, target.name, self._setup.lane, refused="no room in the GPU's memory")

    def _leave_if_poisoned(self) -> None:
        try:
            torch.cuda.synchronize()
        except Exception as error:
            say(str(error).splitlines()[0])
            os._exit(tasks.POISONED)

    def _run_case(self, task: tasks.RunCase) -> tasks.Done:
        verdict = self._run(task.case, self.target(task.target))
        self._pipe.send(case_run(verdict, task.phase))
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
        batch = Batch(
            task=task,
            run=lambda case: self._run(case, target),
            send=self._pipe.send,
            listen=self._listen,
            finding=self._finding,
            passed=self._passed,
        )
        return batch.search(self._strategy(task.operation, target, task.menu))

    def _listen(self) -> set[tasks.Key]:
        """What other workers have found meanwhile."""
        keys = set()
        while self._pipe.poll():
            message = self._pipe.recv()
            if isinstance(message, tasks.Known):
                keys.add(message.key)
        return keys

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


def _picture(verdict: Verdict) -> str | None:
    return None if verdict.comparison is None else localize.text(verdict.comparison)
