"""Count which wrong results would have passed, and show them as tables and in the JSON file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from diffgdn.campaign.events import CaseRun
from diffgdn.cases.case import Case
from diffgdn.report.table_style import empty_table, percent


@dataclass
class WrongTally:
    """Count what became of one wrong result.

    Attributes:
        cases: to which it applies.
        rejected: of these, those that do not let it pass.
        passes: the shortest case that lets it pass, None if none does.
    """

    cases: int = 0
    rejected: int = 0
    passes: Case | None = None

    @property
    def share(self) -> float:
        """Give the share of cases that reject it."""
        return self.rejected / self.cases


@dataclass
class VacuityTally:
    """Count what a vacuity campaign asked.

    Attributes:
        cases: that were asked.
        vacuous: cases that let any wrong result pass.
        wrong: by wrong result.
        exact: by operation and dtype, how many cases there were, and how many of them leave nothing to
            round.
    """

    cases: int = 0
    vacuous: int = 0
    wrong: dict[str, WrongTally] = field(default_factory=dict)
    exact: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)

    def add(self, event: CaseRun) -> None:
        """Count a case that was asked."""
        case = event.case
        assert case is not None
        self.cases += 1
        self.vacuous += not all(event.rejected.values())
        cases, exact = self.exact.get((case.op, case.dtype), (0, 0))
        self.exact[case.op, case.dtype] = cases + 1, exact + event.exact
        for name, rejected in event.rejected.items():
            tally = self.wrong.setdefault(name, WrongTally())
            tally.cases += 1
            tally.rejected += rejected
            if not rejected and (tally.passes is None or len(repr(case)) < len(repr(tally.passes))):
                tally.passes = case

    def tables(self) -> list[Table]:
        """Make the tables of wrong results and of exact cases."""
        wrong, exact = empty_table(), empty_table()
        wrong.add_column("wrong result")
        for name in ("applies to", "rejected", "passes"):
            wrong.add_column(name, justify="right")
        for name, tally in self.wrong.items():
            passed = tally.cases - tally.rejected
            wrong.add_row(name, str(tally.cases), percent(tally.share, 2), str(passed or "-"))
        dtypes = sorted({dtype for _, dtype in self.exact})
        exact.add_column("exact cases")
        for dtype in dtypes:
            exact.add_column(dtype, justify="right")
        for op in dict.fromkeys(op for op, _ in self.exact):
            cells = (self.exact.get((op, dtype), (0, 0)) for dtype in dtypes)
            exact.add_row(op, *(percent(found / cases) if cases else "-" for cases, found in cells))
        return [wrong, exact]

    def lines(self) -> list[str]:
        """Write an example of each wrong result that passes somewhere."""
        return [f"{name} passes: {one.passes!r}" for name, one in self.wrong.items() if one.passes]

    def to_json(self) -> dict[str, Any]:
        """Return the counts, ready for JSON."""
        return {
            "cases": self.cases,
            "vacuous": self.vacuous,
            "wrong_results": {
                name: {
                    "cases": one.cases,
                    "rejected": one.rejected,
                    "share": round(one.share, 6),
                    "passes": None if one.passes is None else one.passes.to_json(),
                }
                for name, one in self.wrong.items()
            },
            "exact": [
                {"operation": op, "dtype": dtype, "cases": cases, "exact": exact}
                for (op, dtype), (cases, exact) in self.exact.items()
            ],
        }
