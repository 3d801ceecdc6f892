"""FlashQLA: Qwen's fused prefill of GDN in TileLang, `flash_qla.chunk_gated_delta_rule`.

States are dense; of its two layouts the adapter takes [V, K] (state_v_first), and leaves the split of a
sequence (auto_cp) to it. It has been written from the docstring and the asserts of flash-qla 0.1.3, and has
run on stand-ins alone.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from diffgdn.targets.released.dense_states import Batch
from diffgdn.targets.released.package import Function, ReleasedTarget, Spec, load

SPEC = Spec(
    name="flashqla",
    distribution="flash-qla",
    package="flash_qla",
    paths={"gdn.extend": ("flash_qla:chunk_gated_delta_rule",)},
    backends=("gpu",),
)
# chunk_gated_delta_rule in flash_qla/ops/gated_delta_rule/chunk/__init__.py, but where another file is named.
PROMISED: dict[str, Any] = {
    "dtype": ("bfloat16", "float16"),  # "FlashQLA only supports bfloat16 and float16."
    "mixed_qkv": False,  # assert q.dtype == k.dtype == v.dtype
    "K": (128,),  # chunk/hopper/fused_fwd.py: assert K == V == 128
    "V": (128,),
    "chunk_size": (64,),  # chunk/hopper/fused_fwd.py: assert chunk_size == 64
    "cu_dtype": ("int64",),  # cu_seqlens: torch.LongTensor
    "raw_gates": (False,),  # "g should be in log space (pre-computed decay)"
    "raw_beta": (False,),
    "empty": False,  # chunk/cp/autocp/decision.py: ValueError("invalid sequence lengths: ...")
    "boundary": (False,),  # it returns o and the final state
    "execution": ("eager", "stream", "device"),  # utils/index.py: assert not is_capturing
}


def make(name: str, place: str | None) -> ReleasedTarget:
    """Make the target of the installed package, or of a wheel or a folder. Raises TargetError."""
    found = load(SPEC, place)
    adapters = {op: adapted(function) for op, function in found.functions.items()}
    return ReleasedTarget(found, adapters, "vk", dict.fromkeys(adapters, PROMISED), {})


def adapted(function: Function) -> Function:
    """Make the adapter of `flash_qla.chunk_gated_delta_rule`."""

    def call(
        q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, scale: float | None,
        initial_state: Tensor | None, initial_state_indices: Tensor | None, cu_seqlens: Tensor | None,
        output_final_state: bool, inplace_update: bool, use_qk_l2norm_in_kernel: bool,
        has_initial_state: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, None]:  # fmt: skip
        batch = Batch.of(q, initial_state, initial_state_indices, has_initial_state, cu_seqlens)
        writes = inplace_update and initial_state is not None
        tokens = {name: batch.real(one) for name, one in zip("qkvgb", (q, k, v, g, beta), strict=True)}
        o, final = function(
            q=tokens["q"],
            k=tokens["k"],
            v=tokens["v"],
            g=tokens["g"],
            beta=tokens["b"],
            scale=scale,
            initial_state=batch.gathered(),
            output_final_state=output_final_state or writes,
            use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel,
            cu_seqlens=cu_seqlens,
            state_v_first=True,
        )
        if writes:
            batch.scatter(final)
        return batch.with_tail(o, v.shape[1]), final if output_final_state else None, None

    return call
