"""Lists what cases of an operation can have on the axes of operands, options of states, lays, and company."""

from __future__ import annotations

from collections.abc import Iterable

from diffgdn.cases import company, state_options
from diffgdn.cases.axis_values import NONE, usual
from diffgdn.cases.company import DTYPE_AFTER, SAME_KERNELS
from diffgdn.cases.operand_options import AS_GATE, EITHER_FORM, FLOATS
from diffgdn.cases.operations import OPERATIONS, Operation
from diffgdn.cases.promises import Promises
from diffgdn.strategies import state_builds

DTYPES_BY_Q = {"q"}  # in promises, a dtype that goes by that of q


def words(op: str, backend: str, own: Promises) -> dict[str, set[str]]:
    """Return the words of an operation on each of these axes. own: what is promised of it.

    Where promises are narrow, a few of them may be out of reach: numbers that do not fit together are not
    counted out here.
    """
    operation = OPERATIONS[op]
    found = _operands(operation, own) | _states(op, own)
    found |= {"strides": _strides(operation, own), "alignment": {str(n) for n in own.alignment}}
    found["before"] = {NONE} | (_earlier(operation, backend, own) if own.company else set())
    return {axis: some for axis, some in found.items() if some}


def _raw(operation: Operation, own: Promises) -> bool:
    return operation.raw_gates or (operation.kind in EITHER_FORM and True in own.raw_gates)


def _may(allowed: bool) -> set[str]:
    return {usual(False), usual(True)} if allowed else {usual(False)}


def _either(promised: Iterable[bool]) -> set[str]:
    return {usual(value) for value in promised}


def _operands(operation: Operation, own: Promises) -> dict[str, set[str]]:
    """Which operands are passed, and in which dtypes."""
    kind = operation.kind
    found = {"mixed_beta": _may(own.mixed_beta and {*own.dtype} != {"float32"})}
    if not operation.single_token:
        found["mixed_qkv"] = _may(own.mixed_qkv and len(own.dtype) > 1)
    if kind in ("recurrent", "update"):
        found["no_beta"] = _may(own.no_beta)
    if kind in EITHER_FORM:
        found["raw_beta"] = _either(own.raw_beta)
        if True in own.raw_beta:
            found["neg_eigval"] = _may(own.neg_eigval)
    if _raw(operation, own):
        found["A_log"] = {*own.A_log}
        by_others = {AS_GATE, *DTYPES_BY_Q} & {*own.dt_bias}
        biases = {*own.dt_bias} | ({*own.dtype, "float32"} if by_others else set())
        found["dt_bias"] = biases & {*FLOATS, NONE}
    if operation.is_sigmoid_gating and not (operation.is_kda and False not in own.bounded):
        found["softplus"] = _may(own.softplus)
    return found


def _keeps_steps(operation: Operation, own: Promises) -> bool:
    return operation.keeps_steps or (operation.kind == "update" and True in own.steps)


def _states(op: str, own: Promises) -> dict[str, set[str]]:
    """Where states come from and go to."""
    found: dict[str, set[str]] = {}
    has, keeps = state_options.options_of(op), _keeps_steps(OPERATIONS[op], own)
    for name in has:
        axis, without, _ = state_builds.AXES[name]
        if keeps or name not in ("step_update", "token_slots"):
            may = state_builds.promised(name, own)
            found[axis] = {usual(value) for value in getattr(own, axis) if may or value == without}
    if keeps and False in own.token_slots:
        found |= {"step_rows": {*own.step_rows}, "cache_steps": {*own.cache_steps}}
    return found


def _strides(operation: Operation, own: Promises) -> set[str]:
    """In which ways arguments may lie that are there."""
    there = {
        "tokens": True,
        "outputs": operation.single_token,
        "weights": _raw(operation, own),
        "indices": operation.has_pool,
        "bounds": not operation.single_token and "packed" in own.batch,
        "trees": (_keeps_steps(operation, own) or operation.commits) and True in own.tree,
        "states": True,
        "buffers": operation.commits or (_keeps_steps(operation, own) and False in own.token_slots),
    }
    found = {one for one in own.strides if there.get(one.partition(" ")[2], True)}
    if operation.single_token:  # its tokens are its batch, and a row of a token is one axis
        found -= {"wide tokens", "nested tokens"}
    return found - (set() if operation.is_kda else {"nested weights"})  # gdn's have one axis


def _dtypes(promised: Iterable[str], own: Promises) -> set[str]:
    """Return dtypes of operands that may go by that of q."""
    by_q = {*own.dtype} if DTYPES_BY_Q & {*promised} else set()
    return {*promised} - DTYPES_BY_Q | by_q


def _earlier(operation: Operation, backend: str, own: Promises) -> set[str]:
    """Which earlier calls may be made: other ones than the case's own must be promised too."""
    kind, words = operation.kind, {*SAME_KERNELS} if backend == "gpu" else {*company.EARLIER}
    states, gates = _dtypes(own.state_dtype, own), _dtypes(own.gate_dtype, own)
    may = {
        "other_dtype": any(DTYPE_AFTER[dtype] in own.dtype for dtype in own.dtype),
        "other_state_dtype": any(DTYPE_AFTER[dtype] in states for dtype in states),
        "other_gate_dtype": "float32" in gates and bool(gates & {*own.dtype} - {"float32"}),
        "other_strides": len(own.view) > 1 or len(own.strides) > 1,
        "other_l2norm": len(own.l2norm) > 1,
        "other_scale": len(own.scale) > 1,
        "other_chunk_size": operation.is_chunked and len(own.chunk_size) > 1,
        "other_outputs": len(own.boundary) > 1
        if kind == "extend"
        else len(own.final) > 1
        if kind == "recurrent"
        else kind in ("update", "decode") and len(own.inplace) > 1,
        "other_gate": operation.is_kda and _raw(operation, own) and len(own.bounded) > 1,
    }
    return {word for word in words if may.get(word, True)}
