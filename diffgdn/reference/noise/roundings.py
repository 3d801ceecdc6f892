"""Draw errors of single roundings in the chunked form, laid out for products of matrices.

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
    """Draw the roundings that a contract allows in a case.

    Attributes:
        contract: whose roundings they are.
        sizes: root mean square size of a rounding, by point.
        samples, dtype: of all errors; those of the draws.
    """

    def __init__(self, case: Case, contract: Contract, draws: Draws) -> None:
        """Take the sizes that the contract has for the case."""
        self.contract, self.sizes, self._draws = contract, contract.sizes(case), draws
        self.samples, self.dtype = draws.samples, draws.dtype

    def low(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Convert values to the working precision."""
        return tuple(part.to(self.dtype) for part in parts)

    def size(self, point: str, x: Tensor) -> Tensor:
        """Size the error of rounding x at a point, as root mean square, of the shape of x, in the working
        precision."""
        size = self.sizes[point]
        out = x.to(self.dtype).abs() * size.unit
        return out.add_(self.floor(point, x)) if size.floor else out

    def floor(self, point: str, x: Tensor) -> Tensor:
        """Give what the smallest numbers of a format add to the size of a rounding of x; 0 for a zero x.

        It does not go with x, so it matters which factor of a product is scaled down.
        """
        return torch.where(x == 0, 0.0, self.sizes[point].floor).to(self.dtype)

    def by_value(self, size: Tensor, x: Tensor, point: str) -> Tensor:
        """Draw errors [L, R, samples, C] of given sizes that are the same for equal values.

        Args:
            size: [L, R, C], root mean square.
            x: [L, R, C] in float64, the values that are rounded.
            point: the name of the rounding; another point has other errors for the same value.
        """
        out = size.new_empty(*x.shape[:-1], self.samples, x.shape[-1])
        return torch.mul(size.unsqueeze(-2), _laid_out(self._draws.by_value(x, point)), out=out)

    def rounded(self, point: str, x: Tensor) -> Tensor:
        """Draw the errors [L, R, samples, C] of rounding x [L, R, C], in float64, at a point; the same for
        equal values."""
        return self.by_value(self.size(point, x), x, point)

    def decay(self, x: Tensor) -> Tensor:
        """Draw the relative errors [L, R, samples, C] of exp(x), for natural log decays x [L, R, C] in
        float64."""
        return _laid_out(decay_error(self._draws, x, self.contract, self.sizes["decay"]))

    def add_fresh(self, error: Tensor, *sizes: Tensor) -> Tensor:
        """Add independent errors to others, in place: one draw for all sizes, whose squares add up.

        Lanes never meet, so they share their draws.

        Args:
            error: [L, R, samples, C], also what is returned.
            sizes: [L, R, C] each, root mean square.
        """
        size, *others = sizes
        for other in others:
            size = torch.hypot(size, other)
        fresh = _laid_out(self._draws.fresh(1, *size.shape[1:]))
        return error.addcmul_(size.unsqueeze(-2), fresh)

    def sums(self, point: str, a: Tensor, b: Tensor, out: Tensor) -> Tensor:
        """Size the error of the sums of a product, as root mean square, in the working precision.

        Args:
            a, b, out: [L, M, K], [L, K, N] and their product [L, M, N].
        """
        length, even = length_and_evenness(a)
        size = sum_error(out, length * lengths(b, dim=-2), even, a.shape[-1])
        return size.mul_(self.sizes[point].unit)


def _laid_out(error: Tensor) -> Tensor:
    """Move the samples inside: [samples, L, R, C] to [L, R, samples, C], a view."""
    return error.movedim(0, -2)


def of_inputs(error: Tensor | None, time: slice) -> Tensor | None:
    """Cut the errors of inputs [samples, T, L, d] to a stretch of time, as [L, C, samples, d], a view; None
    stays None."""
    return None if error is None else error[:, time].permute(2, 1, 0, 3)


def add_left(error: Tensor, a: Tensor, other: Tensor, alpha: float = 1.0) -> Tensor:
    """Add alpha a @ other to error, in place, and return it.

    Args:
        error: [L, R, samples, C].
        a: [L, R, M].
        other: [L, M, samples, C].
    """
    error.view(*error.shape[:2], -1).baddbmm_(a, other.flatten(-2), alpha=alpha)
    return error


def add_right(error: Tensor, other: Tensor, b: Tensor, alpha: float = 1.0) -> Tensor:
    """Add alpha other @ b to error, in place, and return it.

    Args:
        error: [L, R, samples, C].
        other: [L, R, samples, M].
        b: [L, M, C].
    """
    error.view(len(error), -1, error.shape[-1]).baddbmm_(other.flatten(1, 2), b, alpha=alpha)
    return error


def right(other: Tensor, b: Tensor) -> Tensor:
    """Multiply errors [L, R, samples, M] by b [L, M, C] from the right: [L, R, samples, C]."""
    return torch.unflatten(torch.bmm(other.flatten(1, 2), b), 1, other.shape[1:3])
