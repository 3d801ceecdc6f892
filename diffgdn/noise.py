"""The noise of a case: how far a correct kernel may stray from the oracle on it.

The reference computation runs in float64 several times, with a random perturbation at each point where the
precision contract allows a rounding, of that rounding's root mean square size. The spread of those runs,
element by element, is the noise. The bound on an error is LIMIT noises plus the one rounding to the output
format, which no kernel can avoid.

The perturbations of one value have the same sizes in every case, in random order and with random signs over
the samples. Where one rounding dominates, such as that of a gate which all elements of a state share, the
samples then give its size exactly; where two of the same size meet, they do not cancel in all samples at
once.
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
SAMPLES = 8
# Of the pooled estimate that every element may use: eight samples say little about one element.
POOLED_SHARE = 0.7
LEAST_UNITS = 1.0  # of the accumulator's unit roundoff, of any result: none has fewer than two roundings
ROUNDING_RMS = 0.5  # of the unit roundoff: root mean square of a rounding's relative error, over mantissas
# Units that an elementary function on a GPU may be off by: approximate exp2, log2, sqrt, division.
FUNCTION_UNITS = 4.0
TINY = 2.0**-120  # below any result that fp32 arithmetic with flushed denormals resolves
UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
TF32_UNIT = 2.0**-10  # eleven significant bits; tensor cores cut the rest off rather than round
PRECISION = {torch.float32: 24, torch.bfloat16: 8, torch.float16: 11}  # significant bits
# frexp exponent of the smallest normal.
LOWEST_EXPONENT = {torch.float32: -125, torch.bfloat16: -125, torch.float16: -13}
SMALLEST = {torch.float16: 2.0**-24}  # subnormals matter in fp16 alone: the other formats reach below TINY
EQUAL_TERMS = 0.3  # of n half units: n/2 additions in the last binade, each off by the same part of a unit
SQRT2 = 2.0**0.5
POOL_SIZE = 1 << 18
VALUE_POOL_SIZE = 1 << 14  # small enough to stay in a cache


@dataclass(frozen=True)
class Contract:
    """The roundings that a correct implementation of an operation may make.

    operand: format of matrix operands and of intermediates between chunk stages (A, w, u, h, v_new, A_qk),
    "input" for the dtype of q. accumulator: of sums, gates and everything else. state: of the running state
    between steps or chunks. chunked: rounding points are those of the chunked form. tf32: matrix products of
    fp32 operands may run in tf32.
    """

    operand: str = "float32"
    accumulator: str = "float32"
    state: str = "float32"
    chunked: bool = False
    tf32: bool = False

    def unit(self, case: Case, name: str) -> float:
        """Unit roundoff of one of the three formats for this case."""
        unit = UNIT[self.dtype(case, name)]
        return max(unit, TF32_UNIT) if self.tf32 and name == "operand" else unit

    def dtype(self, case: Case, name: str) -> torch.dtype:
        chosen = getattr(self, name)
        return DTYPE[case.dtype if chosen == "input" else chosen]


RECURRENT = Contract()
CHUNKED = Contract(operand="input", chunked=True)


class Perturbed:
    """A Rounding that moves a value at each point by about the size of a rounding, up or down at random."""

    def __init__(self, case: Case, contract: Contract, device: torch.device | str) -> None:
        self.lead: tuple[int, ...] = (SAMPLES,)
        self.generator = torch.Generator().manual_seed(int(case.id, 16))
        self.pool = _random_factors(SAMPLES, device)
        formats = {name: contract.dtype(case, name) for name in ("operand", "accumulator", "state")}
        self.units = {name: ROUNDING_RMS * contract.unit(case, name) for name in formats}
        self.floors = {name: ROUNDING_RMS * SMALLEST.get(dtype, 0.0) for name, dtype in formats.items()}

    def _draw(self, x: Tensor) -> Tensor:
        """Fresh factors for x [samples, ...]: of mean square 1 over the samples, for each element."""
        count = x.numel() // self.lead[0]
        start = int(torch.randint(POOL_SIZE // 2, (), generator=self.generator))
        pool = self.pool if count <= POOL_SIZE // 2 else self.pool.repeat(1, -(-count // POOL_SIZE) + 1)
        return pool[:, start : start + count].view(x.shape)

    def _drawn_by_value(self, x: Tensor, salt: int) -> Tensor:
        """Factors as from `_draw`, but the same ones wherever x is the same: a rounding depends on the value
        alone, so that equal gates, keys or norms err alike at every token, and the errors add up."""
        bits = x[0].contiguous().view(torch.int64)
        mixed = (bits ^ (bits >> 29)) * 0x2545F4914F6CDD1D + salt * 0x1B873593
        column = (mixed >> 40) & (VALUE_POOL_SIZE - 1)
        return self.pool[:, column.view(-1)].view(x.shape)

    def _nudge(self, x: Tensor, factors: Tensor, unit: float, floor: float = 0.0) -> Tensor:
        if floor:  # a rounding moves a nonzero number by up to half the smallest one, however small it is
            return x + torch.where(x == 0, 0.0, x.abs() * unit + floor) * factors
        return torch.addcmul(x, x, factors, value=unit)

    def operand(self, x: Tensor) -> Tensor:
        unit = max(self.units["operand"], self.units["accumulator"])
        return self._nudge(x, self._drawn_by_value(x, 1), unit, self.floors["operand"])

    def accumulate(self, x: Tensor) -> Tensor:
        return self._nudge(x, self._draw(x), self.units["accumulator"], self.floors["accumulator"])

    def function(self, x: Tensor) -> Tensor:
        unit = FUNCTION_UNITS * self.units["accumulator"]
        return self._nudge(x, self._drawn_by_value(x, 2), unit, self.floors["accumulator"])

    def state(self, x: Tensor) -> Tensor:
        # two roundings in the accumulator format, of a product and of a sum, or one in the state's
        unit = max(self.units["state"], SQRT2 * self.units["accumulator"])
        return self._nudge(x, self._draw(x), unit, self.floors["state"])

    def exponent(self, x: Tensor) -> Tensor:
        # Scaling by log2(e) rounds relative to x; the exponential's own error is an absolute one of the
        # exponent.
        size = (2.0 * x.abs() + FUNCTION_UNITS) * self.units["accumulator"]
        return x + size * self._drawn_by_value(x, 3)

    def cumulative(self, x: Tensor) -> Tensor:
        G = torch.cumsum(x, dim=-2)
        return G + torch.cumsum(G * self._drawn_by_value(G, 4), dim=-2) * self.units["accumulator"]

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Each partial sum rounds. In sequence the squares of n partial sums add up to about n/2 sum(x^2)
        for terms of random sign, where sum(x^2) is near |a|^2 |b|^2 / n, and to n/3 (sum x)^2 for terms of
        one sign; other orders do better. Equal terms round the same way over and over: their error grows
        with n."""
        out, terms = a @ b, a.shape[-1]
        lengths = _norm(a, -1, 2.0) * _norm(b, -2, 2.0)
        evenness = out / (terms * _norm(a, -1, torch.inf) * _norm(b, -2, torch.inf) + TINY)
        one_sign = ((terms / 3.0) ** 0.5 + EQUAL_TERMS * terms * evenness.square_()) * out
        size = torch.hypot(0.5**0.5 * lengths, one_sign)
        return out + size.mul_(self._draw(out)).mul_(self.units["accumulator"])


def _norm(x: Tensor, dim: int, order: float) -> Tensor:
    return torch.linalg.vector_norm(x, ord=order, dim=dim, keepdim=True)


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


_POOLS: dict[tuple[int, str], Tensor] = {}


def _random_factors(samples: int, device: torch.device | str) -> Tensor:
    """[samples, POOL_SIZE] factors, the same on every device; slices of them serve as fresh draws, which
    keeps noise cheap.

    Each column holds the same sizes, of mean square 1, in a random order and with random signs.
    """
    key = (samples, str(device))
    if key not in _POOLS:
        generator = torch.Generator().manual_seed(20240229)
        sizes = (2.0 * (torch.arange(samples, dtype=torch.float64) + 0.5) / samples).sqrt()
        order = torch.rand(POOL_SIZE, samples, generator=generator).argsort(dim=1)
        signs = 2.0 * torch.randint(2, (POOL_SIZE, samples), generator=generator) - 1.0
        _POOLS[key] = (sizes[order] * signs).T.contiguous().to(device)
    return _POOLS[key]


def _reference(
    case: Case, data: Data, contract: Contract, rounding: oracle.Rounding, device: torch.device | str
) -> Expected:
    form = oracle.chunked_form if contract.chunked else oracle.expected
    return form(case, data, rounding, device)


def measure(
    case: Case, data: Data, expected: Expected, contract: Contract, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Noise of each result, of the same shape: root mean square deviation over the samples, at least
    POOLED_SHARE of an estimate pooled over the row, for states over row and column, and at least
    LEAST_UNITS."""
    rounding = Perturbed(case, contract, device)
    perturbed = _reference(case, data, contract, rounding, device).items()
    out = {}
    for name, truth in expected.items().items():
        square = (perturbed[name] - truth).square_().mean(0)
        pooled = square.mean(-1, keepdim=True)
        if name != "o" and square.numel():  # [..., V, K]: what row and column have in common, as a product
            column = square.mean(-2, keepdim=True)
            pooled = pooled * column / square.mean((-2, -1), keepdim=True).clamp(min=1e-300)
        least = truth.abs() * (LEAST_UNITS * UNIT[contract.dtype(case, "accumulator")])
        out[name] = torch.maximum(torch.maximum(square, POOLED_SHARE**2 * pooled).sqrt_(), least)
    return out


@dataclass(frozen=True)
class Reference:
    """What a case's results are compared with: the truth, the noise of each result, and whether there is
    nothing to round."""

    truth: Expected
    noise: dict[str, Tensor]
    exact: bool


def reference(
    case: Case,
    data: Data,
    contract: Contract,
    stored: dict[str, torch.dtype],
    device: torch.device | str = "cpu",
) -> Reference:
    """The reference of a case for a target's contract. stored: the dtype of each result that is kept, by the
    names of `oracle.Expected`."""
    truth = oracle.expected(case, data, device=device)
    return Reference(
        truth,
        measure(case, data, truth, contract, device),
        is_exact(case, data, truth, contract, stored),
    )


def half_ulp(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Half the spacing of `dtype` at |x|, the largest error of one correct rounding."""
    exponent = torch.frexp(x).exponent.clamp(min=LOWEST_EXPONENT[dtype])
    return torch.ldexp(torch.ones_like(x), exponent - PRECISION[dtype] - 1)


def is_exact(
    case: Case, data: Data, expected: Expected, contract: Contract, stored: dict[str, torch.dtype]
) -> bool:
    """Whether a correct kernel has no rounding to make on this case: real roundings at every allowed point,
    and to the stored formats, change nothing."""
    if case.values.law != "exact":
        return False
    rounded = _reference(case, data, contract, Rounded(case, contract), expected.o.device).items()
    return all(
        torch.equal(rounded[name], truth) and torch.equal(truth.to(stored[name]).double(), truth)
        for name, truth in expected.items().items()
        if name in stored
    )
