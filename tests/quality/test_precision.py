"""Regressions of precision are found within a few cases: a kernel that rounds where, or to what, its contract
does not allow. No kernel is needed: the reference computation rounds in its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import count, islice

import pytest
import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.reference import reference_kernel
from diffgdn.reference.noise import Contract, Rounded
from diffgdn.reference.oracle.lanes import L2NORM_EPS
from diffgdn.selftest.resolution.study import BATCH, drawn
from diffgdn.targets.base import default_contract
from diffgdn.verdict import vacuity

CASES = 12  # of which one at least has to tell, ...
RARE = 60  # ... and of so many, where a regression shows in rare cases alone


def bf16(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16).double()


class Tf32Products(Rounded):
    """fp32 operands of products cut to the eleven bits of tf32, Triton's default."""

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        return super().dot(
            *((x.float().view(torch.int32) & ~0x1FFF).view(torch.float32).double() for x in (a, b))
        )


class Bf16Accumulator(Rounded):
    """Sums in bf16, rounded after every sixteen products, as a tensor core takes them."""

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        parts = zip(a.split(16, dim=-1), b.split(16, dim=-2), strict=True)
        return reduce(
            lambda total, part: bf16(total + part[0] @ part[1]), parts, torch.zeros((), dtype=a.dtype)
        )


class RoundedState(Rounded):
    """The running state in bf16 between steps or chunks, not only where it is stored."""

    def state(self, x: Tensor) -> Tensor:
        return bf16(x)


class Bf16Cumulative(Rounded):
    def cumulative(self, x: Tensor) -> Tensor:
        return bf16(torch.cumsum(x, dim=-2))


class RoundedDifference(Rounded):
    """exp(G_i - G_j) of a difference that was rounded to bf16."""

    def exponent(self, x: Tensor) -> Tensor:
        return bf16(x)


class NoEpsilon(Rounded):
    """x / sqrt(sum(x^2)): the first two functions of a case with l2norm are those of q and k."""

    def __init__(self, case: Case, contract: Contract) -> None:
        super().__init__(case, contract)
        self._norms = 2

    def function(self, x: Tensor) -> Tensor:
        if self._norms:
            self._norms -= 1
            x = (x**-2 - L2NORM_EPS).clamp(min=0.0) ** -0.5
        return super().function(x)


@dataclass(frozen=True)
class Regression:
    rounds: type[Rounded]
    operations: tuple[str, ...]
    dtype: str = "bfloat16"
    among: int = CASES


EXTEND = ("gdn.extend", "kda.extend")
STEPWISE = ("gdn.recurrent", "kda.update", "gdn.decode", "kda.verify")
REGRESSIONS = {
    "tf32 in fp32 products": Regression(Tf32Products, EXTEND, "float32"),
    # Not in extend with bf16 inputs: a few such roundings are less than those of factors that it may make.
    "a bf16 accumulator": Regression(Bf16Accumulator, STEPWISE),
    "a bf16 accumulator of fp32 inputs": Regression(Bf16Accumulator, EXTEND, "float32"),
    "a state rounded every step": Regression(RoundedState, STEPWISE),
    "a gate's cumulative sum in bf16": Regression(Bf16Cumulative, EXTEND, "float32"),
    "exp of a rounded difference": Regression(RoundedDifference, EXTEND, "float32"),
    "eps left out of l2norm": Regression(NoEpsilon, (*EXTEND, *STEPWISE), among=RARE),
}
PAIRS = [(name, op) for name, regression in REGRESSIONS.items() for op in regression.operations]


def touched(regression: Regression, op: str) -> Iterator[Case]:
    """Cases that the regression can touch, in batches as a campaign draws them."""
    for batch in count():
        for case in drawn(op, regression.dtype, f"precision/{batch}", BATCH):
            if case.total > 0 and (case.l2norm or regression.rounds is not NoEpsilon):
                yield case


def tell(name: str, op: str) -> Iterator[bool]:
    """Of the first cases that the regression can touch, whether each rejects it."""
    regression, contract = REGRESSIONS[name], default_contract(op)
    for case in islice(touched(regression, op), regression.among):
        right = vacuity.prepare(case, contract)
        results = reference_kernel.computed(case, right.data, contract, regression.rounds(case, contract))
        yield vacuity.rejects(right, results)


@pytest.mark.parametrize(("name", "op"), PAIRS)
def test_a_regression_of_precision_is_found_within_a_few_cases(name: str, op: str) -> None:
    assert any(tell(name, op))


@pytest.mark.parametrize("op", [*EXTEND, *STEPWISE])
def test_the_roundings_that_a_contract_allows_are_not_found(op: str) -> None:
    """The same cases, so that what is found above is the regression."""
    contract = default_contract(op)
    for case in drawn(op, "bfloat16", "precision", CASES):
        right = vacuity.prepare(case, contract)
        assert not vacuity.rejects(right, reference_kernel.computed(case, right.data, contract)), case
