"""How long a campaign takes to the first true finding, over mutants and seeds."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from diffgdn.mutants.hunt import Kill

WORST = 10  # mutants that are named
Hunt = Callable[[str, int], Kill]  # of a mutant, with a seed


@dataclass(frozen=True)
class Search:
    """A campaign against a mutant. seconds, cases: of exploration, until it found it or its time was up."""

    mutant: str
    seed: int
    found: bool
    seconds: float
    cases: int


class Study:
    """Searches, written to a file as they come.

    file: None for none. One that exists is taken up: what it holds is not searched again. backend, max_time
    (seconds) and workers: of all searches; a file with others is refused.
    Raises ValueError for a file of something else.
    """

    def __init__(self, file: Path | None, backend: str, max_time: float, workers: int) -> None:
        self._file = file
        self.terms = {"backend": backend, "max_time": max_time, "workers": workers}
        self.searches: list[Search] = []
        if file is not None and file.exists():
            self._take_up(file)

    def _take_up(self, file: Path) -> None:
        try:
            kept = json.loads(file.read_text())
            self.searches = [Search(**row) for row in kept["searches"]]
            terms = kept["terms"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}: not a table of searches: {error}") from error
        if terms != self.terms:
            raise ValueError(f"{file}: searched with {terms}, not with {self.terms}")

    def run(self, mutants: Sequence[str], seeds: Sequence[int], hunt: Hunt) -> Iterator[Search]:
        """Search for each mutant with each seed, and give each search as it ends. hunt: runs one."""
        for seed in seeds:
            for mutant in mutants:
                if not any((one.mutant, one.seed) == (mutant, seed) for one in self.searches):
                    kill = hunt(mutant, seed)
                    search = Search(mutant, seed, kill.found, round(kill.seconds, 2), kill.cases)
                    self.searches.append(search)
                    self._write()
                    yield search

    def _write(self) -> None:
        if self._file is not None:
            rows = [asdict(one) for one in self.searches]
            self._file.write_text(json.dumps({"terms": self.terms, "searches": rows}, indent=1))

    def words(self) -> list[str]:
        """Say what was found, the medians, and which mutants took longest."""
        if not self.searches:
            return ["nothing was searched for"]
        found, most = sum(one.found for one in self.searches), f"{self.terms['max_time']:g} s"
        seconds, cases = _median(self.searches, "seconds"), _median(self.searches, "cases")
        lines = [
            f"{found} of {len(self.searches)} searches found their mutant within {most}",
            f"median time to find: {seconds} s, {cases} cases",
        ]
        by_mutant: dict[str, list[Search]] = {}
        for one in self.searches:
            by_mutant.setdefault(one.mutant, []).append(one)
        worst = sorted(by_mutant, key=lambda name: _order(by_mutant[name]), reverse=True)[:WORST]
        lines.append(f"the {len(worst)} that took longest, by their medians:")
        for name in worst:
            tried = by_mutant[name]
            share = f"found by {sum(one.found for one in tried)} of {len(tried)}"
            lines.append(
                f"  {name:28} {_median(tried, 'seconds'):>8} s {_median(tried, 'cases'):>7} cases, {share}"
            )
        return lines


def _values(searches: Sequence[Search], field: str) -> list[float]:
    """List how long searches took; one that found nothing took longer than any other."""
    return [getattr(one, field) if one.found else math.inf for one in searches]


def _median(searches: Sequence[Search], field: str) -> str:
    """Write the median; of searches half of which found nothing, that it is above what the longest had."""
    middle = statistics.median_high(_values(searches, field))
    if math.isinf(middle):
        return f"> {max(getattr(one, field) for one in searches if not one.found):.0f}"
    return f"{middle:.1f}" if field == "seconds" else f"{middle:.0f}"


def _order(searches: Sequence[Search]) -> tuple[float, int]:
    """Order mutants by their median seconds, those that are mostly not found by how often they were not."""
    return statistics.median_high(_values(searches, "seconds")), sum(not one.found for one in searches)
