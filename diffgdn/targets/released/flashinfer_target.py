"""FlashInfer's GDN kernels in CuTe DSL, and its KDA decode, which needs SM100.

Its prefill has no batch axis and takes the decay itself, exp(g), in fp32. Its decode takes batches without
cu_seqlens. Written from the docstrings and asserts of flashinfer-python 0.7.2.post1 (gdn_prefill.py,
gdn_decode.py, kda.py), run on stand-ins alone.

Padding (gated_delta_rule_decode_pretranspose): with fp32 states an index of -1 is skipped and its output is
zero. With bf16 states it stands for slot 0, "a sacrificial null buffer", and its output is undefined: there
slots are moved up by one (`null_slot`). Here a row of padding has the output of a zero state: those rows come
from a second call, over zero states of their own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.cases.lay import STRIDES
from diffgdn.cases.promises import ANY
from diffgdn.cases.spans import Span
from diffgdn.reference.noise import Contract
from diffgdn.targets import calls
from diffgdn.targets.released import stand_ins
from diffgdn.targets.released.case_target import Call, CaseTarget
from diffgdn.targets.released.dense_states import Batch
from diffgdn.targets.released.null_slot import Moved, moved_indices
from diffgdn.targets.released.package import Function, Spec, load
from diffgdn.targets.released.stand_ins import Surroundings
from diffgdn.tensors.arena import Arguments

DECODE = "flashinfer.gdn_decode:gated_delta_rule_decode_pretranspose"
SPEC = Spec(
    name="flashinfer",
    distribution="flashinfer-python",
    package="flashinfer",
    paths={
        "gdn.extend": ("flashinfer.gdn_prefill:chunk_gated_delta_rule",),
        "gdn.decode": (DECODE,),
        "gdn.verify": (DECODE,),  # of fp32 states it calls gated_delta_rule_mtp
        "kda.decode": ("flashinfer.kda:recurrent_kda", "flashinfer.kda_decode:recurrent_kda"),
    },
    backends=("gpu",),
    wanted=("flashinfer/",),
    # Without its own __init__, which imports all kernels and what they depend on.
    around=Surroundings(packages=("flashinfer", "flashinfer.cute_dsl", "flashinfer.jit")),
)
ASKED = {"gdn.extend": frozenset({"has_initial_state"})}
PLAIN = ("eager", "stream", "device")  # all but graphs: indices, or rows of the buffer, are read on the CPU
ALIGNED = {
    "alignment": (32, 64, 128, 256),  # from_dlpack(..., assumed_align=32) in gdn_decode_bf16_state.py
    "pitch": Span(multiple=16),  # so that the slots are too
}
# chunk_gated_delta_rule in gdn_prefill.py, but where another file is named.
EXTEND: dict[str, Any] = {
    "K": (128,),  # delta_rule_dsl/delta_rule_sm90.py: "DSL kernel only supports D=128"
    "V": (128,),  # states are [.., head_size, head_size]
    "dtype": ("float16", "bfloat16"),  # "DSL kernel only supports fp16/bf16 inputs"
    "mixed_qkv": False,  # "q/k/v/o dtypes must match"
    "gate_dtype": ("float32",),  # g and beta "must be float32"
    "mixed_beta": False,
    "raw_gates": (False,),
    "raw_beta": (False,),
    "chunk_size": (64,),  # "a multiple of the chunk size (64)"
    "boundary": (False,),  # its checkpoints are those behind a chunk, and are not translated
    "execution": PLAIN,
    # "state_indices must be contiguous"; tokens and cu_seqlens too, which the adapter sees to.
    "strides": ("compact", *(word for word in STRIDES if word.endswith((" tokens", " bounds")))),
    **ALIGNED,
}
# gated_delta_rule_decode_pretranspose in gdn_decode.py.
STEPS: dict[str, Any] = {
    "dtype": ("float16", "bfloat16"),  # q, k, v: "Must be float16/bfloat16"
    "gate_dtype": ("float16", "bfloat16"),  # a and b too
    "state_dtype": ("float32", "bfloat16"),
    "K": Span(128, 256),  # "K must be at least 128"
    "V": Span(128, 256, multiple=32),  # "V must be divisible by" tiles of 8 to 32
    "batch": ("dense",),  # [B, T, ...], no cu_seqlens
    "empty": False,
    "A_log": ("float32",),
    "dt_bias": ("bfloat16", "float32"),
    "softplus": False,  # softplus_beta=1.0, softplus_threshold=20.0
    "result_form": ANY,  # o is bf16 whatever q is, as `steps` says below
    "strides": ("compact", *(word for word in STRIDES if not word.endswith(" buffers"))),
    **ALIGNED,
}
VERIFY: dict[str, Any] = {
    "length": Span(2),  # "intermediate_states_buffer is supported only for T > 1"
    "tree": (False,),
    "token_slots": (False,),
    "step_rows": ("given",),
    "execution": PLAIN,
}
# recurrent_kda in kda.py and kda_kernels/recurrent_kda.py: one token a sequence in a plain batch.
KDA: dict[str, Any] = {
    "dtype": ("bfloat16",),
    "mixed_qkv": False,
    "gate_dtype": ("bfloat16",),
    "mixed_beta": False,
    "state_dtype": ("bfloat16",),
    "K": (64, 128),  # "HEAD_DIM must be 64 or 128", "K must equal V"
    "V": (64, 128),
    "square": (True,),
    "ratio": (1,),  # A_log has the shape [H]
    "A_log": ("float32",),
    "dt_bias": ("float32", "none"),
    "index_dtype": ("int32",),
    "batch": ("dense",),
    "length": Span(1, 1),
    "empty": False,
    "padding": False,  # -1 is said of drafts alone
    "inplace": (True,),
    "softplus": False,
    **ALIGNED,
}
# Operands, w, u, h and v_new in the dtype of q, sums in fp32.
CHUNK = Contract(operand="input", chunked=True, tf32=True)


def make(name: str, place: str | None) -> CaseTarget:
    """Make the target of the installed package, or of a wheel or a folder. Raises TargetError."""
    found = load(SPEC, place)
    kinds = {"gdn.extend": extend, "gdn.decode": steps, "gdn.verify": steps, "kda.decode": kda_decode}
    promised = {
        "gdn.extend": EXTEND,
        "gdn.decode": {**STEPS, "inplace": (True,)},
        "gdn.verify": {**STEPS, **VERIFY},
        "kda.decode": KDA,
    }
    return CaseTarget(
        found,
        {op: kinds[op](function) for op, function in found.functions.items()},
        ASKED,
        layout="vk",
        promised={op: promised[op] for op in found.functions},
        contracts={"gdn.extend": CHUNK},
        refuses=_refuses,
    )


def _refuses(case: Case) -> str | None:
    """Say what promises cannot: what holds for one state dtype, or for one GPU."""
    if case.op == "kda.decode" and stand_ins.compute_capability() // 10 != 10:
        return "it requires SM100"
    steps = case.op in ("gdn.decode", "gdn.verify")
    if steps and case.pool.dtype == "bfloat16" and (case.K, case.V) != (128, 128):
        return "bf16 states need K = V = 128"  # "initial_state must be float32 for legacy path"
    return None


def steps(function: Function) -> Call:
    """Make the call of `gated_delta_rule_decode_pretranspose`: tokens over a pool, gates and beta raw."""

    def launch(case: Case, given: dict[str, Any], pool: Tensor, slots: Tensor, **options: Any) -> Tensor:
        v = given["v"]
        # Its kernels write bf16; a buffer of another dtype is a copy of that.
        output = torch.zeros(v.shape, dtype=torch.bfloat16, device=v.device)
        function(
            **{name: given[name] for name in ("q", "k", "v", "A_log", "a", "b", "dt_bias", "scale")},
            state=None,
            output=output,
            use_qk_l2norm=case.l2norm,
            initial_state=pool,
            initial_state_indices=slots,
            **options,
        )
        return output

    def call(case: Case, arguments: Arguments) -> dict[str, Tensor]:
        if case.parents or case.state_options.slots or not (case.inplace or case.keeps_steps):
            raise TypeError("adapter: chains alone, a buffer of steps, states in place")
        given, state = calls.keywords(case, arguments), arguments["state"]
        pool, slots, moved = state, arguments["indices"], None
        if state.dtype == torch.bfloat16:
            moved = Moved.of(state)
            padded = slots < 0
            pool, slots = moved.pool, moved_indices(slots).masked_fill_(padded, -1)
        options: dict[str, Any] = {}
        if case.has_buffer:
            shape = (len(case.lens), case.lens[0], *state.shape[1:])
            options = {
                "intermediate_states_buffer": torch.empty(shape, dtype=state.dtype, device=state.device),
                "disable_state_update": not case.state_options.step_update,
            }
        o = launch(case, given, pool, slots, **options)
        if moved is not None:
            moved.put_back()
        for n, row in enumerate(case.pool.rows if case.has_buffer else ()):
            if row >= 0 and case.pool.indices[n] >= 0:
                arguments["buffer"][row, : case.lens[0]] = options["intermediate_states_buffer"][n]
        if any(slot < 0 for slot in case.pool.indices):
            o = torch.where((slots < 0)[:, None, None, None], of_zero_state(case, given, state, slots), o)
        return {"o": o}

    def of_zero_state(case: Case, given: dict[str, Any], state: Tensor, slots: Tensor) -> Tensor:
        """Return the output where each row of padding has a zero state."""
        zeros = state.new_zeros(len(slots) + 1, *state.shape[1:])
        own = torch.arange(1, len(slots) + 1, device=slots.device, dtype=slots.dtype)
        return launch(case, given, zeros, torch.where(slots < 0, own, -1))

    return call


def kda_decode(function: Function) -> Call:
    """Make the call of `recurrent_kda` for one token a sequence, gates and beta raw."""

    def call(case: Case, arguments: Arguments) -> dict[str, Tensor]:
        given, bias = calls.keywords(case, arguments), arguments.get("dt_bias")
        a = given["a"]
        o, _ = function(
            **{name: given[name] for name in ("q", "k", "v", "A_log", "scale")},
            g=a.unflatten(-1, (case.HV, case.K)) if a.ndim == 3 else a,
            beta=given["b"],
            dt_bias=None if bias is None else bias.reshape(-1),
            initial_state=arguments["state"],
            use_qk_l2norm_in_kernel=case.l2norm,
            use_gate_in_kernel=True,
            lower_bound=case.gates.lower_bound,
            ssm_state_indices=arguments["indices"],
            beta_is_logit=True,
        )
        return {"o": o}

    return call


def _in_place(case: Case, batch: Batch) -> bool:
    """Tell whether a call can name rows of the pool: all real, unique as all are written, and the pool as
    compact as it must be but on SM100."""
    if not case.writes_state or case.final or batch.flags is not None or batch.indices is None:
        return False
    assert batch.pool is not None
    compact = batch.pool.is_contiguous() or stand_ins.compute_capability() // 10 == 10
    return compact and min(case.pool.indices) >= 0


def extend(function: Function) -> Call:
    """Make the call of `chunk_gated_delta_rule`: tokens without a batch axis, the decay itself for g.

    Where it can, it reads and writes the pool by `state_indices`; else states are gathered and put back.
    """

    def call(case: Case, arguments: Arguments) -> dict[str, Tensor]:
        given = calls.keywords(case, arguments)
        batch = Batch.of(
            given["q"], given["initial_state"], given["initial_state_indices"],
            given.get("has_initial_state"), given["cu_seqlens"],
        )  # fmt: skip
        tokens = {name: batch.real(given[name]).flatten(0, 1) for name in ("q", "k", "v", "g", "beta")}
        tokens["g"] = tokens["g"].exp()
        bounds = given["cu_seqlens"]
        if bounds is None:
            bounds = torch.arange(batch.count + 1, dtype=torch.int32, device=tokens["q"].device)
            bounds = bounds * batch.total
        states: dict[str, Any] = {"initial_state": batch.pool, "output_state": batch.pool}
        if _in_place(case, batch):
            states["state_indices"] = given["initial_state_indices"]
        else:
            first = batch.gathered()
            shape = (batch.count, case.HV, case.V, case.K)
            dtype = torch.float32 if first is None else first.dtype
            final = torch.empty(shape, dtype=dtype, device=tokens["q"].device)
            states = {"initial_state": first, "output_state": final}
        o, final = function(
            **tokens,
            scale=given["scale"],
            cu_seqlens=bounds.contiguous(),
            use_qk_l2norm_in_kernel=case.l2norm,
            output_final_state=True,
            **states,
        )
        if case.writes_state and "state_indices" not in states:
            batch.scatter(final)
        rows = given["q"].shape[0]
        out = {"o": batch.with_tail(o.unflatten(0, (rows, -1)), given["v"].shape[1])}
        return {**out, "final": final} if case.final else out

    return call
