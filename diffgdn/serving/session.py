"""A search over a target by name: where its traces are played, and what becomes of one that fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from diffgdn import corpus, isolate
from diffgdn.corpus import Corpus, Finding
from diffgdn.isolate import SetupError
from diffgdn.serving.search import find
from diffgdn.serving.smaller import Outcome
from diffgdn.trace import CALLS, Trace
from diffgdn.verdict import CheckFailure

# Where only the time is limited: more than can be played in it.
MANY = 1_000_000


class Session:
    """Plays traces on one target, in this process or in a child, as `isolate.chosen` says. Raises
    SetupError if the target cannot be had.

    traces, steps: of the latest search, that were played, its shrink not counted; refused: traces that the
    target does not take; called: operations that the traces called. interrupted: by Ctrl-C, with a finding in
    hand. hang_seconds: after which a trace counts as hung; None for what suits the lane.
    """

    def __init__(
        self,
        target: str,
        lane: str,
        isolation: str | None,
        log: Path,
        seed: int,
        hang_seconds: float | None = None,
    ) -> None:
        self.target, self.lane, self.seed = target, lane, seed
        self._runner = isolate.runner(isolate.chosen(isolation, target, lane), lane, log, hang_seconds)
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

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.close()

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
        verdict = self._runner.run(trace, self.target)
        if self._runner.broken is not None:
            raise SetupError(f"{self._runner.broken}; --isolation child goes on after it")
        self._refusal = verdict.refused
        if verdict.refused is not None:
            self._refusals[verdict.refused] = None
        if verdict.failure is None:
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
                self._runner.document(finding, path.parent, picture=False)
            return finding

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
            self._kept.append(self._finding(trace, failure, seed))
            save.keep(self._kept[0])
            seen_in = f"after {self.traces} traces, in {len(trace.steps)} steps"
            say(f"{family}: {failure.kind} {seen_in}; shrinking")

        found = find(
            family,
            self._about.operations,
            self.lane,
            self.play,
            max_traces=max_traces or MANY,
            number=seed,
            deadline=None if max_seconds is None else time.monotonic() + max_seconds,
            on_trace=self._count,
            on_failure=first,
        )
        for reason in sorted(self._refusals):
            say(f"{family}: refused: {reason}")
        if found is None:
            return None
        seen = self._kept[0]
        finding = self._finding(found.trace, found.failure, seed)
        finding = replace(finding, shrink=corpus.COMPLETE if found.complete else corpus.OUT_OF_TIME)
        path, problem = save.keep(finding, anew=finding.id == seen.id)
        if problem is not None:
            say(problem)  # the finding is told all the same
            return finding
        self._kept.append(finding)
        if finding.id != seen.id:
            save.remove(seen)
        self._runner.document(finding, path.parent, picture=False)
        return finding

    def _count(self, trace: Trace, outcome: Outcome) -> None:
        if self._refusal is not None:
            self.refused += 1
            return
        self.traces += 1
        self.steps += len(trace.steps)
        self.called |= set(trace.operations)

    def _finding(self, trace: Trace, failure: CheckFailure, seed: int) -> Finding:
        return Finding(
            case=trace.last_call(),
            target=self.target,
            lane=self.lane,
            kind=failure.kind,
            message=failure.message,
            tensor=failure.tensor,
            place=failure.place,
            versions=corpus.versions(self._about.device),
            seed=seed,
            found=corpus.today(),
            trace=trace,
            shrink=corpus.UNSHRUNK,
        )
