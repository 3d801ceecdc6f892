"""A case: one fully determined example, small enough to read, print, store and send.

A case holds numbers, names and short tuples, never tensors. `diffgdn.tensors.inputs` turns it into tensors,
with the same bits on every machine. Its repr evaluates back; its JSON form carries `format_version`; its id
is a hash of its content.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from diffgdn.cases import sparsity as onlys
from diffgdn.cases.json_record import Record, read, require
from diffgdn.cases.operations import OPERATIONS, Operation
from diffgdn.cases.sparsity import Only

FORMAT_VERSION = 2  # 2: `only`, and values of law "zero"; 1 is still read, and written where it will do
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
)
BETA_LAWS = ("one", "half", "zero", "two", "exact", "uniform", "near_one")
VIEWS = ("contiguous", "packed", "gapped")


@dataclass(frozen=True, repr=False)
class Pool(Record):
    """Where states live.

    slots: states the pool holds. indices: one slot per sequence, -1 for padding; empty where the operation
    has no pool. pitch: elements between the end of a slot and the start of the next (an envelope view has
    more than 0). dtype: of the state. steps and rows: of the intermediate buffer (verify), whose row per
    sequence is in `rows`.
    """

    slots: int = 1
    indices: tuple[int, ...] = (0,)
    pitch: int = 0
    dtype: str = "float32"
    steps: int = 0
    buffer: int = 0
    rows: tuple[int, ...] = ()


@dataclass(frozen=True, repr=False)
class Gates(Record):
    """A law for the log decay g (natural log) and one for beta.

    strength scales the law: how large -g is, per token, where the law has one. at: the token at which `jump`
    jumps. lower_bound: for kda, selects g = lower_bound * sigmoid(exp(A_log) * (a + dt_bias)). raw: for
    kda.extend, the kernel gets the raw gate, A_log, dt_bias and raw beta.
    """

    law: str = "zero"
    strength: float = 1.0
    at: int = 0
    beta: str = "one"
    dtype: str = "float32"
    lower_bound: float | None = None
    raw: bool = False


@dataclass(frozen=True, repr=False)
class Values(Record):
    """A law for q, k, v and the initial state. Scales are powers of two: values are multiplied by
    2**exponent."""

    law: str = "ones"
    seed: int = 0
    v_exponent: int = 0
    q_exponent: int = 0
    state: str = (
        "law"  # "law": drawn like v; "zero": all zero; "none": no initial state passed where that is allowed
    )


@dataclass(frozen=True, repr=False)
class Edit(Record):
    """One element set by hand after generation: tensor name, flat position in the logical tensor, value."""

    tensor: str
    position: int
    value: float


@dataclass(frozen=True, repr=False)
class Case(Record):
    """One fully determined example of one operation.

    op: a name in OPERATIONS. lens: tokens of each sequence, zeros allowed. H query heads, HV value heads, K
    and V dims. dtype: of q, k, v (and the output). packed: sequences one after another with cu_seqlens; else
    a dense [B, T, ...] batch. batched: q is [B, T, H, K] together with cu_seqlens over B*T tokens. tail:
    padding tokens after the last sequence. cu_dtype and index_dtype: of cu_seqlens and of slot indices.
    view: how q, k, v (and a, b) lie in memory. parents: verify's trees, one tuple a sequence ((-1, 0, ...));
    empty for a chain. scale: None for K**-0.5. config: which entry of a foreign kernel's own configuration
    list it is pinned to. only: tensors that are zero but in a few places. edits: applied last.
    """

    op: str
    lens: tuple[int, ...] = (1,)
    H: int = 1
    HV: int = 1
    K: int = 16
    V: int = 16
    dtype: str = "float32"
    pool: Pool = field(default_factory=Pool)
    gates: Gates = field(default_factory=Gates)
    values: Values = field(default_factory=Values)
    packed: bool = True
    batched: bool = False
    tail: int = 0
    cu_dtype: str = "int32"
    index_dtype: str = "int32"
    view: str = "contiguous"
    l2norm: bool = False
    scale: float | None = None
    chunk_size: int = 64
    inplace: bool = True
    boundary: bool = False
    final: bool = True
    batch_invariant: bool = False
    parents: tuple[tuple[int, ...], ...] = ()
    config: int = 0
    edits: tuple[Edit, ...] = ()
    only: tuple[Only, ...] = ()

    def __post_init__(self) -> None:
        check(self)

    @property
    def operation(self) -> Operation:
        return OPERATIONS[self.op]

    @property
    def total(self) -> int:
        """Tokens that belong to a sequence."""
        return sum(self.lens)

    @property
    def tokens(self) -> int:
        """Tokens passed to the kernel, padding included."""
        return self.total + self.tail

    @property
    def starts(self) -> tuple[int, ...]:
        """First token of each sequence, and one past the last: the values of cu_seqlens."""
        out = [0]
        for length in self.lens:
            out.append(out[-1] + length)
        return tuple(out)

    @property
    def effective_scale(self) -> float:
        return self.K**-0.5 if self.scale is None else self.scale

    @property
    def raw_gates(self) -> bool:
        return self.operation.raw_gates or (self.op == "kda.extend" and self.gates.raw)

    @property
    def keeps_steps(self) -> bool:
        """The state after every step goes to an intermediate buffer: verify, and update with verify's
        options."""
        return self.operation.keeps_steps or (self.operation.kind == "update" and self.pool.steps > 0)

    @property
    def writes_state(self) -> bool:
        """The caller's state ends with the state after the last token."""
        if self.op == "kda.recurrent":
            return self.inplace and self.final and self.values.state != "none"
        return (
            self.operation.writes_pool
            and not self.keeps_steps
            and self.inplace
            and self.values.state != "none"
        )

    @property
    def stored(self) -> tuple[int, ...]:
        """Sequences whose state must hold a new value after the call: live and not empty."""
        slots = self.pool.indices if self.operation.has_pool else (0,) * len(self.lens)
        return tuple(
            n
            for n, (slot, length) in enumerate(zip(slots, self.lens, strict=True))
            if slot >= 0 and length > 0
        )

    @property
    def kept(self) -> tuple[tuple[int, int, int], ...]:
        """(token, buffer row, step) of every step that must be in the intermediate buffer."""
        rows = enumerate(self.pool.rows)
        return tuple(
            (self.starts[n] + step, row, step) for n, row in rows if row >= 0 for step in range(self.lens[n])
        )

    @property
    def axes(self) -> dict[str, dict[str, int]]:
        """Sizes of the axes of every tensor that `only` may name."""
        per_token = {"tokens": self.total, "heads": self.HV}
        key = {"tokens": self.total, "heads": self.H, "K": self.K}
        sizes = {"q": key, "k": key, "v": {**per_token, "V": self.V}}
        sizes["g"] = {**per_token, "K": self.K} if self.operation.is_kda else per_token
        sizes["beta"] = per_token
        if self.values.state == "law":
            state = {"sequences": len(self.lens), "heads": self.HV, "V": self.V, "K": self.K}
            sizes["state"] = state
        return sizes

    @functools.cached_property
    def id(self) -> str:
        """Twelve hex digits of the SHA-256 of the canonical JSON form."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def format_version(self) -> int:
        """The oldest version that holds this case: what it does not need changes neither its JSON form nor
        its id.
        """
        return 2 if self.only or self.values.law == "zero" else 1

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict, defaults included, with `format_version`."""
        version, data = self.format_version, dataclasses.asdict(self)
        if version == 1:
            del data["only"]
        return {"format_version": version, **data}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Case:
        """The case that `to_json` wrote. Raises ValueError naming the field that is unknown, missing or of
        the wrong type."""
        require(isinstance(data, Mapping), f"a case must be a JSON object, got {type(data).__name__}")
        version: Any = data.get("format_version")
        require(
            type(version) is int and 1 <= version <= FORMAT_VERSION,
            f"format_version: this diffgdn reads 1 to {FORMAT_VERSION}, got {version!r:.40}",
        )
        case = read(cls, {name: raw for name, raw in data.items() if name != "format_version"}, "case")
        require(
            version >= case.format_version,
            f"format_version: this case needs version {case.format_version}, got {version}",
        )
        return case


def _choice(name: str, value: Any, allowed: Iterable[Any]) -> None:
    allowed = tuple(allowed)
    require(value in allowed, f"{name}: expected one of {', '.join(map(str, allowed))}, got {value!r}")


def check(case: Case) -> None:
    """Raise ValueError, naming the field and its value, unless the case lies within the operation's
    contract."""
    _choice("op", case.op, OPERATIONS)
    operation = case.operation
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
    for name, value in (("dtype", case.dtype), ("pool.dtype", case.pool.dtype)):
        _choice(name, value, DTYPES)
    _choice("gates.dtype", case.gates.dtype, {"float32", case.dtype})
    _choice("gates.law", case.gates.law, GATE_LAWS)
    _choice("gates.beta", case.gates.beta, BETA_LAWS)
    _choice("values.law", case.values.law, VALUE_LAWS)
    _choice("values.state", case.values.state, ("law", "zero", "none"))
    _choice("view", case.view, VIEWS)
    _choice("cu_dtype", case.cu_dtype, ("int32", "int64"))
    _choice("index_dtype", case.index_dtype, ("int32", "int64"))
    _choice("chunk_size", case.chunk_size, (16, 32, 64))
    require(case.tail >= 0, f"tail: expected 0 or more, got {case.tail}")
    equal = len(set(case.lens)) == 1
    if not case.packed:
        require(
            equal and case.lens[0] > 0, f"lens: a dense batch needs equal, positive lengths, got {case.lens}"
        )
        require(case.tail == 0, "tail: a dense batch has no padding tokens")
    if case.batched:
        require(
            case.packed and equal and case.tail == 0 and operation.kind in ("decode", "verify"),
            "batched: equal lengths in decode or verify only",
        )
    if operation.single_token:
        require(
            all(length == 1 for length in case.lens) and case.tail == 0,
            f"lens: one token each, got {case.lens}",
        )
    _check_pool(case)
    _check_gates(case)
    if case.parents:
        _check_parents(case)
    if case.only:
        onlys.check(case.only, case.axes)


def _check_pool(case: Case) -> None:
    operation, pool = case.operation, case.pool
    require(pool.slots >= 1 and pool.pitch >= 0, f"pool: slots >= 1 and pitch >= 0, got {pool}")
    if operation.has_pool:
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
    else:
        require(pool.indices == (), f"pool.indices: {case.op} has a dense state, got {pool.indices}")
    if case.keeps_steps:
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
    else:
        require(
            not pool.rows and pool.steps == 0 and pool.buffer == 0,
            f"pool.rows, steps, buffer: only verify and update have them, got {pool}",
        )
    if case.values.state == "none":
        require(operation.kind in ("recurrent", "extend"), f"values.state: {case.op} always takes a state")
        require(
            not operation.has_pool or all(index == -1 for index in pool.indices),
            "values.state: without a pool every index is -1",
        )


def _check_gates(case: Case) -> None:
    gates = case.gates
    if gates.lower_bound is not None:
        require(
            case.operation.is_kda and case.raw_gates and gates.lower_bound < 0,
            f"gates.lower_bound: raw kda gates and < 0, got {gates}",
        )
    require(
        not gates.raw or case.op == "kda.extend",
        f"gates.raw: only kda.extend takes either form, got {case.op}",
    )
    if case.raw_gates:
        require(gates.beta != "two", "gates.beta: a sigmoid cannot be 2")


def _check_parents(case: Case) -> None:
    require(case.keeps_steps, f"parents: only verify and update with steps take trees, got {case.op}")
    require(len(case.parents) == len(case.lens), f"parents: one tuple a sequence, got {len(case.parents)}")
    longest = case.pool.steps
    require(longest <= MAX_TREE_STEPS, f"parents: trees of up to {MAX_TREE_STEPS} steps, got {longest}")
    for tree, length in zip(case.parents, case.lens, strict=True):
        require(len(tree) == length, f"parents: {tree} for a sequence of {length} tokens")
        require(
            all(parent == -1 if step == 0 else 0 <= parent < step for step, parent in enumerate(tree)),
            f"parents: -1 first, then earlier tokens, got {tree}",
        )
