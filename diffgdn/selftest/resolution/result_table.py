"""Show the figures on a screen."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table

from diffgdn.selftest.resolution.criteria import OURS
from diffgdn.selftest.resolution.injections import INJECTIONS
from diffgdn.selftest.resolution.smallest_error import Measured
from diffgdn.selftest.resolution.summary import SHARE, Figure, rounding, rows, wrongly


def number(x: float | None) -> str:
    """Write two digits, with an exponent only below a thousandth and from a hundred thousand on."""
    if x is None:
        return "-"
    if 1e-3 <= x < 1e5:
        return f"{float(f'{x:.2g}'):,.15g}"
    mantissa, exponent = f"{x:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def table(measured: Sequence[Measured]) -> Table:
    """Make a table with a line a criterion for each injection."""
    out = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    out.add_column("", no_wrap=True)
    for heading in ("from", "ratio", "median"):
        out.add_column(heading, justify="right")
    out.add_column("")
    for row in rows(rounding(measured)):
        injection = INJECTIONS[row.injection]
        out.add_row()
        out.add_row(injection.words, "", "", "", f"in {injection.unit}")
        for name, figure in row.figures.items():
            ratios = ("", "") if name == OURS else (number(figure.ratio), number(figure.median_ratio))
            out.add_row(f"  {name}", _size(figure), *ratios, _besides(figure))
    return out


def _size(figure: Figure) -> str:
    """Write the size of a figure, or the share that is found: rounded down, since less than a percent may
    be missing."""
    return number(figure.size) if figure.size is not None else f"{math.floor(100 * figure.found)}% found"


def _besides(figure: Figure) -> str:
    """Write what a figure has besides its size."""
    parts = []
    if figure.of_rms is not None:
        parts.append(f"{number(figure.of_rms)} of rms")
    for name, share in (("bf16", figure.at_bf16), ("fp16", figure.at_fp16)):
        if share is not None:
            parts.append(f"{name} {share:.0%}")
    return ", ".join(parts)


def words(measured: Sequence[Measured]) -> list[str]:
    """Write what the table is about, and how often each criterion rejects what is correct, as lines."""
    judged = rounding(measured)
    strikes = sum(len(one.found) for one in judged)
    named = ", ".join(f"{name} {count}" for name, count in wrongly(judged).items() if count)
    return [
        f"{len(judged):,} cases, {strikes:,} errors put into them. from: the size from which on {SHARE:.0%} "
        "are found, or the share that is found at any. ratio: to ours. median: of the same, error by error. "
        f"Exact cases, where any error is found, are left out: {len(measured) - len(judged):,}.",
        f"Cases whose correct results are rejected, and left out there: {named or 'none'}.",
    ]
