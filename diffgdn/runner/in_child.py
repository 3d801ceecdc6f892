"""Runs cases in a child process, which may die, hang or lose its GPU context over any of them."""

from __future__ import annotations

import signal
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffgdn.backend.selection import HANG_SECONDS
from diffgdn.cases.prelude import Call
from diffgdn.cases.target_names import clash
from diffgdn.cases.trace import call_of
from diffgdn.runner.child_process import START_SECONDS, host_memory
from diffgdn.runner.gpu_turn import gpu_turn
from diffgdn.runner.kernel_child import Ended, KernelChild, TimedOut
from diffgdn.runner.messages import (
    About,
    Answer,
    Familiar,
    Request,
    RunnerError,
    SetupError,
    unfamiliar,
)
from diffgdn.verdict.failures import DAMAGED, FAULTS, KernelCrashed, KernelHung, Verdict
from diffgdn.verdict.question import Question, Subject, question_of

if TYPE_CHECKING:
    from diffgdn.findings.finding import Finding
    from diffgdn.findings.repro.call_script import CallScript

# Once an operation has hung: for a case of it, so many times the slowest that has passed, but at least this,
# by backend. On a GPU a variant may have to be compiled.
PATIENCE = 20
LEAST_SECONDS = {"interpret": 10.0, "gpu": 30.0}
SPARES = 1  # children kept ready from the first fault on: a start takes seconds, most children never fail
MOST_FAILED_STARTS = 3
MEMORY_SHARE = 0.5  # of the machine's, that a child may occupy


class InChild:
    """A runner whose cases run in a child.

    The child lives on from case to case. One that dies, does not answer in time, takes too much memory or
    loses its GPU context gives its case the verdict `crashed` or `hung` and is replaced. Such a verdict from
    a child that had run other cases before is confirmed by a second run in a fresh one.
    """

    def __init__(
        self,
        backend: str,
        log: Path,
        hang_seconds: float | None = None,
        memory_bytes: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """environment: what a child has beside this process's own."""
        self._backend, self._log, self._environment = backend, log, environment
        self._hang_seconds = HANG_SECONDS[backend] if hang_seconds is None else hang_seconds
        self._memory = int(MEMORY_SHARE * host_memory()) if memory_bytes is None else memory_bytes
        self._child: KernelChild | None = self._new()
        self._spares: list[KernelChild] = []
        self._target: str | None = None
        self._hung: set[str] = set()  # operations
        self._slowest: dict[str, float] = {}  # seconds, by operation

    @property
    def broken(self) -> str | None:
        """Never: what breaks is a child."""
        return None

    @property
    def child(self) -> int | None:
        """The process id of the child that runs the next case, if it has been started."""
        return None if self._child is None else self._child.pid

    def close(self) -> None:
        for child in filter(None, (self._child, *self._spares)):
            child.end()
        self._child, self._spares = None, []

    def about(self, target: str | None) -> About:
        about: About = self._served(Request("about", (target,)), target)
        return about

    def document(self, finding: Finding, folder: Path, picture: bool) -> list[Path]:
        if finding.prelude or finding.case.before:
            self._unused(finding.target)
        if picture:  # for which the child runs it
            history = self._ready(finding.target).history
            for call in (*finding.prelude, finding.call):
                history.add(finding.target, call)
        request = Request("document", (finding, folder, picture))
        files: list[Path] = self._served(request, finding.target)
        return files

    def call_script(self, finding: Finding, guarded: bool) -> CallScript:
        """Make a finding's script of one call, in a child that has run nothing else."""
        self._unused(finding.target)
        script: CallScript = self._served(Request("call_script", (finding, guarded)), finding.target)
        return script

    def run(
        self,
        subject: Subject,
        target: str,
        question: Question | None = None,
        picture: bool = False,
        familiar: Familiar = unfamiliar,
    ) -> Verdict:
        question = question or question_of(Call(subject))
        verdict, alone = self._once(subject, target, question, picture)
        if isinstance(verdict.failure, FAULTS) and not alone and not familiar(verdict.failure):
            again, _ = self._once(subject, target, question, picture)
            if isinstance(again.failure, FAULTS):
                return again
            message = f"{verdict.failure.message}; not again in a fresh process"
            failure = type(verdict.failure)(subject.op, None, None, message)
            return replace(verdict, failure=failure, confirmed=False)
        return verdict

    def afresh(
        self, calls: Sequence[Call], target: str, picture: bool = False, looks: Collection[int] = ()
    ) -> tuple[int, Verdict]:
        """Run calls one after another in a child that has run nothing else: the number of the one that it
        ended with, and that one's verdict. It ends with the last, or with a crash or a hang before.

        picture: of the last. looks: numbers of the calls after which the child's heap is looked at. Damage is
        a crash of the call after which it is seen.
        """
        self._unused(target)
        looks = looks if looks and self._damage() is None else ()  # not every heap can be looked at
        for number, call in enumerate(calls):
            last = number == len(calls) - 1
            verdict, _ = self._once(call.subject, target, question_of(call), picture and last)
            if isinstance(verdict.failure, FAULTS):
                break
            damage = self._damage() if number in looks else None
            if damage is not None:
                self._replace()
                failure = KernelCrashed(call.subject.op, None, None, f"{DAMAGED}: {damage}")
                verdict = replace(verdict, failure=failure, picture=None)
                break
        return number, verdict

    def _unused(self, target: str) -> None:
        """Have a child that has run nothing yet."""
        if self._ready(target).cases:
            self._replace()
            self._ready(target)

    def _damage(self) -> str | None:
        """What is wrong with the child's heap, or how it ended over the question."""
        assert self._child is not None
        try:
            damage: str | None = _value(self._child.ask(Request("damage", ()), START_SECONDS, self._memory))
        except (Ended, TimedOut) as end:
            return str(end)
        return damage

    def _once(self, subject: Subject, target: str, question: Question, picture: bool) -> tuple[Verdict, bool]:
        """Ask once. The verdict, and whether this subject alone can have caused a crash: the child was fresh
        and was not killed from outside.
        """
        child, limit = self._ready(target), self._limit(subject.op)
        failure: KernelCrashed | KernelHung | None = None
        alone = child.cases == 0
        child.cases += 1
        if question.calls_kernel:
            child.history.add(target, Call(subject, question.relation))
        request = Request("run", (subject, target, question, picture))
        try:
            with gpu_turn(subject, self._backend, self._environment):
                began = time.monotonic()
                answer = child.ask(request, limit, self._memory)
        except TimedOut:
            self._hung.add(subject.op)
            failure = KernelHung(subject.op, None, None, f"no answer within {limit:g} s")
        except Ended as end:
            # SIGKILL is what a person sends, or a machine whose memory has run out.
            alone = alone and end.status != -signal.SIGKILL
            reason = f"the process that ran the kernel ended: {end.reason}"
            failure = KernelCrashed(subject.op, None, None, reason)
        seconds = time.monotonic() - began
        if failure is None and not answer.spent:
            self._slowest[subject.op] = max(self._slowest.get(subject.op, 0.0), seconds)
        else:
            self._replace()
        if failure is not None:
            verdict = Verdict(call_of(subject), target, self._backend, failure, seconds={"kernel": seconds})
        else:
            verdict = _value(answer)
        return verdict if verdict.ok else replace(verdict, before=child.history.of(target)[:-1]), alone

    def _limit(self, operation: str) -> float:
        """Seconds for a case. Once an operation has hung, waiting the full time again would leave no time for
        anything else.
        """
        if operation not in self._hung:
            return self._hang_seconds
        patience = PATIENCE * self._slowest.get(operation, 0.0)
        return min(self._hang_seconds, max(LEAST_SECONDS[self._backend], patience))

    def _served(self, request: Request, target: str | None) -> Any:
        """The answer to a request that is about no case. Raises RunnerError where the child ends over it."""
        child = self._ready(target)
        child.cases += 1  # it may have run one
        try:
            answer = child.ask(request, START_SECONDS, self._memory)
        except (Ended, TimedOut) as end:
            self._replace()
            raise RunnerError(f"the child process ended: {end}") from None
        if answer.spent:
            self._replace()
        return _value(answer)

    def _new(self) -> KernelChild:
        return KernelChild(self._backend, self._log, self._environment)

    def _ready(self, target: str | None) -> KernelChild:
        """A child that has imported the target. Raises SetupError where there is none to be had."""
        self._target = target
        for attempt in range(1, MOST_FAILED_STARTS + 1):
            if self._child is not None and target is not None and clash(target, self._child.loaded):
                self._child.end()
                self._child = None
            if self._child is None or not self._child.alive:
                self._child = self._new()
            child = self._child
            try:
                child.settle(START_SECONDS, self._memory)
                if target is not None and target not in child.loaded:
                    child.loaded.add(target)
                    _value(child.ask(Request("load", (target,)), START_SECONDS, self._memory))
            except (Ended, TimedOut) as end:
                self._child = None
                if attempt == MOST_FAILED_STARTS:
                    raise SetupError(f"child processes end before their first case: {end}") from None
            else:
                return child
        raise AssertionError("the last attempt returns or raises")

    def _replace(self) -> None:
        """After a fault: the next child comes from the spares, and another spare is started."""
        if self._child is not None:
            self._child.end()
        ready = [spare for spare in self._spares if spare.alive]
        self._child = ready.pop(0) if ready else self._new()
        self._spares = ready
        while len(self._spares) < SPARES:
            spare = self._new()
            if self._target is not None:
                spare.loaded.add(self._target)
                spare.prepare(Request("load", (self._target,)))
            self._spares.append(spare)


def _value(answer: Answer) -> Any:
    """What a method returned; raises what it raised."""
    if answer.error is not None:
        raise answer.error
    return answer.value
