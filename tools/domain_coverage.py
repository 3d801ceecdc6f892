"""Draw cases as campaigns do, run none, and print which values and pairs of values of the domain they miss.

    python tools/domain_coverage.py --seed 1
    python tools/domain_coverage.py --seed 1 --backend gpu --menus 12

Values are to be reached within 2,000 cases over all operations, pairs within 50,000. On a GPU so many
campaigns share the cases, each with a menu of its own, and what each menu alone can reach is printed too.
Exit status: 1 if something is not reached, or cases have what the domain does not hold; else 0.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from diffgdn import strategies
from diffgdn.campaign.coverage import Counts, Coverage
from diffgdn.campaign.drawn import drawn
from diffgdn.cases.operations import matching
from diffgdn.strategies.domain import Domain, domain

VALUES_WITHIN, PAIRS_WITHIN = 2000, 50_000  # cases, over all operations


def over_processes(
    ops: tuple[str, ...], cases: int, seed: int, backend: str, menu: strategies.Menu | None, count: int
) -> Counts:
    """Count what so many cases reach, over processes."""
    counts = Counts()
    one = partial(drawn, each=-(-cases // len(ops)), seed=seed, backend=backend, menu=menu)
    with ProcessPoolExecutor(count) as pool:
        for found in pool.map(one, [(op,) for op in ops]):
            counts.merge(found)
    return counts


def reported(name: str, of: Domain, counts: Counts, pairs: bool, show: int) -> bool:
    """Print what was missed; return whether nothing was, and nothing lay outside."""
    found = Coverage(of, counts)
    values, missed, beyond = found.missed_values(), found.missed_pairs() if pairs else [], found.outside()
    words = f"{len(of.values) - len(values)} of {len(of.values)} values"
    if pairs:
        wanted = sum(1 for _ in of.pairs())
        words += f", {wanted - len(missed)} of {wanted} pairs"
    print(f"{name}: {counts.cases} cases, {words}", flush=True)
    for value in values:
        print(f"  not reached: {value}")
    often = counts.values
    for one, other in missed[:show]:
        by_chance = often[one] * often[other] / counts.cases
        print(f"  not reached: {one} with {other}; {by_chance:.1f} if they were independent")
    perhaps = found.perhaps() if pairs else []
    if perhaps:
        print(f"  of axes that are not listed {len(perhaps)} pairs were not reached, which may be impossible")
    for one, other in perhaps[:show]:
        print(f"    {one} with {other}; {often[one] * often[other] / counts.cases:.1f}")
    for one, other in beyond[:show]:
        print(f"  outside of the domain: {one} with {other}, {counts.pairs[one, other]} times")
    return not (values or missed or beyond)


def main() -> int:
    """Draw, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--op", default="*", help="operations, as a shell pattern")
    parser.add_argument("--backend", choices=strategies.menu.BACKENDS, default="interpret")
    parser.add_argument("--cases", type=int, default=PAIRS_WITHIN, help="%(default)s; over all operations")
    parser.add_argument("--seed", type=int, default=1, help="of the campaign")
    parser.add_argument("--menus", type=int, default=0, help="campaigns, each with a menu; 0: no menu")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--show", type=int, default=40, help="pairs that are printed")
    asked = parser.parse_args()
    ops, begin, counts = matching(asked.op), time.monotonic(), Counts()
    for number in range(asked.menus or 1):
        seed = asked.seed * 1000 + number
        menu = strategies.Menu.draw(seed, ops, backend=asked.backend) if asked.menus else None
        share = asked.cases // (asked.menus or 1)
        found = over_processes(ops, share, seed, asked.backend, menu, asked.processes)
        counts.merge(found)
        if menu is not None:
            own = domain(ops, backend=asked.backend, menu=menu)
            reported(f"menu {seed}", own, found, True, min(3, asked.show))
    whole = domain(ops, backend=asked.backend)
    fine = reported(f"seed {asked.seed}", whole, counts, asked.cases > VALUES_WITHIN, asked.show)
    print(f"{time.monotonic() - begin:.0f} s")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
