"""How many sigmas the errors of a result come to, element by element and row by row.

The limit on an error, noise.MAX_SIGMAS, rests on these distributions. They are of what is compared with the
limit: an error less the one rounding that no kernel can avoid (`Comparison.error_in_sigmas`). A row is the
last axis of a result; its value is the root mean square of these errors over that of their noise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffgdn.reference.noise import MAX_SIGMAS, TINY
from diffgdn.verdict import histogram
from diffgdn.verdict.checks import Comparison
from diffgdn.verdict.failures import Errors
from diffgdn.verdict.histogram import Histogram

MANTISSA = 52  # bits of a float64's


def errors(comparison: Comparison) -> Errors:
    """The distributions of one result; where its format may end there is no error."""
    noise = comparison.noise + TINY / MAX_SIGMAS  # as in Comparison.error_in_sigmas
    lengths = (torch.linalg.vector_norm(x, dim=-1) for x in (comparison.error_in_sigmas * noise, noise))
    return Errors(comparison.name, counted(comparison.error_in_sigmas), counted(torch.div(*lengths)))


def counted(values: Tensor) -> Histogram:
    """The histogram of values in float64, none of them negative or NaN."""
    if not values.numel():
        return Histogram()
    values = values.reshape(-1)
    # The exponent and the first bits of the mantissa number the bins in order.
    first = (1023 + histogram.LOWEST) << histogram.PARTS_BITS
    numbers = (values.view(torch.int64) >> (MANTISSA - histogram.PARTS_BITS)).sub_(first - 1)
    counts = torch.bincount(numbers.clamp_(0, histogram.BINS - 1), minlength=histogram.BINS).tolist()
    return Histogram({number: count for number, count in enumerate(counts) if count}, float(values.max()))
