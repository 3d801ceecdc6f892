"""Size the error of a sum of products, and square errors without losing the small ones.

Squares are taken in float64, or raised: of numbers below 1e-19, which strong gates leave of a state,
float32 has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

LEAST_SQUARE = 1e-300
LEAST_LENGTH = LEAST_SQUARE**0.5
# Squares in float32 are taken so many times larger, for numbers from 2^-125, below all that a bound has a use
# for, to 1; where that is too much, they are taken in float64. It is this times one factor, times the other.
RAISED = 2.0**124
FEW = 1 << 15  # numbers that are squared at once sooner than slice by slice
EQUAL_TERMS = 0.3  # of n half units: n/2 additions in the last binade, each off by the same part of a unit


def lengths(x: Tensor, dim: int = -1) -> Tensor:
    """Compute Euclidean lengths along a dimension, which stays with size 1; in the dtype of x, summed in
    float64."""
    length: Tensor = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.float64)
    return length.to(x.dtype)


def evenness(x: Tensor, dim: int = -1) -> Tensor:
    """Compute how even the sizes along a dimension are: (sum |x|)^2 / (n sum x^2); the dimension stays with
    size 1.

    1 if all |x| are equal, 1 / n if all but one are zero (Cauchy and Schwarz).
    """
    return length_and_evenness(x, dim)[1]


def length_and_evenness(x: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    """Compute `lengths` and `evenness` along a dimension at once."""
    total, length = (
        torch.linalg.vector_norm(x, order, dim=dim, keepdim=True, dtype=torch.float64) for order in (1, 2)
    )
    even = total.div_(length.clamp(min=LEAST_LENGTH)).square_().div_(x.shape[dim])
    return length.to(x.dtype), even.to(x.dtype)


def mean_square(error: Tensor, dim: int) -> Tensor:
    """Average squares over a dimension, in float64."""
    if at_once(error):
        return error.to(torch.float64, copy=True).square_().mean(dim)
    return mean_square_of(lambda: error.unbind(dim))


def at_once(error: Tensor) -> bool:
    """Ask whether squares of such errors are taken of all at once, or of one slice, which stays in a cache,
    after another."""
    return error.is_cuda or error.numel() <= FEW


def mean_square_of(slices: Callable[[], Iterable[Tensor]]) -> Tensor:
    """Average the squares of slices that come one after another, in float64.

    Args:
        slices: yields tensors of one shape, which may share their memory; it may be called twice.

    Returns:
        a tensor of that shape.
    """
    count, total = 0, None
    for part in slices():
        raised = RAISED if part.dtype == torch.float32 else 1.0
        total = torch.zeros_like(part, memory_format=torch.contiguous_format) if total is None else total
        total.addcmul_(part, part, value=raised)
        count += 1
    assert total is not None
    if total.dtype == torch.float32 and not total.sum().isfinite():
        return mean_square_of(lambda: (part.double() for part in slices()))
    return total.double().mul_(1.0 / (raised * count))


def sum_error(out: Tensor, length: Tensor, even: Tensor, terms: int) -> Tensor:
    """Size the error of sums of products, as root mean square, in units of one rounding.

    Each partial sum rounds. In sequence the squares of n partial sums add up to about n/2 sum(x^2) for
    terms x of random sign, in which sum(x^2) is near length^2 / n, and to n/3 (sum x)^2 for terms of one
    sign; other orders do better. Equal terms round the same way over and over: their error grows with n.
    They are equal if the factors are parallel (|out| = length) and one of them is even.

    Error of summation and its growth with n in the worst case: Higham, "Accuracy and Stability of Numerical
    Algorithms", 2002, chapter 4. With the square root of n for independent roundings: Higham and Mary, "A
    New Approach to Probabilistic Rounding Error Analysis", 2019. The factors n/2 and n/3 are worked out
    here, and EQUAL_TERMS is explained where it is defined.

    Args:
        out: the sums.
        length: the product of both factors' lengths, of a shape that broadcasts to `out`.
        even: evenness of one of the factors, of such a shape.
        terms: how many products are summed, n.
    """
    aligned = (
        (out / length.clamp(min=torch.finfo(length.dtype).tiny))
        .square_()
        .clamp_(max=1.0)
        .mul_(even)
        .square_()
    )
    one_sign = aligned.mul_(EQUAL_TERMS * terms).add_((terms / 3.0) ** 0.5).mul_(out)
    return torch.hypot(0.5**0.5 * length, one_sign)
