"""A search over a target by name: where its traces are played, and what becomes of one that fails."""

from __future__ import annotations

import time
from collections.abc import Callable
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
    SetupError if the target cannot be had. traces and steps: of the latest search, its shrink not counted."""

    def __init__(self, target: str, lane: str, isolation: str | None, log: Path, seed: int) -> None:
        self.target, self.lane, self.seed = target, lane, seed
        self._runner = isolate.runner(isolate.chosen(isolation, target, lane), lane, log)
        try:
            self._about = self._runner.about(target)
        except BaseException:
            self._runner.close()
            raise
        self.traces, self.steps = 0, 0
        self._refusals: set[str] = set()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.close()

    def missing(self, family: str) -> str | None:
        """Why nothing of a family can be served, or None. Operations that the target lacks are left out."""
        has = [kind for kind in CALLS if f"{family}.{kind}" in self._about.operations]
        return None if has else f"{self.target} has none of {', '.join(f'{family}.{kind}' for kind in CALLS)}"

    def play(self, trace: Trace) -> Outcome:
        """The failure of a trace and the number of its step. One that the target refuses counts as
        passing."""
        verdict = self._runner.run(trace, self.target)
        if self._runner.broken is not None:
            raise SetupError(f"{self._runner.broken}; --isolation child goes on after it")
        if verdict.refused is not None:
            self._refusals.add(verdict.refused)
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
        when it is shrunk. say: is told what goes on, in lines."""
        self.traces, self.steps = 0, 0
        self._refusals.clear()
        seen: list[Finding] = []

        def first(trace: Trace, failure: CheckFailure) -> None:
            seen.append(self._finding(trace, failure, seed))
            save.keep(seen[0])
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
        finding = self._finding(found.trace, found.failure, seed)
        path, problem = save.keep(finding)
        if problem is not None:
            say(problem)  # the finding is told all the same
            return finding
        if finding.id != seen[0].id:
            save.remove(seen[0])
        self._runner.document(finding, path.parent, picture=False)
        return finding

    def _count(self, trace: Trace, outcome: Outcome) -> None:
        self.traces += 1
        self.steps += len(trace.steps)

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
        )
