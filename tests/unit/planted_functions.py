"""A target made of functions, as users write them, over all operations, with a fault planted behind them.

They compute in float64 and round once. Which fault, the environment variable PLANTED says, so that a script
and a replay meet the same one; PLANTED_CALLS counts calls. Loaded as
`tests/unit/planted_functions.py:planted`.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import torch

from diffgdn.cases.operations import OPERATIONS, Operation
from diffgdn.cases.promises import Promises
from diffgdn.findings.repro import standalone
from diffgdn.targets import FunctionTarget

Given = dict[str, Any]


def _tokens(given: Given, operation: Operation, states: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """q, k [tokens, HV, K], v [tokens, HV, V], g [tokens, HV, 1 or K] and beta [tokens, HV] in float64."""
    HV, V, K = states.shape[1:]
    if operation.single_token:
        width = (given["mixed_qkv"].shape[-1] - HV * V) // 2
        q, k, v = given["mixed_qkv"].split([width, width, HV * V], dim=-1)
    else:
        q, k, v = given["q"], given["k"], given["v"]
    tokens = v.numel() // (HV * V)
    q, k = (standalone.per_token(x, x.numel() // tokens // K, K) for x in (q, k))
    if given["use_qk_l2norm_in_kernel"]:
        q, k = standalone.l2norm(q), standalone.l2norm(k)
    q, k = (x.repeat_interleave(HV // x.shape[1], 1) for x in (q, k))
    width = K if operation.is_kda else 1
    raw = operation.raw_gates
    g = standalone.per_token(given["a" if raw else "g"], HV, width)
    if given.get("A_log") is not None:
        softplus = (given.get("softplus_beta", 1.0), given.get("softplus_threshold", 20.0))
        g = standalone.log_decay(g, given.get("dt_bias"), given["A_log"], given.get("lower_bound"), softplus)
    passed = given["b" if raw else "beta"]
    beta = torch.ones(tokens, HV, dtype=torch.float64) if passed is None else standalone.per_token(passed, HV)
    if raw or given.get("beta_is_raw"):
        beta = torch.sigmoid(beta) * (2.0 if given.get("allow_neg_eigval") else 1.0)
    return q, k, standalone.per_token(v, HV, V), g, beta


def _plain(op: str, given: Given) -> Any:
    """An operation, for states in layout vk that are always passed, and packed sequences."""
    operation, states = OPERATIONS[op], _states(given)
    q, k, v, g, beta = _tokens(given, operation, states)
    starts = list(range(len(q) + 1)) if operation.single_token else given["cu_seqlens"].tolist()
    spans = list(itertools.pairwise(starts))
    indices = given.get("initial_state_indices", given.get("ssm_state_indices"))
    slots = list(range(len(spans))) if indices is None else indices.tolist()
    zero = torch.zeros(states.shape[1:], dtype=torch.float64)
    initial = [states[slot].to(torch.float64, copy=True) if slot >= 0 else zero for slot in slots]
    scale = q.shape[-1] ** -0.5 if given["scale"] is None else given["scale"]
    o, paths = standalone.recurrence(q, k, v, g, beta, initial, spans, scale)
    _leave_states(op, given, slots, paths)
    if operation.single_token:
        live = torch.tensor([slot >= 0 for slot in slots]).view(-1, 1, 1)
        given["out"].copy_(torch.where(live, o, 0.0).view(given["out"].shape))
        return given["out"]
    o = o.to(given["q"].dtype).view(given["v"].shape)
    final = torch.stack([path[-1] for path in paths])
    if operation.kind == "recurrent":
        return o, final.to(torch.float32 if op == "gdn.recurrent" else states.dtype)
    if operation.is_chunked:
        ends = [range(0, stop - start, given["chunk_size"]) for start, stop in spans]
        before = [path[t] for path, times in zip(paths, ends, strict=True) for t in times]
        boundary = torch.stack(before) if before else final[:0]
        boundary, final = boundary[None].to(given["k"].dtype), final.to(states.dtype)
        return (o, final, boundary) if op == "gdn.extend" else (o, boundary, final)
    return o


def _leave_states(op: str, given: Given, slots: list[int], paths: list[list[torch.Tensor]]) -> None:
    buffer, rows = given.get("intermediate_states_buffer"), given.get("intermediate_state_indices")
    if buffer is not None and rows is not None:
        for row, path in zip(rows.tolist(), paths, strict=True):
            if row >= 0 and len(path) > 1:
                buffer[row, : len(path) - 1] = torch.stack(path[1:]).to(buffer.dtype)
        return
    flags = {"extend": "inplace_update", "recurrent": "inplace_final_state"}
    flag = flags.get(OPERATIONS[op].kind)
    if op == "gdn.recurrent" or given.get("disable_state_update") or (flag and not given[flag]):
        return
    for slot, path in zip(slots, paths, strict=True):
        if slot >= 0 and len(path) > 1:
            _states(given)[slot] = path[-1].to(_states(given).dtype)


def _outputs(given: Given, returned: Any) -> list[torch.Tensor]:
    """What may be spoiled: the output, in `out` or as it was returned."""
    if "out" in given:
        return [given["out"]]
    return [x for x in (returned if isinstance(returned, tuple) else (returned,)) if x is not None]


def _input(given: Given) -> torch.Tensor:
    found: torch.Tensor = given["mixed_qkv"] if "mixed_qkv" in given else given["k"]
    return found


def _states(given: Given) -> torch.Tensor:
    states = given.get("initial_state_source")
    found: torch.Tensor = given["initial_state"] if states is None else states
    return found


def _beside(x: torch.Tensor, offset: int) -> torch.Tensor:
    return x.as_strided((1,), (1,), x.storage_offset() + offset)


def _raise(given: Given, returned: Any) -> Any:
    raise RuntimeError("no such tile")


def _leave(given: Given, returned: Any) -> Any:
    sys.exit(0)


def _die(given: Given, returned: Any) -> Any:
    os._exit(3)


def _change_input(given: Given, returned: Any) -> Any:
    _input(given)[(0,) * _input(given).dim()] += 1
    return returned


def _write_before(given: Given, returned: Any) -> Any:
    x = given["mixed_qkv"] if "mixed_qkv" in given else given["q"]
    _beside(x, -1).zero_()
    return returned


def _write_beside_workspace(given: Given, returned: Any) -> Any:
    workspace = torch.empty(4, device=_input(given).device)
    _beside(workspace, 4).zero_()
    return returned


def _hole(given: Given, returned: Any) -> Any:
    """One element of a fresh output is left as it was."""
    if "out" in given:
        given["out"].view(-1)[:1] = _first_of_out[0]
        return returned
    parts = list(returned) if isinstance(returned, tuple) else [returned]
    new = torch.empty_like(parts[0])
    new.view(-1)[1:] = parts[0].reshape(-1)[1:]
    parts[0] = new
    return tuple(parts) if isinstance(returned, tuple) else new


_first_of_out: list[torch.Tensor] = []


def _leak(given: Given, returned: Any) -> Any:
    x = given["mixed_qkv"] if "mixed_qkv" in given else given["q"]
    _outputs(given, returned)[0].view(-1)[:1] += _beside(x, -1)
    return returned


def _infinity(given: Given, returned: Any) -> Any:
    _outputs(given, returned)[0].view(-1)[0] = torch.inf
    return returned


def _wrong(given: Given, returned: Any) -> Any:
    _outputs(given, returned)[0].view(-1)[1] += 1
    return returned


def _write_unnamed(given: Given, returned: Any) -> Any:
    """Slot 1, that no sequence names, or a dense initial state."""
    states = _states(given)
    states[min(1, len(states) - 1)] = 0.25
    return returned


def _write_unowned_step(given: Given, returned: Any) -> Any:
    buffer = given.get("intermediate_states_buffer")
    if buffer is not None:
        buffer[-1, -1] = 0.25
    return returned


def _other_bits(given: Given, returned: Any) -> Any:
    if os.environ["PLANTED_CALLS"] != "1":
        first = _outputs(given, returned)[0].view(-1)[:1]
        first.view(torch.int16)[:1] ^= 1
    return returned


def _same_memory(given: Given, returned: Any) -> Any:
    if "out" in given or os.environ["PLANTED_CALLS"] == "1":
        _held[:] = [returned]
        return returned
    old = _held[0]
    for one, new in zip(*((x if isinstance(x, tuple) else (x,)) for x in (old, returned)), strict=True):
        if one is not None:
            one.copy_(new)
    return old


_held: list[Any] = []


def _no_shape(given: Given, returned: Any) -> Any:
    parts = list(returned) if isinstance(returned, tuple) else [returned]
    parts[0] = parts[0][..., :-1]
    return tuple(parts) if isinstance(returned, tuple) else parts[0]


def _turned(given: Given, returned: Any) -> Any:
    """The output has another shape with as many elements: heads where V was."""
    parts = list(returned) if isinstance(returned, tuple) else [returned]
    parts[0] = parts[0].reshape(*parts[0].shape[:2], *parts[0].shape[:1:-1])
    return tuple(parts) if isinstance(returned, tuple) else parts[0]


def _other_dtype(given: Given, returned: Any) -> Any:
    parts = list(returned) if isinstance(returned, tuple) else [returned]
    parts[-1] = parts[-1].to(torch.float64)
    return tuple(parts) if isinstance(returned, tuple) else parts[0]


def _dirty_tail(given: Given, returned: Any) -> Any:
    if "out" in given:
        return returned
    o = returned[0] if isinstance(returned, tuple) else returned
    o.view(-1, *o.shape[-2:])[-1, -1, -1] = 1.0
    return returned


def _no_tensor(given: Given, returned: Any) -> Any:
    return "done"


def _set(given: Given, returned: Any) -> Any:
    """One element of a result: PLANTED_AT says which argument or which of the returned, where, and what."""
    where, index, value = json.loads(os.environ["PLANTED_AT"])
    parts = returned if isinstance(returned, tuple) else (returned,)
    tensor = parts[where] if isinstance(where, int) else given[where]
    if isinstance(where, int) or where == "out":
        tensor = tensor.view(-1)
    tensor[tuple(index)] = value
    return returned


FAULTS: dict[str, Callable[[Given, Any], Any]] = {
    "right": lambda given, returned: returned,
    "raised": _raise,
    "leaves": _leave,
    "dies": _die,
    "input_changed": _change_input,
    "guard_written": _write_before,
    "guard of a workspace": _write_beside_workspace,
    "never_written": _hole,
    "poison_leaked": _leak,
    "not_finite": _infinity,
    "wrong": _wrong,
    "tail_not_zero": _dirty_tail,
    "slot_changed": _write_unnamed,
    "unowned step": _write_unowned_step,
    "not_repeatable": _other_bits,
    "memory returned twice": _same_memory,
    "of another shape": _no_shape,
    "turned": _turned,
    "of another dtype": _other_dtype,
    "no tensor": _no_tensor,
    "set": _set,
}


def _planted(op: str) -> Callable[..., Any]:
    def call(**given: Any) -> Any:
        os.environ["PLANTED_CALLS"] = str(int(os.environ.get("PLANTED_CALLS", "0")) + 1)
        if "out" in given:
            _first_of_out[:] = [given["out"].view(-1)[:1].clone()]
        return FAULTS[os.environ.get("PLANTED", "right")](given, _plain(op, given))

    return call


planted = FunctionTarget(
    "planted",
    {op: _planted(op) for op in OPERATIONS},
    promises=Promises(tail_output="zero", result_form="exact"),
)
