"""Make the bound on the error of one element of its noise: the one place that has the formula.

Needs torch alone: repro scripts hold a copy of these functions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffgdn.reference.limit import MAX_SIGMAS

TINY = 2.0**-120  # below any result that fp32 arithmetic with flushed denormals resolves
# Significant bits, and the smallest normal number.
PRECISION = {torch.float32: 24, torch.bfloat16: 8, torch.float16: 11}
LOWEST_POWER = {torch.float32: 2.0**-126, torch.bfloat16: 2.0**-126, torch.float16: 2.0**-14}
EXPONENT_BITS = 0x7FF << 52  # of a float64


def half_ulp(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Compute half the spacing of `dtype` at |x|, the largest error of one correct rounding; x and result
    in float64.

    The unit in the last place: Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 2.1;
    subnormal numbers, whose spacing is that of the smallest normal one: IEEE 754-2019, section 3.3.
    """
    power = (x.contiguous().view(torch.int64) & EXPONENT_BITS).view(torch.float64)  # the one below |x|
    return power.clamp_(min=LOWEST_POWER[dtype]).mul_(2.0 ** -PRECISION[dtype])


def last_rounding(expected: Tensor, noise: Tensor, dtype: torch.dtype) -> Tensor:
    """Compute the largest error of the rounding to the dtype that a result is kept in, which no kernel can
    avoid.

    Args:
        expected: the truth, float64.
        noise: one sigma of each element, float64: the value that is rounded may be MAX_SIGMAS of them
            larger.
    """
    return half_ulp(expected.abs() + MAX_SIGMAS * noise, dtype)


def bound_of(last: Tensor, noise: Tensor) -> Tensor:
    """Compute the largest error that passes.

    Args:
        last: the largest error of the last rounding.
        noise: one sigma of each element, for the roundings before it.
    """
    return last + MAX_SIGMAS * noise + TINY


def overflows(expected: Tensor, bound: Tensor, dtype: torch.dtype) -> Tensor:
    """Mark the elements that a correct kernel may round to infinity, as the format ends within the bound."""
    return expected.abs() + bound >= torch.finfo(dtype).max


def error_in_sigmas(error: Tensor, last: Tensor, noise: Tensor) -> Tensor:
    """Count errors, less the last rounding, in sigmas, of which MAX_SIGMAS pass.

    Args:
        error: absolute errors, float64; they are not changed.
        last, noise: as `bound_of` takes them.

    Returns:
        numbers of the shape of `error`, at least 0; infinite for an error that is NaN.
    """
    excess = (error - last).clamp_(min=0.0).div_(noise + TINY / MAX_SIGMAS)
    return excess.nan_to_num_(nan=torch.inf)


def representable(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Ask whether all of x is the same in another format; a boolean tensor without dimensions."""
    return (x.to(dtype).double() == x).all()
