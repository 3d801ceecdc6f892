"""Put errors of a given size into correct results, before their last rounding.

Each injection draws where it strikes, and then makes the wrong results of any size.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.reference import reference_kernel
from diffgdn.reference.noise import Contract, Rounded
from diffgdn.selftest.resolution.subject import Subject, rms
from diffgdn.verdict import vacuity
from diffgdn.verdict.comparison import Comparison

Results = dict[str, Tensor]
STEPS = 8  # sizes an octave, which makes each 9 % larger than the one before
SIGMAS = "sigmas"
FORGOTTEN = 2.0**-8  # of the length of a result: what a whole wrong state must move, or it is forgotten


def octaves(least: int, most: int, steps: int = STEPS) -> tuple[float, ...]:
    """List sizes from 2**least to 2**most, `steps` an octave."""
    return tuple(2.0 ** (i / steps) for i in range(least * steps, most * steps + 1))


class Strike(NamedTuple):
    """Hold one injection at one place.

    Attributes:
        at: makes the results that change, in float64, for a size.
        relative: root mean square error that size 1 makes where it strikes, as a share of the rms of that
            result, for sizes in sigmas;
        None for other sizes, and if that result is zero.
    """

    at: Callable[[float], Results]
    relative: float | None = None


@dataclass(frozen=True)
class Injection:
    """Describe a kind of error.

    Attributes:
        words: what is wrong.
        unit: of the size.
        sizes: in which the smallest is looked for, ascending.
        draw: makes a strike at a random place; None if the case has no such place.
        strikes: places tried a case.
    """

    words: str
    unit: str
    sizes: tuple[float, ...]
    draw: Callable[[Subject, random.Random], Strike | None]
    strikes: int = 1


def _along(subject: Subject, directions: Results, relative: float | None = None) -> Strike:
    """Strike with errors that grow in proportion to their size."""
    return Strike(
        lambda size: {name: subject.results[name] + size * error for name, error in directions.items()},
        relative,
    )


def _noisy_elements(one: Comparison) -> Tensor:
    """Mark elements that have a noise, and whose format does not end within the bound.

    Where nothing rounds any error is found, as in exact cases.
    """
    return (one.noise > 0) & ~one.overflows


def _noisy(subject: Subject, name: str, place: tuple[int, ...], rng: random.Random) -> Strike | None:
    """Strike every element at a place of a result by the size times its own sigma, up or down at random."""
    one, unit = subject.comparisons[name], torch.zeros_like(subject.results[name])
    judged = torch.where(_noisy_elements(one), subject.unit(name), 0.0)[place]
    signs = torch.tensor([rng.choice((-1.0, 1.0)) for _ in range(judged.numel())], dtype=judged.dtype)
    unit[place] = judged * signs.view(judged.shape)
    length = rms(one.expected)
    return _along(subject, {name: unit}, rms(judged) / length if length else None)


def _somewhere(subject: Subject, rng: random.Random, axes: int | None) -> Strike | None:
    """Strike a random place of a random result: an element, or with axes = -1 a row."""
    places = {name: _noisy_elements(one).nonzero() for name, one in sorted(subject.comparisons.items())}
    names = [name for name, found in places.items() if len(found)]
    if not names:
        return None
    name = rng.choice(names)
    place = places[name][rng.randrange(len(places[name]))].tolist()
    return _noisy(subject, name, tuple(place[:axes]), rng)


def element(subject: Subject, rng: random.Random) -> Strike | None:
    """Strike one element of a result."""
    return _somewhere(subject, rng, None)


def row(subject: Subject, rng: random.Random) -> Strike | None:
    """Strike a row: of o the V elements of a token and head, of a state the K elements of one row."""
    return _somewhere(subject, rng, -1)


def _live_tokens(subject: Subject) -> list[int]:
    """List the tokens whose output a case determines; none if it has no output."""
    return (
        [int(t) for t in reference_kernel.live_rows(subject.case).nonzero()] if "o" in subject.results else []
    )


def token(subject: Subject, rng: random.Random) -> Strike | None:
    """Strike the output of one token, all heads."""
    tokens = _live_tokens(subject)
    return _noisy(subject, "o", (rng.choice(tokens),), rng) if tokens else None


def gain(subject: Subject, rng: random.Random) -> Strike | None:
    """Strike the output of one value head: it is multiplied by 1 + size."""
    if "o" not in subject.results:
        return None
    o, head = subject.results["o"], rng.randrange(subject.case.HV)
    wrong = torch.zeros_like(o)
    wrong[:, head] = o[:, head]
    return _along(subject, {"o": wrong})


def bias(subject: Subject, rng: random.Random) -> Strike | None:
    """Add one number, size times the rms of the output, to every output of a token that is no padding."""
    tokens = _live_tokens(subject)
    if not tokens:
        return None
    wrong = torch.zeros_like(subject.results["o"])
    wrong[tokens] = rng.choice((-1.0, 1.0)) * rms(subject.comparisons["o"].expected)
    return _along(subject, {"o": wrong})


def stale_slot(subject: Subject, rng: random.Random) -> Strike | None:
    """Start one sequence from S + size (S' - S), with S' the state of another; what follows is linear in
    it.

    If all of S' moves nothing by a part in 256, the state has been forgotten, and there is no strike.
    """
    case = subject.case
    if vacuity.WRONG["neighbour's slot"].unless(case) is not None:
        return None
    mine, other = rng.sample(vacuity.neighbours(case), 2)
    state = subject.data["state"].clone()
    state[mine] = subject.data["state"][other]
    moved = subject.moved({"state": state})
    shows = any(rms(d) > FORGOTTEN * rms(subject.comparisons[name].expected) for name, d in moved.items())
    return _along(subject, moved) if shows else None


class Coarse(Rounded):
    """Round the running state once more than the contract allows: a `Rounding`."""

    def __init__(self, case: Case, contract: Contract, unit: float, after: int | None) -> None:
        """Take the format of the extra rounding.

        Args:
            unit: unit roundoff of the format.
            after: the step after which it rounds (a chunk, in chunked operations), None for every one.
        """
        super().__init__(case, contract)
        self._unit, self._after, self._step = unit, after, -1

    def state(self, x: Tensor) -> Tensor:
        """Round x as the contract does, and after the chosen steps once more."""
        x = super().state(x)
        self._step += 1
        if self._after not in (None, self._step):
            return x
        mantissa, exponent = torch.frexp(x)
        return torch.ldexp((mantissa / self._unit).round() * self._unit, exponent)


def _coarse(subject: Subject, after: int | None) -> Strike:
    """Strike with an extra rounding after one step, or with `after` None after every one; the size is its
    unit roundoff."""
    case, contract = subject.case, subject.contract
    return Strike(lambda unit: subject.again(Coarse(case, contract, unit, after)))


def rounded_once(subject: Subject, rng: random.Random) -> Strike | None:
    """Round the state once more after one step of the longest sequence, drawn at random."""
    longest, every = max(subject.case.lens), subject.case.chunk_size if subject.contract.chunked else 1
    return _coarse(subject, rng.randrange(-(-longest // every))) if longest else None


def rounded_always(subject: Subject, rng: random.Random) -> Strike | None:
    """Round the state once more after every step."""
    return _coarse(subject, None) if max(subject.case.lens) else None


ANY = octaves(-10, 128)  # sigmas: an element that has decayed away may have 1e-36, and be compared with 1e-2
SHARES = octaves(-30, 10)
MIXED = octaves(-30, 0)
ROUNDOFFS = octaves(-24, -1, 1)

INJECTIONS: dict[str, Injection] = {
    "element": Injection("one wrong element", SIGMAS, ANY, element, strikes=3),
    "row": Injection("one wrong row", SIGMAS, ANY, row, strikes=2),
    "token": Injection("one wrong token", SIGMAS, ANY, token, strikes=2),
    "gain": Injection("a gain of 1 + e on one head", "e", SHARES, gain),
    "bias": Injection("a bias", "rms of the output", SHARES, bias),
    "stale slot": Injection("a stale slot", "share of the other state", MIXED, stale_slot),
    "rounded once": Injection("a state rounded once too often", "unit roundoff", ROUNDOFFS, rounded_once),
    "rounded always": Injection("a state rounded at every step", "unit roundoff", ROUNDOFFS, rounded_always),
}
