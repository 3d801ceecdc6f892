"""Prepare the correct results that errors are put into."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.reference import noise, oracle, reference_kernel
from diffgdn.reference.noise import Contract
from diffgdn.reference.oracle import Rounding
from diffgdn.tensors import inputs
from diffgdn.tensors.inputs import Data
from diffgdn.verdict.comparison import Comparison, compare_results

UNIFORM_RMS = 3.0**-0.5  # root mean square of a rounding error, as a share of half a unit in the last place


def rms(x: Tensor) -> float:
    """Compute the root mean square; 0 for an empty tensor."""
    return float(x.square().mean().sqrt()) if x.numel() else 0.0


@dataclass(frozen=True)
class Subject:
    """Hold a case and its correct results.

    Attributes:
        data: the tensors of `inputs.draw`.
        results: by name, in float64, before the rounding to the dtype that each is kept in.
        comparisons: by name, the results after that rounding, beside the truth.
        exact: whether nothing rounds.
    """

    case: Case
    data: Data
    contract: Contract
    results: dict[str, Tensor]
    comparisons: dict[str, Comparison]
    exact: bool

    @classmethod
    def prepare(cls, case: Case, contract: Contract) -> Subject:
        """Make the subject of a case, for implementations of a contract."""
        data = inputs.draw(case)
        reference = noise.reference(case, data, contract, reference_kernel.truth_dtypes(case))
        results = reference_kernel.kept(case, reference_kernel.rounded(case, data, contract))
        dtypes = reference_kernel.stored_dtypes(case)
        stored = {name: tensor.to(dtypes[name]) for name, tensor in results.items() if tensor.numel()}
        found = {one.name: one for one in compare_results(case, stored, reference)}
        return cls(case, data, contract, {name: results[name] for name in found}, found, reference.exact)

    def judged(self, changed: dict[str, Tensor]) -> list[Comparison]:
        """Compare other results, in float64, with the truth, as a run would leave them."""
        return [self._judged(self.comparisons[name], tensor) for name, tensor in changed.items()]

    @staticmethod
    def _judged(before: Comparison, tensor: Tensor) -> Comparison:
        return replace(before, got=tensor.to(before.dtype).double())

    def moved(self, data: Data) -> dict[str, Tensor]:
        """Compute what other input tensors do to the true results, by name; only results that exist."""
        wrong = reference_kernel.kept(self.case, oracle.expected(self.case, self.data | data))
        return {name: wrong[name] - one.expected for name, one in self.comparisons.items()}

    def again(self, rounding: Rounding) -> dict[str, Tensor]:
        """Compute the results under other roundings, in float64."""
        wrong = reference_kernel.kept(
            self.case, reference_kernel.rounded(self.case, self.data, self.contract, rounding)
        )
        return {name: wrong[name] for name in self.results}

    def unit(self, name: str) -> Tensor:
        """Compute the unit of sizes in sigmas, for each element of a result.

        The root mean square error of a correct kernel there, in float64: the noise, and the rounding to the
        dtype that the result is kept in, added in squares.
        """
        one = self.comparisons[name]
        least = noise.TINY / noise.MAX_SIGMAS  # what the bound grants to any element
        return torch.hypot(one.noise + least, UNIFORM_RMS * one.half_ulp)
