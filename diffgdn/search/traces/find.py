"""Looks for a serving trace that fails, with Hypothesis, and makes it smaller step by step."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from diffgdn.cases.promises import EVERYTHING, Promises
from diffgdn.cases.trace import Trace, replace_steps
from diffgdn.search.traces.machine import machine
from diffgdn.search.traces.smaller import Outcome, Play, simplest
from diffgdn.verdict.failures import CheckFailure

STEPS = 16  # of a trace at most
MAX_SHRINK_SECONDS = 60.0


@dataclass(frozen=True)
class Found:
    """A trace that fails, shrunk, its failure, and `unshrunk`, the trace as it was first seen.

    `traces` and `seconds` are what it took until it was seen; `played` counts the traces of the shrink.
    `complete` is False if the shrink ran out of time.
    """

    trace: Trace
    failure: CheckFailure
    unshrunk: Trace
    traces: int
    seconds: float
    played: int
    complete: bool = True


class _Stop(BaseException):
    """Leaves Hypothesis at once, with the exception that caused it, if any."""

    def __init__(self, cause: Exception | None = None) -> None:
        super().__init__()
        self.cause = cause


@dataclass
class Search:
    """The function that Hypothesis calls with each trace, and what it remembers.

    The first trace that fails ends the search; steps after the one that failed are cut off. `expired` is
    asked before each trace, `on_trace` is called after each with its outcome.
    """

    play: Play
    expired: Callable[[], bool]
    on_trace: Callable[[Trace, Outcome], None] = lambda trace, outcome: None

    began: float = field(default_factory=time.monotonic)
    traces: int = 0
    seconds: float = 0.0
    found: tuple[Trace, CheckFailure] | None = None

    def __call__(self, trace: Trace) -> None:
        """Play a trace. Raises _Stop to end the search: for a failure, a fault of the machinery, or when time
        expired.
        """
        if self.expired():
            raise _Stop
        self.traces += 1
        try:
            outcome = self.play(trace)
        except Exception as error:
            raise _Stop(error) from error  # a fault of the machinery
        self.on_trace(trace, outcome)
        if outcome is not None:
            failure, at = outcome
            self.found = replace_steps(trace, trace.steps[: at + 1]), failure
            self.seconds = time.monotonic() - self.began
            raise _Stop

    def run(
        self,
        family: str,
        operations: Collection[str],
        backend: str,
        max_traces: int,
        number: int,
        steps: int = STEPS,
        promises: Promises = EVERYTHING,
    ) -> tuple[Trace, CheckFailure] | None:
        """Play up to `max_traces` traces of a stream until one fails; return that one and its failure, or
        None.

        `number` is the seed of the stream, `steps` the most that a trace has; all ask what is promised. What
        `play` raises comes out of here.
        """
        serving = machine(family, operations, backend, self, promises)
        if serving is None:
            return None
        drawn = seed(number)(serving)
        try:
            run_state_machine_as_test(
                drawn,
                settings=settings(
                    max_examples=max_traces,
                    stateful_step_count=steps,
                    phases=(Phase.generate,),
                    database=None,
                    deadline=None,
                    derandomize=False,
                    print_blob=False,
                    verbosity=Verbosity.quiet,
                    report_multiple_bugs=False,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        except _Stop as stop:
            if stop.cause is not None:
                raise stop.cause from None
        return self.found


def find(
    family: str,
    operations: Collection[str],
    backend: str,
    play: Play,
    *,
    max_traces: int,
    number: int,
    deadline: float | None = None,
    max_shrink_seconds: float = MAX_SHRINK_SECONDS,
    steps: int = STEPS,
    promises: Promises = EVERYTHING,
    on_trace: Callable[[Trace, Outcome], None] = lambda trace, outcome: None,
) -> Found | None:
    """Find the first failing trace of a stream of up to `max_traces`, and shrink it within a time limit; None
    if none fails.

    `number` is the seed of the stream. `deadline` says when to stop looking, on time.monotonic, in seconds.
    What `play` raises comes out of here.
    """

    def expired() -> bool:
        return deadline is not None and time.monotonic() >= deadline

    search = Search(play, expired, on_trace)
    found = search.run(family, operations, backend, max_traces, number, steps, promises)
    if found is None:
        return None
    first, failure = found
    trace, failure, played, complete = shrunk(first, failure, play, max_shrink_seconds)
    return Found(trace, failure, first, search.traces, search.seconds, played, complete)


def shrunk(
    trace: Trace,
    failure: CheckFailure,
    play: Play,
    max_seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Trace, CheckFailure, int, bool]:
    """Shrink a failing trace for up to `max_seconds`.

    Returns the smallest trace known to fail as the given one does, its failure, how many traces were played
    for it, and whether there was time to try all.
    """
    until, late = clock() + max_seconds, list[bool]()

    def expired() -> bool:
        late.append(clock() >= until)
        return late[-1]

    return (*simplest(trace, failure, play, expired), not any(late))
