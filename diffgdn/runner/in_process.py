"""Runs cases in this process: what a child does, and what is done without one."""

from __future__ import annotations

import gc
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from diffgdn import targets
from diffgdn.backend import revision
from diffgdn.cases.case import Case
from diffgdn.cases.prelude import Call, History
from diffgdn.cases.trace import call_of
from diffgdn.findings import repro
from diffgdn.findings.finding import Finding
from diffgdn.findings.repro import call_script
from diffgdn.findings.repro.call_script import CallScript
from diffgdn.runner import heap
from diffgdn.runner.gpu_turn import needs_turn
from diffgdn.runner.messages import About, Familiar, RunnerError, SetupError, unfamiliar
from diffgdn.targets import Target
from diffgdn.verdict import localize, stages
from diffgdn.verdict.failures import KernelCrashed, Verdict
from diffgdn.verdict.pattern import Tile
from diffgdn.verdict.question import ORACLE, Question, Subject, question_of

MEMORY_TRIES = 4
NO_MEMORY = "out of memory"  # in CUDA's words for an error that torch did not see coming


class InProcess:
    """A runner in this process, on one backend.

    A kernel that breaks the GPU context leaves a process in which every later result is worthless. Its case
    gets the verdict `crashed`, and `broken` says so from then on.
    """

    def __init__(self, backend: str) -> None:
        if backend == "gpu" and not torch.cuda.is_available():
            raise SetupError("backend gpu: torch finds no usable GPU")
        self._backend = backend
        self._targets: dict[str, Target] = {}
        self._broken: str | None = None
        self._history = History()

    @property
    def broken(self) -> str | None:
        return self._broken

    def close(self) -> None:
        """Nothing was started."""

    def about(self, target: str | None) -> About:
        device = torch.cuda.get_device_name() if self._backend == "gpu" else "cpu"
        if target is None:
            return About(device)
        loaded = self._target(target)
        with _errors_in_one_line():
            configurations = {op: loaded.configurations(op) for op in loaded.operations}
        promises = targets.promises_of(loaded)
        ran = {op: targets.provenance_of(loaded, op) for op in loaded.operations}
        heads = targets.heads_compiled(loaded)
        return About(device, tuple(loaded.operations), loaded.layout, configurations, promises, ran, heads)

    def load(self, target: str) -> None:
        """Import a target ahead of its first case."""
        self._target(target)

    def run(
        self,
        subject: Subject,
        target: str,
        question: Question | None = None,
        picture: bool = False,
        familiar: Familiar = unfamiliar,
    ) -> Verdict:
        question = question or question_of(Call(subject))
        loaded = self._target(target)
        if question.calls_kernel:
            self._history.add(target, Call(subject, question.relation))
        with _errors_in_one_line():
            with _tiles(sizes := dict[str, int]()) if picture else nullcontext():
                verdict = self._judged(subject, loaded, question, picture)
            if picture and verdict.comparison is not None:
                stage = self._stage(verdict.case, loaded, question)
                verdict = replace(verdict, picture=localize.text(verdict.comparison, Tile(**sizes), stage))
        if needs_turn(subject, self._backend):
            give_back_memory(verdict)  # before the turn of the GPU goes to another process
        if verdict.ok:
            return verdict
        ran = targets.provenance_of(loaded, verdict.case.op)
        return replace(verdict, before=self._history.of(target)[:-1], provenance=ran)

    def damage(self) -> str | None:
        """What is wrong with the heap of this process, or None."""
        return heap.damage()

    def document(self, finding: Finding, folder: Path, picture: bool) -> list[Path]:
        loaded = self._target(finding.target)
        with _errors_in_one_line():
            files = [repro.write(finding, folder)]
            if picture:
                for call in (*finding.prelude, finding.call):
                    self._history.add(finding.target, call)
                    with _tiles(sizes := dict[str, int]()):
                        comparison = self._judged(call.subject, loaded, question_of(call)).comparison
                if comparison is not None:
                    path = folder / f"{finding.id}.png"
                    stage = self._stage(finding.case, loaded, question_of(finding.call))
                    tile = Tile(**sizes)
                    files.append(localize.write_picture(comparison, path, finding.target, tile, stage))
        return files

    def call_script(self, finding: Finding, guarded: bool) -> CallScript:
        loaded = self._target(finding.target)
        with _errors_in_one_line():
            return call_script.make(finding, loaded, guarded)

    def _stage(self, case: Case, target: Target, question: Question) -> str:
        """Say which stage of a wrong call is the first to be wrong; "" where that is not known."""
        found = stages.first_wrong(case, target, self._backend) if question == ORACLE else None
        return "" if found is None else str(found)

    def _target(self, name: str) -> Target:
        if name not in self._targets:
            reason = targets.missing(name, self._backend)
            if reason is not None:
                raise SetupError(f"target {name}: {reason}")
            try:
                self._targets[name] = targets.get(name)
            except targets.TargetError as error:
                raise SetupError(str(error)) from None
            stray = revision.stray()
            if stray is not None:
                raise SetupError(stray)
        return self._targets[name]

    def _judged(self, subject: Subject, target: Target, question: Question, explain: bool = False) -> Verdict:
        """Ask a question, and whether the GPU context has survived it."""
        try:
            verdict = self._with_room(subject, target, question, explain)
        except Exception:
            # Past the call itself, a broken context shows wherever the GPU is used next.
            if not self._context_broken():
                raise
            verdict = Verdict(call_of(subject), target.name, self._backend)
        if (verdict.failure is None and self._broken is None) or not self._context_broken():
            return verdict
        if NO_MEMORY in str(self._broken):  # which others took: no fault of the kernel
            return _no_room(subject, target, self._backend)
        message = f"the kernel broke its GPU context: {self._broken}"
        failure = KernelCrashed(subject.op, None, None, message)
        return Verdict(call_of(subject), target.name, self._backend, failure, seconds=verdict.seconds)

    def _context_broken(self) -> bool:
        if self._backend == "gpu" and self._broken is None:
            try:
                torch.cuda.synchronize()
            except Exception as error:
                self._broken = str(error).strip().splitlines()[0]
        return self._broken is not None

    def _with_room(self, subject: Subject, target: Target, question: Question, explain: bool) -> Verdict:
        """Ask a question. Processes share a GPU's memory; one that finds it full waits for others."""
        verdict: Verdict | None = None
        for attempt in range(MEMORY_TRIES):
            if attempt:
                _let_go(verdict)
                torch.cuda.empty_cache()
                if not _others_hold_memory():
                    break
                time.sleep(attempt)
            try:
                verdict = question.answer(subject, target, self._backend, explain)
            except torch.OutOfMemoryError:
                continue
            if verdict.failure is None or not verdict.failure.message.startswith("OutOfMemoryError"):
                return verdict
        return verdict or _no_room(subject, target, self._backend)


def _no_room(subject: Subject, target: Target, backend: str) -> Verdict:
    return Verdict(call_of(subject), target.name, backend, refused="no room in the GPU's memory")


def give_back_memory(verdict: Verdict) -> None:
    """Give the GPU memory of a case back to the GPU, with what lives on in the traceback of its failure.

    torch would keep it for the next case of this process, which may be idle by then.
    """
    _let_go(verdict)
    gc.collect()
    torch.cuda.empty_cache()


def _let_go(verdict: Verdict | None) -> None:
    """What a call had allocated before it failed lives on in the frames of its traceback."""
    error: BaseException | None = None if verdict is None else verdict.failure
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__


def _others_hold_memory() -> bool:
    """Whether most of the GPU's memory is taken, this process's own cache being empty."""
    free, total = torch.cuda.mem_get_info()
    return free < total / 2


def _tiles(sizes: dict[str, int]) -> AbstractContextManager[None]:
    """Note the tile of the kernels that are launched. Triton is imported once a target is, not before."""
    from diffgdn.targets import launches

    return launches.tiles(sizes)


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    """Exceptions of the machinery as RunnerError; the traceback goes to the log."""
    try:
        yield
    except RunnerError:
        raise
    except Exception as error:
        print(traceback.format_exc(), file=sys.stderr, flush=True)
        frame = traceback.extract_tb(error.__traceback__)[-1]
        line = (str(error).strip() or "no message").splitlines()[0]
        where = f"{os.path.basename(frame.filename)}:{frame.lineno}"
        raise RunnerError(f"{type(error).__name__} at {where}: {line}") from error
