"""Add up how many sigmas errors came to in a campaign, and show it as tables and in the JSON file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rich.table import Table

from diffgdn.campaign.events import CaseRun
from diffgdn.cases.case import Case
from diffgdn.reference.limit import MAX_SIGMAS
from diffgdn.report.table_style import compact, empty_table
from diffgdn.verdict.histogram import Histogram

QUANTILES = (0.5, 0.99, 0.9999)
LEVELS = ("elements", "rows")  # of a result: each element, and each last axis


class Key(NamedTuple):
    """Name what a histogram is of.

    Attributes:
        dtype: of q.
        level: one of LEVELS.
    """

    operation: str
    dtype: str
    result: str
    level: str


@dataclass
class CalibrationTally:
    """Add up the histograms of a campaign.

    Attributes:
        histograms: of errors in sigmas.
        worst: by operation, the largest error of an element, in sigmas, and its case.
    """

    histograms: dict[Key, Histogram] = field(default_factory=dict)
    worst: dict[str, tuple[float, Case]] = field(default_factory=dict)

    def add(self, event: CaseRun) -> None:
        """Add the errors of a case."""
        case = event.case
        assert case is not None
        for result, elements, rows in event.errors:
            for level, found in zip(LEVELS, (elements, rows), strict=True):
                key = Key(case.op, case.dtype, result, level)
                self.histograms[key] = self.histograms.get(key, Histogram()) + found
            if elements.largest >= self.worst.get(case.op, (0.0, case))[0]:
                self.worst[case.op] = elements.largest, case

    def grouped(self, by: Callable[[Key], tuple[str, ...]]) -> dict[tuple[str, ...], Histogram]:
        """Add histograms up over what `by` leaves out of their keys."""
        out: dict[tuple[str, ...], Histogram] = {}
        for key, found in self.histograms.items():
            out[by(key)] = out.get(by(key), Histogram()) + found
        return out

    def tables(self) -> list[Table]:
        """Make two tables: by operation, then by result and dtype."""
        operations = self.grouped(lambda key: (key.operation, key.level))
        every = self.grouped(lambda key: ("all", key.level)) if len(operations) > len(LEVELS) else {}
        results = self.grouped(lambda key: (key.result, key.dtype, key.level))
        return [
            _table(("operation", "of"), {**operations, **every}),
            _table(("result", "dtype", "of"), dict(sorted(results.items()))),
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the counts and their figures, ready for JSON.

        `margin` is the limit over the largest error; null if there was no error, or one that is not finite.
        """
        operations: dict[str, Any] = {}
        for (op, level), found in self.grouped(lambda key: (key.operation, key.level)).items():
            operations.setdefault(op, {})[level] = _numbers(found)
        for op, (_, case) in self.worst.items():
            operations[op]["largest_case"] = case.to_json()
        return {
            "limit": MAX_SIGMAS,
            "operations": operations,
            "histograms": [
                {**key._asdict(), **_numbers(found), "counts": found.listed()}
                for key, found in self.histograms.items()
            ],
        }


def margin(found: Histogram) -> float | None:
    """Divide the limit by the largest error that was seen; None if there was none, or it is not finite."""
    return MAX_SIGMAS / found.largest if 0.0 < found.largest < math.inf else None


def _numbers(found: Histogram) -> dict[str, Any]:
    """Compute the figures of a histogram, ready for JSON; null for infinity."""
    values = {f"{100 * share:g} %": found.quantile(share) for share in QUANTILES}
    values["largest"] = found.largest
    finite = {name: None if value == math.inf else value for name, value in values.items()}
    return {"total": found.total, **finite, "margin": margin(found)}


def _table(words: Iterable[str], groups: dict[tuple[str, ...], Histogram]) -> Table:
    """Make a table with a row for each group.

    Args:
        words: headings of the parts of a group's key.
        groups: histograms by key.
    """
    table = empty_table(padding=1)  # fits 80 columns
    for word in words:
        table.add_column(word, no_wrap=True)
    for name in ("count", *(f"{100 * share:g} %" for share in QUANTILES), "largest", "margin"):
        table.add_column(name, justify="right", no_wrap=True)
    for key, found in groups.items():
        kept = margin(found)
        table.add_row(
            *key,
            compact(found.total),
            *(_in_sigmas(found.quantile(share)) for share in QUANTILES),
            _in_sigmas(found.largest),
            "-" if kept is None else f"{kept:.2f}",
        )
    return table


def _in_sigmas(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
