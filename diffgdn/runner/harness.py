"""Asks questions of targets on one backend: where they run, what is noted meanwhile, what becomes of a
failure.

Whoever looks for failures works through a harness: the workers of a campaign, and a process of pytest. It
imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from diffgdn.cases.case import Case
from diffgdn.cases.prelude import Call, fitting
from diffgdn.cases.trace import Trace, call_of
from diffgdn.findings.finding import UNSHRUNK, Finding, today, versions
from diffgdn.findings.known import BASE, NOTHING, Known, KnownFailures
from diffgdn.runner import confirm, ways
from diffgdn.runner.baseline import PROVENANCE, Base, BaseRunner
from diffgdn.runner.confirm import Confirm, Confirmed
from diffgdn.runner.in_child import InChild
from diffgdn.runner.messages import About, Familiar, Runner, RunnerError, unfamiliar
from diffgdn.runner.running_case import CurrentCase
from diffgdn.verdict.failures import FAULT_KINDS, CheckFailure, PoisonLeaked, Verdict
from diffgdn.verdict.question import Question, Subject, question_of


class Harness:
    """Runs cases and traces for one process.

    note: the file that names what runs, for whoever finds this process dead. log: where children print to.
    isolation: one of ways.WAYS; None for what suits each target. hang_seconds: after which a child's case
    counts as hung, memory_bytes: that a child may occupy; None for the usual. seed: noted in findings.
    on_broken: told the reason when a kernel has broken this process's GPU context, while the case is still
    noted; asking anything after that raises RunnerError. known: failures that are no news: verdicts that have
    one say so, and what is known to end its process is refused. base: what else is asked about each
    failure; what it fails at in the same way is no news either.
    """

    def __init__(
        self,
        backend: str,
        note: Path,
        log: Path,
        isolation: str | None = None,
        hang_seconds: float | None = None,
        memory_bytes: int | None = None,
        seed: int | None = None,
        on_broken: Callable[[str], None] = lambda reason: None,
        known: KnownFailures = NOTHING,
        base: Base | None = None,
    ) -> None:
        self.backend, self.isolation, self.seed = backend, isolation, seed
        self._log, self._hang_seconds, self._memory_bytes = log, hang_seconds, memory_bytes
        self._on_broken, self.known = on_broken, known
        self._current = CurrentCase(note)
        self._runners: dict[str, Runner] = {}
        self._device: str | None = None
        self._provenance: dict[str, Mapping[str, Mapping[str, str]]] = {}  # by target, operation
        limits = hang_seconds, memory_bytes
        self._base = (
            None if base is None else BaseRunner(base, backend, log.with_suffix(".base.log"), *limits)
        )

    def close(self) -> None:
        """End what was started."""
        for runner in self._runners.values():
            runner.close()
        if self._base is not None:
            self._base.close()

    def runner(self, target: str, kind: str | None = None) -> Runner:
        """Choose what runs a target's cases. kind: of the finding that is asked about, if one is; what has
        crashed or hung runs in a child unless the user says otherwise.
        """
        asked = "child" if kind in FAULT_KINDS and not self.isolation else self.isolation
        return self._by_way(ways.chosen(asked, target, self.backend))

    @property
    def fresh(self) -> InChild:
        """What runs calls in fresh processes, however cases are run otherwise."""
        runner = self._by_way("child")
        assert isinstance(runner, InChild)
        return runner

    def _by_way(self, way: str) -> Runner:
        if way not in self._runners:
            limits = self._hang_seconds, self._memory_bytes
            self._runners[way] = ways.runner(way, self.backend, self._log, *limits)
        return self._runners[way]

    def about(self, target: str | None) -> About:
        """Describe the device, and a target if one is named. Raises SetupError."""
        if target is None and self._runners:
            return next(iter(self._runners.values())).about(None)
        about = self._by_way(ways.chosen(self.isolation, target or "", self.backend)).about(target)
        if target is not None:
            self._provenance[target] = about.provenance
        return about

    @property
    def device(self) -> str:
        """What kernels run on: the GPU's name, or `cpu`."""
        if self._device is None:
            self._device = "cpu" if self.backend == "interpret" else self.about(None).device
        return self._device

    def ask(
        self,
        subject: Subject,
        target: str,
        question: Question | None = None,
        kind: str | None = None,
        picture: bool = False,
        familiar: Familiar = unfamiliar,
    ) -> Verdict:
        """Ask a question about a case or a trace, which lies on disk meanwhile; None asks whether it is
        right.

        kind: as for `runner`. picture, familiar: as for `Runner.run`. Raises RunnerError where the machinery
        fails, also after a kernel has broken the GPU context of this process.
        """
        question = question or question_of(Call(subject))
        skipped = self._skipped(subject, target) if question.calls_kernel else None
        if skipped is not None:
            return skipped
        runner = self.runner(target, kind)
        if runner.broken is not None:
            raise RunnerError(f"{runner.broken}; --isolation child goes on after it")
        in_child = isinstance(runner, InChild)
        call = Call(subject, question.relation)
        self._current.write(call, target, backend=self.backend, in_child=in_child)
        try:
            verdict = runner.run(
                subject,
                target,
                question,
                picture,
                lambda failure: familiar(failure) or self._known(target, subject, failure) is not None,
            )
            return self._labelled(verdict, subject, target)
        finally:
            if runner.broken is not None:
                self._on_broken(runner.broken)
            self._current.clear()

    def asking(self, target: str) -> Confirm:
        """What asks failures on a target again in fresh processes. None that is known is a step of a
        shrink.
        """

        def news(call: Call, verdict: Verdict) -> bool:
            return self._labelled(verdict, call.subject, target).known is None

        return Confirm(_Noted(self.fresh, self._current, self.backend), target, news)

    def confirm(self, call: Call, verdict: Verdict, target: str) -> Confirmed:
        """Ask a failure again in fresh processes."""
        asked = None if isinstance(self.runner(target), InChild) else False
        sure = self.asking(target)(call, verdict, asked)
        return replace(sure, verdict=self._labelled(sure.verdict, sure.call.subject, target))

    def replay(self, finding: Finding, picture: bool = False, fresh: bool = False) -> Verdict:
        """Run a finding as it was found. fresh: in a process that has run nothing else, which some findings
        need in any case. Raises RunnerError.
        """
        call = finding.call
        if fresh or confirm.apart(finding):
            skipped = self._skipped(call.subject, finding.target)
            if skipped is not None:
                return skipped
            noted = _Noted(self.fresh, self._current, self.backend)
            verdict = confirm.again(finding, noted, picture)
            return self._labelled(verdict, call.subject, finding.target)
        return self.ask(call.subject, finding.target, question_of(call), finding.kind, picture)

    def _known(self, target: str, subject: Subject, failure: CheckFailure) -> Known | None:
        return self.known.match(target, self.backend, subject, failure)

    def _skipped(self, subject: Subject, target: str) -> Verdict | None:
        """The verdict on what is known to end its process, which then is not run."""
        entry = self.known.crash(target, self.backend, subject)
        if entry is None:
            return None
        return Verdict(call_of(subject), target, self.backend, refused=entry.words, known=entry.name)

    def _labelled(self, verdict: Verdict, subject: Subject, target: str) -> Verdict:
        """A verdict that says by which entry its failure is known, if it is: of a trace, that of its step. It
        also says what the base does, if there is one.
        """
        if verdict.failure is None:
            return verdict
        if isinstance(subject, Trace) and verdict.step is not None:
            subject = replace(subject, steps=subject.steps[: verdict.step + 1])
        entry = self._known(target, subject, verdict.failure)
        if entry is not None or self._base is None:
            return replace(verdict, known=None if entry is None else entry.name)
        said = self._base.says(subject, verdict.failure)
        told = f"{self._base.base.words} {said.words}"
        known = BASE if said.alike else None
        return replace(verdict, known=known, provenance={**verdict.provenance, PROVENANCE: told})

    def explained(self, failure: CheckFailure, call: Call, target: str) -> CheckFailure:
        """Trace a leak to the memory that it comes from, which takes another run; other failures say
        enough."""
        if not isinstance(failure, PoisonLeaked):
            return failure
        again = self.ask(call.subject, target, question_of(call), picture=True).failure
        return again if isinstance(again, PoisonLeaked) else failure

    def finding(self, sure: Confirmed, target: str, unshrunk: Case | None = None) -> Finding:
        """Make a finding of what was confirmed. unshrunk: the case on which it was first seen."""
        subject, failure = sure.call.subject, sure.failure
        case = call_of(subject)
        return Finding(
            case=case,
            target=target,
            backend=self.backend,
            kind=failure.kind,
            message=failure.message,
            tensor=failure.tensor,
            place=failure.place,
            versions=versions(self.device),
            seed=self.seed,
            found=today(),
            unshrunk=None if unshrunk == case else unshrunk,
            trace=subject if isinstance(subject, Trace) else None,
            prelude=fitting(sure.prelude),
            reproduced=sure.reproduced,
            shrink=UNSHRUNK,
            provenance={**self._provenance.get(target, {}).get(case.op, {}), **sure.verdict.provenance},
        )

    def document(self, finding: Finding, folder: Path) -> list[Path]:
        """Write the script of a finding, and where there is one the picture, beside its file in a folder."""
        runner = (
            self.fresh
            if finding.prelude or finding.case.before
            else self.runner(finding.target, finding.kind)
        )
        return runner.document(finding, folder, picture=finding.kind not in FAULT_KINDS)


class _Noted:
    """Runs calls in fresh processes, the last of them noted on disk meanwhile: who watches this process knows
    that it is at work.
    """

    def __init__(self, fresh: InChild, current: CurrentCase, backend: str) -> None:
        self._fresh, self._current, self._backend = fresh, current, backend

    def afresh(
        self, calls: Sequence[Call], target: str, picture: bool = False, looks: Collection[int] = ()
    ) -> tuple[int, Verdict]:
        self._current.write(calls[-1], target, backend=self._backend, in_child=True)
        try:
            return self._fresh.afresh(calls, target, picture, looks)
        finally:
            self._current.clear()
