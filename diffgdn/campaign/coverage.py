"""How often cases reached each value of each axis, and each pair of values; and what of it was not reached.

Workers count (`Counts.add`), and send with each answer what they have counted; whoever listens to the
campaign merges.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING

from diffgdn.cases import axis_values
from diffgdn.cases.case import Case
from diffgdn.cases.trace import Trace

if TYPE_CHECKING:
    from diffgdn.strategies.domain import Domain  # which brings Hypothesis


@dataclass
class Counts:
    """Counts over cases: how many, how many with each value, and how many with each two values, the one that
    comes first in the alphabet first.
    """

    cases: int = 0
    values: Counter[str] = field(default_factory=Counter)
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, subject: Case | Trace) -> None:
        """Count a case, or a trace."""
        found = axis_values.values(subject)
        self.cases += 1
        self.values.update(found)
        self.pairs.update(combinations(found, 2))

    def merge(self, other: Counts) -> None:
        """Add what was counted elsewhere."""
        self.cases += other.cases
        self.values.update(other.values)
        self.pairs.update(other.pairs)


@dataclass(frozen=True)
class Coverage:
    """What a domain holds beside what was counted."""

    domain: Domain
    counts: Counts = field(default_factory=Counts)

    @property
    def word(self) -> str:
        """Return what is counted, in words: a trace has steps."""
        return "trace" if "step" in self.domain.axes else "case"

    def axes(self) -> dict[str, dict[str, int]]:
        """Return, for each axis, how often each of its words was reached, those that were not included."""
        known = (*self.domain.values, *self.domain.declared)
        every = (*known, *sorted(set(self.counts.values) - set(known)))
        out: dict[str, dict[str, int]] = {}
        for value in every:
            out.setdefault(axis_values.axis(value), {})[axis_values.word(value)] = self.counts.values[value]
        return out

    def missed_values(self) -> list[str]:
        """List the values that cases can have and none had."""
        known = (*self.domain.values, *self.domain.declared)
        return [value for value in known if not self.counts.values[value]]

    def missed_pairs(self) -> list[tuple[str, str]]:
        """List the pairs that are wanted and no case had, those of the most usual values first."""
        missed = [pair for pair in self.domain.pairs() if not self.counts.pairs[pair]]
        often = self.counts.values
        return sorted(missed, key=lambda pair: -often[pair[0]] * often[pair[1]])

    def perhaps(self) -> list[tuple[str, str]]:
        """List the pairs that no case had and of which the domain does not know whether one can: of values
        that some operation has both, those of the most usual values first.
        """
        values, often = sorted(self.counts.values), self.counts.pairs
        ops = [value for value in values if axis_values.axis(value) == "operation"]
        met = {value: {op for op in ops if often[min(op, value), max(op, value)]} for value in values}
        axis = {value: axis_values.axis(value) for value in values}
        known = {value for value in values if axis[value] in self.domain.axes}
        found = [
            (one, other)
            for one, other in combinations(values, 2)
            if not often[one, other]
            and axis[one] != axis[other]
            and not {one, other} <= known
            and met[one] & met[other]
        ]
        return sorted(found, key=lambda pair: -self.counts.values[pair[0]] * self.counts.values[pair[1]])

    def outside(self) -> list[tuple[str, str]]:
        """List the pairs that cases had and the domain does not hold: then it, or a strategy, is wrong."""
        return [pair for pair in self.counts.pairs if not self.domain.holds(*pair)]

    def pairs(self) -> Iterator[tuple[str, str, int]]:
        """List the pairs that are wanted, with how often each was reached."""
        yield from ((*pair, self.counts.pairs[pair]) for pair in self.domain.pairs())
