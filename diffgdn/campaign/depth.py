"""Which finding is made smaller next: breadth first.

A campaign is to find every operation that fails, and in which ways, before it makes one failure as small as
it gets. So a large case is shrunk for a moment, as soon as all operations have begun; the rest of each shrink
waits until nothing new has come up for a while, or the time that is left is needed for it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from diffgdn.campaign.ledger import Ledger, Record
from diffgdn.campaign.rotation import Rotation
from diffgdn.campaign.tasks import Shrink
from diffgdn.findings.finding import UNSHRUNK, Finding
from diffgdn.search.hypothesis_search import FAULT_FACTOR
from diffgdn.verdict.failures import FAULT_KINDS

FEW_TOKENS = 8  # a case that has no more can wait for its one shrink
QUICK_SECONDS = 3.0
MOST_OF_TIME = 1 / 3  # of a campaign, that is kept for shrinks, however many wait


class Shrinks:
    """Says which of a campaign's findings is shrunk next, and for how long.

    seconds: for one finding, more where a step costs a process. max_time: of the campaign, None without a
    limit.
    """

    def __init__(
        self,
        ledger: Ledger,
        seconds: float,
        workers: int,
        max_time: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger, self._seconds, self._workers = ledger, seconds, workers
        self._max_time, self._clock = max_time, clock

    def next(self, rotation: Rotation) -> Shrink | None:
        """Return the task of an idle worker; None if it had better explore, or if it is too late."""
        until, waiting = rotation.give_up, self._ledger.waiting
        left = math.inf if until is None else until - self._clock()
        if rotation.out_of_time or not waiting:
            return None  # what is under way may go on for a while; nothing else begins
        if not (rotation.has_begun or rotation.ended):
            return None
        large = [record for record in waiting if not record.small and _tokens(record) > FEW_TOKENS]
        if large:
            return self._task(large[0], min(QUICK_SECONDS, self._seconds), left, last=False)
        if not (rotation.ended or rotation.is_calm or self._is_time(rotation, waiting)):
            return None
        least = min(waiting, key=lambda record: record.finding.shrink != UNSHRUNK)
        share = max(QUICK_SECONDS, left * self._workers / len(waiting))
        return self._task(least, min(self._seconds, share), left, last=True)

    def _task(self, record: Record, seconds: float, left: float, last: bool) -> Shrink:
        return Shrink(record.finding, min(_cost(record.finding, seconds), left), last)

    def _is_time(self, rotation: Rotation, waiting: list[Record]) -> bool:
        """Tell whether the shrinks that wait take all the time that is left."""
        left = rotation.seconds_left
        if left is None or self._max_time is None:
            return False
        needed = sum(_cost(record.finding, self._seconds) for record in waiting)
        turns = -(-len(waiting) // self._workers)
        return left <= min(self._max_time * MOST_OF_TIME, needed / len(waiting) * turns)


def _cost(finding: Finding, seconds: float) -> float:
    return seconds * (FAULT_FACTOR if finding.kind in FAULT_KINDS else 1)


def _tokens(record: Record) -> int:
    return record.finding.case.total
