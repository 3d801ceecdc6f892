"""The noise of a case: how far a correct kernel may stray from the oracle on it.

`contract` says where a kernel may round; `recurrence` and `chunked` carry the errors to first order, `inputs`
those that come in; `bound` makes the noise of them; `perturbed` does the same by brute force; `exact` tells
where nothing rounds; `tolerance` makes the bound on an error of the noise.
"""

from diffgdn.reference.noise.bound import SAMPLES, Reference, measure, reference
from diffgdn.reference.noise.contract import CHUNKED, POINTS, RECURRENT, Contract, Point
from diffgdn.reference.noise.exact import Rounded, is_exact, unrounded
from diffgdn.reference.noise.tolerance import TINY, bound_of, half_ulp, in_noises, last_rounding, overflows
from diffgdn.verdict.failures import LIMIT

__all__ = [
    "CHUNKED",
    "LIMIT",
    "POINTS",
    "RECURRENT",
    "SAMPLES",
    "TINY",
    "Contract",
    "Point",
    "Reference",
    "Rounded",
    "bound_of",
    "half_ulp",
    "in_noises",
    "is_exact",
    "last_rounding",
    "measure",
    "overflows",
    "reference",
    "unrounded",
]
