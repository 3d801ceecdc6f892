"""Spread the inputs of a case over float64 lanes: one lane a (sequence, value head), time first, padded to
the longest sequence.

Recurrence and chunked form both read lanes. A `Rounding` may be passed through: the oracle's own is exact;
`diffgdn.reference.noise` passes one that perturbs, at the points where a precision contract allows a
rounding.

Raw gates are those of Yang, Kautz and Hatamizadeh, "Gated Delta Networks", 2024, who have the softplus form
of the decay from Mamba2 (Dao and Gu, "Transformers are SSMs", 2024), and of Kimi Team, "Kimi Linear", 2025,
with a decay for each channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.cases.operand_options import passes_beta
from diffgdn.tensors.transfer import move

# Of a log decay from raw gates, whose rate may overflow. exp(g) is 0 from -746 on in any precision, and sums
# of still smaller numbers would keep nothing of the others.
LEAST = -(2.0**17)
L2NORM_EPS = 1e-6


class Rounding(Protocol):
    """Say what a computation does at the named points where it may round; each method returns what its
    argument becomes.

    Values are float64 whatever format they are rounded to, and keep their shape. Exact arithmetic returns
    them as they are. The standard model, fl(x op y) = (x op y)(1 + delta): Higham, "Accuracy and Stability
    of Numerical Algorithms", 2002, section 2.2.

    Attributes:
        lead: leading dimensions that every lane gets, () or (samples,).
    """

    lead: tuple[int, ...]

    def operand(self, x: Tensor) -> Tensor:
        """Round x as it is written to memory, or handed to a matrix product, in the operand format."""

    def accumulate(self, x: Tensor) -> Tensor:
        """Round x as it comes out of one operation in the accumulator format."""

    def function(self, x: Tensor) -> Tensor:
        """Round x as it comes out of an elementary function (exp, log, sqrt, division) in the accumulator
        format."""

    def softplus(self, x: Tensor) -> Tensor:
        """Compute log(1 + exp(x)), whose sum comes out in the accumulator format."""

    def state(self, x: Tensor) -> Tensor:
        """Round x, the running state after a step that scaled it and added to it."""

    def exponent(self, x: Tensor) -> Tensor:
        """Round x, a natural log decay about to be exponentiated."""

    def cumulative(self, x: Tensor) -> Tensor:
        """Sum log decays x [..., C, d] cumulatively over C, each partial sum in the accumulator format."""

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Multiply a [..., M, K] by b [..., K, N], summed in the accumulator format in any order."""


class Exact:
    """Round nothing: a `Rounding` for the truth."""

    lead: tuple[int, ...] = ()

    def operand(self, x: Tensor) -> Tensor:
        """Return x as it is."""
        return x

    accumulate = function = state = exponent = operand

    def softplus(self, x: Tensor) -> Tensor:
        """Compute log(1 + exp(x)) without overflow."""
        return torch.logaddexp(x, torch.zeros_like(x))

    def cumulative(self, x: Tensor) -> Tensor:
        """Sum x [..., C, d] over C, in the order of time."""
        return torch.cumsum(x, dim=-2)

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Multiply a [..., M, K] by b [..., K, N]."""
        return a @ b


@dataclass(frozen=True)
class Lanes:
    """Hold the inputs of a batch of L = N * HV lanes over T steps; lane n * HV + hv is head hv of sequence
    n.

    All float64 but for `live`; `...` is () or (samples,). Where `live` is false, beta and g are zero, so
    that a step leaves the state as it is.

    Attributes:
        q, k: [T, ..., L, K], normalised if the case asks for that; each query head is repeated for its
            value heads.
        v: [T, ..., L, V].
        g: [T, ..., L, 1 or K], natural log decay.
        beta: [T, ..., L].
        state: [..., L, V, K], before the first step.
        live: [T, L] booleans: whether the lane still has a token at that time.
        scale: factor of the output, K^-0.5 unless the case has its own.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor
    beta: Tensor
    state: Tensor
    live: Tensor
    scale: float

    @property
    def steps(self) -> int:
        """Give T, the length of the longest sequence."""
        return self.live.shape[0]


def _gates(case: Case, data: dict[str, Tensor], rounding: Rounding) -> tuple[Tensor, Tensor]:
    """Compute the log decay and the write strength of every token, from raw ones if the case passes those.

        g = -exp(A_log) * softplus(a + dt_bias),   beta = sigmoid(b), 2 sigmoid(b) with `neg_eigval`
        g = lower_bound * sigmoid(exp(A_log) * (a + dt_bias))   if the case has a lower bound

    Without dt_bias x is a, and without beta it is 1. Sources are in the head of this module; the bounded form
    is that of FLA's and SGLang's kda kernels.

    Returns:
        g [..., tokens, HV, 1 or K], natural log, and beta [..., tokens, HV], in float64.
    """
    return _log_decay(case, data, rounding), _beta(case, data, rounding)


def _beta(case: Case, data: dict[str, Tensor], rounding: Rounding) -> Tensor:
    """Compute the write strength, [..., tokens, HV]."""
    shape = (*rounding.lead, case.tokens, case.HV)
    if not passes_beta(case):
        return torch.ones(shape, dtype=torch.float64, device=data["v"].device)
    if not case.raw_beta:
        return data["beta"].double().expand(shape)
    beta = rounding.function(torch.sigmoid(data["b"].double().expand(shape)))
    return 2.0 * beta if case.operands.neg_eigval else beta


def _log_decay(case: Case, data: dict[str, Tensor], rounding: Rounding) -> Tensor:
    """Compute the natural log decay, [..., tokens, HV, 1 or K]."""
    width = case.K if case.operation.is_kda else 1
    shape = (*rounding.lead, case.tokens, case.HV, width)
    if not case.raw_gates:
        return data["g"].double().view(case.tokens, case.HV, width).expand(shape)
    x = data["a"].double().view(case.tokens, case.HV, width).expand(shape)
    rate = rounding.function(
        torch.exp(data["A_log"].double()).view(case.HV, 1).expand(*rounding.lead, 1, case.HV, 1)
    )
    if "dt_bias" in data:
        x = rounding.function(x + data["dt_bias"].double().view(case.HV, width))
    if case.gates.lower_bound is not None:
        return rounding.function(case.gates.lower_bound * torch.sigmoid(rounding.function(rate * x)))
    g = -rate * _softplus(case, x, rounding)
    return rounding.function(torch.where(g < LEAST, LEAST, g))


def _softplus(case: Case, x: Tensor, rounding: Rounding) -> Tensor:
    """Compute log(1 + exp(c x)) / c with the case's c, and x where c x is past its threshold.

    The usual threshold of 20 is left out: log(1 + exp(x)) is x there, to all digits of fp32.
    """
    if case.operands.plain_softplus:
        return rounding.softplus(x)
    factor = case.operands.softplus_beta
    z = x if factor == 1.0 else rounding.function(factor * x)
    curved = rounding.softplus(z)
    if factor != 1.0:
        curved = rounding.function(curved / factor)
    return torch.where(z > case.operands.softplus_threshold, x, curved)


def _l2norm(x: Tensor, rounding: Rounding) -> Tensor:
    """Scale x [..., K] to unit length: x / sqrt(sum(x^2) + 1e-6). A zero row stays zero."""
    factor = rounding.function(1.0 / torch.sqrt((x * x).sum(-1, keepdim=True) + L2NORM_EPS))
    return rounding.operand(x * factor)


class Layout:
    """Map a case's packed tokens to time and sequence.

    Attributes:
        live: [T, N] booleans: whether a sequence still has a token at that time.
    """

    def __init__(self, case: Case, device: torch.device | str) -> None:
        """Lay the tokens of a case out on a device."""
        time = torch.arange(max(case.lens))[:, None]
        token = (torch.tensor(case.starts[:-1]) + time).clamp(max=max(case.tokens - 1, 0))
        parts = move({"live": time < torch.tensor(case.lens), "token": token}, device)
        self.live, self._token = parts["live"], parts["token"]

    def spread(self, x: Tensor) -> Tensor:
        """Spread packed tokens over lanes: [..., tokens, heads, d] to [T, ..., N * heads, d].

        Entries past the end of a sequence are zero, and so are padding tokens, which no formula can then
        turn into NaN.
        """
        x = x.movedim(-3, 0)[self._token]  # [T, N, ..., heads, d]
        keep = self.live.view(*self.live.shape, *([1] * (x.dim() - 2)))
        return torch.where(keep, x, 0.0).movedim(1, -3).flatten(-3, -2)


def make(
    case: Case, data: dict[str, Tensor], rounding: Rounding, device: torch.device | str = "cpu"
) -> Lanes:
    """Make the lanes of a case.

    Args:
        data: the tensors of `inputs.draw`, by name, in the case's dtypes; they are not changed.
        rounding: applied to the l2norm and to raw gates; its `lead` becomes the leading dimensions.
        device: where the lanes are to lie.
    """
    data = move(data, device)
    N, HV, group = len(case.lens), case.HV, case.HV // case.H
    layout = Layout(case, device)
    q, k = (data[name].double().expand(*rounding.lead, case.tokens, case.H, case.K) for name in "qk")
    if case.l2norm:
        q, k = _l2norm(q, rounding), _l2norm(k, rounding)
    q, k = q.repeat_interleave(group, dim=-2), k.repeat_interleave(group, dim=-2)
    g, beta = _gates(case, data, rounding)
    shape = (N * HV, case.V, case.K)
    state = (
        data["state"].double().view(shape)
        if "state" in data
        else torch.zeros(shape, dtype=torch.float64, device=device)
    )
    if case.fresh:
        state = state.view(N, HV, case.V, case.K).clone()
        state[list(case.fresh)] = 0.0
        state = state.view(shape)
    v = data["v"].double().expand(*rounding.lead, case.tokens, HV, case.V)
    return Lanes(
        q=layout.spread(q),
        k=layout.spread(k),
        v=layout.spread(v),
        g=layout.spread(g),
        beta=layout.spread(beta.unsqueeze(-1)).squeeze(-1),
        state=state.expand(*rounding.lead, *shape),
        live=layout.live.repeat_interleave(HV, dim=1),
        scale=case.effective_scale,
    )
