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
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diffgdn.cases import operand_options
from diffgdn.cases.case_checks import LATER_GATE_LAWS, check
from diffgdn.cases.json_record import Record, read, require
from diffgdn.cases.lay import Lay
from diffgdn.cases.operand_options import Operands
from diffgdn.cases.operations import OPERATIONS, Operation
from diffgdn.cases.sparsity import Only
from diffgdn.cases.state_options import StateOptions

# Each older version is still read, and written where it will do.
# 2: `only`, and values of law "zero"; 3: `order`, and LATER_GATE_LAWS; 4: how a call is made, and
# what is called before it; 5: the operations that commit, and gates of law "threshold".
FORMAT_VERSION = 5
ADDED = {
    "only": 2,
    "order": 3,
    "lay": 4,
    "operands": 4,
    "state_options": 4,
    "before": 4,
    "execution": 4,
}  # fields, and the version that each came with


@dataclass(frozen=True, repr=False)
class Pool(Record):
    """Where the states of a case live.

    A pool is [slots, HV, V, K], a dense state [sequences, HV, V, K]. `slots` counts the states that the pool
    holds. `indices` gives each sequence its slot, or -1 for padding; it is empty if the operation has a dense
    state. `pitch` is how many elements lie between the end of one slot and the start of the next (more than 0
    in a view of a larger envelope). `dtype` is that of the states.

    Operations that keep the state after every step have an intermediate buffer [buffer, steps, HV, V, K];
    `rows` gives each sequence its row of it, or -1. In verify_commit it holds the change of every step
    instead. Other operations leave `steps`, `buffer` and `rows` empty.
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
    """How the log decay g (natural logarithm, at most 0) and beta are drawn.

    `law` names the law of g, `strength` scales it: how large -g is for one token, in laws that have a size.
    `at` is the token at which the law `jump` jumps. `beta` names the law of beta. `dtype` is that of g and
    beta, or of the raw gates a and b. `checkpoint` and `extreme` draw raw a, A_log and dt_bias themselves,
    whatever the strength: over the range that checkpoints hold, and where exp(A_log) overflows or is 0.
    `threshold` puts raw gates without a bound where softplus becomes linear, to the bit, a step of their
    dtype below and above, and on either side.

    `lower_bound` (kda, raw gates) selects g = lower_bound * sigmoid(exp(A_log) * (a + dt_bias)). With `raw`,
    extend and recurrent get the raw gate, A_log, dt_bias and raw beta in place of g and beta; `Operands` says
    what of these is otherwise.
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
    """How q, k, v and the initial state are drawn.

    `law` names the law and `seed` its random stream. v and the state are multiplied by 2**v_exponent, q (with
    l2norm k too) by 2**q_exponent. `state` is "law" (drawn like v), "zero", or "none" (no initial state is
    passed, if the operation allows that).
    """

    law: str = "ones"
    seed: int = 0
    v_exponent: int = 0
    q_exponent: int = 0
    state: str = (
        "law"  # "law": drawn like v; "zero": all zero; "none": no initial state passed where that is allowed
    )


@dataclass(frozen=True, repr=False)
class Edit(Record):
    """One element set by hand after the tensors are drawn: tensor name, flat position in the logical tensor,
    value.
    """

    tensor: str
    position: int
    value: float


@functools.cache
def _defaults() -> dict[str, Any]:
    """Return the default of every field of a case that has one."""
    plain = Case(op="gdn.recurrent", pool=Pool(indices=()))
    return {spec.name: getattr(plain, spec.name) for spec in dataclasses.fields(Case)}


@dataclass(frozen=True, repr=False)
class Case(Record):
    """One fully determined example of one operation.

    Sizes: `lens` holds the tokens of each sequence, zeros allowed; H and HV are the query and value heads (HV
    a multiple of H), K and V the dimensions of keys and values.

    Layout: `packed` lays the sequences one after another as [1, T, heads, dim] with cu_seqlens, otherwise
    they are a dense batch [B, T, heads, dim] of equal lengths; `batched` passes q as [B, T, H, K] together
    with cu_seqlens over B * T tokens. `tail` counts padding tokens after the last sequence. `cu_dtype` and
    `index_dtype` are those of cu_seqlens and of the slot indices, `dtype` that of q, k, v and o. `view` says
    how q, k, v (and a, b) lie in memory.

    Call: `scale` multiplies q, None stands for K**-0.5. `l2norm`, `chunk_size`, `inplace`, `boundary`,
    `final` and `batch_invariant` are options of the operation. `parents` holds verify's trees, one tuple a
    sequence ((-1, 0, ...)), or nothing for chains. `config` pins a foreign kernel to that entry of its own
    configuration list. `order` is that of the programs of each grid in Triton's interpreter: "ascending" (the
    last axis fastest), "descending", or "shuffled" by `values.seed`. On a GPU it means nothing.

    Content: `pool`, `gates` and `values` say where states live and how tensors are drawn; `only` names
    tensors that are zero but in a few places; `edits` are applied last.

    `lay` says how single arguments lie in memory. `operands` and `state_options` hold what differs from the
    usual call. `before` names calls made before it in the same process, and `execution` how it is run on a
    GPU: see their modules.

    Making a case raises ValueError if it is outside of the operation's contract (`case_checks.check`).
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
    order: str = "ascending"
    lay: tuple[Lay, ...] = ()
    operands: Operands = field(default_factory=Operands)
    state_options: StateOptions = field(default_factory=StateOptions)
    before: tuple[str, ...] = ()
    execution: str = "eager"

    def __post_init__(self) -> None:
        check(self)

    @property
    def operation(self) -> Operation:
        """Look up the operation that `op` names."""
        return OPERATIONS[self.op]

    @property
    def total(self) -> int:
        """Count the tokens that belong to a sequence."""
        return sum(self.lens)

    @property
    def tokens(self) -> int:
        """Count the tokens passed to the kernel, padding included."""
        return self.total + self.tail

    @property
    def starts(self) -> tuple[int, ...]:
        """List the first token of each sequence, and one past the last token: the values of cu_seqlens."""
        out = [0]
        for length in self.lens:
            out.append(out[-1] + length)
        return tuple(out)

    @property
    def effective_scale(self) -> float:
        """Return the factor on q: `scale`, or K**-0.5 if that is None."""
        return self.K**-0.5 if self.scale is None else self.scale

    @property
    def raw_gates(self) -> bool:
        """Tell whether the kernel gets raw gates (a, A_log, dt_bias) in place of g."""
        return self.operation.raw_gates or self.gates.raw

    @property
    def raw_beta(self) -> bool:
        """Tell whether the kernel gets raw beta (b) in place of beta."""
        return operand_options.raw_beta(self)

    @property
    def decay_and_beta(self) -> tuple[str, ...]:
        """Name the operands of each token that say how it decays the state and how much it writes: g or a,
        and beta or b if there is one.
        """
        beta = ("b" if self.raw_beta else "beta",) if operand_options.passes_beta(self) else ()
        return ("a" if self.raw_gates else "g", *beta)

    @property
    def keeps_steps(self) -> bool:
        """Tell whether the state after every step is kept: in verify, and in update with verify's options."""
        asked = self.pool.steps > 0 or bool(self.state_options.slots)
        return self.operation.keeps_steps or (self.operation.kind == "update" and asked)

    @property
    def has_buffer(self) -> bool:
        """Tell whether the state after every step goes to an intermediate buffer, not to the pool."""
        return self.keeps_steps and not self.state_options.slots

    @property
    def has_rows(self) -> bool:
        """Tell whether sequences have rows of a buffer, of states or (verify_commit) of changes."""
        return self.has_buffer or self.operation.commits

    @property
    def needs_steps(self) -> bool:
        """Tell whether the state after any step may be asked for: kept, or committed."""
        return self.keeps_steps or self.operation.commits

    @property
    def numbers(self) -> int:
        """Count the numbers of a step's change: d [HV, V], k [H, K] and g [HV] or, for kda, [HV, K]."""
        gates = self.HV * (self.K if self.operation.is_kda else 1)
        return self.HV * self.V + self.H * self.K + gates

    @property
    def accepted(self) -> tuple[int, ...]:
        """List how many steps of each sequence's draft are accepted (verify_commit), 0 for none; of a tree
        it is the token before that number, with its ancestors.
        """
        counts = self.state_options.accepted or self.lens
        return tuple(min(count, length) for count, length in zip(counts, self.lens, strict=True))

    @property
    def accepted_paths(self) -> tuple[tuple[int, ...], ...]:
        """List the accepted steps of each sequence's draft in their order (verify_commit)."""
        paths = []
        for n, count in enumerate(self.accepted):
            path, step = list[int](), count - 1
            while step >= 0:
                path.insert(0, step)
                step = self.parents[n][step] if self.parents else step - 1
            paths.append(tuple(path))
        return tuple(paths)

    @property
    def writes_state(self) -> bool:
        """Tell whether the call leaves the state after the last token in the caller's state."""
        if self.op == "kda.recurrent":
            return self.inplace and self.final and self.values.state != "none"
        if self.keeps_steps:
            return self.state_options.step_update
        return self.operation.writes_pool and self.inplace and self.values.state != "none"

    @property
    def stored(self) -> tuple[int, ...]:
        """List the sequences whose state must hold a new value after the call: those that have a slot and a
        token, in verify_commit an accepted one whose change was kept.
        """
        slots = self.pool.indices if self.operation.has_pool else (0,) * len(self.lens)
        lens = self.lens
        if self.operation.commits:
            lens = tuple(
                count if row >= 0 else 0 for count, row in zip(self.accepted, self.pool.rows, strict=True)
            )
        return tuple(
            n for n, (slot, length) in enumerate(zip(slots, lens, strict=True)) if slot >= 0 and length > 0
        )

    @property
    def kept(self) -> tuple[tuple[int, int, int], ...]:
        """List (token, buffer row, step) for every step that must be in the intermediate buffer after the
        call, or whose change is kept (verify_commit); with slots for each token (token, slot, step).
        """
        places = self.state_options.slots
        if not places:
            places = tuple((row,) * length for row, length in zip(self.pool.rows, self.lens, strict=False))
        return tuple(
            (self.starts[n] + step, place, step)
            for n, row in enumerate(places)
            for step, place in enumerate(row[: self.lens[n]])
            if place >= 0
        )

    @property
    def fresh(self) -> tuple[int, ...]:
        """List the sequences that start from a zero state though they may have a slot."""
        return tuple(n for n, has in enumerate(self.state_options.initial) if not has)

    @property
    def axes(self) -> dict[str, dict[str, int]]:
        """Return, for every tensor that `only` may name, the size of each of its axes by name."""
        per_token = {"tokens": self.total, "heads": self.HV}
        key = {"tokens": self.total, "heads": self.H, "K": self.K}
        sizes = {"q": key, "k": key, "v": {**per_token, "V": self.V}}
        sizes["g"] = {**per_token, "K": self.K} if self.operation.is_kda else per_token
        if operand_options.passes_beta(self):
            sizes["beta"] = per_token
        if self.values.state == "law":
            state = {"sequences": len(self.lens), "heads": self.HV, "V": self.V, "K": self.K}
            sizes["state"] = state
        return sizes

    @functools.cached_property
    def id(self) -> str:
        """Return twelve hex digits of the SHA-256 of the canonical JSON form."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def format_version(self) -> int:
        """Return the oldest version that holds this case.

        So fields that a case does not need change neither its JSON form nor its id.
        """
        needed = [version for name, version in ADDED.items() if getattr(self, name) != _defaults()[name]]
        laws = [2] * (self.values.law == "zero") + [3] * (self.gates.law in LATER_GATE_LAWS)
        raw = [4] * (self.gates.raw and self.op != "kda.extend")
        latest = self.operation.commits or self.gates.law == "threshold"
        return max([1, *needed, *laws, *raw, *[5] * latest])

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict of all fields, defaults included, and `format_version`."""
        version, data = self.format_version, dataclasses.asdict(self)
        kept = {name: value for name, value in data.items() if ADDED.get(name, 1) <= version}
        return {"format_version": version, **kept}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Case:
        """Build the case that `to_json` wrote.

        Raises ValueError for an unknown version, for a field that is unknown, missing or of the wrong type,
        which the message names, and for a case outside of the operation's contract.
        """
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
