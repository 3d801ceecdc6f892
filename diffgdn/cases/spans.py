"""Numbers that a promise allows: a list of them, or a span with a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from diffgdn.cases.json_record import Record

SHORT = 64  # a span of so many numbers is drawn whole, of a longer one the usual numbers and its ends


@dataclass(frozen=True, repr=False)
class Span(Record):
    """Numbers from `least` to `most`, both included; whole ones are multiples of `multiple`.

    None stands for the limit that the axis itself has.
    """

    least: float | None = None
    most: float | None = None
    multiple: int = 1

    @property
    def first(self) -> int:
        """Return the smallest whole number in a span with both ends."""
        assert self.least is not None
        return -(-int(self.least) // self.multiple) * self.multiple

    @property
    def last(self) -> int:
        """Return the largest whole number in a span with both ends."""
        assert self.most is not None
        return int(self.most) // self.multiple * self.multiple


Numbers = Span | tuple[int, ...]


def holds(numbers: Numbers, n: int) -> bool:
    """Tell whether a whole number is allowed."""
    if isinstance(numbers, tuple):
        return n in numbers
    return numbers.first <= n <= numbers.last and n % numbers.multiple == 0


def nearest(numbers: Numbers, n: int, low: int = 0) -> int:
    """Return the largest allowed number from `low` up to n, or the smallest allowed one from `low` on."""
    if isinstance(numbers, tuple):
        fit = [one for one in numbers if one >= low]
        return max((one for one in fit if one <= n), default=min(fit))
    first = max(numbers.first, -(-low // numbers.multiple) * numbers.multiple)
    return max(first, min(numbers.last, n // numbers.multiple * numbers.multiple))


def any_from(numbers: Numbers, low: int) -> bool:
    """Tell whether an allowed number is `low` or more."""
    return (max(numbers) if isinstance(numbers, tuple) else numbers.last) >= low


def choices(
    numbers: Numbers,
    habits: Sequence[int],
    most: int,
    simplicity: Callable[[int], tuple[int, ...]] = lambda n: (n,),
) -> tuple[int, ...]:
    """Return what to draw an allowed number from, simplest first.

    Args:
        numbers: what is allowed.
        habits: what is drawn where all is allowed, repeated to be drawn more often.
        most: the largest number of a span that is worth its cost; a list is drawn whole.
        simplicity: orders numbers.

    """
    kept = [n for n in habits if holds(numbers, n)]
    if isinstance(numbers, Span) and len(kept) == len(habits):
        return tuple(habits)
    if isinstance(numbers, tuple):
        others = list(numbers)
    else:
        ends = range(numbers.first, min(numbers.last, max(most, numbers.first)) + 1, numbers.multiple)
        others = list(ends) if len(ends) <= SHORT else [ends[0], ends[-1]]
    return (*sorted({*kept, *others}, key=simplicity), *kept)
