"""Draw random factors: which way, and how far for its size, each rounding goes in each sample.

The factors of one value have the same sizes in every case, in random order and with random signs over the
samples. If one rounding dominates, such as that of a gate which all elements of a state share, the samples
then give its size exactly; if two of the same size meet, they do not cancel in all samples at once.

The sizes stratify the squares of a uniform law on (0, 2), whose mean is 1: one from the middle of each of
`samples` equal parts.
"""

from __future__ import annotations

import random
import zlib

import torch
from torch import Tensor

POOL_NUMBERS = 1 << 21  # kept for fresh draws
NEAR = 16  # steps to a power of two within which part of an elementary function's error stays the same
# That part of its root mean square. Measured on an H100: exp2, exp, rsqrt and sigmoid in fp32 are off by 0.2
# to 0.5 units on average over 1/64 of their argument, by 1.3 at most; a contract allows 4, which is 2 rms.
NEAR_SHARE = 0.25
VALUE_POOL_SIZE = 1 << 14  # small enough to stay in a cache

_POOLS: dict[tuple[int, str, torch.dtype], tuple[Tensor, Tensor]] = {}


def factors(
    samples: int, device: torch.device | str, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Make a pool of factors, kept for the process and the same on every device.

    Each column holds the same sizes, of mean square 1, in a random order and with random signs. Slices of
    the pool serve as fresh draws, which keeps noise cheap.

    Returns:
        [samples, POOL_NUMBERS // samples] factors, and their first VALUE_POOL_SIZE columns.
    """
    key = (samples, str(device), dtype)
    if key not in _POOLS:
        generator = torch.Generator().manual_seed(20240229)
        shape = POOL_NUMBERS // samples, samples
        sizes = (2.0 * (torch.arange(samples, dtype=torch.float64) + 0.5) / samples).sqrt()
        order = torch.rand(shape, generator=generator).argsort(dim=1)
        signs = 2.0 * torch.randint(2, shape, generator=generator) - 1.0
        pool = (sizes[order] * signs).T.contiguous().to(device, dtype)
        _POOLS[key] = pool, pool[:, :VALUE_POOL_SIZE].contiguous()
    return _POOLS[key]


class Draws:
    """Hand out factors for one case, in the order in which they are asked for."""

    def __init__(
        self, samples: int, seed: int, device: torch.device | str, dtype: torch.dtype = torch.float32
    ) -> None:
        """Start the sequence of a seed.

        Args:
            samples: leading dimension of all that is drawn.
            seed: of the order of fresh draws; those by value do not depend on it.
            dtype: of the factors, the working precision.
        """
        self.samples, self.dtype = samples, dtype
        self._pool, self._values = factors(samples, device, dtype)
        self._random = random.Random(seed)

    @property
    def room(self) -> int:
        """Give how many values can have fresh factors at once without repetition."""
        return self._pool.shape[1] // 2

    def fresh(self, *shape: int) -> Tensor:
        """Draw [samples, *shape] factors that no other value has; a view of the pool, not to be written."""
        count = 1
        for size in shape:
            count *= size
        pool = self._pool
        start = self._random.randrange(self.room)
        if count > self.room:
            # An odd period: of a power of two it would give the same draws to every token of a lane.
            pool = pool[:, :-1].repeat(1, count // pool.shape[1] + 2)
        return pool[:, start : start + count].view(self.samples, *shape)

    def by_value(self, x: Tensor, point: str) -> Tensor:
        """Draw [samples, *x.shape] factors that are the same ones wherever x is the same.

        A rounding depends on the value alone, so equal gates, keys or norms err alike at every token, and
        their errors add up. The column of the pool is chosen by a multiplicative hash of the value's bits
        (Knuth, "The Art of Computer Programming", volume 3, section 6.4).

        Args:
            x: float64.
            point: the name of the rounding; another point has other factors for the same value.
        """
        bits = x.contiguous().view(torch.int64)
        column = (bits ^ (bits >> 29)).mul_(0x2545F4914F6CDD1D).add_(zlib.crc32(point.encode()) * 0x1B873593)
        column.bitwise_right_shift_(40).bitwise_and_(VALUE_POOL_SIZE - 1)
        return self._values.index_select(1, column.view(-1)).view(self.samples, *x.shape)

    def of_function(self, x: Tensor, point: str, near: Tensor | None = None) -> Tensor:
        """Draw [samples, *x.shape] factors for the error of an elementary function of x.

        A hardware approximation has a bias over a stretch of its argument: over many steps with gates near
        each other it adds up instead of cancelling. So NEAR_SHARE of the error's root mean square is common
        to all x with the same `near`.

        Args:
            x: arguments, float64.
            point: the name of the rounding.
            near: what is the same over a stretch, of the shape of x; None for x rounded to a sixteenth of
                its binade.
        """
        if near is None:
            mantissa, exponent = torch.frexp(x)
            near = torch.ldexp((mantissa * NEAR).round(), exponent)
        own, common = self.by_value(x, point), self.by_value(near, f"near {point}")
        return own.mul_((1.0 - NEAR_SHARE**2) ** 0.5).add_(common, alpha=NEAR_SHARE)
