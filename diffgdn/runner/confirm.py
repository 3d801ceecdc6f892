"""A failure, asked again in fresh processes: does it come alone, after what had run before it, or not at all?

A process that runs cases lives on from case to case, and a kernel may leave something in it: a compiled
kernel under too short a key, a workspace, damage to the heap. A failure that takes such company is told of
with the calls that it takes, its prelude. A crash is laid to the call that did the damage, not to the one
that met it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from diffgdn.cases.prelude import Call, fitting
from diffgdn.findings import bucket
from diffgdn.verdict.failures import DAMAGED, FAULT_KINDS, FAULTS, CheckFailure, KernelCrashed, Verdict

if TYPE_CHECKING:
    from diffgdn.findings.finding import Finding

LOOK_EVERY = 16  # calls, between looks at a heap that is damaged somewhere
NOT_AGAIN = "not again in a fresh process"


class Fresh(Protocol):
    """What runs calls in a process of their own: `InChild`."""

    def afresh(
        self, calls: Sequence[Call], target: str, picture: bool = False, looks: Collection[int] = ()
    ) -> tuple[int, Verdict]: ...


@dataclass(frozen=True)
class Confirmed:
    """What is known of a failure once it has been asked again.

    call: what fails; of a crash it may be another than the one in which the process ended. verdict: of it.
    prelude: calls that it takes before it. reproduced: False where it did not come again; prelude is then
    what had run before it. heap: whether only a look at the heap shows it.
    """

    call: Call
    verdict: Verdict
    prelude: tuple[Call, ...] = ()
    reproduced: bool = True
    heap: bool = False

    @property
    def failure(self) -> CheckFailure:
        """What was wrong."""
        assert self.verdict.failure is not None
        return self.verdict.failure

    @property
    def alone(self) -> bool:
        """Whether the call shows the failure by itself, in whatever process."""
        return self.reproduced and not self.prelude and not self.heap


def apart(finding: Finding) -> bool:
    """Whether a finding must be run in a process of its own to say something."""
    return bool(finding.prelude) or not finding.reproduced or finding.kind in FAULT_KINDS


def again(finding: Finding, fresh: Fresh, picture: bool = False) -> Verdict:
    """The verdict on a finding that is run as it was found: after its prelude, in a fresh process. After one
    that crashed the heap is looked at as well."""
    calls = (*finding.prelude, finding.call)
    last = len(calls) - 1
    at, verdict = fresh.afresh(
        calls, finding.target, picture, (last,) if finding.kind == KernelCrashed.kind else ()
    )
    failure = verdict.failure
    if at == last or failure is None:
        return verdict
    return said(verdict, f"{failure.message}; in call {at} of its prelude")


class Confirm:
    """Asks failures on one target again. news: whether a failing verdict on a call is no known failure."""

    def __init__(
        self,
        fresh: Fresh,
        target: str,
        news: Callable[[Call, Verdict], bool] = lambda call, verdict: True,
    ) -> None:
        self._fresh, self._target, self._news = fresh, target, news

    def __call__(self, call: Call, verdict: Verdict, asked: bool | None = None) -> Confirmed:
        """A failing verdict on a call, asked again in a few fresh processes. A prelude is all that had run
        before; `search.preludes.shorter` makes it less.

        asked: whether it has been run alone again, with what `verdict.confirmed` says; None: as `InChild`
        does with crashes and hangs.
        """
        asked = isinstance(verdict.failure, FAULTS) if asked is None else asked
        if asked and verdict.confirmed:
            return Confirmed(call, verdict)
        if not asked:
            _, alone = self._fresh.afresh((call,), self._target)
            if alone.failure is not None:
                return Confirmed(call, alone)
            verdict = said(verdict, f"{message_of(verdict)}; {NOT_AGAIN}")
        calls, crash = (*verdict.before, call), isinstance(verdict.failure, KernelCrashed)
        if crash:
            _, alone = self._fresh.afresh((call,), self._target, looks=(0,))
            if isinstance(alone.failure, KernelCrashed):
                return Confirmed(call, alone, heap=True)
        if not verdict.before:
            return Confirmed(call, verdict, reproduced=False)
        looks = {*range(LOOK_EVERY - 1, len(calls), LOOK_EVERY), len(calls) - 1} if crash else ()
        at, company = self._fresh.afresh(calls, self._target, looks=looks)
        if isinstance(company.failure, KernelCrashed) and (crash or at < len(calls) - 1):
            return self._culprit(calls[: at + 1], company)
        if at == len(calls) - 1 and alike(company, verdict):
            return Confirmed(call, company, calls[:-1])
        verdict = said(verdict, f"{message_of(verdict)}, nor after the calls before it")
        return Confirmed(call, verdict, fitting(calls[:-1]), reproduced=False)

    def _culprit(self, calls: tuple[Call, ...], crashed: Verdict) -> Confirmed:
        """The call that did the damage with which a process ended in the last of these."""
        window = range(max(0, len(calls) - 1 - LOOK_EVERY), len(calls))
        at, verdict = self._fresh.afresh(calls, self._target, looks=window)
        if not isinstance(verdict.failure, KernelCrashed):
            return Confirmed(calls[-1], crashed, calls[:-1])
        if not message_of(verdict).startswith(DAMAGED):
            return Confirmed(calls[at], verdict, calls[:at])
        _, alone = self._fresh.afresh((calls[at],), self._target, looks=(0,))
        if isinstance(alone.failure, KernelCrashed):
            return Confirmed(calls[at], alone, heap=True)
        return Confirmed(calls[at], verdict, calls[:at], heap=True)

    def fails(self, prelude: Sequence[Call], call: Call, like: Confirmed) -> Verdict | None:
        """The verdict on a call after a prelude, in a fresh process, if it fails as another does, and that is
        news or the other is none either.
        """
        last = len(prelude)
        looks = (last,) if like.heap else ()
        at, verdict = self._fresh.afresh((*prelude, call), self._target, looks=looks)
        if at != last or not alike(verdict, like.verdict):
            return None
        return verdict if self._news(call, verdict) or like.verdict.known is not None else None


def alike(one: Verdict, other: Verdict) -> bool:
    """Whether two verdicts are failures of one kind, as `bucket.fault` has it."""
    if one.failure is None or other.failure is None:
        return False
    return bucket.fault(one.failure.kind) == bucket.fault(other.failure.kind)


def message_of(verdict: Verdict) -> str:
    return "" if verdict.failure is None else verdict.failure.message


def said(verdict: Verdict, message: str) -> Verdict:
    """A verdict whose failure says something else."""
    assert verdict.failure is not None
    failure = CheckFailure.from_json({**verdict.failure.to_json(), "message": message})
    return dataclasses.replace(verdict, failure=failure)
