"""Asks a target about the cases of a cell, in a child process that may crash or hang over any of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffgdn.cases import promise_axes
from diffgdn.cases.case import Case
from diffgdn.cases.promises import Promises
from diffgdn.findings.known import NOTHING, KnownFailures
from diffgdn.probe.cells import FAILED, HANGS, NOT_REACHED, REFUSED, RIGHT, Cell, status_of
from diffgdn.runner.harness import Harness
from diffgdn.runner.messages import RunnerError, SetupError
from diffgdn.search import by_field
from diffgdn.verdict.failures import CheckFailure, Verdict
from diffgdn.verdict.question import AskBeyondPromises

QUESTION = AskBeyondPromises()
# After which a case of a few tokens counts as hung, by backend. On a GPU it may have to be compiled.
HANG_SECONDS = {"interpret": 20.0, "gpu": 120.0}
SHRINK_SECONDS = 4.0
SHRINK_RUNS = 60


@dataclass(frozen=True)
class Asked:
    """A feature in words, for the cell that comes of it."""

    op: str
    name: str
    axis: str
    value: object


class Asker:
    """Asks from several threads, each with a child process of its own."""

    def __init__(
        self,
        target: str,
        backend: str,
        folder: Path,
        hang_seconds: float | None = None,
        known: KnownFailures = NOTHING,
    ) -> None:
        self._target, self._backend, self._folder = target, backend, folder
        self._hang_seconds = hang_seconds or HANG_SECONDS[backend]
        self._known = known
        self._here = threading.local()
        self._lock = threading.Lock()
        self._harnesses: list[Harness] = []
        self._hung: set[str] = set()  # operations
        self._stopped = False

    def close(self) -> None:
        """End all children; whoever still asks gets an error."""
        self._stopped = True
        for harness in self._harnesses:
            harness.close()

    @property
    def harness(self) -> Harness:
        """The harness of this thread."""
        found: Harness | None = getattr(self._here, "harness", None)
        if found is None:
            with self._lock:
                name = self._folder / f"probe-{len(self._harnesses)}"
                found = Harness(
                    self._backend,
                    name.with_suffix(".note"),
                    name.with_suffix(".log"),
                    isolation="child",
                    hang_seconds=self._hang_seconds,
                    known=self._known,
                )
                self._harnesses.append(found)
            self._here.harness = found
        return found

    def cell(self, about: Asked, cases: Sequence[Case], own: Promises) -> Cell:
        """Return what comes of cases: the first that fails decides, promised ones come first.

        own: what is promised of the operation.
        """
        cases = sorted(cases, key=lambda case: own.broken_by(case) is not None)
        refused, out_of_reach, ran = None, False, 0
        for case in cases:
            try:
                verdict = self.ask(case)
            except SetupError:
                raise
            except RunnerError as error:  # such as a lack of memory, which is no fault of the kernel
                refused, out_of_reach = str(error), True
                continue
            status = status_of(verdict)
            if status == REFUSED:
                refused = refused or verdict.refused
                continue
            ran += 1
            if status in FAILED:
                return self._failed(about, case, status, verdict, ran, own)
        status = RIGHT if ran else NOT_REACHED if out_of_reach else REFUSED
        promised, first = own.broken_by(cases[0]) is None, cases[0]
        said = None if ran else refused
        return Cell(about.op, about.name, about.axis, about.value, status, promised, first, ran, None, said)

    def _failed(
        self, about: Asked, case: Case, status: str, verdict: Verdict, ran: int, own: Promises
    ) -> Cell:
        assert verdict.failure is not None
        if status == HANGS:
            self._hung.add(about.op)
        return Cell(
            about.op,
            about.name,
            about.axis,
            about.value,
            status,
            own.broken_by(case) is None,
            case,
            ran,
            verdict.failure.kind,
            str(verdict.failure),
            verdict.known,
        )

    def ask(self, case: Case) -> Verdict:
        """Ask whether a target is right on a case, promised or not."""
        if self._stopped:
            raise KeyboardInterrupt
        return self.harness.ask(case, self._target, QUESTION, familiar=self._familiar(case.op))

    def _familiar(self, op: str) -> Callable[[CheckFailure], bool]:
        """Tell of which failures no second run is needed: a hang, where the operation has hung before."""
        return lambda failure: failure.kind == "hung" and op in self._hung

    def smallest(self, cell: Cell, allowed: Promises, axes: tuple[str, ...], until: float) -> Cell:
        """Return a wrong cell with the smallest case found in a few seconds that is wrong in the same way.

        allowed: what a smaller case may have. axes: those on which it is to stay as it is. until: on the
        monotonic clock, when to stop looking.
        """
        assert cell.case is not None
        until, runs = min(until, time.monotonic() + SHRINK_SECONDS), 0
        wanted = _on(cell.case, axes)

        def fails(case: Case) -> bool:
            nonlocal runs
            if not wanted <= _on(case, axes):
                return False
            runs += 1
            failure = self.ask(case).failure
            return failure is not None and failure.kind == cell.kind

        def expired() -> bool:
            return time.monotonic() > until or runs >= SHRINK_RUNS

        found = by_field.simplest(cell.case, fails, expired, allowed)
        if found == cell.case:
            return cell
        failure = self.ask(found).failure
        if failure is None:
            return cell
        return replace(cell, case=found, message=str(failure))


def _on(case: Case, axes: tuple[str, ...]) -> set[tuple[str, object]]:
    return {(axis, value) for axis, value in promise_axes.asked(case) if axis in axes}
