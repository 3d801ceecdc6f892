"""vLLM's Triton kernels: the functions behind its GDN layers (from flash-linear-attention) and those of KDA,
which Kimi K3 brought.

How they are called says `vllm_calls`. Promises are what their code and docstrings say (0.31 to 0.33; files
below vllm/third_party/flash_linear_attention/ops, of KDA below vllm/models/kimi_k3/nvidia/ops/third_party/
kda). What they do not say stays promised.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.cases.lay import STRIDES
from diffgdn.cases.operand_options import dtype_of
from diffgdn.cases.promises import ANY
from diffgdn.cases.spans import Span
from diffgdn.reference.noise import Contract
from diffgdn.targets.released import stand_ins, vllm_calls
from diffgdn.targets.released.case_target import Call, CaseTarget
from diffgdn.targets.released.package import Function, Spec, declared, layout_of, load, optional
from diffgdn.targets.released.stand_ins import Surroundings, not_there

FLA, KIMI = "vllm.third_party.flash_linear_attention", "vllm.models.kimi_k3.nvidia.ops.third_party.kda"
BEFORE = "vllm.model_executor.layers.fla"


def _fla(path: str) -> tuple[str, ...]:
    """The places of a function that came from flash-linear-attention, newest first."""
    return f"{FLA}.ops.{path}", f"{BEFORE}.ops.{path}"


def _platform() -> Mapping[str, Any]:
    """vllm.platforms, as far as kernels ask it."""
    capability = stand_ins.compute_capability()
    platform = stand_ins.StandIn("vllm.platforms.current_platform")
    vars(platform).update(
        is_cuda=lambda: capability > 0,
        is_cuda_alike=lambda: capability > 0,
        is_device_capability_family=lambda family, device_id=0: capability // 10 == family // 10,
        is_arch_support_pdl=lambda: capability >= 90,
    )
    return {"current_platform": platform}


def _triton() -> Mapping[str, Any]:
    """vllm.triton_utils."""
    from triton.language.extra import libdevice

    return {"HAS_TRITON": True, "triton": triton, "tl": tl, "tldevice": libdevice}


def _h2d(data: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Copy to a device."""
    return data.to(device=device, dtype=dtype)


class _CustomOp(torch.nn.Module):
    """In place of vLLM's class for layers, of which the module with the kernels defines some."""

    @classmethod
    def register(cls, name: str, **given: Any) -> Callable[[type], type]:
        """Leave a class as it is."""
        return lambda layer: layer


SPEC = Spec(
    name="vllm",
    distribution="vllm",
    package="vllm",
    paths={
        "gdn.extend": _fla("chunk:chunk_gated_delta_rule"),
        "kda.extend": (f"{KIMI}.chunk:chunk_kda_with_fused_gate", *_fla("kda:chunk_kda_with_fused_gate")),
        "gdn.update": _fla("fused_recurrent:fused_recurrent_gated_delta_rule"),
        "kda.update": (f"{KIMI}.fused_recurrent:fused_recurrent_kda_fwd",),
        "gdn.decode": _fla("fused_sigmoid_gating:fused_sigmoid_gating_delta_rule_update"),
        "kda.decode": (f"{KIMI}.fused_recurrent:fused_recurrent_kda",),
        "gdn.packed_decode": _fla("fused_recurrent:fused_recurrent_gated_delta_rule_packed_decode"),
        "kda.packed_decode": (f"{KIMI}.fused_recurrent:fused_recurrent_kda_packed_decode",),
        "gdn.verify": _fla("fused_sigmoid_gating:fused_sigmoid_gating_delta_rule_update"),
        "kda.verify": (f"{KIMI}.fused_recurrent:fused_recurrent_kda",),
    },
    backends=("interpret", "gpu"),
    wanted=tuple(f"{one.replace('.', '/')}/" for one in (FLA, KIMI, BEFORE)),
    around=Surroundings(
        packages=(
            "vllm",
            "vllm.third_party",
            FLA,
            f"{FLA}.ops",
            "vllm.models",
            "vllm.models.kimi_k3",
            "vllm.models.kimi_k3.nvidia",
            "vllm.models.kimi_k3.nvidia.ops",
            "vllm.models.kimi_k3.nvidia.ops.third_party",
            KIMI,
            "vllm.model_executor",
            "vllm.model_executor.layers",
            BEFORE,
            f"{BEFORE}.ops",
            "vllm.utils",
        ),
        modules={
            "vllm.triton_utils": _triton,
            "vllm.platforms": _platform,
            "vllm.utils.math_utils": lambda: {
                "RCP_LN2": 1.4426950216,  # as it is there; 1 / ln 2 is 1.4426950409
                "cdiv": lambda a, b: -(-a // b),
                "next_power_of_2": lambda n: 1 << max(0, n - 1).bit_length(),
            },
            "vllm.utils.gpu_sync_debug": lambda: {"gpu_sync_allowed": contextlib.nullcontext},
            "vllm.utils.torch_utils": lambda: {"async_tensor_h2d": _h2d},
            "vllm.utils.platform_utils": lambda: {"num_compute_units": not_there},  # of a norm
            "vllm.logger": lambda: {"init_logger": not_there},
            "vllm.model_executor.custom_op": lambda: {"CustomOp": _CustomOp},
        },
    ),
)
CALLS: Mapping[str, Callable[[Function], Call]] = {
    "gdn.extend": vllm_calls.extend,
    "kda.extend": vllm_calls.extend,
    "gdn.update": vllm_calls.update,
    "kda.update": vllm_calls.kda_update,
    "gdn.decode": vllm_calls.sigmoid,
    "kda.decode": vllm_calls.kda_steps,
    "gdn.packed_decode": vllm_calls.packed_decode,
    "kda.packed_decode": vllm_calls.kda_packed_decode,
    "gdn.verify": vllm_calls.sigmoid,
    "kda.verify": vllm_calls.kda_steps,
}
# Keywords of `targets.calls` that a call is for, where a function without them would not be asked.
ASKED = {
    "gdn.extend": frozenset({"has_initial_state"}),
    "kda.extend": frozenset({"has_initial_state", "A_log", "beta_is_raw"}),
    "gdn.update": frozenset({"num_accepted_tokens"}),
    "kda.update": frozenset({"num_accepted_tokens"}),
    "gdn.verify": frozenset({"num_accepted_tokens"}),
    "kda.verify": frozenset({"num_accepted_tokens"}),
}
LEAST_LOWER_BOUND = -5.0
NO_RECURRENT = "its functions know dense states of one token a sequence alone: h0 + bos * HV * V * K"
# chunk.py and what it calls: A (solve_tril: `output_dtype=k.dtype`), w and u, h (`k.new_empty`) and v_new are
# stored in the dtype of k; products of fp32 operands take tl.dot's default. Gates and states are fp32.
CHUNK = Contract(operand="input", chunked=True, tf32=True)
PLAIN = ("eager", "stream", "device")  # all but graphs
# Its engine names no slot behind the live rows of a replayed graph, v1/attention/backends/gdn_attn.py:
# `spec_state_indices_tensor[num_spec_decodes:].fill_(PAD_SLOT_ID)`, and the same of the others.
PADDED = ("eager", "graph", "stream", "device")


def make(name: str, place: str | None) -> CaseTarget:
    """Make the target of the installed package, or of a wheel or a folder. Raises TargetError."""
    found = load(SPEC, place)
    missing = dict.fromkeys(("gdn.recurrent", "kda.recurrent"), NO_RECURRENT)
    layout = "vk"
    if "gdn.update" in found.functions:
        layout = layout_of(found.functions["gdn.update"], "[N, HV, V, K]", "[N, HV, K, V]")
    if layout == "kv" and found.functions.pop("gdn.packed_decode", None) is not None:
        missing["gdn.packed_decode"] = "states are [K, V] in this version, which it has no form for"
    made = {op: CALLS[op](function) for op, function in found.functions.items()}
    return CaseTarget(
        found,
        made,
        ASKED,
        layout=layout,
        promised={op: _promised(op, one) for op, one in found.functions.items()},
        contracts=dict.fromkeys(("gdn.extend", "kda.extend"), CHUNK),
        missing=missing,
        refuses=_refuses,
    )


def _refuses(case: Case) -> str | None:
    """Say what promises cannot: asserts on the scale of GDN and on strides of KDA, of what steps."""
    if case.op in ("gdn.update", "gdn.decode", "gdn.verify") and case.effective_scale <= 0:
        return "its scale must be positive"  # `assert scale > 0, "scale must be positive"`
    alone = [name for name in "qkv" if dtype_of(case, name) != case.dtype]
    alone += [one.tensor for one in case.lay if one.tensor in "qkv"]
    if case.op in ("kda.update", "kda.decode", "kda.verify") and case.view == "packed" and alone:
        # `assert q.stride(1) == k.stride(1) == v.stride(1)`; those lie apart from the projection.
        return "q, k and v must have one stride"
    return None


def _promised(op: str, function: Function) -> dict[str, Any]:
    """Say what one function promises."""
    kind, kda = op.partition(".")[2], op.startswith("kda")
    if kind == "extend":
        return _promised_extend(op, function)
    out: dict[str, Any] = {}
    if kind in ("update", "verify"):
        # States after steps go to slots of the pool, [n, t] of ssm_state_indices; there is no buffer, and no
        # parent of a token.
        out |= {"token_slots": (True,), "tree": (False,)}
    if kind in ("update", "decode"):
        # With inplace_final_state=False there is a row of states for each token of one row of the batch:
        # `q.new_empty(T, HV, V, K)`, which a batch of several overruns. Kimi: `assert inplace_final_state`.
        out["inplace"] = (True,)
    if kind == "update" and not optional(function, "beta"):
        out["no_beta"] = False
    if kind == "packed_decode":
        # ValueError in fused_recurrent.py of either: `out`, A_log and dt_bias are contiguous, as is the last
        # axis of mixed_qkv, a and b and of the state.
        out |= {"strides": _without("weights", "outputs", "lying tokens", "lying states")}
    if kind != "extend":
        out["execution"] = PADDED
    if kind in ("decode", "packed_decode", "verify") and not optional(function, "dt_bias"):
        out["dt_bias"] = ("float32", "float16", "bfloat16", "q", "gate")  # `dt_bias: torch.Tensor`
    if not kda:
        return {**out, "bounded": (False,)} if kind in ("decode", "verify") else out
    return out | _promised_kda(kind)


def _promised_kda(kind: str) -> dict[str, Any]:
    """Say what Kimi's functions that step promise: asserts and ValueErrors of its fused_recurrent.py."""
    # `assert v.shape == (B, T, H, V)`; packed: `mixed_qkv.shape[1] != 2 * H * K + H * V`.
    out: dict[str, Any] = {"ratio": (1,)}
    if kind != "update":
        # fused_recurrent_kda: `scale=q.shape[-1] ** -0.5`, `use_qk_l2norm_in_kernel=True`, softplus of 1, 20.
        out |= {"l2norm": (True,), "softplus": False}
    if kind == "packed_decode":
        # "`initial_state` must be contiguous within each cache slot."
        return out | {"strides": _without("weights", "outputs", "states", "tokens")}
    if kind != "update":
        out["scale"] = ("default",)
    return out | {
        "result_form": ANY,  # `o = torch.empty_like(k)`, in the dtype of k: fused_recurrent_kda_fwd
        "no_beta": False,
        # `assert q.stride(1) == k.stride(1) == v.stride(1)` and dense heads, so that K == V.
        "square": (True,),
        "view": ("contiguous", "packed"),
        # Dense inner axes of tokens and states; A_log, dt_bias and cu_seqlens contiguous.
        "strides": _without("weights", "states", "bounds", "tokens"),
    }


def _promised_extend(op: str, function: Function) -> dict[str, Any]:
    """Say what the chunked functions promise."""
    out: dict[str, Any] = {
        "chunk_size": (64,),  # FLA_CHUNK_SIZE = 64 in utils.py
        "boundary": (False,),  # they return o and the final state
        "execution": PLAIN,  # prepare_chunk_indices of index.py calls tolist(), which synchronises
        "track": (False,),
        "mixed_qkv": False,  # `assert q.dtype == k.dtype == v.dtype`; of KDA: tl.dot takes one dtype
    }
    if op == "gdn.extend":
        # `assert q.dtype != torch.float32`; "Gating tensor (in log space!)"
        return out | {"dtype": ("float16", "bfloat16"), "raw_gates": (False,), "raw_beta": (False,)}
    out["ratio"] = (1,)  # `B, T, H, K, V = *q.shape, v.shape[-1]`, one H for all
    if "raw_g" in declared(function):
        raw = "raw_beta" in declared(function)
        out |= {"raw_gates": (True,), "raw_beta": (raw,), "neg_eigval": False}
        # "KDA gate lower bound must be in [-5.0, 0)", kimi_k3/nvidia/kda.py: 16 tokens of -20 overflow exp2.
        out["lower_bound"] = Span(LEAST_LOWER_BOUND, 0.0)
        if "lower_bound" not in declared(function):
            out["bounded"] = (False,)
    return out


def _without(*ends: str) -> tuple[str, ...]:
    """List the words of strides but those that end so, and compact."""
    return ("compact", *(word for word in STRIDES if not word.endswith(ends)))
