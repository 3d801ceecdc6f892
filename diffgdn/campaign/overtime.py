"""What a campaign still waits for when its time is up, and what it closes with."""

from __future__ import annotations

import time
from pathlib import Path

from diffgdn.campaign import events, tasks
from diffgdn.campaign.events import Listener
from diffgdn.campaign.ledger import Ledger
from diffgdn.campaign.worker_pool import Pool
from diffgdn.findings.corpus import delete
from diffgdn.findings.finding import Finding

LEEWAY_SECONDS = 3.0  # beyond all limits, for a worker to answer before it is ended


class Awaited:
    """Cases that were begun in time. Each is waited for until it answers or counts as hung: its verdict is
    what the campaign was asked for. A shrink is not waited for: its finding has been saved.
    """

    def __init__(self, pool: Pool, emit: Listener) -> None:
        self._pool, self._emit = pool, emit
        self._shrinking: set[int] = set()  # workers
        self._last_seen: dict[int, float] = {}  # running a case
        self._told: set[int] = set()

    def shrinks(self, worker: int, shrinks: bool) -> None:
        """Note whether a worker is shrinking from now on."""
        if shrinks:
            self._shrinking.add(worker)
        else:
            self._shrinking.discard(worker)

    def any(self) -> bool:
        """Whether there is a case to wait for. Those that have run for a while are told of, once."""
        awaited = [worker for worker in self._pool.busy() if self._is_awaited(worker)]
        return bool(awaited)

    def _is_awaited(self, worker: int) -> bool:
        """Whether a worker explores, and runs a case or did so a moment ago: its answer is on the way."""
        task, now = self._pool.task(worker), time.monotonic()
        if not isinstance(task, tasks.Explore) or task.again or worker in self._shrinking:
            return False
        seconds = self._pool.running(worker)
        if seconds is not None:
            self._last_seen[worker] = now
            if seconds > LEEWAY_SECONDS and worker not in self._told:
                self._told.add(worker)
                self._emit(events.CaseAwaited(task.operation, seconds, self._pool.hang_seconds))
        return worker in self._last_seen and now - self._last_seen[worker] < LEEWAY_SECONDS


class Scripts:
    """Findings that want a script, and a picture, beside their file in a folder. Each is asked for once."""

    def __init__(self, ledger: Ledger, folder: str) -> None:
        self._ledger, self._folder = ledger, folder
        self._queue: list[Finding] = []
        self._asked: set[str] = set()  # ids

    def want(self, finding: Finding) -> None:
        """One that will not change any more."""
        if finding not in self._queue:
            self._queue.append(finding)

    def next(self) -> tasks.Document | None:
        """What a worker is to write, or None. Not for a finding that a smaller one has replaced meanwhile."""
        while self._queue:
            finding = self._queue.pop(0)
            if finding.id not in self._asked and self._stands(finding):
                self._asked.add(finding.id)
                return tasks.Document(finding, self._folder)
        return None

    def written(self, finding: Finding) -> None:
        """A script has been written. Delete it if the finding has been replaced meanwhile."""
        path = Path(self._folder) / f"{finding.id}.json"
        if not self._stands(finding) and not path.exists():
            delete(path)

    def _stands(self, finding: Finding) -> bool:
        return any(finding.id == one.id for one in self._ledger.findings)

    def want_missing(self) -> bool:
        """Want one for every finding that has none. Whether any is wanted."""
        for finding in self._ledger.bare:
            if finding.id not in self._asked:
                self.want(finding)
        return bool(self._queue)
