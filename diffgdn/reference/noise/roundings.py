"""Errors of single roundings in the chunked form, laid out for products of matrices.

Errors are [L, rows, samples, columns], in a working precision. A matrix that all samples share then
multiplies them from either side in one product a lane: a @ error takes samples and columns for its columns,
error @ b rows and samples for its rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.reference.noise.contract import Contract
from diffgdn.reference.noise.draws import Draws
from diffgdn.reference.noise.operands import decay_error
from diffgdn.reference.noise.sums import length_and_evenness, lengths, sum_error


class Roundings:
    """The roundings that a contract allows in a case, and their draws."""

    def __init__(self, case: Case, contract: Contract, draws: Draws) -> None:
        self.contract, self.sizes, self._draws = contract, contract.sizes(case), draws
        self.samples, self.dtype = draws.samples, draws.dtype

    def low(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Values in the working precision."""
        return tuple(part.to(self.dtype) for part in parts)

    def size(self, point: str, x: Tensor) -> Tensor:
        """Root mean square error of rounding x at a point."""
        size = self.sizes[point]
        out = x.to(self.dtype).abs() * size.unit
        return out.add_(self.floor(point, x)) if size.floor else out

    def floor(self, point: str, x: Tensor) -> Tensor:
        """What the smallest numbers of a format add to it: it does not go with x, so that it matters which
        factor of a product is scaled down."""
        return torch.where(x == 0, 0.0, self.sizes[point].floor).to(self.dtype)

    def by_value(self, size: Tensor, x: Tensor, point: str) -> Tensor:
        """Errors of those sizes, with the draws that go with the values x, [L, R, C] in float64."""
        out = size.new_empty(*x.shape[:-1], self.samples, x.shape[-1])
        return torch.mul(size.unsqueeze(-2), _laid_out(self._draws.by_value(x, point)), out=out)

    def rounded(self, point: str, x: Tensor) -> Tensor:
        """Error of rounding x [L, R, C], in float64, at a point: the same for equal values."""
        return self.by_value(self.size(point, x), x, point)

    def decay(self, x: Tensor) -> Tensor:
        """Relative error of exp(x), for log decays x [L, R, C]."""
        return _laid_out(decay_error(self._draws, x, self.contract, self.sizes["decay"]))

    def add_fresh(self, error: Tensor, *sizes: Tensor) -> Tensor:
        """Add to errors [L, R, samples, C], in place, independent ones of those sizes [L, R, C]: one draw for
        all of them. Lanes never meet, so they share their draws."""
        size, *others = sizes
        for other in others:
            size = torch.hypot(size, other)
        fresh = _laid_out(self._draws.fresh(1, *size.shape[1:]))
        return error.addcmul_(size.unsqueeze(-2), fresh)

    def sums(self, point: str, a: Tensor, b: Tensor, out: Tensor) -> Tensor:
        """Root mean square error of the sums of a product out = a @ b."""
        length, even = length_and_evenness(a)
        size = sum_error(out, length * lengths(b, dim=-2), even, a.shape[-1])
        return size.mul_(self.sizes[point].unit)


def _laid_out(error: Tensor) -> Tensor:
    """[samples, L, R, C] as [L, R, samples, C]."""
    return error.movedim(0, -2)


def of_inputs(error: Tensor | None, time: slice) -> Tensor | None:
    """Errors of inputs [samples, T, L, d] over a stretch of time, as [L, C, samples, d]."""
    return None if error is None else error[:, time].permute(2, 1, 0, 3)


def add_left(error: Tensor, a: Tensor, other: Tensor, alpha: float = 1.0) -> Tensor:
    """error + alpha a @ other, in place: a [L, R, M], errors [L, R, samples, C] and [L, M, samples, C]."""
    error.view(*error.shape[:2], -1).baddbmm_(a, other.flatten(-2), alpha=alpha)
    return error


def add_right(error: Tensor, other: Tensor, b: Tensor, alpha: float = 1.0) -> Tensor:
    """error + alpha other @ b, in place: errors [L, R, samples, C] and [L, R, samples, M], b [L, M, C]."""
    error.view(len(error), -1, error.shape[-1]).baddbmm_(other.flatten(1, 2), b, alpha=alpha)
    return error


def right(other: Tensor, b: Tensor) -> Tensor:
    """other @ b."""
    return torch.bmm(other.flatten(1, 2), b).unflatten(1, other.shape[1:3])
