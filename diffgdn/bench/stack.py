"""A stack of Gated DeltaNet layers as Qwen3-Next has them, with random weights: what a layout means for a
whole step.

36 layers of hidden size 2048, H/HV 16/32, K = V = 128: norm, projections of q, k, v, z and of a and b, the
operation, a gated norm of its output, and the projection back, added to what came in; all but the operation
in plain torch, in bf16. Qwen3-Next-80B-A3B has them as three layers in four of 48. Left out is what does not
depend on a state's layout: the short convolution, the experts and the attention layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffgdn.bench.shapes import StackShape
from diffgdn.targets import FunctionTarget
from diffgdn.tensors import inputs
from diffgdn.tensors.arena import Arguments

NORM_EPS = 1e-6
RATE = 1.0  # A_log is 0: a decay of softplus(a) a token


@dataclass(frozen=True)
class Layer:
    """The weights of a layer, and the call of its operation with the tensors that do not change.

    qkvz: [2 H K + 2 HV V, hidden]. ab: [2 HV, hidden]. back: [hidden, HV V]. norm: [hidden].
    gated: [V]. given: keyword arguments of the operation's function; those of tokens take their place.
    """

    qkvz: Tensor
    ab: Tensor
    back: Tensor
    norm: Tensor
    gated: Tensor
    given: dict[str, Any]


class Stack:
    """All layers, over one target's function."""

    def __init__(self, target: FunctionTarget, shape: StackShape, arguments: Arguments) -> None:
        """Draw the weights, the same for every target, and a pool of states for each layer.

        arguments: of the layers' operation, whose pool each layer copies.
        """
        self._case, self._function = shape.case, target.functions[shape.case.op]
        device = arguments["state"].device
        random = torch.Generator(device).manual_seed(0)
        given = target.given(shape.case, arguments)
        self._layers = [self._layer(shape, given, random, device) for _ in range(shape.layers)]
        hidden = torch.randn(shape.case.total, shape.hidden, generator=random, device=device)
        self._hidden = hidden.to(inputs.DTYPE[shape.case.dtype])

    def _layer(
        self, shape: StackShape, given: dict[str, Any], random: torch.Generator, device: torch.device
    ) -> Layer:
        case, dtype = shape.case, inputs.DTYPE[shape.case.dtype]

        def weight(rows: int, columns: int) -> Tensor:
            drawn = torch.randn(rows, columns, generator=random, device=device) / math.sqrt(columns)
            return drawn.to(dtype)

        own = {
            name: value.clone() if name in ("initial_state", "initial_state_source") else value
            for name, value in given.items()
        }
        values = case.HV * case.V
        return Layer(
            weight(2 * case.H * case.K + 2 * values, shape.hidden),
            weight(2 * case.HV, shape.hidden),
            weight(shape.hidden, values),
            torch.ones(shape.hidden, device=device, dtype=dtype),
            torch.ones(case.V, device=device, dtype=dtype),
            own,
        )

    def step(self) -> Tensor:
        """Run all layers on the same tokens as ever, [tokens, hidden]. States are written in place."""
        x = self._hidden
        for layer in self._layers:
            x = x + self._mixed(layer, _normed(x, layer.norm))
        return x

    def _mixed(self, layer: Layer, x: Tensor) -> Tensor:
        """What a layer adds, [tokens, hidden]."""
        case = self._case
        key, value = case.H * case.K, case.HV * case.V
        q, k, v, z = F.linear(x, layer.qkvz).split((key, key, value, value), dim=-1)
        a, b = F.linear(x, layer.ab).split(case.HV, dim=-1)
        tokens = (
            q.view(1, -1, case.H, case.K),
            k.view(1, -1, case.H, case.K),
            v.view(1, -1, case.HV, case.V),
        )
        o = self._operation(layer, tokens, a, b).view(-1, case.HV, case.V)
        gated = _normed(o, layer.gated) * F.silu(z.view(-1, case.HV, case.V))
        return F.linear(gated.reshape(-1, value), layer.back)

    def _operation(self, layer: Layer, tokens: tuple[Tensor, ...], a: Tensor, b: Tensor) -> Tensor:
        """The operation's output: of decode from raw gates, of extend from gates that torch makes."""
        q, k, v = tokens
        own: dict[str, Any] = {"q": q, "k": k, "v": v}
        if self._case.operation.raw_gates:
            own |= {"a": a.float()[None], "b": b.float()[None]}
        else:
            own |= {"g": (-RATE * F.softplus(a.float()))[None], "beta": torch.sigmoid(b.float())[None]}
        returned = self._function(**{**layer.given, **own})
        o: Tensor = returned[0] if isinstance(returned, tuple) else returned
        return o


def _normed(x: Tensor, weight: Tensor) -> Tensor:
    """RMSNorm over the last axis (Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019)."""
    return F.rms_norm(x, (x.shape[-1],), weight, NORM_EPS)
