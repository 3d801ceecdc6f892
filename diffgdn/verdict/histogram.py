"""Counts of how many sigmas errors come to, in bins of even width on a log scale.

Imports no torch: the process that adds a campaign's counts up need not wait for it.
`diffgdn.verdict.error_counts` fills them.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate

PARTS_BITS = 3
PARTS = 2**PARTS_BITS  # bins to a factor of two, equal steps within it: 12.5 % wide at most
LOWEST, HIGHEST = -10, 10  # powers of two: below the first lies bin 0, from the second on the last bin
BINS = (HIGHEST - LOWEST) * PARTS + 2


def lower(number: int) -> float:
    """The lower edge of a bin."""
    if number == 0:
        return 0.0
    power, part = divmod(number - 1, PARTS)
    return math.ldexp(1.0 + part / PARTS, LOWEST + power)


def upper(number: int) -> float:
    """The upper edge of a bin, which belongs to the next one."""
    return lower(number + 1) if number < BINS - 1 else math.inf


@dataclass(frozen=True)
class Histogram:
    """How many values fell into each bin, empty ones left out, and the largest of them. Histograms add up."""

    counts: Mapping[int, int] = field(default_factory=dict)
    largest: float = 0.0

    def __add__(self, other: Histogram) -> Histogram:
        counts = dict(self.counts)
        for number, count in other.counts.items():
            counts[number] = counts.get(number, 0) + count
        return Histogram(counts, max(self.largest, other.largest))

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def quantile(self, share: float) -> float | None:
        """What this share of the values does not exceed: the upper edge of the bin where it is reached, or
        the largest value where that is less. None without values."""
        if not self.total:
            return None
        numbers = sorted(self.counts)
        reached = list(accumulate(self.counts[number] for number in numbers))
        number = numbers[bisect_left(reached, share * self.total)]
        return min(upper(number), self.largest)

    def beyond(self) -> list[tuple[float, float]]:
        """(x, the share of all values that are x or more) at the lower edge of each bin from the first that
        is not empty, and at the largest value."""
        left, out = self.total, []
        for number in range(min(self.counts, default=0), max(self.counts, default=-1) + 1):
            out.append((lower(number), left / self.total))
            left -= self.counts.get(number, 0)
        return [*out, (self.largest, self.counts[max(self.counts)] / self.total)] if out else []

    def listed(self) -> list[tuple[float, int]]:
        """(lower edge, count) of each bin that is not empty."""
        return [(lower(number), self.counts[number]) for number in sorted(self.counts)]
