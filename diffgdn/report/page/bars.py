"""Lay out the bars of a distribution of errors as shares of their bounds; a template draws them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from diffgdn.report import share_bins

BAR, GAP, HEIGHT = 12, 1, 64  # units of the drawing
TICKS = {-8: "1/256", -6: "1/64", -4: "1/16", -2: "1/4", 0: "1", 2: "4", 4: "16"}  # by log2 of the share


@dataclass(frozen=True)
class Bar:
    """Place a bar: its left end, its top and its height. beyond: of cases beyond their bound."""

    x: int
    y: float
    height: float
    beyond: bool
    words: str


@dataclass(frozen=True)
class Chart:
    """Lay out a distribution.

    Attributes:
        width, height: of the bars, below which the ticks stand. bound: where bars beyond the bound begin.
        words: the same for those who cannot see it.
    """

    width: int
    height: int
    bars: tuple[Bar, ...]
    bar_width: int
    bound: int
    ticks: tuple[tuple[int, str], ...]
    words: str


def chart(counts: Mapping[int, int], worst: float | None) -> Chart:
    """Lay out counts by bin. There must be at least one."""
    most = max(counts.values())
    bars = []
    for bin_index in sorted(counts):
        tall = max(2.0, HEIGHT * counts[bin_index] / most)
        words = f"{counts[bin_index]} from {_share(share_bins.least(bin_index))}"
        x, beyond = bin_index * (BAR + GAP), bin_index >= share_bins.BOUND
        bars.append(Bar(x, round(HEIGHT - tall, 1), round(tall, 1), beyond, words))
    half, most_of = (_share(share_bins.below(counts, part)) for part in (0.5, 0.99))
    return Chart(
        width=share_bins.COUNT * (BAR + GAP),
        height=HEIGHT,
        bars=tuple(bars),
        bar_width=BAR,
        bound=_x(0),
        ticks=tuple((_x(power), words) for power, words in TICKS.items()),
        words=f"{sum(counts.values())} cases, half of them below {half} of the bound, "
        f"99 of 100 below {most_of}, the worst {'-' if worst is None else _share(worst)}",
    )


def _x(power: float) -> int:
    """Where a power of two begins."""
    return (round(2 * (power - share_bins.LOWEST)) + 1) * (BAR + GAP)


def _share(share: float) -> str:
    return "infinity" if not math.isfinite(share) else f"{share:.2g}"
