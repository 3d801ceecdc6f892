"""Says how an operation is called: SGLang's function name and keyword arguments for a case, and what returns.

One place, used by the project's own kernels, by users' kernels and by repro scripts.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.cases.operand_options import EITHER_FORM
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.state_options import options_of
from diffgdn.tensors.arena import Arguments
from diffgdn.tensors.results import by_name, returned_names

FUNCTIONS = {
    "gdn.extend": "chunk_gated_delta_rule",
    "kda.extend": "chunk_kda",
    "gdn.recurrent": "fused_recurrent_gated_delta_rule",
    "kda.recurrent": "fused_recurrent_kda",
    "gdn.update": "fused_recurrent_gated_delta_rule_update",
    "kda.update": "fused_recurrent_gated_delta_rule_update",
    "gdn.decode": "fused_sigmoid_gating_delta_rule_update",
    "kda.decode": "fused_sigmoid_gating_delta_rule_update",
    "gdn.packed_decode": "fused_recurrent_gated_delta_rule_packed_decode",
    "kda.packed_decode": "fused_recurrent_kda_packed_decode",
    "gdn.verify": "fused_sigmoid_gating_delta_rule_update",
    "kda.verify": "fused_sigmoid_gating_delta_rule_update",
    "gdn.verify_commit": "fused_sigmoid_gating_delta_rule_verify_commit",
    "kda.verify_commit": "fused_sigmoid_gating_delta_rule_verify_commit",
}
# Keywords that exist here and not in SGLang's functions; a kernel that does not name one is called without
# it.
EXTRAS = frozenset(
    {"output_final_state", "output_boundary_states", "chunk_size", "layout", "batch_invariant"}
)
# SGLang's own spelling where it has one of these names itself.
NATIVE = {
    "gdn.recurrent": frozenset({"output_final_state"}),
    "kda.extend": frozenset({"output_intermediate_states"}),
}
# Keywords that ask for a result, by its name.
ASKS = {
    "final": ("output_final_state",),
    "boundary": ("output_boundary_states", "output_intermediate_states"),
}
# Keywords that only options of states need: which option, and what a function that does not name one leaves
# of an axis of promises.
WANTED = {
    "num_accepted_tokens": ("token_slots", "token_slots", (False,)),
    "has_initial_state": ("flags", "initial_flags", (False,)),
    "track_state": ("track", "track", (False,)),
    "disable_output_calculation": ("no_output", "output", (True,)),
}
# Keywords that extend and recurrent are passed where a case has raw gates or beta, and what a function that
# does not name one leaves of an axis of promises.
CHOSEN = {
    "A_log": ("raw_gates", (False,)),
    "beta_is_raw": ("raw_beta", (False,)),
    "allow_neg_eigval": ("neg_eigval", False),
}


def unspoken(op: str, accepts: frozenset[str] | None) -> dict[str, Any]:
    """Return fields of promises for the keywords of WANTED and CHOSEN that a function does not take.

    accepts: its parameters, None for any.
    """
    if accepts is None:
        return {}
    has = options_of(op)
    out: dict[str, Any] = {
        axis: left
        for keyword, (option, axis, left) in WANTED.items()
        if option in has and keyword not in accepts
    }
    if OPERATIONS[op].kind in EITHER_FORM:
        out |= {axis: left for keyword, (axis, left) in CHOSEN.items() if keyword not in accepts}
    return out


def keywords(case: Case, arguments: Arguments) -> dict[str, Any]:
    """Collect the keyword arguments of the operation's public function for a case."""
    builders = {
        "extend": _extend,
        "recurrent": _recurrent,
        "update": _update,
        "decode": _sigmoid_gating,
        "verify": _sigmoid_gating,
        "verify_commit": _sigmoid_gating,
        "packed_decode": _packed_decode,
    }
    out = builders[case.operation.kind](case, arguments)
    out["use_qk_l2norm_in_kernel"] = case.l2norm
    out["batch_invariant"] = case.batch_invariant
    return out


def _sequence(case: Case, arguments: Arguments) -> dict[str, Any]:
    return {
        **{name: arguments[name] for name in ("q", "k", "v")},
        **_gates(case, arguments),
        "scale": case.scale,
        "cu_seqlens": arguments.get("cu_seqlens"),
    }


def _gates(case: Case, arguments: Arguments) -> dict[str, Any]:
    """Collect g and beta, given or raw, and what goes with raw ones."""
    decay, *beta = case.decay_and_beta
    out: dict[str, Any] = {"g": arguments[decay], "beta": arguments[beta[0]] if beta else None}
    if case.raw_beta:
        out["beta_is_raw"] = True
    if case.operands.neg_eigval:
        out["allow_neg_eigval"] = True
    if case.raw_gates:
        out |= {"A_log": arguments["A_log"], "dt_bias": arguments.get("dt_bias")}
        if case.operation.is_kda:
            out["lower_bound"] = case.gates.lower_bound
    return out


def _extend(case: Case, arguments: Arguments) -> dict[str, Any]:
    out = {
        **_sequence(case, arguments),
        "initial_state": arguments.get("state"),
        "initial_state_indices": arguments.get("indices"),
        "output_final_state": case.final,
        "chunk_size": case.chunk_size,
        "inplace_update": case.inplace,
        "layout": arguments.layout,
    }
    if case.state_options.initial:
        out["has_initial_state"] = arguments["has_initial"]
    if case.state_options.track:
        out |= {"track_state": arguments["track"], "track_chunk_idx": arguments["track_chunk"]}
    boundary = "output_boundary_states" if case.op == "gdn.extend" else "output_intermediate_states"
    return {**out, boundary: case.boundary}


def wanted(case: Case) -> frozenset[str]:
    """Name the keywords of WANTED that the call of a case has."""
    asked = case.state_options.compiled
    return frozenset(keyword for keyword, (option, _, _) in WANTED.items() if option in asked)


def _recurrent(case: Case, arguments: Arguments) -> dict[str, Any]:
    out = {
        **_sequence(case, arguments),
        "initial_state": arguments.get("state"),
        "output_final_state": case.final,
    }
    if case.op == "kda.recurrent":
        # Without a state there is nothing to write in place, whatever is said; None wants a final state where
        # there was one or none is overwritten.
        none = case.values.state == "none"
        out["inplace_final_state"] = case.inplace if none else case.writes_state
        if none and case.inplace and not case.final:
            out["output_final_state"] = None
    return out


def _steps(case: Case, arguments: Arguments) -> dict[str, Any]:
    options = case.state_options
    if case.operation.commits:
        return {
            "step_changes": arguments["changes"],
            "step_change_indices": arguments["rows"],
            "num_accepted_steps": arguments["accepted"],
            "retrieve_parent_token": arguments.get("parents"),
            "accepted_path": arguments.get("path"),
        }
    if options.slots:
        return {"num_accepted_tokens": arguments["accepted"]}
    if not case.keeps_steps:
        return {}
    out: dict[str, Any] = {
        "intermediate_states_buffer": arguments["buffer"],
        "intermediate_state_indices": arguments.get("rows"),
        "retrieve_parent_token": arguments.get("parents"),
    }
    if not options.step_update:
        out["disable_state_update"] = True
    if options.cache_steps != "none":
        out["cache_steps"] = case.pool.steps if options.cache_steps == "buffer" else max(1, *case.lens)
    return out


def _pool(case: Case, arguments: Arguments) -> dict[str, Any]:
    out = {
        "initial_state_source": arguments["state"],
        "initial_state_indices": arguments["indices"],
        "layout": arguments.layout,
    }
    if not case.inplace:
        out["disable_state_update"] = True
    return {**out, **_steps(case, arguments)}


def _update(case: Case, arguments: Arguments) -> dict[str, Any]:
    out = {**_sequence(case, arguments), **_pool(case, arguments)}
    if not case.state_options.output:
        out["disable_output_calculation"] = True
    return out


def _sigmoid_gating(case: Case, arguments: Arguments) -> dict[str, Any]:
    tensors: dict[str, Any] = {name: arguments[name] for name in ("A_log", "a", "q", "k", "v", "b")}
    out = {
        **tensors,
        "dt_bias": arguments.get("dt_bias"),
        **_pool(case, arguments),
        "scale": case.scale,
        "cu_seqlens": arguments.get("cu_seqlens"),
    }
    out["softplus_beta"] = case.operands.softplus_beta
    out["softplus_threshold"] = case.operands.softplus_threshold
    return {**out, "is_kda": case.operation.is_kda, "lower_bound": case.gates.lower_bound}


def _packed_decode(case: Case, arguments: Arguments) -> dict[str, Any]:
    out: dict[str, Any] = {name: arguments[name] for name in ("mixed_qkv", "a", "b", "A_log", "out")}
    out |= {
        "dt_bias": arguments.get("dt_bias"),
        "initial_state": arguments["state"],
        "ssm_state_indices": arguments["indices"],
        "scale": case.effective_scale,
    }
    return out if case.op == "gdn.packed_decode" else {**out, "lower_bound": case.gates.lower_bound}


def asked_for(case: Case, keywords: frozenset[str]) -> dict[str, str]:
    """Name the results that have to be returned, each with the keyword that asks for it.

    keywords: that were passed and that the function declares.
    """
    asking = {name: sorted(keywords.intersection(ASKS.get(name, ()))) for name in returned_names(case)}
    return {name: by[0] for name, by in asking.items() if by}


def results(
    case: Case, arguments: Arguments, returned: Any, asked: frozenset[str] = frozenset(), exact: bool = False
) -> dict[str, Tensor]:
    """Name the tensors that a function returned as `results_of` does, states still in the call's layout.

    `o` if it is wanted; `final` and `boundary` if they were asked for and returned. Pool, buffer and tracked
    states are in the arguments. asked: as of `asked_for`. exact: nothing else may be returned. Raises
    TypeError for a value that is no tensor, and WrongForm for one that is missing or not asked for.
    """
    if case.operation.single_token:
        return {"o": arguments["out"]}
    passed = arguments.tensors.values() if exact else None
    return by_name(returned_names(case), returned, asked_for(case, asked), passed)
