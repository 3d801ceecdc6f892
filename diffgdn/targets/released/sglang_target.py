"""SGLang's Triton kernels: the functions behind its GDN and KDA backends, under the names that they had.

Their keywords are those of `targets.calls`, which are SGLang's. What is translated: dt_bias of kda is passed
flat, as its packed decode asks; what a call returns is named as `targets.calls` has it. Index -1 is SGLang's
own padding, and slot 0 a slot as any other.

Promises are what its code and docstrings say (0.5.8 to 0.5.23; files below sglang/kernels/ops/attention,
before that below sglang/srt/layers/attention). What they do not say stays promised.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffgdn.cases.case import Case
from diffgdn.cases.lay import STRIDES
from diffgdn.reference.noise import Contract
from diffgdn.targets.released import stand_ins
from diffgdn.targets.released.package import (
    ANY,
    Found,
    Function,
    ReleasedTarget,
    Spec,
    adapter,
    declared,
    layout_of,
    load,
    only,
    optional,
)
from diffgdn.targets.released.stand_ins import Surroundings, no

NOW, BEFORE = "sglang.kernels.ops.attention", "sglang.srt.layers.attention"
SIGMOID = tuple(
    f"{folder}.fused_sigmoid_gating_recurrent:fused_sigmoid_gating_delta_rule_update"
    for folder in (f"{NOW}.linear", f"{NOW}.fla", f"{BEFORE}.linear", f"{BEFORE}.fla")
)


def _fla(path: str) -> tuple[str, ...]:
    """The places of a function that came from flash-linear-attention, newest first."""
    return f"{NOW}.fla.{path}", f"{BEFORE}.fla.{path}"


def _utils() -> Mapping[str, Any]:
    """sglang.srt.utils, as far as kernels ask it. Questions that are not here are answered with no."""
    capability = stand_ins.compute_capability()
    return {
        "is_cuda": lambda: capability > 0,
        "is_sm90_supported": lambda *_: capability // 10 == 9,
        "is_sm100_supported": lambda *_: capability // 10 == 10,
        "is_blackwell": lambda *_: capability // 10 in (10, 12),
        "get_device_sm": lambda: capability,
        "cdiv": lambda a, b: -(-a // b),
        "next_power_of_2": lambda n: 1 << max(0, n - 1).bit_length(),
    }


SPEC = Spec(
    name="sglang",
    distribution="sglang",
    package="sglang",
    paths={
        "gdn.extend": _fla("chunk:chunk_gated_delta_rule"),
        "kda.extend": _fla("kda:chunk_kda"),
        "gdn.recurrent": _fla("fused_recurrent:fused_recurrent_gated_delta_rule"),
        "kda.recurrent": _fla("kda:fused_recurrent_kda"),
        "gdn.update": _fla("fused_recurrent:fused_recurrent_gated_delta_rule_update"),
        "gdn.decode": SIGMOID,
        "kda.decode": SIGMOID,
        "gdn.packed_decode": _fla("fused_recurrent:fused_recurrent_gated_delta_rule_packed_decode"),
        "kda.packed_decode": _fla("fused_recurrent:fused_recurrent_kda_packed_decode"),
        "gdn.verify": SIGMOID,
        "kda.verify": SIGMOID,
    },
    backends=("interpret", "gpu"),
    wanted=tuple(
        f"{folder.replace('.', '/')}/" for folder in (f"{NOW}", f"{BEFORE}/fla", f"{BEFORE}/linear")
    ),
    around=Surroundings(
        packages=(
            "sglang",
            "sglang.kernels",
            "sglang.kernels.ops",
            NOW,
            "sglang.srt",
            "sglang.srt.layers",
            BEFORE,
            f"{BEFORE}.fla",
            f"{BEFORE}.linear",
        ),
        modules={
            "sglang.srt.utils": _utils,
            "sglang.srt.utils.common": lambda: {"torch_release": stand_ins.torch_release()},
            # Launches chained on the device, which overlap with the server's kernels before them.
            "sglang.kernels.jit": dict,
            "sglang.kernels.jit.utils": lambda: {
                "is_arch_support_pdl": no,
                "get_jit_cuda_arch": stand_ins.not_there,  # of the norm, whose module kda imports
            },
            "sglang.jit_kernel": dict,
            "sglang.jit_kernel.utils": lambda: {"is_arch_support_pdl": no},
            # A CUDA kernel that is built by the server; without it packed decode takes its Triton kernel.
            "sglang.kernels.ops.attention.kda_packed_decode": lambda: {"covered": no},
        },
    ),
)
# With these values a keyword says nothing to a function that does not have it. chunk_size: theirs is 64
# (CHUNK_SIZE of fla/chunk.py), as promised; final states are returned whether asked for or not.
NEUTRAL: Mapping[str, Any] = {
    **dict.fromkeys(("chunk_size", "layout", "output_final_state", "output_boundary_states"), ANY),
    **dict.fromkeys(("scale", "lower_bound", "A_log", "dt_bias", "cu_seqlens", "initial_state_indices")),
    **dict.fromkeys(("batch_invariant", "is_kda", "output_intermediate_states"), False),
    "inplace_update": True,
    "use_qk_l2norm_in_kernel": False,
}
# fla/chunk_fwd.py and fla/chunk_intra.py: the merge of A's inverse asks for tf32 by name
# (_MERGE_DOT_PRECISION, SOLVE_TRIL_DOT_PRECISION), and products of fp32 operands take tl.dot's default. What
# is stored between stages (A, w, u, h, v_new) has the dtype of k, gates and states are fp32.
CHUNK = Contract(operand="input", chunked=True, tf32=True)
# In trees each token's state is loaded from its parent's row of intermediate_states_buffer (`cache_ptr`).
STEPS = Contract(reread_trees=True)
# Comments on stride_h0_source and stride_init_state (fla/fused_recurrent.py, fla/chunk_delta_h.py, sigmoid):
# slots of a pool may lie apart, and what is inside a slot may not. Where cache_idx is loaded they call the
# buffer of steps contiguous.
APART = tuple(f"{form} {kind}" for form in ("gapped", "nested", "far") for kind in ("states", "buffers"))
SLOT_STRIDES = tuple(word for word in STRIDES if word not in (*APART, "lying buffers"))
# packed decode raises ValueError where these are not contiguous: `out`, `A_log` and `dt_bias`, the last axis
# of mixed_qkv, a and b (fla/fused_recurrent.py).
PACKED_STRIDES = tuple(
    word for word in SLOT_STRIDES if not word.endswith((" weights", " outputs")) and word != "lying tokens"
)
NO_ROW = "its trees need a row of the buffer of steps"
PLAIN = ("eager", "stream", "device")  # all but graphs
# Its engine names no slot behind the live rows of a replayed graph. _replay_metadata in srt/layers/attention/
# hybrid_linear_attn_backend.py: `mamba_indices[bs - num_padding :] = -1`, and the bounds repeat the last one.
PADDED = ("eager", "graph", "stream", "device")


def make(name: str, place: str | None) -> ReleasedTarget:
    """Make the target of the installed package, or of a wheel or a folder. Raises TargetError."""
    found = load(SPEC, place)
    layout, missing = _layout(found), {}
    if layout == "kv":
        for op in ("gdn.recurrent", "kda.recurrent", "gdn.packed_decode", "kda.packed_decode"):
            if found.functions.pop(op, None) is not None:
                missing[op] = "states are [K, V] in this version, which this operation has no form for"
    for op in ("gdn.verify", "kda.verify"):
        if op in found.functions and "intermediate_states_buffer" not in declared(found.functions[op]):
            del found.functions[op]
            missing[op] = "its function has no intermediate_states_buffer in this version"
    adapters = {op: _adapted(op, function) for op, function in found.functions.items()}
    promised = {op: _promised(op, one) for op, one in found.functions.items()}
    contracts = dict.fromkeys(("gdn.extend", "kda.extend"), CHUNK)
    contracts |= dict.fromkeys(("gdn.update", "gdn.verify", "kda.verify"), STEPS)
    return ReleasedTarget(found, adapters, layout, promised, contracts, missing, _refuses)


def _refuses(case: Case) -> str | None:
    """Say what promises cannot: `assert scale > 0, "scale must be positive"`, in the functions that step; and
    that branches of a tree need a row: its callers give each sequence one, padding a row that nobody reads
    (build_verify_intermediate_state_indices in layers/attention/linear/utils.py).
    """
    steps = case.operation.kind in ("update", "decode", "verify") or case.op == "gdn.recurrent"
    if steps and case.effective_scale <= 0:
        return "its scale must be positive"
    pairs = zip(case.parents, case.pool.rows, strict=False)
    branches = any(row < 0 and parents != tuple(range(-1, len(parents) - 1)) for parents, row in pairs)
    return NO_ROW if branches else None


def _layout(found: Found) -> str:
    """[V, K] since 0.5.10, [K, V] before: what the docstrings of the functions with dense states say."""
    if "gdn.recurrent" in found.functions:
        return layout_of(found.functions["gdn.recurrent"], "[N, HV, V, K]", "[N, HV, K, V]")
    if "gdn.extend" in found.functions:
        return layout_of(found.functions["gdn.extend"], "[N, H, V, K]", "[N, H, K, V]")
    return "vk"


def _adapted(op: str, function: Function) -> Function:
    """Make the adapter of a function."""
    names = declared(function)

    def call(**given: Any) -> Any:
        if op.startswith("kda") and given.get("dt_bias") is not None:
            given["dt_bias"] = given["dt_bias"].reshape(-1)
        returned = function(**only(given, names, NEUTRAL))
        if op == "gdn.extend":
            o, _, h = returned  # h [B, chunks, HV, V, K]: states before each chunk
            return o, None, h.flatten(0, 1) if given.get("output_boundary_states") else None
        if op == "kda.extend" and given.get("output_intermediate_states"):
            return returned[0], returned[1].flatten(0, 1)
        return returned

    # Keywords that only this project has are passed where the adapter reads them.
    own = {"output_boundary_states"} if op == "gdn.extend" else set()
    return adapter(call, names | own)


def _promised(op: str, function: Function) -> dict[str, Any]:
    """Say what one function promises."""
    names, kind = declared(function), op.partition(".")[2]
    out: dict[str, Any] = {}
    if "lower_bound" not in names:
        out["bounded"] = (False,)
    if not optional(function, "dt_bias"):
        out["dt_bias"] = (
            "float32",
            "float16",
            "bfloat16",
            "q",
            "gate",
        )  # `dt_bias: torch.Tensor`, no default
    if kind == "extend":
        out |= _promised_extend(op, names)
    if kind in ("update", "decode") and "disable_state_update" not in names:
        out["inplace"] = (True,)
    if kind == "update" and "intermediate_states_buffer" not in names:
        out["steps"] = (False,)
    if kind in ("update", "verify") and "retrieve_parent_token" not in names:
        out["tree"] = (False,)
    if kind in ("update", "verify"):
        # Its kernel reads a row of intermediate_state_indices for each sequence, whatever slots are given.
        out["step_rows"] = ("given",)
    if kind in ("update", "decode", "packed_decode", "verify"):
        out["execution"] = PADDED
    if op == "kda.recurrent":
        # `o = torch.empty_like(k)` in fused_recurrent_kda_fwd to 0.5.9, `q.new_empty(NK, *v.shape)` since.
        out["result_form"] = "any"
    if kind != "recurrent":
        out["strides"] = ("compact", *(PACKED_STRIDES if kind == "packed_decode" else SLOT_STRIDES))
    return out


def _promised_extend(op: str, names: frozenset[str]) -> dict[str, Any]:
    """Say what the chunked functions promise, whose own options are those of their signatures."""
    out: dict[str, Any] = {
        "chunk_size": (
            64,
        ),  # CHUNK_SIZE = 64 in fla/chunk.py, chunk_size = 64 in chunk_kda_fwd of fla/kda.py
        "final": (False,),  # neither returns a final state: `return o, None, h`, and o or (o, h)
        "execution": PLAIN,  # prepare_chunk_indices of fla/index.py calls tolist(), which synchronises
    }
    if "inplace_update" not in names:
        out["inplace"] = (True,)
    if op == "gdn.extend":
        # fla/chunk.py: `assert q.dtype == k.dtype == v.dtype`, `assert q.dtype != torch.float32`.
        out |= {"dtype": ("float16", "bfloat16"), "mixed_qkv": False}
        return out
    # fla/chunk_intra.py: products of A, which has the dtype of k, with v and k; tl.dot refuses two dtypes.
    out["mixed_qkv"] = False
    if "output_intermediate_states" not in names:
        out["boundary"] = (False,)
    return out
