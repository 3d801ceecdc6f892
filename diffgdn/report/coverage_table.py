"""Show what of the domain a campaign has reached: values of each axis, pairs of them, and what is missing."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from diffgdn.campaign.coverage import Coverage
from diffgdn.report.table_style import compact, empty_table

MOST_WORDS = 12  # of an axis that are shown with their counts: the rarest ones, which are what is asked about
MOST_MISSED = 10  # pairs that are shown


def table(coverage: Coverage) -> Table:
    """Make the table of axes: how many of their values were reached, and how often each was."""
    out = empty_table()
    out.add_column("axis")
    out.add_column("reached", justify="right")
    out.add_column("cases with each value, the rarest first")
    for axis, words in coverage.axes().items():
        if len(words) == 1:
            continue  # it says nothing
        reached = sum(count > 0 for count in words.values())
        rarest = sorted(words.items(), key=lambda entry: entry[1])
        text = Text()
        for number, (word, count) in enumerate(rarest[:MOST_WORDS]):
            text.append(", " if number else "")
            text.append(f"{word}: {compact(count)}", style="" if count else "bold yellow")
        if len(rarest) > MOST_WORDS:
            text.append(f", and {len(rarest) - MOST_WORDS} more")
        out.add_row(escape(axis), f"{reached} of {len(words)}", text)
    return out


def lines(coverage: Coverage) -> list[str]:
    """Say how many values and pairs were reached, and name what was not: all values, the first few pairs."""
    values, pairs = coverage.missed_values(), coverage.missed_pairs()
    wanted = sum(1 for _ in coverage.domain.pairs())
    known, cases = len(coverage.domain.values) + len(coverage.domain.declared), coverage.counts.cases
    of_pairs = f", {wanted - len(pairs)} of {wanted} pairs of values" if wanted else ""
    out = [f"coverage of {_counted(cases, coverage.word)}: {known - len(values)} of {known} values{of_pairs}"]
    if values:
        out.append(f"values not reached: {', '.join(values)}")
    if pairs:
        shown = ", ".join(f"{one} with {other}" for one, other in pairs[:MOST_MISSED])
        more = f", and {len(pairs) - MOST_MISSED} more" if len(pairs) > MOST_MISSED else ""
        out.append(f"pairs not reached, those that were most likely first: {shown}{more}")
    return out


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def to_json(coverage: Coverage) -> dict[str, Any]:
    """Return all of it, ready for JSON.

    `axes`: for each axis the cases with each value. `pairs`: for each value, by the other, the cases with
    both, of all pairs that are wanted, each once. `missed`: what was not reached, values and pairs.
    """
    pairs: dict[str, dict[str, int]] = {}
    for one, other, count in coverage.pairs():
        pairs.setdefault(one, {})[other] = count
    return {
        "cases": coverage.counts.cases,
        "axes": coverage.axes(),
        "pairs": pairs,
        "missed": {"values": coverage.missed_values(), "pairs": coverage.missed_pairs()},
    }
