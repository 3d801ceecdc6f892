"""FlashKDA: Moonshot's fused prefill of KDA for Hopper and later, `flash_kda.fwd`.

Its buffers for output and final states are the caller's, states are dense: the adapter makes and fills them
as fla's own backend for it does (fla/ops/kda/backends/flash_kda.py). It has been written from the docstring
of `flash_kda.fwd` (tokenspeed-flashkda 0.0.1.post20260901), and has run on stand-ins alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffgdn.cases.lay import STRIDES
from diffgdn.cases.spans import Span
from diffgdn.reference.noise import Contract
from diffgdn.targets.released.dense_states import Batch
from diffgdn.targets.released.package import Function, ReleasedTarget, Spec, load

SPEC = Spec(
    name="flashkda",
    distribution="tokenspeed-flashkda",
    package="flash_kda",
    paths={"kda.extend": ("flash_kda:fwd",)},
    backends=("gpu",),
)
# The docstring of flash_kda.fwd, but where another source is named.
PROMISED: dict[str, Any] = {
    "K": (128,),  # "Currently requires K = V = 128"
    "V": (128,),
    "ratio": (1,),  # v has the H of q
    "dtype": ("bfloat16",),  # q, k, v, out: bf16
    "mixed_qkv": False,
    "gate_dtype": ("bfloat16",),  # g and beta: bf16
    "mixed_beta": False,
    "A_log": ("float32",),
    "dt_bias": ("float32",),
    "raw_gates": (True,),  # "Gate before activation"
    "raw_beta": (True,),  # "Beta logits"
    "neg_eigval": False,  # "sigmoid is applied internally"; fla: "requires allow_neg_eigval=False"
    "l2norm": (True,),  # fla: "The kernel fuses q/k L2 norm"
    "bounded": (True,),
    "lower_bound": Span(-5.0, 0.0),  # "expected in [-5.0, 0]"
    "state_dtype": ("bfloat16", "float32"),
    "cu_dtype": ("int64",),
    # "All input tensors must be CUDA, contiguous": states are gathered anyway.
    "view": ("contiguous",),
    "strides": ("compact", *(word for word in STRIDES if word.endswith((" states", " indices")))),
    "chunk_size": (64,),  # it does not say its own; noise is that of 64
    "boundary": (False,),
    "track": (False,),
    "execution": ("eager", "stream", "device"),  # the adapter reads indices on the CPU
}
CONTRACT = Contract(operand="input", chunked=True)


def make(name: str, place: str | None) -> ReleasedTarget:
    """Make the target of the installed package, or of a wheel or a folder. Raises TargetError."""
    found = load(SPEC, place)
    adapters = {op: adapted(function) for op, function in found.functions.items()}
    promised, contracts = dict.fromkeys(adapters, PROMISED), dict.fromkeys(adapters, CONTRACT)
    return ReleasedTarget(found, adapters, "vk", promised, contracts)


def adapted(fwd: Function) -> Function:
    """Make the adapter of `flash_kda.fwd`."""

    def call(
        q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, scale: float | None, A_log: Tensor,
        dt_bias: Tensor, lower_bound: float, beta_is_raw: bool, initial_state: Tensor | None,
        initial_state_indices: Tensor | None, cu_seqlens: Tensor | None, output_final_state: bool,
        inplace_update: bool, use_qk_l2norm_in_kernel: bool, output_intermediate_states: bool = False,
        has_initial_state: Tensor | None = None,
    ) -> Any:  # fmt: skip
        assert beta_is_raw, "as promised"
        assert use_qk_l2norm_in_kernel, "as promised"
        assert not output_intermediate_states, "as promised"
        batch = Batch.of(q, initial_state, initial_state_indices, has_initial_state, cu_seqlens)
        first = batch.gathered()
        shape = (batch.count, v.shape[2], v.shape[3], q.shape[3])
        final = torch.empty(shape, dtype=torch.float32 if first is None else first.dtype, device=q.device)
        tokens = [batch.real(one) for one in (q, k, v, g, beta)]
        out = torch.empty_like(tokens[2])
        fwd(
            *tokens,
            q.shape[-1] ** -0.5 if scale is None else scale,
            out,
            A_log=A_log,
            dt_bias=dt_bias,
            lower_bound=lower_bound,
            initial_state=first,
            final_state=final,
            cu_seqlens=cu_seqlens,
        )
        if inplace_update and initial_state is not None:
            batch.scatter(final)
        o = batch.with_tail(out, v.shape[1])
        return (o, final) if output_final_state else o

    return call
