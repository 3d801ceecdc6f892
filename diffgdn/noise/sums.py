"""How far a sum of products may be off.

Squares are taken in float64 throughout: of numbers below 1e-19, which strong gates leave of a state, float32
has none.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_SQUARE = 1e-300
FEW = 1 << 15  # numbers that are squared at once sooner than slice by slice
EQUAL_TERMS = 0.3  # of n half units: n/2 additions in the last binade, each off by the same part of a unit


def lengths(x: Tensor, dim: int = -1) -> Tensor:
    """Euclidean lengths along a dimension, which stays with size 1."""
    return torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.float64).to(x.dtype)


def evenness(x: Tensor, dim: int = -1) -> Tensor:
    """1 where all |x| along a dimension are equal, 1 / n where all but one are zero; the dimension stays."""
    wide = x.double()
    total, squares = wide.abs().sum(dim, keepdim=True), wide.square().sum(dim, keepdim=True)
    return (total.square() / (x.shape[dim] * squares).clamp(min=LEAST_SQUARE)).to(x.dtype)


def mean_square(error: Tensor, dim: int) -> Tensor:
    """Mean square over a dimension, in float64."""
    if error.is_cuda or error.numel() <= FEW:
        return error.double().square_().mean(dim)
    total, *others = (part.double() for part in error.unbind(dim))  # one slice at a time stays in a cache
    total = total.square()
    for part in others:
        total.addcmul_(part, part)
    return total.div_(error.shape[dim])


def sum_error(out: Tensor, length: Tensor, even: Tensor, terms: int) -> Tensor:
    """Root mean square error, in units of a rounding, of sums `out` of `terms` products of two factors whose
    lengths multiply to `length`; even: evenness of one of the factors.

    Each partial sum rounds. In sequence the squares of n partial sums add up to about n/2 sum(x^2) for terms
    x of random sign, where sum(x^2) is near length^2 / n, and to n/3 (sum x)^2 for terms of one sign; other
    orders do better. Equal terms round the same way over and over: their error grows with n. They are equal
    where the factors are parallel (|out| = length) and one of them is even.
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
