"""Run thousands of cases with a fault planted in 1 % of them: `python -m diffgdn.selftest.planted_faults`.

Every case runs in a child process and then in this one, where the faults that end a process are left out.
Every planted fault must be the verdict of its case, no other case may fail, and every failure must come
again alone in a fresh process, as a campaign asks for it. Printed: what was planted and what was found,
cases a second in both ways, and what the way to the child and back costs a case.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from hypothesis.strategies import SearchStrategy

from diffgdn import strategies
from diffgdn.backend import selection
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


@click.command()
@click.option(
    "--backend", "asked", type=click.Choice(selection.BACKENDS), help="Default: a GPU where there is one."
)
@click.option("--cases", "count", type=click.IntRange(min=100), default=10_000, show_default=True)
@click.option("--target", type=click.Choice(["vk", "eager"]), default="eager", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures here.")
def main(asked: str | None, count: int, target: str, seed: int, json_path: Path | None) -> None:
    """Plant faults in 1 % of the cases; exit status 1 if one is lost, or found where there is none."""
    chosen = asked or selection.detect()
    selection.enter(chosen)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in a campaign's workers
    planted_in = f"{PLANTS}:{target}"
    with click.progressbar(drawn(count, chosen, seed), count, label="drawing") as bar:
        cases = list(bar)
    from diffgdn.selftest.plants import plant_of

    isolated, direct = Tally(), Tally()
    with tempfile.TemporaryDirectory(prefix="diffgdn-") as folder:
        child, here = (ways.runner(way, chosen, Path(folder, "log")) for way in ways.WAYS)
        fresh = InChild(chosen, Path(folder, "log"))
        try:
            device = child.about(planted_in).device
            way = trips(cases, child)
            with click.progressbar(cases, label="running") as bar:
                for case in bar:
                    plant = plant_of(case)
                    kind = None if plant is None else plant.kind
                    isolated.run(case, child, planted_in, kind, fresh)
                    if kind != KernelCrashed.kind:
                        direct.run(case, here, planted_in, kind)
        finally:
            child.close()
            fresh.close()
    trip = {"median": statistics.median(way), "99 %": statistics.quantiles(way, n=100)[-1]}
    head = {"device": device, "backend": chosen, "target": target, "seed": seed, "trip_ms": trip}
    tallies = {"in a child": isolated.figures(), "in this process": direct.figures()}
    _show(head, tallies)
    if json_path:
        json_path.write_text(json.dumps({**head, **tallies}, indent=1))
    if isolated.surprises or direct.surprises:
        raise SystemExit(1)


def _show(head: dict[str, Any], tallies: dict[str, dict[str, Any]]) -> None:
    """Print the figures."""
    click.echo(f"{head['target']} on backend {head['backend']} ({head['device']}), seed {head['seed']}")
    for name, tally in tallies.items():
        speed = f"{tally['cases_per_second']:.1f}/s, median {tally['median_ms']:.1f} ms of those that passed"
        planted = ", ".join(f"{n} {kind}" for kind, n in sorted(tally["planted"].items()))
        click.echo(f"{name}: {tally['cases']} cases, {speed}")
        click.echo(f"  planted {sum(tally['planted'].values())} ({planted})")
        click.echo(
            f"  found {sum(tally['found'].values())}; lost, wrong or unconfirmed: {len(tally['surprises'])}"
        )
        for line in tally["surprises"][:SHOWN]:
            click.echo(f"    {line}")
    trip = head["trip_ms"]
    click.echo(f"to the child and back: median {trip['median']:.2f} ms, 99 % below {trip['99 %']:.2f} ms")


if __name__ == "__main__":
    main()
