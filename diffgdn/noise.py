"""The noise of a case: how far a correct kernel may stray from the oracle on it.

The reference computation runs in float64 several times, with a random relative perturbation at each point where the
precision contract allows a rounding, of that rounding's size. The spread of those runs, element by element, is the noise. The
bound on an error is LIMIT noises plus the one rounding to the output format, which no kernel can avoid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffgdn import oracle
from diffgdn.case import Case
from diffgdn.inputs import DTYPE, Data
from diffgdn.oracle import Exact, Expected

LIMIT = 8.0  # noises; the largest seen for correct kernels is reported by every campaign
SAMPLES = 6
SAMPLE_BUDGET = 3e7  # elements of all lanes and samples together, beyond which fewer samples are taken
ROW_SHARE = 0.5  # of a row's noise that every element of the row may use: six samples say little about one element
TINY = 2.0**-120  # below any result that fp32 arithmetic with flushed denormals resolves
UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
PRECISION = {torch.float32: 24, torch.bfloat16: 8, torch.float16: 11}  # significant bits
LOWEST_EXPONENT = {torch.float32: -125, torch.bfloat16: -125, torch.float16: -13}  # frexp exponent of the smallest normal
SMALLEST = {torch.float16: 2.0**-24}  # subnormals matter in fp16 alone: the other formats reach below TINY
POOL_SIZE = 1 << 21


@dataclass(frozen=True)
class Contract:
    """The roundings that a correct implementation of an operation may make.

    operand: format of matrix operands and of intermediates between chunk stages (A, w, u, h, v_new, A_qk), "input" for the
    dtype of q. accumulator: of sums, gates and everything else. state: of the running state between steps or chunks.
    chunked: rounding points are those of the chunked form.
    """

    operand: str = "float32"
    accumulator: str = "float32"
    state: str = "float32"
    chunked: bool = False

    def unit(self, case: Case, name: str) -> float:
        """Unit roundoff of one of the three formats for this case."""
        return UNIT[self.dtype(case, name)]

    def dtype(self, case: Case, name: str) -> torch.dtype:
        chosen = getattr(self, name)
        return DTYPE[case.dtype if chosen == "input" else chosen]


RECURRENT = Contract()
CHUNKED = Contract(operand="input", chunked=True)


class Perturbed:
    """A Rounding that multiplies by 1 + u z at each point, z uniform in [-1, 1]."""

    def __init__(self, case: Case, contract: Contract, samples: int, device: torch.device | str) -> None:
        self.lead = (samples,)
        self.generator = torch.Generator().manual_seed(int(case.id, 16))
        self.pool = _random_pool(device)
        formats = {name: contract.dtype(case, name) for name in ("operand", "accumulator", "state")}
        self.units = {name: UNIT[dtype] for name, dtype in formats.items()}
        self.floors = {name: 0.5 * SMALLEST.get(dtype, 0.0) for name, dtype in formats.items()}

    def _z(self, x: Tensor) -> Tensor:
        count = x.numel()
        if count > POOL_SIZE // 2:
            return self.pool.repeat(-(-count // POOL_SIZE) + 1)[self._offset() :][:count].view(x.shape)
        return self.pool[self._offset() :][:count].view(x.shape)

    def _offset(self) -> int:
        return int(torch.randint(POOL_SIZE // 2, (), generator=self.generator))

    def _nudge(self, x: Tensor, unit: float, floor: float = 0.0) -> Tensor:
        if floor:  # a rounding moves a nonzero number by up to half the smallest one, however small it is
            return x + torch.where(x == 0, 0.0, x.abs() * unit + floor) * self._z(x)
        return x + x * self._z(x) * unit

    def operand(self, x: Tensor) -> Tensor:
        return self._nudge(x, max(self.units["operand"], self.units["accumulator"]), self.floors["operand"])

    def accumulate(self, x: Tensor) -> Tensor:
        # twice: the sum that follows rounds again, along a tree
        return self._nudge(x, 2.0 * self.units["accumulator"], self.floors["accumulator"])

    def state(self, x: Tensor) -> Tensor:
        return self._nudge(x, max(self.units["state"], self.units["accumulator"]), self.floors["state"])

    def exponent(self, x: Tensor) -> Tensor:
        # A cumulative sum rounds relative to its size, scaling by log2(e) again; exp2 itself is good to 2 units.
        unit = self.units["accumulator"]
        return x + (2.0 * x.abs() + 2.0) * self._z(x) * unit

    def norm(self, x: Tensor) -> Tensor:
        return self._nudge(x, 4.0 * self.units["accumulator"])


class Rounded(Exact):
    """A Rounding that really rounds, to show whether a case is exact: nothing may change at any point."""

    def __init__(self, case: Case, contract: Contract) -> None:
        self.formats = {name: contract.dtype(case, name) for name in ("operand", "accumulator", "state")}

    def operand(self, x: Tensor) -> Tensor:
        return x.to(self.formats["operand"]).double()

    def accumulate(self, x: Tensor) -> Tensor:
        return x.to(self.formats["accumulator"]).double()

    def state(self, x: Tensor) -> Tensor:
        return x.to(self.formats["state"]).double()

    exponent = norm = accumulate


_POOLS: dict[str, Tensor] = {}


def _random_pool(device: torch.device | str) -> Tensor:
    """Uniform numbers in [-1, 1], the same on every device; slices of it serve as fresh draws, which keeps noise cheap."""
    key = str(device)
    if key not in _POOLS:
        generator = torch.Generator().manual_seed(20240229)
        _POOLS[key] = (2.0 * torch.rand(POOL_SIZE, generator=generator, dtype=torch.float64) - 1.0).to(device)
    return _POOLS[key]


def _reference(case: Case, data: Data, contract: Contract, rounding: oracle.Rounding, device: torch.device | str) -> Expected:
    form = oracle.chunked_form if contract.chunked else oracle.expected
    return form(case, data, rounding, device)


def _samples(case: Case) -> int:
    longest, lanes = max(case.lens), len(case.lens) * case.HV
    size = lanes * (longest * (3 * case.K + case.V) + 4 * case.K * case.V)
    if case.keeps_steps:
        size += lanes * longest * case.K * case.V
    return int(max(3, min(SAMPLES, SAMPLE_BUDGET // max(size, 1))))


def measure(case: Case, data: Data, expected: Expected, contract: Contract, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Noise of each result, of the same shape: root mean square deviation over the samples, at least ROW_SHARE of its row's."""
    perturbed = _reference(case, data, contract, Perturbed(case, contract, _samples(case), device), device).items()
    out = {}
    for name, truth in expected.items().items():
        square = (perturbed[name] - truth).square().mean(0)
        row = square.mean(-1, keepdim=True) * ROW_SHARE**2
        out[name] = torch.maximum(square, row).sqrt()
    return out


def half_ulp(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Half the spacing of `dtype` at |x|, the largest error of one correct rounding."""
    exponent = torch.frexp(x).exponent.clamp(min=LOWEST_EXPONENT[dtype])
    return torch.ldexp(torch.ones_like(x), exponent - PRECISION[dtype] - 1)


def is_exact(case: Case, data: Data, expected: Expected, contract: Contract, stored: dict[str, torch.dtype]) -> bool:
    """Whether a correct kernel has no rounding to make on this case: real roundings at every allowed point, and to the stored
    formats, change nothing."""
    if case.values.law != "exact":
        return False
    rounded = _reference(case, data, contract, Rounded(case, contract), expected.o.device).items()
    return all(
        torch.equal(rounded[name], truth) and torch.equal(truth.to(stored[name]).double(), truth)
        for name, truth in expected.items().items()
        if name in stored
    )
