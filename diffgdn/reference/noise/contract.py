"""State precision contracts: at which points a correct implementation may round, and to which format.

One table, `POINTS`, names the points; a `Contract` says which format stands behind each. A rounding is
relative to its value, fl(x) = x (1 + delta) with |delta| at most the unit roundoff: Higham, "Accuracy and
Stability of Numerical Algorithms", 2002, section 2.2; formats and roundTiesToEven: IEEE 754-2019, sections
3 and 4.3.1.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from diffgdn.cases.case import Case
from diffgdn.cases.operand_options import coarsest
from diffgdn.tensors.inputs import DTYPE

UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}  # unit roundoff
TF32_UNIT = 2.0**-10  # eleven significant bits; tensor cores cut the rest off rather than round
SMALLEST = {torch.float16: 2.0**-24}  # subnormals matter in fp16 alone: the other formats reach below TINY
ROUNDING_RMS = 0.5  # of the unit roundoff: root mean square of a rounding's relative error, over mantissas
# Units that an elementary function on a GPU may be off by: approximate exp2, log2, sqrt, division.
FUNCTION_UNITS = 4.0
KINDS = ("operand", "accumulator", "state", "function")


class Point(NamedTuple):
    """Name a place in the computation where a rounding is allowed.

    Attributes:
        form: "both", or the one form ("recurrence", "chunked") that has it.
        kind: whose format it takes; a "function" is off by a few units of the accumulator's.
        what: the value that is rounded, in the words of the formulas.
    """

    form: str
    kind: str
    what: str


POINTS: dict[str, Point] = {
    "norm": Point(
        "both", "function", "1 / sqrt(sum(x^2) + 1e-6), where q and k are normalised in the kernel"
    ),
    "qk": Point("both", "operand", "q and k, where they are normalised in the kernel"),
    "gate": Point("both", "function", "exp(A_log), a + dt_bias, softplus or sigmoid, their product, beta"),
    "softplus_sum": Point("both", "accumulator", "1 + exp(x) in softplus, before its logarithm"),
    "decay": Point(
        "both", "function", "exp of a log decay x: its own error, and 2 |x| units of its argument"
    ),
    "output": Point("both", "accumulator", "o = scale * (S q)"),
    "recall": Point("recurrence", "accumulator", "the sums S k"),
    "delta": Point("recurrence", "accumulator", "d = beta * (v - S k)"),
    "read": Point("recurrence", "accumulator", "the sums S q"),
    "state": Point("both", "state", "the running state after a step or a chunk: a product and a sum"),
    "cumulative": Point("chunked", "accumulator", "each partial sum of log decays G"),
    "pair_factors": Point(
        "chunked", "operand", "q and k with beta or a decay, as factors of pairwise products"
    ),
    "pairs": Point("chunked", "accumulator", "the sums over k_i k_j and q_i k_j, with their decay, and beta"),
    "inverse": Point("chunked", "accumulator", "the sums by which A is computed, X L X block by block"),
    "A": Point("chunked", "operand", "A = (I + tril(beta k k^T decay, -1))^-1"),
    "A_qk": Point("chunked", "operand", "tril(q k^T decay)"),
    "beta_v": Point("chunked", "operand", "beta v"),
    "beta_k": Point("chunked", "operand", "beta exp(G) k"),
    "u": Point("chunked", "operand", "u = A (beta v)"),
    "w": Point("chunked", "operand", "w = A (beta exp(G) k)"),
    "h": Point("chunked", "operand", "the state that a chunk starts from, as a factor of products"),
    "v_new": Point("chunked", "operand", "v_new = u - w S, as a factor of products"),
    "q_decayed": Point("chunked", "operand", "q exp(G)"),
    "k_decayed": Point("chunked", "operand", "k exp(G_last - G); or v_new so, with one gate a head"),
    "products": Point(
        "chunked",
        "accumulator",
        "the sums of all other matrix products, onto S or q exp(G) S where they are added to it, and u - w S",
    ),
}


class Size(NamedTuple):
    """Size one rounding of a nonzero x: its root mean square error is unit |x| + floor.

    Attributes:
        unit: relative to x.
        floor: absolute; half the smallest subnormal number in fp16, 0 in other formats.
    """

    unit: float
    floor: float = 0.0


@dataclass(frozen=True)
class Contract:
    """State the roundings that a correct implementation of an operation may make.

    Formats are "float32", "bfloat16" or "float16"; "input" stands for the dtype of q, k and v, where they
    differ for the coarsest of them, to which a kernel may bring the factors of a product.

    Args:
        operand: format of matrix operands and of intermediates between chunk stages (A, w, u, h, v_new,
            A_qk).
        accumulator: format of sums, gates and everything else.
        state: format of the running state between steps or chunks.
        chunked: rounding points are those of the chunked form.
        tf32: matrix products of fp32 operands may run in tf32.
        functions: units of the accumulator that an elementary function may be off by.
        points: another format for single points of `POINTS`, None for no rounding there.
        scaled_gates: operands of bounded gates are scaled by powers of the bound, which round where nothing
            else does: results are held to the bound on noise, never to the last bit.
        reread_trees: in trees every state is read back from the buffer of steps, and so has its dtype.

    Raises:
        ValueError: an unknown point or format, or `functions` not above 0.
    """

    operand: str = "float32"
    accumulator: str = "float32"
    state: str = "float32"
    chunked: bool = False
    tf32: bool = False
    functions: float = FUNCTION_UNITS
    points: Mapping[str, str | None] = field(default_factory=dict)
    scaled_gates: bool = False
    reread_trees: bool = False

    def __post_init__(self) -> None:
        unknown = sorted(set(self.points) - set(POINTS))
        if unknown:
            raise ValueError(f"points: {unknown[0]!r} is none of {', '.join(POINTS)}")
        if not self.functions > 0:
            raise ValueError(f"functions: expected more than 0 units, got {self.functions}")
        formats = (self.operand, self.accumulator, self.state, *self.points.values())
        for name in formats:
            if name not in (*DTYPE, "input", None):
                raise ValueError(f"{name!r}: expected a format of {', '.join(DTYPE)}, or 'input'")

    def dtype(self, case: Case, kind: str) -> torch.dtype:
        """Return the format of a kind of value ("operand", "accumulator", "state") in this case."""
        chosen = getattr(self, kind)
        if kind == "state" and self.reread_trees and case.parents and case.has_buffer:
            chosen = case.pool.dtype
        return DTYPE[coarsest(case) if chosen == "input" else chosen]

    def unit(self, case: Case, kind: str) -> float:
        """Return the unit roundoff of one of the three formats for this case; tf32's if that is wider and
        allowed."""
        unit = UNIT[self.dtype(case, kind)]
        return max(unit, TF32_UNIT) if self.tf32 and kind == "operand" else unit

    def sizes(self, case: Case) -> dict[str, Size]:
        """Map every point of `POINTS` to the root mean square size of a rounding there, for this case."""
        key = coarsest(case), self.dtype(case, "state")
        if key not in self._sizes:
            self._sizes[key] = {name: self._size(case, name) for name in POINTS}
        return self._sizes[key]

    @functools.cached_property
    def _sizes(self) -> dict[tuple[str, torch.dtype], dict[str, Size]]:
        """Keep the sizes by what of a case they depend on: its coarsest input, and the state."""
        return {}

    def _size(self, case: Case, name: str) -> Size:
        kind = POINTS[name].kind
        accumulator = self.unit(case, "accumulator")
        if name in self.points:
            chosen = self.points[name]
            if chosen is None:
                return Size(0.0)
            dtype = DTYPE[coarsest(case) if chosen == "input" else chosen]
            unit = UNIT[dtype]
        else:
            kept = "accumulator" if kind == "function" else kind
            dtype, unit = self.dtype(case, kept), self.unit(case, kept)
        if kind == "function":
            unit *= self.functions
        elif kind == "operand":
            unit = max(unit, accumulator)
        elif kind == "state":
            unit = max(unit, 2.0**0.5 * accumulator)  # a product's and a sum's, or one in the state's format
        return Size(ROUNDING_RMS * unit, ROUNDING_RMS * SMALLEST.get(dtype, 0.0))


RECURRENT = Contract()
CHUNKED = Contract(operand="input", chunked=True)
