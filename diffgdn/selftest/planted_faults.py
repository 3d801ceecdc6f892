"""Run thousands of cases with a fault planted in 1 % of them: `diffgdn selftest faults`.

Every case runs in a child process and then in this one, where the faults that end a process are left out.
Every planted fault must be the verdict of its case, no other case may fail, and every failure must come
again alone in a fresh process, as a campaign asks for it. Printed: what was planted and what was found,
cases a second in both ways, and what the way to the child and back costs a case.
"""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis.strategies import SearchStrategy

from diffgdn import strategies
from diffgdn.cases import operations
from diffgdn.cases.case import Case
from diffgdn.cases.prelude import Call
from diffgdn.findings.bucket import fault
from diffgdn.runner import ways
from diffgdn.runner.confirm import Confirm
from diffgdn.runner.ways import InChild, Runner
from diffgdn.search.seeds import derive_seed
from diffgdn.verdict.failures import KernelCrashed, Verdict

PLANTS = "diffgdn.selftest.plants"
BATCH = 16  # cases of an operation from one seed, as in a campaign
TRIPS = 500  # to a child and back, over which the median is taken
SHOWN = 10  # surprises that are listed


@dataclass
class Tally:
    """Count what became of the cases that ran in one way.

    Attributes:
        seconds: of all cases.
        milliseconds: of each case that passed.
        planted, found: by kind of failure.
        surprises: planted faults that were not found as such, and failures of cases that have none, in
            words.
    """

    cases: int = 0
    seconds: float = 0.0
    milliseconds: list[float] = field(default_factory=list)
    planted: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    surprises: list[str] = field(default_factory=list)

    def run(
        self, case: Case, runner: Runner, target: str, plant: str | None, fresh: InChild | None = None
    ) -> None:
        """Run a case and compare its verdict with what was planted. A case that the target refuses shows
        nothing.

        Args:
            plant: a kind of failure, or None.
            fresh: asks failures again, for which the time does not count: each must come alone. None asks
                nothing.
        """
        begin = time.perf_counter()
        verdict = runner.run(case, target)
        seconds = time.perf_counter() - begin
        kind = None if verdict.failure is None else fault(verdict.failure.kind)
        plant = None if verdict.refused else plant
        self.cases += 1
        self.seconds += seconds
        self.milliseconds += [1e3 * seconds] if verdict.ok else []
        self.planted.update([] if plant is None else [plant])
        self.found.update([] if kind is None else [kind])
        if fresh is not None and kind is not None:
            sure = Confirm(fresh, target)(Call(case), verdict)
            if not sure.alone or sure.call.subject != case:
                self.surprises.append(f"asked again, got {sure.failure} after {sure.prelude}: {case!r}")
        if kind != plant or not verdict.confirmed:
            self.surprises.append(f"{plant or 'nothing'} planted, got {verdict.failure}: {case!r}")

    def figures(self) -> dict[str, Any]:
        """Return what is worth keeping, ready for JSON."""
        return {
            "cases": self.cases,
            "cases_per_second": self.cases / self.seconds,
            "median_ms": statistics.median(self.milliseconds),
            "planted": dict(self.planted),
            "found": dict(self.found),
            "surprises": self.surprises,
        }


def drawn(count: int, backend: str, seed: int) -> Iterator[Case]:
    """Draw distinct cases of all operations in turn, batch after batch, as a campaign does."""
    menu = strategies.Menu.draw(seed, operations.OPERATIONS, backend="gpu") if backend == "gpu" else None
    streams = {op: strategies.cases(op, backend=backend, menu=menu) for op in operations.OPERATIONS}
    seen: set[str] = set()
    for number in itertools.count():
        for op, stream in streams.items():
            for case in _batch(stream, backend, derive_seed(seed, op, number)):
                if case.id not in seen:
                    seen.add(case.id)
                    yield case
                if len(seen) == count:
                    return


def _batch(stream: SearchStrategy[Case], backend: str, seed: int) -> list[Case]:
    """Draw the cases of one batch."""
    from diffgdn.search import hypothesis_search

    cases: list[Case] = []

    def passes(case: Case) -> Verdict:
        cases.append(case)
        return Verdict(case, "", backend)

    hypothesis_search.find(stream, passes, max_examples=BATCH, seed=seed)
    return cases


def trips(cases: list[Case], runner: Runner) -> list[float]:
    """Time the way to the child and back, in milliseconds, with cases that the target refuses unseen."""
    out = []
    for case in cases[:TRIPS]:
        begin = time.perf_counter()
        runner.run(case, f"{PLANTS}:refusing")
        out.append(1e3 * (time.perf_counter() - begin))
    return out[1:]  # the first imports the target


Watched = Callable[[Iterable[Case], str], Iterable[Case]]


def _unwatched(cases: Iterable[Case], doing: str) -> Iterable[Case]:
    return cases


@dataclass(frozen=True)
class Study:
    """What came of the cases of one backend, target and seed.

    Attributes:
        trip_ms: median and 99 % quantile of the way to the child and back.
        tallies: by the way in which cases ran.
    """

    device: str
    backend: str
    target: str
    seed: int
    trip_ms: dict[str, float]
    tallies: dict[str, Tally]

    @property
    def surprises(self) -> int:
        """Count faults that were lost, wrong or unconfirmed, and failures without one."""
        return sum(len(tally.surprises) for tally in self.tallies.values())

    def report(self) -> dict[str, Any]:
        """Return what is worth keeping, ready for JSON."""
        head = {"device": self.device, "backend": self.backend, "target": self.target, "seed": self.seed}
        figures = {name: tally.figures() for name, tally in self.tallies.items()}
        return {**head, "trip_ms": self.trip_ms, **figures}

    def words(self) -> Iterator[str]:
        """Yield the lines that a person reads."""
        yield f"{self.target} on backend {self.backend} ({self.device}), seed {self.seed}"
        for name, tally in self.tallies.items():
            told = tally.figures()
            speed = (
                f"{told['cases_per_second']:.1f}/s, median {told['median_ms']:.1f} ms of those that passed"
            )
            planted = ", ".join(f"{n} {kind}" for kind, n in sorted(told["planted"].items()))
            yield f"{name}: {tally.cases} cases, {speed}"
            yield f"  planted {tally.planted.total()} ({planted})"
            yield f"  found {tally.found.total()}; lost, wrong or unconfirmed: {len(tally.surprises)}"
            for line in tally.surprises[:SHOWN]:
                yield f"    {line}"
        median, most = self.trip_ms["median"], self.trip_ms["99 %"]
        yield f"to the child and back: median {median:.2f} ms, 99 % below {most:.2f} ms"


def run(backend: str, count: int, target: str, seed: int, watched: Watched = _unwatched) -> Study:
    """Plant faults in 1 % of `count` cases, and run them. The backend must have been entered.

    Args:
        watched: hands the cases on, and shows how far they are.
    """
    from diffgdn.selftest.plants import plant_of

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in a campaign's workers
    planted_in = f"{PLANTS}:{target}"
    cases = list(watched(drawn(count, backend, seed), "drawing"))
    isolated, direct = Tally(), Tally()
    with tempfile.TemporaryDirectory(prefix="diffgdn-") as folder:
        child, here = (ways.runner(way, backend, Path(folder, "log")) for way in ways.WAYS)
        fresh = InChild(backend, Path(folder, "log"))
        try:
            device = child.about(planted_in).device
            way = trips(cases, child)
            for case in watched(cases, "running"):
                plant = plant_of(case)
                kind = None if plant is None else plant.kind
                isolated.run(case, child, planted_in, kind, fresh)
                if kind != KernelCrashed.kind:
                    direct.run(case, here, planted_in, kind)
        finally:
            child.close()
            fresh.close()
    trip = {"median": statistics.median(way), "99 %": statistics.quantiles(way, n=100)[-1]}
    return Study(device, backend, target, seed, trip, {"in a child": isolated, "in this process": direct})
