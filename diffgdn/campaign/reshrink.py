"""Takes up the shrink of findings, in worker processes as a campaign does, and puts smaller ones in place.

A finding is replaced when the smaller one lies there whole, with its script; until then it stays as it was.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffgdn.campaign import tasks
from diffgdn.campaign.config import Workers
from diffgdn.campaign.events import CaseRun
from diffgdn.campaign.replay_findings import by_backend
from diffgdn.campaign.worker_pool import Died, Pool
from diffgdn.findings import corpus, trust
from diffgdn.findings.finding import COMPLETE, EXAMPLE, Finding
from diffgdn.findings.known import NOTHING, KnownFailures
from diffgdn.runner.child_process import undisturbed
from diffgdn.verdict.failures import FAULT_KINDS

POLL_SECONDS = 0.2
CLOSING_SECONDS = 60.0  # after Ctrl-C, for what runs to end
MOST_FAILED_STARTS = 3
DEFAULT_SECONDS = 60.0  # for a shrink
FAULT_SECONDS = 240.0  # of a crash or a hang, where a step costs a process


@dataclass
class Result:
    """What became of a finding in a file. smaller: what now stands for it, also where it has become no
    smaller; None where it is as it was. error: why. cases: that were run for it.
    """

    finding: Finding
    path: Path
    backend: str
    smaller: Finding | None = None
    place: Path | None = None  # of the smaller one's file
    made: bool = False  # that file is new
    error: str | None = None
    seconds: float = 0.0
    cases: int = 0

    def put(self) -> None:
        """Lay the smaller finding beside the larger one."""
        assert self.smaller is not None
        same = self.smaller.id == self.finding.id
        self.place = self.path if same else self.path.parent / f"{self.smaller.id}.json"
        self.made = not self.place.exists()
        try:
            if same or self.made:
                corpus.write(self.place, corpus.content(self.smaller))
        except OSError as error:
            self.error = f"{self.place.parent}: {error.strerror or error}: {self.smaller.id} is not saved"

    def replace(self) -> None:
        """Delete the larger finding: the smaller one lies there whole."""
        if self.place != self.path:
            corpus.delete(self.path)

    def withdraw(self) -> None:
        """Leave the larger finding as it was."""
        if self.made and self.place is not None:
            corpus.delete(self.place)

    @property
    def status(self) -> str:
        """SHRUNK as far as it goes, OUT OF TIME before that, or ERROR."""
        if self.error is not None or self.smaller is None:
            return "ERROR"
        return "SHRUNK" if self.smaller.shrink == COMPLETE else "OUT OF TIME"


def run(
    entries: list[tuple[Finding, Path]],
    backend: str | None = None,
    max_seconds: float | None = None,
    workers: int = 1,
    done: Callable[[Result], None] = lambda result: None,
    isolation: str | None = None,
    trusted: bool = False,
    hang_seconds: float | None = None,
    known: KnownFailures = NOTHING,
) -> list[Result]:
    """Shrink findings again, each for `max_seconds`, on the backend it was found on unless another is given.

    done: called as each is settled. isolation, trusted, hang_seconds: as for
    `replay_findings.run`. known: failures that what is new does not become. Ctrl-C keeps what
    the shrinks under way have come to, and is raised again then.
    """
    results = [Result(finding, path, backend or finding.backend) for finding, path in entries]
    for result in results:
        result.error = _refusal(result.finding, trusted)
        if result.error is not None:
            done(result)
    for name, group in by_backend(results, done):
        config = Workers(
            name, min(workers, len(group)), hang_seconds=hang_seconds, isolation=isolation, known=known
        )
        with tempfile.TemporaryDirectory(prefix="diffgdn-") as folder, Pool(config, Path(folder)) as pool:
            _Shrinks(group, pool, max_seconds, done).run()
    return results


def _refusal(finding: Finding, trusted: bool) -> str | None:
    """Why a finding cannot be shrunk, before anything is run; None if nothing is known against it."""
    if finding.kind == EXAMPLE:
        return "it is an example, which never failed"
    return None if trusted else trust.refusal(finding.target)


class _Shrinks:
    """Findings of one backend, and the workers that shrink them."""

    def __init__(
        self, group: list[Result], pool: Pool, seconds: float | None, done: Callable[[Result], None]
    ) -> None:
        self.pool, self.seconds, self.done = pool, seconds, done
        self.queue = list(group)
        self.running: dict[int, Result] = {}
        self.failed_starts = 0
        self.until: float | None = None  # after Ctrl-C

    def run(self) -> None:
        interrupt: KeyboardInterrupt | None = None
        while self.queue or self.running:
            try:
                self._step()
            except KeyboardInterrupt as error:
                if interrupt is not None:
                    break
                interrupt = error
                self._stop()
            if self.until is not None and time.monotonic() > self.until:
                break
        if interrupt is not None:
            for result in self.running.values():
                result.withdraw()
            raise interrupt

    def _step(self) -> None:
        for index in self.pool.idle():
            if self.queue:
                result = self.running[index] = self.queue.pop(0)
                default = FAULT_SECONDS if result.finding.kind in FAULT_KINDS else DEFAULT_SECONDS
                self.pool.give(index, tasks.Shrink(result.finding, self.seconds or default))
        self.pool.wait(POLL_SECONDS)
        with undisturbed():
            for index, message in self.pool.receive():
                self._handle(index, message)

    def _stop(self) -> None:
        """Have what runs end with what it has come to."""
        self.queue.clear()
        self.until = time.monotonic() + CLOSING_SECONDS
        for index in self.running:
            self.pool.tell(index, tasks.Stop())

    def _handle(self, index: int, message: Any) -> None:
        if isinstance(message, tasks.Shrunk):
            self.running[index].smaller, self.running[index].seconds = message.finding, message.seconds
        elif isinstance(message, CaseRun) and index in self.running:
            self.running[index].cases += 1
        elif isinstance(message, tasks.Done):
            self._done(index, message)
        elif isinstance(message, Died):
            self._died(index, message)
        elif isinstance(message, tasks.SetupFailed):
            self._abandon(message.message)

    def _done(self, index: int, message: tasks.Done) -> None:
        task, result = self.pool.finished(index), self.running[index]
        result.error = message.error or message.refused or result.error
        if result.error is None and isinstance(task, tasks.Shrink):
            if result.smaller is None:
                result.error = _now(result.finding, message)
            else:
                result.put()
                if result.error is None:
                    folder = str(result.path.parent)
                    self.pool.give(index, tasks.Document(result.smaller, folder))
                    return
        self._settle(index)

    def _died(self, index: int, died: Died) -> None:
        result = self.running.get(index)
        if result is not None:
            result.error = f"the worker that shrank it ended: {died.reason}"
            self._settle(index)
        else:
            self.failed_starts += 1
            if self.failed_starts >= MOST_FAILED_STARTS:
                self._abandon(f"workers end before their first case: {died.reason}")
        if self.queue:
            self.pool.start(index)

    def _settle(self, index: int) -> None:
        result = self.running.pop(index)
        if result.error is None:
            result.replace()
        else:
            result.withdraw()
        self.done(result)

    def _abandon(self, reason: str) -> None:
        """No worker can work: everything left is an error."""
        left, self.queue = self.queue, []
        for result in left:
            result.error = reason
            self.done(result)


def _now(finding: Finding, message: tasks.Done) -> str:
    """What a finding does now, that does not fail as it did."""
    if message.failure is None:
        return "it does not fail any more"
    line = str(message.failure["message"]).splitlines()[0]
    return f"it fails in another way: {message.failure['kind']}: {line} (it was {finding.kind})"
