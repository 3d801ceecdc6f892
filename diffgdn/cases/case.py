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

from diffgdn.cases.case_checks import check
from diffgdn.cases.json_record import Record, read, require
from diffgdn.cases.operations import OPERATIONS, Operation
from diffgdn.cases.sparsity import Only

FORMAT_VERSION = 2  # 2: `only`, and values of law "zero"; 1 is still read, and written where it will do


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
