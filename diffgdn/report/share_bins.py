"""Bins for errors as shares of their bounds: half octaves, so that a few numbers hold a distribution."""

from __future__ import annotations

import math
from collections.abc import Mapping

LOWEST = -8.0  # log2 of the upper end of the first bin, which holds all that is smaller, 0 too
HIGHEST = 4.0  # log2 of the lower end of the last bin, which holds all that is larger
COUNT = round(2 * (HIGHEST - LOWEST)) + 2
BOUND = round(-2 * LOWEST) + 1  # the first bin of what is beyond the bound


def index(share: float) -> int:
    """Return the bin of a share, from 0 to COUNT - 1; of one that is not finite, the last."""
    if not math.isfinite(share):
        return COUNT - 1
    if share < 2**LOWEST:
        return 0
    return min(COUNT - 1, math.floor(2 * (math.log2(share) - LOWEST)) + 1)


def least(bin_index: int) -> float:
    """Return the smallest share of a bin."""
    return 0.0 if bin_index == 0 else float(2 ** (LOWEST + (bin_index - 1) / 2))


def below(counts: Mapping[int, int], part: float) -> float:
    """Return the upper end of the bin up to which a part of the cases lies; infinite for the last bin."""
    wanted, seen = part * sum(counts.values()), 0
    for bin_index in range(COUNT - 1):
        seen += counts.get(bin_index, 0)
        if seen >= wanted:
            return least(bin_index + 1)
    return math.inf
