"""Measure noise by brute force: the reference computation run again in float64 under random perturbations.

It holds where first order does not, and costs an order of magnitude more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.reference import oracle
from diffgdn.reference.noise.contract import ROUNDING_RMS, SMALLEST, Contract
from diffgdn.reference.noise.draws import Draws
from diffgdn.reference.noise.operands import DECAY_STEPS, OF_VANISHED, VANISHED
from diffgdn.reference.noise.sums import evenness, lengths, sum_error
from diffgdn.reference.oracle import Expected
from diffgdn.tensors.inputs import Data

SAMPLES = 8
SQRT2 = 2.0**0.5


class Perturbed:
    """Move a value at each point by about the size of a rounding, up or down at random: a `Rounding` with
    samples."""

    def __init__(
        self, case: Case, contract: Contract, device: torch.device | str, samples: int = SAMPLES
    ) -> None:
        """Take the sizes of roundings that the contract has for this case; the draws follow from its id."""
        self.lead: tuple[int, ...] = (samples,)
        self.draws = Draws(samples, int(case.id, 16), device, torch.float64)
        self.functions = contract.functions
        formats = {name: contract.dtype(case, name) for name in ("operand", "accumulator", "state")}
        self.units = {name: ROUNDING_RMS * contract.unit(case, name) for name in formats}
        self.floors = {name: ROUNDING_RMS * SMALLEST.get(dtype, 0.0) for name, dtype in formats.items()}

    def _draw(self, x: Tensor) -> Tensor:
        """Draw factors that no other value has, of the shape of x [samples, ...]."""
        return self.draws.fresh(*x.shape[1:])

    def _drawn_by_value(self, x: Tensor, point: str) -> Tensor:
        """Draw factors that equal values share, by the first sample of x [samples, ...]."""
        return self.draws.by_value(x[0], point)

    def _nudge(self, x: Tensor, factors: Tensor, unit: float, floor: float = 0.0) -> Tensor:
        """Move x [samples, ...] by factors of mean square 1 times unit |x| + floor."""
        if floor:  # a rounding moves a nonzero number by up to half the smallest one, however small it is
            return x + torch.where(x == 0, 0.0, x.abs() * unit + floor) * factors
        return torch.addcmul(x, x, factors, value=unit)

    def operand(self, x: Tensor) -> Tensor:
        """Move x by a rounding to the operand format, the same for equal values."""
        unit = max(self.units["operand"], self.units["accumulator"])
        return self._nudge(x, self._drawn_by_value(x, "operand"), unit, self.floors["operand"])

    def accumulate(self, x: Tensor) -> Tensor:
        """Move x by a rounding to the accumulator format."""
        return self._nudge(x, self._draw(x), self.units["accumulator"], self.floors["accumulator"])

    def function(self, x: Tensor) -> Tensor:
        """Move x by the error of an elementary function."""
        unit = self.functions * self.units["accumulator"]
        return self._nudge(x, self.draws.of_function(x[0], "function"), unit, self.floors["accumulator"])

    def softplus(self, x: Tensor) -> Tensor:
        """Compute log(1 + exp(x)), moved by the rounding of the sum: all of it is lost where exp(x) is."""
        exact = torch.logaddexp(x, torch.zeros_like(x))
        size = exact.clamp(max=self.units["accumulator"])
        return exact + size * self._drawn_by_value(x, "softplus_sum")

    def state(self, x: Tensor) -> Tensor:
        """Move x by the roundings of a step of the running state."""
        # two roundings in the accumulator format, of a product and of a sum, or one in the state's
        unit = max(self.units["state"], SQRT2 * self.units["accumulator"])
        return self._nudge(x, self._draw(x), unit, self.floors["state"])

    def exponent(self, x: Tensor) -> Tensor:
        """Move a log decay x by what its scaling and the exponential are off by; absolute, in natural
        units."""
        # Scaling by log2(e) rounds relative to x; the exponential's own error is an absolute one of the
        # exponent. exp(0) is 1 in any implementation.
        size = torch.where(x == 0, 0.0, 2.0 * x.abs() + self.functions) * self.units["accumulator"]
        size = torch.where(x < VANISHED, OF_VANISHED, size)
        return x + size * self.draws.of_function(x[0], "decay", (x[0] * DECAY_STEPS).round())

    def cumulative(self, x: Tensor) -> Tensor:
        """Sum x [..., C, d] over C, each partial sum with a rounding that the later ones keep."""
        G = torch.cumsum(x, dim=-2)
        return G + torch.cumsum(G * self._drawn_by_value(G, "cumulative"), dim=-2) * self.units["accumulator"]

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Multiply a [..., M, K] by b [..., K, N], with the error of a sum of K products."""
        out = a @ b
        size = sum_error(out, lengths(a) * lengths(b, dim=-2), evenness(a), a.shape[-1])
        return out + size.mul_(self._draw(out)).mul_(self.units["accumulator"])


def mean_squares(
    case: Case, data: Data, expected: Expected, contract: Contract, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Measure the mean square deviation of each result from the truth over SAMPLES perturbed runs.

    Args:
        data: the tensors of `inputs.draw`.
        expected: the truth.
        device: where it is computed; `expected` lies there.

    Returns:
        by name of the truth, tensors of its shape in float64.
    """
    form = oracle.chunked_form if contract.chunked else oracle.expected
    moved = form(case, data, Perturbed(case, contract, device), device).items()
    return {name: (moved[name] - truth).square_().mean(0) for name, truth in expected.items().items()}
