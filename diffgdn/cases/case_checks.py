"""What a case may be: values of its fields, and which of them fit together.

`check` is called whenever a case is made, so no case that exists is outside of its operation's contract. That
is often: a message that takes long to write, as one with a whole record, is written only for its error.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from diffgdn.cases import company, execution, lay, operand_options, state_options
from diffgdn.cases import sparsity as onlys
from diffgdn.cases.json_record import require
from diffgdn.cases.operations import OPERATIONS

if TYPE_CHECKING:
    from diffgdn.cases.case import Case

DTYPES = ("float32", "float16", "bfloat16")
MAX_DIM = 256  # largest K or V that an operation promises
MAX_TREE_STEPS = 64  # of a draft that is a tree; chains have no limit
VALUE_LAWS = ("zero", "ones", "exact", "uniform", "normal", "parallel", "spiky", "zero_rows")
GATE_LAWS = (
    "zero",
    "exact",
    "constant",
    "uniform",
    "mixed",
    "alternating",
    "jump",
    "underflow",
    "model",
    "huge",
    "checkpoint",
    "extreme",
    "threshold",
)
LATER_GATE_LAWS = ("checkpoint", "extreme")  # that came with format version 3
BETA_LAWS = ("one", "half", "zero", "two", "exact", "uniform", "near_one")
VIEWS = ("contiguous", "packed", "gapped")
CHUNK_SIZES = (16, 32, 64)
PROGRAM_ORDERS = ("ascending", "descending", "shuffled")


def check(case: Case) -> None:
    """Check that a case lies within the contract of its operation.

    Raises ValueError that names the first field that is wrong, its value, and what was expected.
    """
    _choice("op", case.op, OPERATIONS)
    _check_sizes(case)
    _check_words(case)
    _check_layout(case)
    _check_slots(case)
    _check_step_buffer(case)
    if case.values.state == "none":
        _check_no_state(case)
    _check_gates(case)
    if case.parents:
        _check_parents(case)
    if case.only:
        onlys.check(case.only, case.axes)
    for part in (lay, operand_options, state_options, company, execution):
        part.check(case)


def _choice(name: str, value: Any, allowed: Iterable[Any]) -> None:
    """Check that a value is one of a few."""
    allowed = tuple(allowed)
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(map(str, allowed))}, got {value!r}")


def _check_sizes(case: Case) -> None:
    """Check lengths, heads and dimensions."""
    require(len(case.lens) > 0, "lens: at least one sequence")
    require(all(length >= 0 for length in case.lens), f"lens: negative length in {case.lens}")
    require(
        case.H >= 1 and case.HV >= 1 and case.HV % case.H == 0,
        f"HV: expected a multiple of H, got HV={case.HV}, H={case.H}",
    )
    require(
        1 <= case.K <= MAX_DIM and 1 <= case.V <= MAX_DIM,
        f"K, V: expected 1 to {MAX_DIM}, got K={case.K}, V={case.V}",
    )


def _check_words(case: Case) -> None:
    """Check the fields that take one of a few values."""
    for name, value in (("dtype", case.dtype), ("pool.dtype", case.pool.dtype)):
        _choice(name, value, DTYPES)
    _choice("gates.dtype", case.gates.dtype, {"float32", case.dtype})
    _choice("gates.law", case.gates.law, GATE_LAWS)
    _choice("gates.beta", case.gates.beta, BETA_LAWS)
    _choice("values.law", case.values.law, VALUE_LAWS)
    _choice("values.state", case.values.state, ("law", "zero", "none"))
    _choice("view", case.view, VIEWS)
    _choice("order", case.order, PROGRAM_ORDERS)
    _choice("cu_dtype", case.cu_dtype, ("int32", "int64"))
    _choice("index_dtype", case.index_dtype, ("int32", "int64"))
    _choice("chunk_size", case.chunk_size, CHUNK_SIZES)


def _check_layout(case: Case) -> None:
    """Check that the tokens can lie in memory as the case says: packed, dense, or batched."""
    require(case.tail >= 0, f"tail: expected 0 or more, got {case.tail}")
    equal = len(set(case.lens)) == 1
    if not case.packed:
        require(
            equal and case.lens[0] > 0, f"lens: a dense batch needs equal, positive lengths, got {case.lens}"
        )
        require(case.tail == 0, "tail: a dense batch has no padding tokens")
    if case.batched:
        require(
            case.packed and equal and case.tail == 0 and case.operation.is_sigmoid_gating,
            "batched: equal lengths in decode, verify and verify_commit only",
        )
    if case.operation.single_token:
        require(
            all(length == 1 for length in case.lens) and case.tail == 0,
            f"lens: one token each, got {case.lens}",
        )


def _check_slots(case: Case) -> None:
    """Check the pool and which of its slots the sequences name."""
    pool = case.pool
    if pool.slots < 1 or pool.pitch < 0:
        raise ValueError(f"pool: slots >= 1 and pitch >= 0, got {pool}")
    if not case.operation.has_pool:
        require(pool.indices == (), f"pool.indices: {case.op} has a dense state, got {pool.indices}")
        return
    require(
        len(pool.indices) == len(case.lens),
        f"pool.indices: one per sequence, got {pool.indices} for {len(case.lens)}",
    )
    require(
        all(-1 <= index < pool.slots for index in pool.indices),
        f"pool.indices: -1 to {pool.slots - 1}, got {pool.indices}",
    )
    live = [index for index in pool.indices if index >= 0]
    if case.writes_state:
        require(
            len(set(live)) == len(live),
            f"pool.indices: live ones must differ where the state is written, got {pool.indices}",
        )


def _check_step_buffer(case: Case) -> None:
    """Check the intermediate buffer of the operations that keep the state after every step."""
    pool = case.pool
    if not case.has_rows:
        if pool.rows or pool.steps or pool.buffer:
            words = "pool.rows, steps, buffer: only verify, verify_commit and update have them"
            raise ValueError(f"{words}, got {pool}")
        return
    require(case.inplace or not case.operation.commits, f"inplace: {case.op} always writes its states")
    require(
        pool.steps >= max(case.lens) and pool.steps >= 1,
        f"pool.steps: at least the longest draft, got {pool.steps} for {case.lens}",
    )
    require(len(pool.rows) == len(case.lens), f"pool.rows: one per sequence, got {pool.rows}")
    require(
        all(-1 <= row < pool.buffer for row in pool.rows),
        f"pool.rows: -1 to {pool.buffer - 1}, got {pool.rows}",
    )
    live = [row for row in pool.rows if row >= 0]
    require(len(set(live)) == len(live), f"pool.rows: live ones must differ, got {pool.rows}")
    require(
        all(row < 0 for row, index in zip(pool.rows, pool.indices, strict=True) if index < 0),
        f"pool.rows: padding sequences have row -1, got {pool.rows} for {pool.indices}",
    )


def _check_no_state(case: Case) -> None:
    """Check a case that passes no initial state at all."""
    operation = case.operation
    require(operation.kind in ("recurrent", "extend"), f"values.state: {case.op} always takes a state")
    require(
        not operation.has_pool or all(index == -1 for index in case.pool.indices),
        "values.state: without a pool every index is -1",
    )


def _check_gates(case: Case) -> None:
    """Check the options of gates against the form in which the operation takes them."""
    gates = case.gates
    if gates.lower_bound is not None:
        require(
            case.operation.is_kda and case.raw_gates and gates.lower_bound < 0,
            f"gates.lower_bound: raw kda gates and < 0, got {gates}",
        )
    require(
        not gates.raw or operand_options.takes_either_form(case),
        f"gates.raw: only extend and recurrent take either form, got {case.op}",
    )
    if gates.law == "threshold":
        require(
            case.raw_gates and gates.lower_bound is None,
            f"gates.law: 'threshold' of raw gates without a bound, got {gates}",
        )
    if case.raw_beta:
        require(gates.beta != "two", "gates.beta: a sigmoid cannot be 2")


def _check_parents(case: Case) -> None:
    """Check that there is one tree for each sequence, and that each token follows an earlier one."""
    require(case.needs_steps, f"parents: only drafts and update with steps take trees, got {case.op}")
    require(len(case.parents) == len(case.lens), f"parents: one tuple a sequence, got {len(case.parents)}")
    longest = case.pool.steps
    require(longest <= MAX_TREE_STEPS, f"parents: trees of up to {MAX_TREE_STEPS} steps, got {longest}")
    for tree, length in zip(case.parents, case.lens, strict=True):
        require(len(tree) == length, f"parents: {tree} for a sequence of {length} tokens")
        require(
            all(parent == -1 if step == 0 else 0 <= parent < step for step, parent in enumerate(tree)),
            f"parents: -1 first, then earlier tokens, got {tree}",
        )
