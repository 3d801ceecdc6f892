"""Draw cases as campaigns do, run none, and print which values and pairs of values of the domain they miss.

    python tools/domain_coverage.py --cases 50000 --seed 1
    python tools/domain_coverage.py --backend gpu --menus 12 --cases 50000

Values are to be reached within 2,000 cases over all operations, pairs within 50,000. Exit status: 1 if some are
not, or if cases have what the domain does not hold; else 0.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from diffgdn import strategies
from diffgdn.campaign.case_batch import FAMILIAR
from diffgdn.campaign.coverage import Counts, Coverage
from diffgdn.campaign.rotation import Rotation
from diffgdn.cases.case import Case
from diffgdn.cases.operations import OPERATIONS, matching
from diffgdn.search import hypothesis_search
from diffgdn.strategies.domain import Domain, domain
from diffgdn.verdict.failures import Verdict

VALUES_WITHIN = 2000  # cases, over all operations


def draw(ops: tuple[str, ...], backend: str, seed: int, cases: int, menu: strategies.Menu | None) -> Counts:
    """Count what a campaign with this seed draws of some operations, so many cases of each."""
    counts = Counts()
    for op in ops:
        strategy = strategies.cases(op, backend=backend, menu=menu)
        seen: set[Case] = set()
        rotation = Rotation((op,), backend, seed, cases, 1.0, menu)
        while len(seen) < cases and (task := rotation.next(frozenset())) is not None:
            until = min(cases, len(seen) + task.cases)

            def run(case: Case, seen: set[Case] = seen) -> Verdict:
                if case not in seen:
                    seen.add(case)
                    counts.add(case)
                return Verdict(case, "", "")

            def clock(until: int = until, seen: set[Case] = seen) -> float:
                return float(len(seen) >= until)

            hypothesis_search.find(
                strategy, run, max_examples=task.cases + FAMILIAR, seed=task.seed, deadline=1.0, clock=clock
            )
            rotation.done(task, task.cases - max(0, until - len(seen)))
    return counts


def campaign(
    ops: tuple[str, ...], backend: str, seed: int, cases: int, menu: strategies.Menu | None
) -> Counts:
    """Count what a campaign draws, over two processes."""
    counts = Counts()
    with ProcessPoolExecutor(2) as pool:
        share = -(-cases // len(ops))
        for found in pool.map(draw, *zip(*[((op,), backend, seed, share, menu) for op in ops], strict=True)):
            counts.merge(found)
    return counts


def report(name: str, of: Domain, counts: Counts, pairs: bool, show: int) -> bool:
    """Print what was missed; return whether nothing was, and nothing lay outside."""
    found = Coverage(of, counts)
    values, missed = found.missed_values(), found.missed_pairs() if pairs else []
    wanted = sum(1 for _ in of.pairs())
    print(f"{name}: {counts.cases} cases, {len(of.values) - len(values)} of {len(of.values)} values", end="")
    print(f", {wanted - len(missed)} of {wanted} pairs" if pairs else "")
    for value in values:
        print(f"  not reached: {value}")
    share = counts.cases or 1
    missed.sort(key=lambda pair: -counts.values[pair[0]] * counts.values[pair[1]])
    for one, other in missed[:show]:
        expected = counts.values[one] * counts.values[other] / share
        print(
            f"  not reached: {one} with {other} ({counts.values[one]}, {counts.values[other]}: {expected:.1f})"
        )
    beyond = found.outside()
    for one, other in beyond[:show]:
        print(f"  outside of the domain: {one} with {other} ({counts.pairs[one, other]})")
    print("", end="", flush=True)
    return not (values or missed or beyond)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--op", default="*")
    parser.add_argument("--backend", choices=("interpret", "gpu"), default="interpret")
    parser.add_argument("--cases", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--menus", type=int, default=0, help="campaigns, each with a menu; 0: no menu")
    parser.add_argument("--show", type=int, default=40, help="pairs to print")
    asked = parser.parse_args()
    ops, begin = matching(asked.op), time.monotonic()
    assert set(ops) <= set(OPERATIONS)
    whole, counts, fine = domain(ops, backend=asked.backend), Counts(), True
    for number in range(asked.menus or 1):
        seed = asked.seed * 1000 + number
        menu = strategies.Menu.draw(seed, ops, backend=asked.backend) if asked.menus else None
        found = campaign(ops, asked.backend, seed, asked.cases // (asked.menus or 1), menu)
        counts.merge(found)
        if menu is not None:
            own = domain(ops, backend=asked.backend, menu=menu)
            report(f"menu {seed}", own, found, True, min(3, asked.show))
    fine = report(f"seed {asked.seed}", whole, counts, asked.cases > VALUES_WITHIN, asked.show)
    print(f"{time.monotonic() - begin:.0f} s")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
