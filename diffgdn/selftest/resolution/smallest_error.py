"""Find the smallest error that each criterion finds on one case."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from diffgdn.cases.case import Case
from diffgdn.selftest.resolution.criteria import CRITERIA
from diffgdn.selftest.resolution.injections import INJECTIONS, Strike
from diffgdn.selftest.resolution.subject import Subject
from diffgdn.targets.base import default_contract
from diffgdn.verdict.comparison import Comparison


@dataclass(frozen=True)
class Smallest:
    """Hold what one strike of an injection came to.

    Attributes:
        sizes: by criterion the smallest that it finds, None if it finds none; without criteria that reject
            the correct results already.
        relative: as `Strike` has it.
    """

    injection: str
    sizes: dict[str, float | None]
    relative: float | None


@dataclass(frozen=True)
class Measured:
    """Hold what one case came to.

    Attributes:
        case: its id.
        rejected: criteria that reject its correct results.
    """

    case: str
    op: str
    exact: bool
    rejected: tuple[str, ...]
    found: tuple[Smallest, ...]


def least(sizes: Sequence[float], found: Callable[[float], bool]) -> float | None:
    """Find the smallest of ascending sizes that is found, by bisection; None if the largest is not."""
    if not found(sizes[-1]):
        return None
    low, high = -1, len(sizes) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if found(sizes[middle]) else (middle, high)
    return sizes[high]


def measure(case: Case, rng: random.Random) -> Measured:
    """Try every injection on a case, at places drawn by rng.

    A case that changes nothing in the results, bit for bit, even at its largest size has no wrong results
    of that injection.
    """
    subject = Subject.prepare(case, default_contract(case.op))
    right = list(subject.comparisons.values())
    rejected = tuple(name for name in CRITERIA if rejects(name, right, subject.exact))
    asked = [name for name in CRITERIA if name not in rejected]
    found = []
    for name, injection in INJECTIONS.items():
        for _ in range(injection.strikes):
            strike = injection.draw(subject, rng)
            sizes = None if strike is None else _smallest(subject, strike, injection.sizes, asked)
            if strike is not None and sizes is not None:
                found.append(Smallest(name, sizes, strike.relative))
    return Measured(case.id, case.op, subject.exact, rejected, tuple(found))


def rejects(criterion: str, results: Sequence[Comparison], exact: bool) -> bool:
    """Ask whether a criterion finds fault with any of these results."""
    return any(CRITERIA[criterion].rejects(one, exact) for one in results)


def _smallest(
    subject: Subject, strike: Strike, sizes: Sequence[float], criteria: Sequence[str]
) -> dict[str, float | None] | None:
    """Find the smallest size of a strike for each criterion; None if even the largest changes no bit."""

    @cache
    def results(size: float) -> list[Comparison]:
        return subject.judged(strike.at(size))

    before = subject.comparisons
    if all(bool((one.got == before[one.name].got).all()) for one in results(sizes[-1])):
        return None
    return {
        name: least(sizes, lambda size: rejects(name, results(size), subject.exact))  # noqa: B023 (called at once)
        for name in criteria
    }
