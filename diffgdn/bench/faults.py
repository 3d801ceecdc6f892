"""`python -m diffgdn.bench.faults`: thousands of cases with a fault planted in 1 % of them.

The same cases run twice: in a child process and in this one, where the faults that end a process are left
out. Every planted fault must be the verdict of its case, and no other case may fail. Printed: what was
planted and what was found, cases a second in both ways, and what the way to the child and back costs a case.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from diffgdn import isolate, lane, operations, strategies
from diffgdn.bucket import fault
from diffgdn.campaign.tasks import derive_seed
from diffgdn.case import Case
from diffgdn.isolate import Runner
from diffgdn.verdict import Verdict

PLANTS = "diffgdn.bench.plants"
BATCH = 16  # cases of an operation from one seed, as in a campaign
TRIPS = 500  # to a child and back, over which the median is taken
SHOWN = 10  # surprises that are listed


@dataclass
class Tally:
    """What became of the cases that ran in one way.

    passed_ms: milliseconds of a case that passed, the median. planted, found: by kind of failure. surprises:
    planted faults that were not found as such, and failures of cases that have none.
    """

    cases: int
    seconds: float
    passed_ms: float
    planted: Counter[str]
    found: Counter[str]
    surprises: list[str]

    @property
    def rate(self) -> float:
        return self.cases / self.seconds


def drawn(count: int, lane: str, seed: int) -> Iterator[Case]:
    """Distinct cases of all operations in turn, batch after batch, as a campaign draws them."""
    from diffgdn import shrink

    menu = strategies.Menu.draw(seed, operations.OPERATIONS, lane="gpu") if lane == "gpu" else None
    streams = {op: strategies.cases(op, lane=lane, menu=menu) for op in operations.OPERATIONS}
    seen: dict[str, Case] = {}
    number = 0
    while len(seen) < count:
        for op, stream in streams.items():
            batch: list[Case] = []

            def passes(case: Case, batch: list[Case] = batch) -> Verdict:
                batch.append(case)
                return Verdict(case, "", lane)

            shrink.find(stream, passes, max_examples=BATCH, seed=derive_seed(seed, op, number))
            new = {case.id: case for case in batch if case.id not in seen}
            seen.update(new)
            yield from list(new.values())[: count - len(seen) + len(new)]
        number += 1


def judged(cases: list[Case], runner: Runner, target: str, said: str) -> Tally:
    """Run the cases and compare each verdict with what was planted."""
    from diffgdn.bench.plants import plant_of

    planted, found, surprises, passed = Counter[str](), Counter[str](), list[str](), list[float]()
    begin = time.perf_counter()
    with click.progressbar(cases, label=said, show_pos=True) as bar:
        for case in bar:
            plant, start = plant_of(case), time.perf_counter()
            verdict = runner.run(case, target)
            passed += [1e3 * (time.perf_counter() - start)] if verdict.ok else []
            kind = None if verdict.failure is None else fault(verdict.failure.kind)
            expected = None if plant is None or verdict.refused else plant.kind
            planted.update([] if expected is None else [expected])
            found.update([] if kind is None else [kind])
            if kind != expected or not verdict.confirmed:
                surprises.append(f"{expected or 'nothing'} planted, got {verdict.failure}: {case!r}")
    seconds = time.perf_counter() - begin
    return Tally(len(cases), seconds, statistics.median(passed), planted, found, surprises)


def trips(cases: list[Case], runner: Runner) -> list[float]:
    """Milliseconds to the child and back, with a case that its target refuses unseen."""
    out = []
    for case in cases[:TRIPS]:
        begin = time.perf_counter()
        runner.run(case, f"{PLANTS}:refusing")
        out.append(1e3 * (time.perf_counter() - begin))
    return out[1:]  # the first imports the target


def _mild(cases: list[Case]) -> list[Case]:
    """Those that leave the process alive."""
    from diffgdn.bench.plants import CRASH, plant_of

    return [case for case in cases if plant_of(case) is not CRASH]


@click.command()
@click.option("--lane", "asked", type=click.Choice(lane.LANES), help="Default: a GPU where there is one.")
@click.option("--cases", "count", type=click.IntRange(min=100), default=10_000, show_default=True)
@click.option("--target", type=click.Choice(["vk", "eager"]), default="eager", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures here.")
def main(asked: str | None, count: int, target: str, seed: int, json_path: Path | None) -> None:
    """Plant faults in 1 % of the cases; exit status 1 if one is lost, or found where there is none."""
    chosen = asked or lane.detect()
    lane.enter(chosen)
    planted_in = f"{PLANTS}:{target}"
    with click.progressbar(drawn(count, chosen, seed), count, label="drawing") as bar:
        cases = list(bar)
    with tempfile.TemporaryDirectory(prefix="diffgdn-") as folder:
        child, here = (isolate.runner(way, chosen, Path(folder, "log")) for way in isolate.WAYS)
        try:
            device = child.about(planted_in).device
            way = trips(cases, child)
            isolated = judged(cases, child, planted_in, "in a child")
            direct = judged(_mild(cases), here, planted_in, "in this process")
        finally:
            child.close()
    click.echo(f"{target} on lane {chosen} ({device}), seed {seed}")
    for name, tally in (("in a child", isolated), ("in this process", direct)):
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(tally.planted.items()))
        speed = f"{tally.rate:.1f}/s, median {tally.passed_ms:.1f} ms a case that passed"
        click.echo(f"{name}: {tally.cases} cases in {tally.seconds:.0f} s, {speed}")
        click.echo(f"  planted {tally.planted.total()} ({kinds}), found {tally.found.total()}")
        click.echo(f"  lost, wrong or unconfirmed: {len(tally.surprises)}")
        for line in tally.surprises[:SHOWN]:
            click.echo(f"    {line}")
    median, most = statistics.median(way), statistics.quantiles(way, n=100)[-1]
    click.echo(f"to the child and back: median {median:.2f} ms, 99 % below {most:.2f} ms")
    if json_path:
        figures = {"isolated": vars(isolated), "direct": vars(direct), "trip_ms": [median, most]}
        json_path.write_text(
            json.dumps({"device": device, "target": target, "seed": seed, **figures}, indent=1)
        )
    if isolated.surprises or direct.surprises:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
