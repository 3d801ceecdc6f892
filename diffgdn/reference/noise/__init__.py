"""Compute the noise of a case: how far a correct kernel may stray from the oracle on it.

`contract` says where a kernel may round; `step_noise` and `chunk_noise` carry the errors to first order,
`operands` those that come in; `bound` makes the noise of them; `perturbed` does the same by brute force;
`exact` tells where nothing rounds; `tolerance` makes the bound on an error of the noise.
"""

from diffgdn.reference.limit import MAX_SIGMAS
from diffgdn.reference.noise.bound import SAMPLES, Reference, measure, reference
from diffgdn.reference.noise.contract import CHUNKED, POINTS, RECURRENT, Contract, Point
from diffgdn.reference.noise.exact import Rounded, is_exact, unrounded
from diffgdn.reference.noise.tolerance import (
    TINY,
    bound_of,
    error_in_sigmas,
    half_ulp,
    last_rounding,
    overflows,
)

__all__ = [
    "CHUNKED",
    "MAX_SIGMAS",
    "POINTS",
    "RECURRENT",
    "SAMPLES",
    "TINY",
    "Contract",
    "Point",
    "Reference",
    "Rounded",
    "bound_of",
    "error_in_sigmas",
    "half_ulp",
    "is_exact",
    "last_rounding",
    "measure",
    "overflows",
    "reference",
    "unrounded",
]
