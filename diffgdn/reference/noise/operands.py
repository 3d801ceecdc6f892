"""Compute the errors that q, k, the log decays and beta bring into the first step: of the l2norm and of raw
gates.

To first order an error is carried by the derivative (Higham, "Accuracy and Stability of Numerical
Algorithms", 2002, chapter 1). Every error here is [samples, T, L, d], absolute for the log decay, relative
for the others; None if nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.reference.limit import MAX_SIGMAS
from diffgdn.reference.noise.contract import Contract, Size
from diffgdn.reference.noise.draws import Draws
from diffgdn.reference.oracle.lanes import LEAST, Lanes, Layout
from diffgdn.tensors.transfer import move

DECAY_STEPS = 64.0  # to 1 in a log decay: exp2 is looked up by the leading bits of its argument
# From here on a decay is below the normal numbers of fp32, give or take its own error, and may be taken for
# zero: an error of its whole size, where MAX_SIGMAS sigmas are to be more than that.
VANISHED = -86.5
OF_VANISHED = 0.2
LARGEST = 2.0**100  # of a rate or of its product, beyond which nothing changes


@dataclass(frozen=True)
class InputErrors:
    """Hold the errors of the inputs of the first step, in the working precision; None if nothing is
    rounded.

    Attributes:
        q, k: relative, [samples, T, L, K].
        g: absolute, in natural units, [samples, T, L, 1 or K].
        beta: relative, [samples, T, L, 1].
    """

    q: Tensor | None
    k: Tensor | None
    g: Tensor | None
    beta: Tensor | None


def input_errors(
    case: Case, data: Mapping[str, Tensor], lanes: Lanes, contract: Contract, draws: Draws
) -> InputErrors:
    """Draw the errors of a case's inputs on their way to the first step.

    Args:
        data: the tensors of `inputs.draw`; raw gates are read from it.
        lanes: the exact inputs, without samples.
        draws: they set samples and working precision.
    """
    sizes = contract.sizes(case)

    def normalised(x: Tensor) -> Tensor | None:
        if not case.l2norm:
            return None
        key = x.sum(-1, keepdim=True)  # the norm itself is gone
        of_norm = sizes["norm"].unit * draws.of_function(key, "norm", near=torch.zeros_like(key))
        return relative(draws, x, sizes["qk"], "qk") + of_norm

    g = _log_decay(case, data, lanes, sizes, draws) if case.raw_gates else None
    beta = None
    if case.raw_beta:
        beta = sizes["gate"].unit * draws.of_function(lanes.beta.unsqueeze(-1), "beta")
    return InputErrors(normalised(lanes.q), normalised(lanes.k), g, beta)


def relative(draws: Draws, x: Tensor, size: Size, point: str) -> Tensor:
    """Draw relative errors of rounding x, the same for equal values: [samples, *x.shape]."""
    error = size.unit * draws.by_value(x, point)
    if size.floor and size.unit:
        floor = torch.where(x == 0, 0.0, size.floor / x.abs().clamp(min=size.floor))
        error = error * (1.0 + floor.to(error.dtype) / size.unit)
    return error


def _log_decay(
    case: Case, data: Mapping[str, Tensor], lanes: Lanes, sizes: Mapping[str, Size], draws: Draws
) -> Tensor:
    """Draw the errors of the log decay that is computed from raw gates, absolute, [samples, T, L, 1 or K].

    With rate = exp(A_log), x = a + dt_bias, and each function off by the size of "gate": for g = -rate
    softplus(x) the derivative by x is -rate sigmoid(x), and the rounding of 1 + exp(x) in softplus is an
    error of its logarithm, of no more than softplus(x), which is lost whole where exp(x) is; for g =
    lower_bound s with s = sigmoid(rate x) it is lower_bound s (1 - s) by z = rate x. Without dt_bias x is a,
    and has no error. A factor c and a threshold of softplus: see `_of_scaled_softplus`.
    """
    unit = sizes["gate"].unit
    width = case.K if case.operation.is_kda else 1
    biased = "dt_bias" in data
    data = move({name: data[name] for name in ("a", "dt_bias", "A_log") if name in data}, lanes.v.device)
    raw = data["a"].double().view(case.tokens, case.HV, width)
    if biased:
        raw = raw + data["dt_bias"].double().view(case.HV, width)
    rate = torch.exp(data["A_log"].double()).view(1, case.HV, 1).expand(case.tokens, case.HV, 1)
    layout = Layout(case, lanes.v.device)
    x, rate = layout.spread(raw), layout.spread(rate)

    def once(value: Tensor, point: str) -> Tensor:
        return unit * draws.of_function(value, point)

    # exp(A_log) may overflow, in a kernel too: the decay is then 0 whatever the error of g, or at its bound.
    x32, rate32, g32 = (part.clamp(max=LARGEST).to(draws.dtype) for part in (x, rate, lanes.g))
    of_rate, of_x = once(rate, "rate"), x32 * once(x, "x") if biased else torch.zeros_like(x32)
    if not case.operands.plain_softplus:
        error = _of_scaled_softplus(case, x, rate32, of_x, sizes, draws) + g32 * of_rate
    elif case.gates.lower_bound is None:
        slope = -rate32 * torch.sigmoid(x).to(draws.dtype)
        of_sum = torch.minimum(rate32 * sizes["softplus_sum"].unit, -g32) * draws.by_value(x, "softplus_sum")
        error = slope * of_x + g32 * of_rate + of_sum
    else:
        z = rate * x
        level = torch.sigmoid(z)
        slope = (case.gates.lower_bound * level * (1.0 - level)).to(draws.dtype)
        error = slope * (
            z.clamp(-LARGEST, LARGEST).to(draws.dtype) * (of_rate + once(z, "z")) + rate32 * of_x
        )
    error = error + g32 * once(lanes.g, "gate")
    live = lanes.live.unsqueeze(-1) & (lanes.g > LEAST)
    return torch.where(live, error, 0.0)


def _of_scaled_softplus(
    case: Case, x: Tensor, rate: Tensor, of_x: Tensor, sizes: Mapping[str, Size], draws: Draws
) -> Tensor:
    """Draw the errors of g = -rate log(1 + exp(z)) / c with z = c x, and g = -rate x past the threshold.

    The derivative by z is -rate sigmoid(z) / c; c x rounds once, and so does the quotient by c, where c is
    not 1; the sum 1 + exp(z) as without c. Where z is so near the threshold that its roundings may carry it
    across, either formula may be taken: an error of 0 or of their distance, rate log(1 + exp(-z)) / c, each
    as likely. An x and a z that fp32 holds are not rounded, as gates are computed in fp32 at least.

    Args:
        x: a + dt_bias, float64. rate: exp(A_log), in the working precision. of_x: absolute errors of x.
    """
    factor, threshold, unit = (
        case.operands.softplus_beta,
        case.operands.softplus_threshold,
        sizes["gate"].unit,
    )
    z = factor * x
    curved = z <= threshold
    level = torch.where(curved, torch.sigmoid(z), 1.0).to(draws.dtype)
    value = torch.where(curved, torch.logaddexp(z, torch.zeros_like(z)) / factor, 0.0).to(draws.dtype)
    error = -rate * level * of_x
    if factor != 1.0:
        z32 = z.clamp(max=LARGEST).to(draws.dtype)
        of_z = unit * draws.of_function(z, "z") * z32 / factor
        error = error - rate * torch.where(curved, level * of_z, 0.0)
        error = error + rate * value * unit * draws.of_function(value.double(), "softplus_beta")
    of_sum = torch.minimum(rate * sizes["softplus_sum"].unit / factor, rate * value)
    error = error + of_sum * draws.by_value(z, "softplus_sum")
    rounded = (x != x.float()) | (z != z.float())
    near = rounded & ((z - threshold).abs() <= MAX_SIGMAS * 2.0 * unit * z.abs())
    jump = torch.where(near, torch.log1p(torch.exp(-z.abs())) / factor, 0.0).to(draws.dtype)
    either: Tensor = 0.5**0.5 * rate * jump * draws.by_value(z, "threshold")
    return error + either


def decay_error(draws: Draws, x: Tensor, contract: Contract, size: Size) -> Tensor:
    """Draw the relative error of exp(x), [samples, *x.shape], for natural log decays x in float64."""
    near = (x * DECAY_STEPS).round()
    return decay_size(x, contract, size).to(draws.dtype) * draws.of_function(x, "decay", near)


def decay_size(x: Tensor, contract: Contract, size: Size) -> Tensor:
    """Size the relative error of exp(x), as root mean square, for natural log decays x; of the shape of x.

    The scaling of x to log2 rounds relative to x, and the exponential has an error of its own; d exp(x) /
    exp(x) = dx. exp(0) is 1 in any implementation, and exp(x) below the normal numbers of fp32 may be 0.
    """
    units = torch.where(x == 0, 0.0, 2.0 * x.abs() / contract.functions + 1.0)
    return torch.where(x < VANISHED, OF_VANISHED, size.unit * units)
