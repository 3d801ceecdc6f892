"""Make the figures: for each injection and criterion, the smallest size that is found 99 times in 100."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from diffgdn.selftest.resolution.criteria import CRITERIA, OURS
from diffgdn.selftest.resolution.injections import INJECTIONS, ROUNDOFFS, SIGMAS
from diffgdn.selftest.resolution.smallest_error import Measured, Smallest
from diffgdn.selftest.resolution.study import Study

FORMAT_VERSION = 1
SHARE = 0.99
BF16, FP16 = 2.0**-8, 2.0**-11  # unit roundoffs


def quantile(sizes: Iterable[float | None], share: float) -> float | None:
    """Find the smallest size that at least this share of the sizes do not exceed.

    None among the sizes stands for one that is larger than any; None is returned if the size found is such.
    """
    ordered = sorted(math.inf if size is None else size for size in sizes)
    chosen = ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.inf
    return chosen if math.isfinite(chosen) else None


@dataclass(frozen=True)
class Figure:
    """Hold what one criterion came to on one injection.

    Attributes:
        strikes: of cases whose correct results it accepts.
        size: found in SHARE of them, None if fewer are found at any size.
        found: the share found at any size.
        ratio: of `size` to ours in the same strikes.
        median_ratio: of the two sizes in a strike, in the middle of all strikes.
        of_rms: `size` in shares of the rms of the result, for sizes in sigmas.
        at_bf16, at_fp16: the share found at these formats' unit roundoffs, for sizes that are one.
    """

    strikes: int
    size: float | None
    found: float
    ratio: float | None
    median_ratio: float | None
    of_rms: float | None
    at_bf16: float | None
    at_fp16: float | None


@dataclass(frozen=True)
class Row:
    """Hold one injection's figures by criterion, and ours by operation."""

    injection: str
    figures: dict[str, Figure]
    operations: dict[str, Figure]


def rounding(measured: Iterable[Measured]) -> list[Measured]:
    """Select the cases that the figures are of: in exact ones any error is found, which would flatter us."""
    return [one for one in measured if not one.exact]


def rows(measured: Sequence[Measured]) -> list[Row]:
    """Make one row for each injection that struck anywhere."""
    out = []
    for name in INJECTIONS:
        strikes = [
            (one.op, found)
            for one in measured
            for found in one.found
            if found.injection == name and OURS in found.sizes
        ]
        if strikes:
            figures = {
                criterion: _figure(criterion, [found for _, found in strikes]) for criterion in CRITERIA
            }
            by_operation = {
                op: _figure(OURS, [found for where, found in strikes if where == op])
                for op in dict.fromkeys(op for op, _ in strikes)
            }
            out.append(Row(name, figures, by_operation))
    return out


def _figure(criterion: str, strikes: Sequence[Smallest]) -> Figure:
    """Make the figure of a criterion from the strikes of one injection."""
    strikes = [found for found in strikes if criterion in found.sizes]
    theirs, ours = ([found.sizes[name] for found in strikes] for name in (criterion, OURS))
    injection = INJECTIONS[strikes[0].injection] if strikes else None
    size, our_size = quantile(theirs, SHARE), quantile(ours, SHARE)
    of_rms = [
        None if one is None else one * found.relative
        for one, found in zip(theirs, strikes, strict=True)
        if found.relative is not None
    ]
    rounds = injection is not None and injection.sizes is ROUNDOFFS
    return Figure(
        strikes=len(strikes),
        size=size,
        found=_share_to(math.inf, theirs),
        ratio=None if size is None or our_size is None else size / our_size,
        median_ratio=quantile(map(_ratio, theirs, ours), 0.5),
        of_rms=quantile(of_rms, SHARE) if injection is not None and injection.unit == SIGMAS else None,
        at_bf16=_share_to(BF16, theirs) if rounds else None,
        at_fp16=_share_to(FP16, theirs) if rounds else None,
    )


def _share_to(most: float, sizes: Sequence[float | None]) -> float:
    """Compute the share of sizes that do not exceed `most`."""
    return sum(size is not None and size <= most for size in sizes) / max(1, len(sizes))


def _ratio(theirs: float | None, ours: float | None) -> float | None:
    """Divide a criterion's size by ours.

    None, which is more than any, if only we find the error; 1 if neither does.
    """
    if ours is None:
        return 1.0 if theirs is None else 0.0
    return None if theirs is None else theirs / ours


def wrongly(measured: Sequence[Measured]) -> dict[str, int]:
    """Count the cases whose correct results each criterion rejects."""
    return {name: sum(name in one.rejected for one in measured) for name in CRITERIA}


def summary(study: Study, measured: Sequence[Measured], seconds: float) -> dict[str, Any]:
    """Return all figures, ready for JSON; the fields of figures are those of `Figure`, null for None."""
    judged, exact = rounding(measured), [one for one in measured if one.exact]
    return {
        "format_version": FORMAT_VERSION,
        "seed": study.seed,
        "dtype": study.dtype,
        "workers": study.workers,
        "seconds": round(seconds, 1),
        "share": SHARE,
        "operations": {
            op: {"cases": sum(one.op == op for one in judged), "exact": sum(one.op == op for one in exact)}
            for op in study.operations
        },
        "criteria": {
            name: {"words": CRITERIA[name].words, "rejects_correct": count}
            for name, count in wrongly(judged).items()
        },
        "injections": _json(rows(judged)),
        "exact": _json(rows(exact)),
    }


def _json(found: Sequence[Row]) -> dict[str, Any]:
    return {
        row.injection: {
            "words": INJECTIONS[row.injection].words,
            "unit": INJECTIONS[row.injection].unit,
            "largest": INJECTIONS[row.injection].sizes[-1],
            "criteria": {name: asdict(figure) for name, figure in row.figures.items()},
            "operations": {op: asdict(figure) for op, figure in row.operations.items()},
        }
        for row in found
    }
