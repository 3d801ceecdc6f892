"""Tell cases that leave nothing to round: every rounding that the contract allows is made, and changes
nothing."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.reference import oracle
from diffgdn.reference.noise.contract import Contract
from diffgdn.reference.noise.tolerance import representable
from diffgdn.reference.oracle import Exact, Expected
from diffgdn.tensors.inputs import Data


class Rounded(Exact):
    """Round values for real, to nearest even (IEEE 754-2019, section 4.3.1), to the formats of a contract:
    a `Rounding`.

    In an exact case nothing may change at any point. Tf32 cuts off the last 13 bits, as tensor cores do.
    """

    def __init__(self, case: Case, contract: Contract) -> None:
        """Take the formats that the contract has for this case."""
        self.formats = {name: contract.dtype(case, name) for name in ("operand", "accumulator", "state")}
        self.tf32 = contract.tf32

    def operand(self, x: Tensor) -> Tensor:
        """Round x to the operand format, and cut it to tf32 if that is allowed; back in float64."""
        rounded = x.to(self.formats["operand"])
        if self.tf32 and rounded.dtype == torch.float32:
            rounded = (rounded.view(torch.int32) & ~0x1FFF).view(torch.float32)
        return rounded.double()

    def accumulate(self, x: Tensor) -> Tensor:
        """Round x to the accumulator format; back in float64."""
        return x.to(self.formats["accumulator"]).double()

    def state(self, x: Tensor) -> Tensor:
        """Round x to the format of the running state; back in float64."""
        return x.to(self.formats["state"]).double()

    exponent = function = accumulate

    def cumulative(self, x: Tensor) -> Tensor:
        """Sum x [..., C, d] over C and round each partial sum once."""
        return self.accumulate(torch.cumsum(x, dim=-2))

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Multiply a [..., M, K] by b [..., K, N] and round each sum once."""
        return self.accumulate(a @ b)


def unrounded(case: Case, data: Data, expected: Expected, contract: Contract) -> frozenset[str]:
    """Name the truths that real roundings at every point of the contract do not change.

    Args:
        data: the tensors of `inputs.draw`.
        expected: the oracle's results; the device that they lie on is where this is computed.

    Returns:
        fields of `oracle.Expected`; none unless the values follow the law "exact".
    """
    if case.values.law != "exact" or (contract.scaled_gates and case.gates.lower_bound is not None):
        return frozenset()
    form = oracle.chunked_form if contract.chunked else oracle.expected
    rounded = form(case, data, Rounded(case, contract), expected.o.device).items()
    same = torch.stack([(rounded[name] == truth).all() for name, truth in expected.items().items()])
    return frozenset(name for name, one in zip(expected.items(), same.tolist(), strict=True) if one)


def is_exact(
    case: Case,
    data: Data,
    expected: Expected,
    contract: Contract,
    stored: Collection[tuple[str, torch.dtype]],
) -> bool:
    """Ask whether a correct kernel has no rounding to make on this case.

    Real roundings at every allowed point, and to the dtype that each result is stored in, change nothing.

    Args:
        data: the tensors of `inputs.draw`.
        expected: the oracle's results.
        stored: of each result that is kept, the field of `oracle.Expected` that it is compared with, and
            its dtype.
    """
    if case.values.law != "exact":
        return False
    names, truths = unrounded(case, data, expected, contract), expected.items()
    if any(name not in names for name, _ in stored):
        return False
    same = [representable(truths[name], dtype) for name, dtype in stored]
    return not same or bool(torch.stack(same).all())  # asked at once: each answer is waited for
