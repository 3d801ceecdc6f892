"""Counts the errors of a result in sigmas, element by element and row by row.

The limit on an error, noise.MAX_SIGMAS, rests on these distributions. They are of what is compared with the
limit: an error less the one rounding that no kernel can avoid (`Comparison.error_in_sigmas`). A row is the
last axis of a result; its value is the root mean square of its errors over that of their sigmas.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffgdn.reference.noise import MAX_SIGMAS, TINY
from diffgdn.verdict import histogram
from diffgdn.verdict.comparison import Comparison
from diffgdn.verdict.failures import Errors
from diffgdn.verdict.histogram import Histogram

MANTISSA = 52  # bits of a float64's


def count_errors(comparison: Comparison) -> Errors:
    """Count the errors of one result; an element that may overflow counts as one without error."""
    noise = comparison.noise + TINY / MAX_SIGMAS  # as in Comparison.error_in_sigmas
    lengths = (torch.linalg.vector_norm(x, dim=-1) for x in (comparison.error_in_sigmas * noise, noise))
    elements, rows = count_values(comparison.error_in_sigmas), count_values(torch.div(*lengths))
    return Errors(comparison.name, elements, rows)


def count_values(values: Tensor) -> Histogram:
    """Count values, float64 of any shape, none of them negative or NaN, into the bins of `histogram`."""
    if not values.numel():
        return Histogram()
    values = values.reshape(-1)
    # The exponent and the first bits of the mantissa number the bins in order.
    first = (1023 + histogram.LOWEST) << histogram.PARTS_BITS
    numbers = (values.view(torch.int64) >> (MANTISSA - histogram.PARTS_BITS)).sub_(first - 1)
    counts = torch.bincount(numbers.clamp_(0, histogram.BINS - 1), minlength=histogram.BINS).tolist()
    return Histogram({number: count for number, count in enumerate(counts) if count}, float(values.max()))
