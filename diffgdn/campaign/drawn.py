"""Draws the cases that a campaign would, runs none, and counts what they reach."""

from __future__ import annotations

from collections.abc import Iterable

from diffgdn import strategies
from diffgdn.campaign.case_batch import FAMILIAR
from diffgdn.campaign.coverage import Counts
from diffgdn.campaign.rotation import Rotation
from diffgdn.cases.case import Case
from diffgdn.cases.promises import EVERYTHING, Promises
from diffgdn.search import hypothesis_search
from diffgdn.verdict.failures import Verdict


def drawn(
    operations: Iterable[str],
    each: int,
    *,
    seed: int,
    backend: str = "interpret",
    menu: strategies.Menu | None = None,
    promises: Promises = EVERYTHING,
) -> Counts:
    """Count what so many different cases of each operation reach, in the batches of a campaign of this seed.

    backend, menu, promises: as of `strategies.cases`.
    """
    counts = Counts()
    for op in operations:
        strategy = strategies.cases(op, backend=backend, menu=menu, promises=promises)
        batches = Rotation((op,), backend, seed, each, 1.0, menu)
        met: set[Case] = set()
        while (task := batches.next(frozenset())) is not None:
            before, most = len(met), len(met) + task.cases

            def run(case: Case, met: set[Case] = met) -> Verdict:
                if case not in met:
                    met.add(case)
                    counts.add(case)
                return Verdict(case, "", "")

            def clock(met: set[Case] = met, most: int = most) -> float:
                return float(len(met) >= most)  # the search is late when the batch has its cases

            hypothesis_search.find(
                strategy, run, max_examples=task.cases + FAMILIAR, seed=task.seed, deadline=1.0, clock=clock
            )
            batches.done(task, len(met) - before)
    return counts
