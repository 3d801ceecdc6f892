"""The bound on the error of one element, from its noise: the one place that has the formula.

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
    """Half the spacing of `dtype` at |x|, the largest error of one correct rounding. x: float64."""
    power = (x.contiguous().view(torch.int64) & EXPONENT_BITS).view(torch.float64)  # the one below |x|
    return power.clamp_(min=LOWEST_POWER[dtype]).mul_(2.0 ** -PRECISION[dtype])


def last_rounding(expected: Tensor, noise: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest error of the rounding to the dtype that a result is kept in, which no kernel can avoid."""
    return half_ulp(expected.abs() + MAX_SIGMAS * noise, dtype)


def bound_of(last: Tensor, noise: Tensor) -> Tensor:
    """The largest error that passes. last: of the last rounding; noise: what roundings before it may do."""
    return last + MAX_SIGMAS * noise + TINY


def overflows(expected: Tensor, bound: Tensor, dtype: torch.dtype) -> Tensor:
    """Where a correct kernel may round to infinity, as the format ends within the bound."""
    return expected.abs() + bound >= torch.finfo(dtype).max


def error_in_sigmas(error: Tensor, last: Tensor, noise: Tensor) -> Tensor:
    """Errors less the last rounding, in sigmas, of which MAX_SIGMAS pass; infinite for an error that is
    NaN."""
    excess = (error - last).clamp_(min=0.0).div_(noise + TINY / MAX_SIGMAS)
    return excess.nan_to_num_(nan=torch.inf)


def representable(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Whether all of x is what it is in another format."""
    return (x.to(dtype).double() == x).all()
