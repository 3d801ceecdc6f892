"""Show a campaign of each mode: its words, its tables, and its part of the JSON file."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from diffgdn.report.table_style import empty_table, percent
from diffgdn.report.tally import OperationTally, Tally
from diffgdn.verdict.question import (
    AskRelation,
    AskVacuity,
    CompareWithOracle,
    MeasureErrors,
    PlayTrace,
)


@dataclass(frozen=True)
class ModeReport:
    """Describe how one mode is shown.

    Attributes:
        command: what a campaign does to its target, in words.
        word: for one of what is counted.
        tables: makes the tables; the first is shown while the campaign runs.
        exact: whether exact cases are counted.
        to_json: makes more entries of the JSON file.
        found: says what came of a campaign that ran something, in place of its findings; None for those.
    """

    command: str
    word: str
    tables: Callable[[Tally], list[Table]]
    exact: bool = True
    to_json: Callable[[Tally], dict[str, Any]] = lambda tally: {}
    found: Callable[[Tally], str | None] = lambda tally: None


def taking_part(tally: Tally) -> dict[str, OperationTally]:
    """Select the operations that were not left out before their first case."""
    return {name: one for name, one in tally.operations.items() if one.cases or one.skipped is None}


def _share(share: float | None) -> str:
    """Write an error as a share of its bound; "-" for None."""
    if share is None:
        return "-"
    if not math.isfinite(share) or share >= 1000:
        return "inf" if not math.isfinite(share) else f"{share:.1e}"
    return f"{share:.2f}"


def _relations(tally: Tally) -> Table:
    """Make the table of relations."""
    table = empty_table()
    table.add_column("relation")
    for name in ("pairs", "does not apply", "s a pair", "worst / bound", "findings"):
        table.add_column(name, justify="right")
    for relation, one in tally.relations.items():
        found = len(tally.findings_about(relation))
        bits = one.worst is None and one.pairs > 0
        table.add_row(
            escape(relation),
            str(one.pairs),
            str(one.refused),
            f"{one.seconds / one.pairs:.2f}" if one.pairs else "-",
            Text("bitwise") if bits else _share(one.worst),
            Text(str(found), style="bold red") if found else Text("-", style="dim"),
            style="dim" if one.pairs == 0 else "",
        )
    return table


def _table(tally: Tally) -> Table:
    """Make the table of operations."""
    table = empty_table()
    table.add_column("operation")
    for name in ("cases", "exact", "worst error / bound", "findings"):
        table.add_column(name, justify="right")
    for operation, one in taking_part(tally).items():
        found = len(tally.findings_of(operation))
        table.add_row(
            escape(operation),
            str(one.cases),
            str(one.exact),
            _share(one.worst),
            Text(str(found), style="bold red") if found else Text("-", style="dim"),
            style="dim" if one.cases == 0 else "",
        )
    return table


def _traces(tally: Tally) -> Table:
    """Make the table of serving loops, by family."""
    table = empty_table()
    table.add_column("loop")
    for name in ("traces", "steps", "refused", "worst error / bound", "findings"):
        table.add_column(name, justify="right")
    for loop, one in taking_part(tally).items():
        table.add_row(
            escape(loop),
            str(one.cases),
            str(one.steps),
            str(one.refused),
            _share(one.worst),
            _found(len(tally.findings_of(loop))),
            style="dim" if one.cases == 0 else "",
        )
    return table


def _found(count: int) -> Text:
    """Write a number of findings, in red; "-" for none."""
    return Text(str(count), style="bold red") if count else Text("-", style="dim")


def _finite(share: float | None) -> float | None:
    """Return a share that is finite, ready for JSON; None for any other."""
    return share if share is not None and math.isfinite(share) else None


def _vacuous(tally: Tally) -> str:
    """Say how many cases prove nothing."""
    vacuous = tally.vacuity.vacuous
    share = f" ({percent(vacuous / tally.cases, 2)})" if vacuous else ""
    return f"{vacuous or 'none'} of them{share} {'let' if vacuous > 1 else 'lets'} a wrong result pass"


def _relations_json(tally: Tally) -> dict[str, Any]:
    """Return what was asked of pairs of calls, ready for JSON; worst_share is null if bits were compared."""
    return {
        name: {
            "pairs": one.pairs,
            "refused": one.refused,
            "failed": one.failed,
            "worst_share": _finite(one.worst),
            "seconds": round(one.seconds, 3),
            "findings": tally.findings_about(name),
        }
        for name, one in tally.relations.items()
    }


REPORTS = {
    CompareWithOracle.mode: ModeReport("fuzz", "case", lambda tally: [_table(tally)]),
    MeasureErrors.mode: ModeReport(
        "calibrate",
        "case",
        lambda tally: [_table(tally), *tally.calibration.tables()],
        to_json=lambda tally: {"calibration": tally.calibration.to_json()},
    ),
    AskVacuity.mode: ModeReport(
        "fuzz vacuity of",
        "case",
        lambda tally: tally.vacuity.tables(),
        to_json=lambda tally: {"vacuity": tally.vacuity.to_json()},
        found=_vacuous,
    ),
    AskRelation.mode: ModeReport(
        "fuzz relations of",
        "pair",
        lambda tally: [_relations(tally)],
        exact=False,
        to_json=lambda tally: {"relations": _relations_json(tally)},
    ),
    PlayTrace.mode: ModeReport(
        "serve",
        "trace",
        lambda tally: [_traces(tally)],
        exact=False,
        to_json=lambda tally: {"steps": {name: one.steps for name, one in tally.operations.items()}},
    ),
}
