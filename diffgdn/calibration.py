"""How many noises the errors of a result come to, element by element and row by row.

The limit on an error, noise.LIMIT, rests on these distributions. They are of what is compared with the limit:
an error less the one rounding that no kernel can avoid (`Comparison.noises`). A row is the last axis of a
result; its value is the root mean square of these errors over that of their noise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffgdn import histogram
from diffgdn.checks import Comparison
from diffgdn.histogram import Histogram
from diffgdn.noise import LIMIT, TINY
from diffgdn.verdict import Errors

MANTISSA = 52  # bits of a float64's


def errors(comparison: Comparison) -> Errors:
    """The distributions of one result; those of elements that may overflow count as no error."""
    noise = comparison.noise + TINY / LIMIT  # as in Comparison.noises
    rows = (comparison.excess.square().mean(-1) / noise.square().mean(-1)).sqrt()
    return Errors(comparison.name, counted(comparison.noises), counted(rows))


def counted(values: Tensor) -> Histogram:
    """The histogram of values in float64, none of them negative; NaN counts as infinite."""
    if not values.numel():
        return Histogram()
    values = values.nan_to_num(nan=torch.inf, posinf=torch.inf).reshape(-1)
    # The exponent and the first bits of the mantissa number the bins in order.
    first = (1023 + histogram.LOWEST) << histogram.PARTS_BITS
    numbers = (values.view(torch.int64) >> (MANTISSA - histogram.PARTS_BITS)) - (first - 1)
    counts = torch.bincount(numbers.clamp_(0, histogram.BINS - 1), minlength=histogram.BINS).tolist()
    return Histogram({number: count for number, count in enumerate(counts) if count}, float(values.max()))
