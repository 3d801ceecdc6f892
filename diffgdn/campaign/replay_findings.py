"""Runs findings again, in worker processes as a campaign does: a crash ends one of them, or its child, no
more.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from diffgdn.backend import selection as backends
from diffgdn.campaign import tasks
from diffgdn.campaign.config import Workers
from diffgdn.campaign.worker_pool import Died, Pool
from diffgdn.findings import trust
from diffgdn.findings.finding import EXAMPLE, Finding
from diffgdn.findings.known import NOTHING, Known, KnownFailures
from diffgdn.findings.known_seen import SeenFailures
from diffgdn.verdict.failures import CheckFailure

POLL_SECONDS = 0.2
MOST_FAILED_STARTS = 3


@dataclass
class Result:
    """What became of a finding.

    failures: what its runs said, None for one that passed. news: whether a failure among them is not known;
    known: the entry that one of them is known by. skipped: why it was not run, though it could be. text: a
    picture, if asked for.
    """

    finding: Finding
    backend: str
    failures: list[dict[str, Any] | None] = field(default_factory=list)
    news: bool = False
    known: str | None = None
    skipped: str | None = None
    error: str | None = None
    text: str | None = None

    @property
    def status(self) -> str:
        """FIXED (or PASSED, where it never failed), FAILED, FLAKY with how many runs failed, KNOWN if they
        failed as is known, SKIPPED, or ERROR. What was seen once is not fixed because it does not come.
        """
        failed = sum(failure is not None for failure in self.failures)
        if self.error is not None:
            return "ERROR"
        if self.skipped is not None:
            return "SKIPPED"
        if failed and not self.news:
            return "KNOWN"
        if failed == 0 and self.finding.reproduced:
            return "PASSED" if self.finding.kind == EXAMPLE else "FIXED"
        return "FAILED" if 0 < failed == len(self.failures) else f"FLAKY {failed}/{len(self.failures)}"

    @property
    def detail(self) -> str | None:
        """Why, in one line."""
        if self.error is not None or self.skipped is not None:
            return self.error or self.skipped
        for failure in self.failures:
            if failure is not None:
                same = failure["kind"] == self.finding.kind
                place = " ".join(filter(None, (failure.get("tensor"), failure.get("place"))))
                line = f"{failure['kind']} {place}".strip() + f": {failure['message'].splitlines()[0]}"
                return line if same else f"{line} (it was {self.finding.kind})"
        return None if self.finding.reproduced else "it was seen once, and does not come now either"


def run(
    found: list[Finding],
    backend: str | None = None,
    repeat: int = 1,
    workers: int = 1,
    picture: bool = False,
    done: Callable[[Result], None] = lambda result: None,
    isolation: str | None = None,
    trusted: bool = False,
    hang_seconds: float | None = None,
    known: KnownFailures = NOTHING,
) -> list[Result]:
    """Run each finding `repeat` times, on the backend it was found on unless another is given.

    done: called as each is settled. isolation: one of ways.WAYS; None for what suits the target, and a
    child for what has crashed or hung. trusted: the user vouches for the targets that the findings name;
    else code from elsewhere is not loaded, see `trust`. hang_seconds: after which a run counts as hung; None
    for what suits the backend. known: failures that are no news.
    """
    results = [Result(finding, backend or finding.backend) for finding in found]
    for result in results if not trusted else ():
        result.error = trust.refusal(result.finding.target)
        if result.error is not None:
            done(result)
    for name, group in by_backend(results, done):
        one = _Replay(group, name, repeat, picture, done, isolation, hang_seconds, known)
        one.run(min(workers, len(group) * repeat))
    return results


def seen(results: Sequence[Result], known: KnownFailures) -> SeenFailures:
    """Say of each known failure whether findings of it fail, pass or were not run."""
    found = SeenFailures(known.entries)
    for result in results:
        entry = known.of(result.finding, result.backend)
        if entry is None or result.error is not None:
            continue
        if result.status == "SKIPPED":
            found.skipped(entry.name)
        elif any(failure is not None for failure in result.failures):
            found.met(entry.name)
        else:
            found.replayed(entry, result.finding)
    return found


class Settled(Protocol):
    """What becomes of a finding: the backend that it is to run on, and why it cannot be run."""

    backend: str
    error: str | None


Some = TypeVar("Some", bound=Settled)


def by_backend(results: Sequence[Some], done: Callable[[Some], None]) -> Iterator[tuple[str, list[Some]]]:
    """Group what nothing is known against by its backend, each to be run in one pool.

    Where there is no GPU, what was found on one gets that as its error, and `done` is called with it.
    """
    for name in backends.BACKENDS:
        group = [result for result in results if result.backend == name and result.error is None]
        missing = backends.gpu_missing() if name == "gpu" and group else None
        if missing is None and group:
            yield name, group
        for result in group if missing is not None else ():
            result.error = (
                f"it was found on backend gpu, and {missing}; --backend interpret runs it on the CPU"
            )
            done(result)


class _Replay:
    def __init__(
        self,
        group: list[Result],
        backend: str,
        repeat: int,
        picture: bool,
        done: Callable[[Result], None],
        isolation: str | None,
        hang_seconds: float | None,
        known: KnownFailures,
    ) -> None:
        self.isolation, self.hang_seconds, self.known = isolation, hang_seconds, known
        self.backend, self.repeat, self.picture, self.done = backend, repeat, picture, done
        self.queue = [(result, n == 0) for result in group for n in range(repeat)]  # and whether the first
        self.running: dict[int, Result] = {}
        self.failed_starts = 0

    def run(self, workers: int) -> None:
        with (
            tempfile.TemporaryDirectory(prefix="diffgdn-") as folder,
            Pool(
                Workers(
                    self.backend,
                    workers,
                    hang_seconds=self.hang_seconds,
                    isolation=self.isolation,
                    known=self.known,
                ),
                Path(folder),
            ) as self.pool,
        ):
            while self.queue or self.running:
                for index in self.pool.idle():
                    if self.queue:
                        self._give(index, *self.queue.pop(0))
                for index, message in self.pool.receive(POLL_SECONDS):
                    self._handle(index, message)

    def _give(self, index: int, result: Result, first: bool) -> None:
        """The first run of a finding has a process of its own: what passes there is fixed, what fails there
        fails by itself."""
        finding = result.finding
        fresh = first and finding.kind != EXAMPLE
        self.running[index] = result
        picture = self.picture and result.text is None
        self.pool.give(
            index,
            tasks.RunCase(
                finding.case, finding.target, "replay", finding=finding, picture=picture, fresh=fresh
            ),
        )

    def _handle(self, index: int, message: Any) -> None:
        if isinstance(message, tasks.Done):
            self.pool.finished(index)
            result = self.running.pop(index)
            if message.refused is not None and message.known is not None:
                result.skipped = message.refused
            else:
                result.error = result.error or message.error or message.refused
                result.known = result.known or message.known
            result.news |= message.failure is not None and message.known is None
            result.text = result.text or message.text
            self._settle(result, None if message.failure is None else dict(message.failure))
        elif isinstance(message, Died):
            self._died(index, message)
        elif isinstance(message, tasks.SetupFailed):
            self._abandon(message.message)

    def _died(self, index: int, died: Died) -> None:
        result = self.running.pop(index, None)
        if result is not None:
            failure = {"kind": "hung" if died.hung else "crashed", "message": died.reason}
            entry = self._known_by(result.finding, failure)
            result.news |= entry is None
            result.known = result.known or (None if entry is None else entry.name)
            self._settle(result, failure)
        else:
            self.failed_starts += 1
            if self.failed_starts >= MOST_FAILED_STARTS:
                self._abandon(f"workers end before their first case: {died.reason}")
        if self.queue:
            self.pool.start(index)

    def _known_by(self, finding: Finding, failure: dict[str, Any]) -> Known | None:
        """The entry that a worker's death over a finding is known by."""
        told = {"operation": finding.operation, "tensor": None, "place": None, **failure}
        subject, failed = finding.trace or finding.case, CheckFailure.from_json(told)
        return self.known.match(finding.target, self.backend, subject, failed)

    def _settle(self, result: Result, failure: dict[str, Any] | None) -> None:
        result.failures.append(failure)
        if len(result.failures) == self.repeat:
            self.done(result)

    def _abandon(self, reason: str) -> None:
        """No worker can work: everything left is an error."""
        left = {result.finding.id: result for result, _ in self.queue}
        self.queue.clear()
        for result in left.values():
            result.error = reason
            self.done(result)
