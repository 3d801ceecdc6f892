"""Cases that leave nothing to round: every rounding that the contract allows is made, and changes nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from diffgdn import oracle
from diffgdn.case import Case
from diffgdn.inputs import Data
from diffgdn.noise.contract import Contract
from diffgdn.oracle import Exact, Expected


class Rounded(Exact):
    """A Rounding that really rounds, to show whether a case is exact: nothing may change at any point."""

    def __init__(self, case: Case, contract: Contract) -> None:
        self.formats = {name: contract.dtype(case, name) for name in ("operand", "accumulator", "state")}
        self.tf32 = contract.tf32

    def operand(self, x: Tensor) -> Tensor:
        rounded = x.to(self.formats["operand"])
        if self.tf32 and rounded.dtype == torch.float32:
            rounded = (rounded.view(torch.int32) & ~0x1FFF).view(torch.float32)
        return rounded.double()

    def accumulate(self, x: Tensor) -> Tensor:
        return x.to(self.formats["accumulator"]).double()

    def state(self, x: Tensor) -> Tensor:
        return x.to(self.formats["state"]).double()

    exponent = function = accumulate

    def cumulative(self, x: Tensor) -> Tensor:
        return self.accumulate(torch.cumsum(x, dim=-2))

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        return self.accumulate(a @ b)


def is_exact(
    case: Case, data: Data, expected: Expected, contract: Contract, stored: dict[str, torch.dtype]
) -> bool:
    """Whether a correct kernel has no rounding to make on this case: real roundings at every allowed point,
    and to the stored formats, change nothing."""
    if case.values.law != "exact":
        return False
    form = oracle.chunked_form if contract.chunked else oracle.expected
    rounded = form(case, data, Rounded(case, contract), expected.o.device).items()
    same = [
        (rounded[name] == truth).all() & (truth.to(stored[name]).double() == truth).all()
        for name, truth in expected.items().items()
        if name in stored
    ]
    return not same or bool(torch.stack(same).all())  # asked at once: each answer is waited for
