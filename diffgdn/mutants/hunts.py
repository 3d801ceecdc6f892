"""Hunts many mutants at once, each by a campaign of one worker, none of which can hold up the rest."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from diffgdn.mutants.hunt import Kill
from diffgdn.mutants.hunter import Job
from diffgdn.mutants.mutant import Mutant
from diffgdn.runner.child_process import ChildProcess

HANG_SECONDS = {"interpret": 20.0, "gpu": 120.0}  # of a case, by backend: a mutant may well never end
SECOND_SEED = 1_000_003  # added to the seed of a second go
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Terms:
    """How mutants are hunted.

    max_time: seconds of exploration. again: seconds of a second go with another seed, for those that were not
    found; 0 for none. jobs: hunts at the same time.
    """

    backend: str
    seed: int
    max_time: float
    again: float
    jobs: int

    def job(self, mutant: str, go: int) -> Job:
        """Return the job of a mutant's first or second go."""
        seed, seconds = (self.seed, self.max_time) if go == 1 else (self.seed + SECOND_SEED, self.again)
        return Job(mutant, self.backend, seed, seconds, HANG_SECONDS[self.backend])

    def limit(self, go: int) -> float:
        """Return how many seconds a go may take in all: a start, exploration, cases that hang, and their
        confirmation."""
        return (self.max_time if go == 1 else self.again) + 60.0 + 6 * HANG_SECONDS[self.backend]


@dataclass(frozen=True)
class Hunted:
    """What came of one go at a mutant.

    go: 1 or 2. final: whether there will be no other. wall: seconds that it took in all, with start-up.
    """

    kill: Kill
    go: int
    final: bool
    wall: float


class _Hunter:
    """A process that hunts, and what it is hunting."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.process: ChildProcess | None = None
        self.job: tuple[str, int] | None = None  # id, go
        self.since = 0.0

    def give(self, terms: Terms, mutant: str, go: int) -> None:
        if self.process is None:
            self.process = ChildProcess("diffgdn.mutants.hunter", [], self._log)
        self.job, self.since = (mutant, go), time.monotonic()
        self.process.send(terms.job(mutant, go))

    def answer(self, terms: Terms) -> Kill | None:
        """What came of its job; None if it is not done yet."""
        assert self.process is not None
        assert self.job is not None
        mutant, go = self.job
        dead = not self.process.alive
        try:
            if self.process.connection.poll():
                kill: Kill = self.process.connection.recv()
                return kill
        except (EOFError, OSError):
            dead = True
        seconds = time.monotonic() - self.since
        if dead:
            problem = f"its hunter died: {self.process.last_words()}"
        elif seconds > terms.limit(go):
            problem = f"its campaign did not end in {seconds:.0f} s"
        else:
            return None
        self.end()
        return Kill(mutant, False, seconds, 0, problem=problem)

    def end(self) -> None:
        """End the process and all that it has started, which ends with it."""
        if self.process is not None:
            self.process.end()
        self.process = None


def hunts(mutants: Iterable[Mutant], terms: Terms, folder: Path, second: frozenset[str]) -> Iterator[Hunted]:
    """Hunt mutants, those that are not found once more when all had a first go; give what came of each go.

    folder: for logs. second: mutants that had their first go in an earlier run. A hunter that dies or takes
    too long is replaced, and its mutant counts as one of which nothing can be said.
    """
    every = [mutant.id for mutant in mutants]
    waiting = deque([(one, 1) for one in every if one not in second])
    later = deque([(one, 2) for one in every if one in second])
    hunters = [_Hunter(folder / f"hunter-{number}.log") for number in range(terms.jobs)]
    try:
        while waiting or later or any(one.job for one in hunters):
            for hunter in hunters:
                if hunter.job is None and (waiting or later):
                    hunter.give(terms, *(waiting or later).popleft())
            for hunter in hunters:
                kill = hunter.answer(terms) if hunter.job is not None else None
                if kill is None:
                    continue
                assert hunter.job is not None
                mutant, go = hunter.job
                hunter.job = None
                final = kill.found or go == 2 or not terms.again
                if not final:
                    later.append((mutant, 2))
                yield Hunted(kill, go, final, time.monotonic() - hunter.since)
            wait([one.process.connection for one in hunters if one.process and one.job], POLL_SECONDS)
    finally:
        for hunter in hunters:
            hunter.end()


def entry(hunted: Hunted, mutant: Mutant) -> dict[str, Any]:
    """Return a JSON-ready record of what came of a mutant."""
    said = {"about": mutant.about, "go": hunted.go, "final": hunted.final, "wall": round(hunted.wall, 2)}
    return {**replace(hunted.kill, shrunk=None).to_json(), **said}
