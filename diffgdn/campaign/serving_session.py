"""A search over a target by name: where its traces are played, and what becomes of one that fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from diffgdn.cases.prelude import Call, fitting
from diffgdn.cases.trace import Trace
from diffgdn.cases.trace_steps import CALLS
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import COMPLETE, OUT_OF_TIME, UNSHRUNK, Finding, today, versions
from diffgdn.runner import ways
from diffgdn.runner.confirm import Confirm, Confirmed
from diffgdn.runner.ways import SetupError
from diffgdn.search import preludes
from diffgdn.search.traces.find import MAX_SHRINK_SECONDS, Found, find
from diffgdn.search.traces.smaller import Outcome
from diffgdn.verdict.failures import CheckFailure, Verdict

# Where only the time is limited: more than can be played in it.
MANY = 1_000_000


class Session:
    """Plays traces on one target, in this process or in a child, as `isolate.chosen` says. Raises
    SetupError if the target cannot be had.

    traces, steps: of the latest search, that were played, its shrink not counted; refused: traces that the
    target does not take; called: operations that the traces called. interrupted: by Ctrl-C, with a finding in
    hand. hang_seconds: after which a trace counts as hung; None for what suits the backend.
    """

    def __init__(
        self,
        target: str,
        backend: str,
        isolation: str | None,
        log: Path,
        seed: int,
        hang_seconds: float | None = None,
    ) -> None:
        self.target, self.backend, self.seed = target, backend, seed
        self._limits = backend, log, hang_seconds
        self._asking: ways.Isolated | None = None  # what runs traces in fresh processes
        self._runner = ways.runner(ways.chosen(isolation, target, backend), backend, log, hang_seconds)
        try:
            self._about = self._runner.about(target)
        except BaseException:
            self._runner.close()
            raise
        self.interrupted = False
        self._begin()

    def _begin(self) -> None:
        """Count from nothing."""
        self.traces, self.steps, self.refused = 0, 0, 0
        self.called: set[str] = set()
        self._refusals: dict[str, None] = {}  # in the order in which they were seen
        self._kept: list[Finding] = []  # what the search has saved, the smallest last
        self._sure: Confirmed | None = None  # the failure that is being shrunk
        self._failed: Verdict | None = None  # the latest that failed

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for runner in {self._runner, self._asking} - {None}:
            runner.close()  # type: ignore[union-attr]

    @property
    def _fresh(self) -> ways.Isolated:
        if self._asking is None:
            own = isinstance(self._runner, ways.Isolated)
            self._asking = self._runner if own else ways.Isolated(*self._limits)  # type: ignore[assignment]
        assert self._asking is not None
        return self._asking

    def _asked(self, trace: Trace) -> Confirmed:
        """The latest failure, of a trace, asked again in fresh processes and made to depend on little."""
        assert self._failed is not None
        confirm, until = Confirm(self._fresh, self.target), time.monotonic() + MAX_SHRINK_SECONDS
        own = isinstance(self._runner, ways.Isolated)
        sure = confirm(Call(trace), self._failed, None if own else False)
        return preludes.shorter(confirm, sure, lambda: time.monotonic() >= until)

    def operations(self, family: str) -> tuple[str, ...]:
        """Those of a family that the target has and the loop can call."""
        names = (f"{family}.{kind}" for kind in CALLS)
        return tuple(name for name in names if name in self._about.operations)

    def missing(self, family: str) -> str | None:
        """Why nothing of a family can be served, or None. Operations that the target lacks are left out."""
        if self.operations(family):
            return None
        return f"{self.target} has none of {', '.join(f'{family}.{kind}' for kind in CALLS)}"

    def unreached(self, family: str, max_seconds: float | None) -> dict[str, str]:
        """The operations of a family that no trace of the latest search called, with the reason for each."""
        if self.traces:
            reason = f"none of {self.traces} traces called it"
        elif self.refused:
            reason = f"all {self.refused} traces refused: {next(iter(self._refusals))}"
        else:
            reason = "none" + ("" if max_seconds is None else f" within {max_seconds:g} s")
        return {name: reason for name in self.operations(family) if name not in self.called}

    def play(self, trace: Trace) -> Outcome:
        """The failure of a trace and the number of its step. One that the target refuses counts as
        passing."""
        if self._sure is not None and not self._sure.alone:
            return self._in_company(trace, self._sure)
        verdict = self._runner.run(trace, self.target)
        if self._runner.broken is not None:
            raise SetupError(f"{self._runner.broken}; --isolation child goes on after it")
        self._refusal = verdict.refused
        if verdict.refused is not None:
            self._refusals[verdict.refused] = None
        if verdict.failure is None:
            return None
        self._failed = verdict
        return verdict.failure, len(trace.steps) - 1 if verdict.step is None else verdict.step

    def _in_company(self, trace: Trace, sure: Confirmed) -> Outcome:
        """As `play`, of a smaller trace than one that takes others before it. What did not come again, or is
        another trace than the one that was played, stays as it is.
        """
        if not sure.reproduced or sure.heap:
            return None
        verdict = Confirm(self._fresh, self.target).fails(sure.prelude, Call(trace), sure)
        if verdict is None or verdict.failure is None:
            return None
        return verdict.failure, len(trace.steps) - 1 if verdict.step is None else verdict.step

    def search(
        self,
        family: str,
        seed: int,
        *,
        max_seconds: float | None,
        max_traces: int | None,
        save: Corpus,
        say: Callable[[str], None],
    ) -> Finding | None:
        """A failing trace of a family as a finding, or None. It is saved when it is first seen, and again
        when it is shrunk; Ctrl-C leaves it whole. say: is told what goes on, in lines."""
        self._begin()
        try:
            return self._search(family, seed, max_seconds, max_traces, save, say)
        except KeyboardInterrupt:
            if not self._kept:
                raise
            self.interrupted = True
            finding = self._kept[-1]
            path, problem = save.keep(finding)
            if problem is None:
                self._document(finding, path)
            return finding

    def _document(self, finding: Finding, path: Path) -> None:
        runner = self._fresh if finding.prelude else self._runner
        runner.document(finding, path.parent, picture=False)

    def _search(
        self,
        family: str,
        seed: int,
        max_seconds: float | None,
        max_traces: int | None,
        save: Corpus,
        say: Callable[[str], None],
    ) -> Finding | None:
        def first(trace: Trace, failure: CheckFailure) -> None:
            seen_in = f"after {self.traces} traces, in {len(trace.steps)} steps"
            say(f"{family}: {failure.kind} {seen_in}; shrinking")
            self._kept.append(self._finding(Confirmed(Call(trace), self._verdict(failure)), seed))
            save.keep(self._kept[0])
            self._sure = self._asked(trace)
            finding = self._finding(self._sure, seed)
            save.keep(finding)
            if finding.id != self._kept[0].id:
                save.remove(self._kept[0])
                self._kept[0] = finding

        found = find(
            family,
            self._about.operations,
            self.backend,
            self.play,
            max_traces=max_traces or MANY,
            number=seed,
            deadline=None if max_seconds is None else time.monotonic() + max_seconds,
            on_trace=self._count,
            on_failure=first,
            max_shrink_seconds=MAX_SHRINK_SECONDS,
        )
        for reason in sorted(self._refusals):
            say(f"{family}: refused: {reason}")
        if found is None:
            return None
        seen, sure, complete = self._kept[0], self._last(found), found.complete
        assert self._sure is not None
        if self._sure.alone and not sure.alone:
            astray = self._finding(sure, seed)
            path, problem = save.keep(astray)
            say(f"{family}: its shrink went astray, into what depends on other traces: {problem or path}")
            sure, complete = self._sure, False
        finding = self._finding(sure, seed)
        finding = replace(finding, shrink=COMPLETE if complete else OUT_OF_TIME)
        path, problem = save.keep(finding, anew=finding.id == seen.id)
        if problem is not None:
            say(problem)  # the finding is told all the same
            return finding
        self._kept.append(finding)
        if finding.id != seen.id:
            save.remove(seen)
        self._document(finding, path)
        return finding

    def _last(self, found: Found) -> Confirmed:
        """The failure that a shrink ended with: one that came alone at first is asked again."""
        sure = self._sure
        assert sure is not None
        if not sure.reproduced or sure.heap or found.trace == sure.call.subject:
            return sure
        if sure.alone:
            return self._asked(found.trace)
        return replace(sure, call=Call(found.trace), verdict=self._verdict(found.failure))

    def _verdict(self, failure: CheckFailure) -> Verdict:
        """The latest that failed, with a failure."""
        assert self._failed is not None
        return replace(self._failed, failure=failure)

    def _count(self, trace: Trace, outcome: Outcome) -> None:
        if self._refusal is not None:
            self.refused += 1
            return
        self.traces += 1
        self.steps += len(trace.steps)
        self.called |= set(trace.operations)

    def _finding(self, sure: Confirmed, seed: int) -> Finding:
        trace, failure = sure.call.subject, sure.failure
        assert isinstance(trace, Trace)
        return Finding(
            case=trace.last_call(),
            target=self.target,
            backend=self.backend,
            kind=failure.kind,
            message=failure.message,
            tensor=failure.tensor,
            place=failure.place,
            versions=versions(self._about.device),
            seed=seed,
            found=today(),
            trace=trace,
            shrink=UNSHRUNK,
            prelude=fitting(sure.prelude),
            reproduced=sure.reproduced,
        )
