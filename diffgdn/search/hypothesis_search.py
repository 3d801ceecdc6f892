"""Looks for failing cases of a strategy with Hypothesis, and shrinks each kind of failure within a time
limit.

A search goes in rounds. Each round generates until a kind of failure is met that has not been met before,
then shrinks that kind only; the next round counts it as passing and goes on. So every kind gets a shrink of
its own, and one that fails often cannot hide another. Kinds are those of `bucket.fault`.

A shrink has two stages: structure (sequences, heads, dimensions, flags, laws), then content (which tokens,
heads and channels matter).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from hypothesis import HealthCheck, Phase, Verbosity, given, reject, seed, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy

from diffgdn.cases.case import Case
from diffgdn.cases.promises import EVERYTHING, Promises
from diffgdn.findings import bucket
from diffgdn.search import by_field, sparsify
from diffgdn.verdict.failures import FAULT_KINDS

if TYPE_CHECKING:
    from diffgdn.verdict.failures import CheckFailure, Verdict

MAX_SHRINK_SECONDS = 30.0
# A step down from a crash or a hang costs the child it was tried in: so more time, and few runs, on any
# backend.
FAULT_FACTOR = 4
CONTENT_SHARE = 1 / 3  # of that time, kept for the second stage


class Found(NamedTuple):
    """One kind of failure: its smallest known case, that case's failure, and the case on which it was first
    seen.

    `complete` is False if there was no time to try everything that might have been smaller.
    """

    case: Case
    failure: CheckFailure
    unshrunk: Case
    complete: bool = False


class _Fails(Exception):
    """Tells Hypothesis that a case fails.

    Raised from one line only, so that one round has one failure to shrink.
    """

    def __init__(self, case: Case, failure: CheckFailure) -> None:
        super().__init__(case.id)
        self.case = case
        self.failure = failure


class _Simplified(BaseException):
    """Leaves Hypothesis with a failure that needs no shrinking by it."""

    def __init__(self, case: Case, failure: CheckFailure) -> None:
        super().__init__(case.id)
        self.case = case
        self.failure = failure


class _Stop(BaseException):
    """Leaves Hypothesis at once, with the exception that caused it, if any.

    Not an Exception: Hypothesis would take that for a failing case.
    """

    def __init__(self, cause: Exception | None = None) -> None:
        super().__init__()
        self.cause = cause


def _kind(failure: CheckFailure) -> str:
    """Name the kind of failure that a round looks for, and that a shrink must keep."""
    return bucket.fault(failure.kind)


def _ignore(_: object) -> None:
    """Default callback: do nothing."""


@dataclass
class Search:
    """The function that Hypothesis calls, and what it remembers between calls.

    Answers are remembered by case id: a case is run once, however often Hypothesis asks, and so gives one
    answer. When a shrink has had its time, cases not seen before count as passing, without a run: Hypothesis
    then ends soon, and with a failure that it knows.

    The parameters are those of `find`. `found` holds each kind of failure met so far, `generated` counts the
    cases generated outside of shrinks.
    """

    run: Callable[[Case], Verdict]
    max_shrink_seconds: float = MAX_SHRINK_SECONDS
    deadline: float | None = None
    on_verdict: Callable[[Verdict], None] = _ignore
    on_failure: Callable[[Verdict], None] = _ignore
    ignore: Collection[str] = ()
    clock: Callable[[], float] = time.monotonic
    on_shrunk: Callable[[Found], None] = _ignore
    by_field: bool = False
    promises: Promises = EVERYTHING

    found: dict[str, Found] = field(default_factory=dict)
    generated: int = 0
    # Failure, refusal and their absence; not the verdict, which may hold large tensors.
    _answers: dict[str, CheckFailure | bool] = field(default_factory=dict)
    _finished: set[str] = field(default_factory=set)
    _shrinking: str | None = None
    _shrink_until: float = 0.0
    _structure_until: float = 0.0
    _ran_out: bool = False  # of time, in the shrink that is under way

    def __call__(self, case: Case) -> None:
        """Answer Hypothesis: return for a case that passes, reject one that the target refuses, raise for one
        that fails.

        Raises _Fails, _Simplified if the case was shrunk here, or _Stop.
        """
        shrinking = self._shrinking is not None
        if not shrinking:
            if self.deadline is not None and self.clock() >= self.deadline:
                raise _Stop
        elif case.id not in self._answers and self._late(self._structure_until):
            return
        answer = self._answer(case)
        if answer is True:
            reject()
        self.generated += not shrinking
        if answer is False or _kind(answer) in self._finished or not self._wanted(_kind(answer)):
            return
        if self.by_field or _kind(answer) in FAULT_KINDS:
            raise _Simplified(*self._simpler(case, answer, self._by_field))
        raise _Fails(case, answer)

    def _simpler(
        self, case: Case, failure: CheckFailure, stage: Callable[[Case, dict[str, CheckFailure]], Case]
    ) -> tuple[Case, CheckFailure]:
        """Let a stage shrink a case, and return the case and its failure, which is of the same kind."""
        failures = {case.id: failure}
        best = stage(case, failures)
        return best, failures[best.id]

    def _fails(self, candidate: Case, failures: dict[str, CheckFailure]) -> bool:
        """Run a case, note its failure in `failures`, and tell whether it is of the kind being shrunk. One
        outside the promises is not run.
        """
        if self.promises.broken_by(candidate) is not None:
            return False
        answer = self._answer(candidate)
        if isinstance(answer, bool) or _kind(answer) != self._shrinking:
            return False
        failures[candidate.id] = answer
        return True

    def _by_field(self, case: Case, failures: dict[str, CheckFailure]) -> Case:
        """Shrink the structure of a case field by field."""
        return by_field.simplest(
            case,
            lambda candidate: self._fails(candidate, failures),
            lambda: self._late(self._structure_until),
            self.promises,
        )

    def _content(self, case: Case, failures: dict[str, CheckFailure]) -> Case:
        """Shrink the content of a case."""
        return sparsify.simplest(
            case,
            lambda candidate: self._fails(candidate, failures),
            lambda: self._late(self._shrink_until),
            lambda candidate: bucket.numbers(failures[candidate.id].place),
        )

    def _late(self, until: float) -> bool:
        """Tell whether the time for a stage is up; asked only while there is something left to try."""
        late = self.clock() >= until
        self._ran_out |= late
        return late

    def _wanted(self, kind: str) -> bool:
        """Tell whether this round shrinks failures of this kind; the first kind seen becomes the one."""
        if self._shrinking is None:
            self.begin(kind, self.max_shrink_seconds * (FAULT_FACTOR if kind in FAULT_KINDS else 1))
        return self._shrinking is kind

    def begin(self, kind: str, limit: float) -> None:
        """Shrink this kind of failure from now on, for `limit` seconds."""
        now = self.clock()
        self._shrinking, self._ran_out = kind, False
        self._shrink_until = now + limit
        self._structure_until = now + (limit * (1 - CONTENT_SHARE) if kind in sparsify.SPARSIFIED else limit)

    def _answer(self, case: Case) -> CheckFailure | bool:
        """Run a case unless it was run before; return its failure, True if the target refuses it, or False if
        it passes.

        Raises _Stop for a fault of the machinery.
        """
        known = self._answers.get(case.id)
        if known is not None:
            return known
        try:
            verdict = self.run(case)
            self.on_verdict(verdict)
            failure = verdict.failure
            answer: CheckFailure | bool = verdict.refused is not None if failure is None else failure
            self._answers[case.id] = answer
            if failure is not None and _kind(failure) not in self.found and _kind(failure) not in self.ignore:
                self.found[_kind(failure)] = Found(case, failure, case)
                self.on_failure(verdict)
        except Exception as error:
            # A fault of the machinery, not of a kernel: nothing to shrink.
            raise _Stop(error) from error
        return answer

    def _finish(self, case: Case, failure: CheckFailure) -> Found:
        """Shrink the content of a case, if its kind of failure depends on numbers, and say what came of both
        stages.
        """
        if _kind(failure) in sparsify.SPARSIFIED:
            case, failure = self._simpler(case, failure, self._content)
        return Found(case, failure, self.found[_kind(failure)].unshrunk, not self._ran_out)

    def resume(self, case: Case, kind: str, limit: float) -> Found | None:
        """Shrink a failing case again; see `again`."""
        try:
            answer = self._answer(case)
            if isinstance(answer, bool) or _kind(answer) != kind:
                return None
            self.begin(kind, limit)
            return self._finish(*self._simpler(case, answer, self._by_field))
        except _Stop as stop:
            raise stop.cause or stop from None

    def round(self, strategy: SearchStrategy[Case], max_examples: int, number: str) -> bool:
        """Generate cases until a kind of failure is met that no earlier round has shrunk, then shrink it.

        Returns whether there was one. Raises what `run` raises, and Unsatisfiable if the strategy gives no
        case at all.
        """

        @seed(number)
        @settings(
            max_examples=max_examples,
            phases=(Phase.generate, Phase.shrink),
            database=None,
            deadline=None,
            derandomize=False,
            print_blob=False,
            verbosity=Verbosity.quiet,
            # Generation must end with the first failure: what comes after it is then known to be the shrink.
            report_multiple_bugs=False,
            suppress_health_check=(
                HealthCheck.too_slow,  # it would time the kernel, which is as slow as it is
                HealthCheck.filter_too_much,  # a target may refuse most cases; nothing is wrong then
                HealthCheck.data_too_large,  # the search ends by count and time, not by the size of cases
            ),
        )
        @given(case=strategy)
        def test(case: Case) -> None:
            self(case)

        self._shrinking = None
        try:
            test()
        except (_Fails, _Simplified) as fails:
            kind = _kind(fails.failure)
            try:
                self.found[kind] = self._finish(fails.case, fails.failure)
            except _Stop as stop:
                raise stop.cause or stop from None
            self._finished.add(kind)
            self.on_shrunk(self.found[kind])
            return True
        except _Stop as stop:
            if stop.cause is not None:
                raise stop.cause from None
        except Unsatisfiable:
            if not self._answers:
                raise  # the strategy's own fault: not one case came out of it, refused or not
        return False


def find(
    strategy: SearchStrategy[Case],
    run: Callable[[Case], Verdict],
    *,
    max_examples: int,
    seed: int,
    max_shrink_seconds: float = MAX_SHRINK_SECONDS,
    deadline: float | None = None,
    on_verdict: Callable[[Verdict], None] = _ignore,
    on_failure: Callable[[Verdict], None] = _ignore,
    ignore: Collection[str] = (),
    clock: Callable[[], float] = time.monotonic,
    on_shrunk: Callable[[Found], None] = _ignore,
    by_field: bool = False,
    promises: Promises = EVERYTHING,
) -> list[Found]:
    """Look for failing cases of a strategy, and shrink one for each kind of failure.

    `run` gives a case's verdict; what it raises itself is the caller's fault and comes out of here unchanged.
    `max_examples` is the number of cases to generate, those of the shrinks not counted. `deadline` says when
    to stop generating, on `clock`, in seconds; a shrink then under way may still take its
    `max_shrink_seconds`. `ignore` names kinds that count as passing.

    `by_field` shrinks the structure field by field, which takes far fewer runs than Hypothesis, whose
    shrinking knows the strategy. It may be set only if every case of the operation may be run, not those of a
    menu only. Crashes and hangs are always shrunk so, for up to FAULT_FACTOR times as long. `promises` are
    those that `strategy` draws inside: a shrink does not leave them.

    `on_verdict` is called for every case that was run; `on_failure` once for each kind, with the first,
    unshrunk failure, before shrinking starts; `on_shrunk` once for each kind, when its shrinking ends.

    Returns one Found for each kind, in the order in which the kinds were first seen.
    """
    search = Search(
        run,
        max_shrink_seconds,
        deadline,
        on_verdict,
        on_failure,
        ignore,
        clock,
        on_shrunk,
        by_field,
        promises,
    )
    search._finished.update(ignore)
    number = 0
    while search.generated < max_examples and search.round(
        strategy, max_examples - search.generated, f"{seed}.{number}"
    ):
        number += 1
    return list(search.found.values())


def again(
    case: Case,
    kind: str,
    run: Callable[[Case], Verdict],
    max_seconds: float,
    clock: Callable[[], float] = time.monotonic,
    promises: Promises = EVERYTHING,
) -> Found | None:
    """Make a failing case as small as the time allows, field by field; None if it does not fail in that way.

    `kind` is that of the failure, as `CheckFailure.kind` has it; `run` is that of `find`, `promises` too.
    """
    return Search(run, clock=clock, promises=promises).resume(case, bucket.fault(kind), max_seconds)
