"""What a target supports, as data: for every axis of a case, the values that it takes.

Strategies draw inside the promises, so no case is drawn and thrown away. `broken_by` says what a case asks
beyond them. The same names and values make the TOML form (`promises_file`). Imports no torch.
"""

# ruff: noqa: RUF009  (`_whole` makes a field)
from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from diffgdn.cases import company, promise_axes, spans, state_options
from diffgdn.cases.case_checks import CHUNK_SIZES, DTYPES, MAX_DIM, VIEWS
from diffgdn.cases.execution import EXECUTIONS
from diffgdn.cases.json_record import Record, require
from diffgdn.cases.lay import ALIGNMENTS, STRIDES
from diffgdn.cases.operations import OPERATIONS, Operation
from diffgdn.cases.promise_axes import BATCHES, MOST_TREE, Flag, Floats, Whole, Word, Words
from diffgdn.cases.spans import Numbers, Span
from diffgdn.cases.state_options import CACHE_STEPS, STEP_ROWS

if TYPE_CHECKING:
    from diffgdn.cases.case import Case

AS_Q = "q"  # a dtype: that of q
AS_GATE = "gate"  # that of a
MOST_HEADS = 1024
DTYPE_AXES = ("state_dtype", "gate_dtype", "dt_bias")  # that may name the dtype of q
ENDLESS = 1 << 40
ANY, ZERO = "any", "zero"  # what output rows of padding tokens hold
WIDER, EXACT = "wider", "exact"  # in which form results come, beside ANY
AS_V = "v"  # the output's dtype: that of v
Own = tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]  # fields of operations, as pairs, which hash
OUTSIDE = "outside the promises: "  # where a reason is given why a case is not run


def _words(*values: Any) -> Any:
    """Make a field that lists some of these values; all of them if nothing is said."""
    return field(default=values, metadata={"axis": Words(values)})


def _whole(least: int, most: int) -> Any:
    """Make a field of whole numbers within limits."""
    return field(default=Span(least, most), metadata={"axis": Whole(least, most)})


def _either() -> Any:
    """Make a field that lists which of false and true is taken."""
    return _words(False, True)


def _may() -> Any:
    """Make a field that says whether something may occur."""
    return field(default=True, metadata={"axis": Flag()})


def _says(*words: str, default: str) -> Any:
    """Make a field that says something of results. Promises that differ in it alone take the same cases, and
    are equal."""
    return field(default=default, compare=False, metadata={"says": Word(words)})


@dataclass(frozen=True, repr=False)
class Promises(Record):
    """What a target supports. The default of each field is all that cases ever have.

    Most fields list the values that are taken, as a tuple; numbers may be a `Span` instead. A field counts
    where a case has something to say about it: `cu_dtype` where there are cu_seqlens, `boundary` in extend.

    Dtypes: `dtype` of q, k, v and o, `state_dtype` of states, `gate_dtype` of g and beta or a and b; the two
    may name "q", the dtype of q. `mixed_qkv`, k and v of another dtype than q; `mixed_beta`, beta or b
    than g or a; `A_log` and `dt_bias` list the dtypes of these, beside raw gates, for dt_bias also
    "q", "gate" (the dtype of a) and "none" (it is not passed).

    Sizes: `K` and `V`, and `square`, whether K == V; `H`, `HV` and `ratio`, HV // H; `chunk_size`.

    Tokens: `batch` names the forms of a batch: "packed" with cu_seqlens, "dense" without, "batched" ([B, T,
    ...] with cu_seqlens, in decode and verify). `length` is the number of tokens of a sequence that has any;
    `empty`, whether sequences without tokens may occur; `tail`, padding tokens after the last sequence.

    Memory: `cu_dtype` and `index_dtype`; `view`, how q, k, v, a and b lie; `pitch`, elements between slots;
    `strides`, in which other ways single arguments may differ from compact ones (`cases.lay`); `alignment`,
    in bytes, of the first element of arguments. "compact" and 256 are always taken.

    Slots: `padding`, whether index -1 may occur; `shared`, a slot named twice where no state is written;
    `slot_zero`, slot 0 as a live one; `unkept`, a live sequence without a row in verify's buffer;
    `spare_steps`, a buffer of more steps than the longest draft.

    Options: `l2norm`; `scale`, "default" (None) or "given"; `initial_state`, whether one is passed;
    `inplace`, `final`, `boundary`, `batch_invariant`; `raw_gates` and `raw_beta` (extend, recurrent);
    `neg_eigval`, a raw beta there that means 2 sigmoid(b); `no_beta`, none passed (recurrent, update);
    `bounded`, whether raw kda gates have a `lower_bound`, and which; `softplus`, one of other numbers than 1
    and 20 (decode, verify); `steps`, whether update keeps the state after each step; `tree`, trees where
    steps are kept.

    States: `step_update`, whether the pool is updated beside a buffer of steps; `step_rows`, whether rows of
    it are "given" or those of "slots"; `cache_steps`, whether all of the "buffer"'s steps are asked for, as
    many as the "longest" draft has, or "none" named; `token_slots`, whether steps go to slots of the pool, in
    place of a buffer; `output`, whether the output is wanted (update); `indices`, whether slots are passed,
    and `initial_flags`, whether flags say which sequences have an initial state (extend); `track`, whether
    the state before a chunk is copied out (kda.extend).

    Company: `company`, whether other calls may come before a case's own in the same process; each lies inside
    the promises itself.

    `execution`: "eager", a plain call, which all take; "graph", "graph_stale", "graph_poisoned", replayed
    from a CUDA graph; "stream", on a side stream; "device", on a GPU that is not the current one. See the
    module of that name.

    Results: `tail_output`, what the output rows of `tail` hold: "zero", or "any", which nobody looks at.
    `output_dtype`, whether the output has the dtype of "q" or of "v". `result_form`, in which form a new
    tensor is returned: "exact", in the contract's dtype, boundary states as [B, chunks, ...], and nothing
    that was not asked for; "wider", in that dtype or one that holds all its numbers, and boundary states of
    all sequences in a row too; "any", in any dtype, else as "wider".

    `operations` holds, by name of an operation, fields that are otherwise there.

    Raises ValueError that names the field, what was expected and what came.
    """

    dtype: tuple[str, ...] = _words(*DTYPES)
    state_dtype: tuple[str, ...] = _words(*DTYPES, AS_Q)
    gate_dtype: tuple[str, ...] = _words(*DTYPES, AS_Q)
    K: Numbers = _whole(1, MAX_DIM)
    V: Numbers = _whole(1, MAX_DIM)
    square: tuple[bool, ...] = _either()
    H: Numbers = _whole(1, MOST_HEADS)
    HV: Numbers = _whole(1, MOST_HEADS)
    ratio: Numbers = _whole(1, MOST_HEADS)
    chunk_size: tuple[int, ...] = _words(*CHUNK_SIZES)
    batch: tuple[str, ...] = _words(*BATCHES)
    length: Numbers = _whole(1, ENDLESS)
    empty: bool = _may()
    tail: Numbers = _whole(0, ENDLESS)
    cu_dtype: tuple[str, ...] = _words("int32", "int64")
    index_dtype: tuple[str, ...] = _words("int32", "int64")
    view: tuple[str, ...] = _words(*VIEWS)
    pitch: Numbers = _whole(0, ENDLESS)
    strides: tuple[str, ...] = _words("compact", *STRIDES)
    alignment: tuple[int, ...] = _words(*ALIGNMENTS, 256)
    padding: bool = _may()
    shared: bool = _may()
    slot_zero: bool = _may()
    unkept: bool = _may()
    spare_steps: bool = _may()
    l2norm: tuple[bool, ...] = _either()
    scale: tuple[str, ...] = _words("default", "given")
    initial_state: tuple[bool, ...] = _either()
    inplace: tuple[bool, ...] = _either()
    final: tuple[bool, ...] = _either()
    boundary: tuple[bool, ...] = _either()
    batch_invariant: tuple[bool, ...] = _either()
    raw_gates: tuple[bool, ...] = _either()
    bounded: tuple[bool, ...] = _either()
    lower_bound: Span | tuple[float, ...] = field(
        default=Span(-math.inf, 0.0), metadata={"axis": Floats(-math.inf, 0.0)}
    )
    steps: tuple[bool, ...] = _either()
    tree: tuple[bool, ...] = _either()
    mixed_qkv: bool = _may()
    mixed_beta: bool = _may()
    A_log: tuple[str, ...] = _words(*DTYPES)
    dt_bias: tuple[str, ...] = _words(*DTYPES, AS_Q, AS_GATE, "none")
    raw_beta: tuple[bool, ...] = _either()
    neg_eigval: bool = _may()
    no_beta: bool = _may()
    softplus: bool = _may()
    step_update: tuple[bool, ...] = _either()
    step_rows: tuple[str, ...] = _words(*STEP_ROWS)
    cache_steps: tuple[str, ...] = _words(*CACHE_STEPS)
    token_slots: tuple[bool, ...] = _either()
    output: tuple[bool, ...] = _words(True, False)
    indices: tuple[bool, ...] = _words(True, False)
    initial_flags: tuple[bool, ...] = _either()
    track: tuple[bool, ...] = _either()
    company: bool = _may()
    execution: tuple[str, ...] = _words(*EXECUTIONS)
    tail_output: str = _says(ANY, ZERO, default=ANY)
    output_dtype: str = _says(AS_Q, AS_V, default=AS_Q)
    result_form: str = _says(ANY, WIDER, EXACT, default=WIDER)
    operations: Mapping[str, Mapping[str, Any]] | Own = ()

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            object.__setattr__(self, name, kind.read(name, getattr(self, name)))
        object.__setattr__(self, "operations", _read_operations(self.operations))
        for op, _ in self._own():
            try:
                self._with_own(op)
            except ValueError as error:
                raise ValueError(f"operations[{op!r}]: {error}") from None

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Promises:
        """Read the TOML form, in which a sub-table named after an operation holds its own fields.

        Raises ValueError.
        """
        require(isinstance(table, Mapping), f"promises: expected a table, got {table!r:.80}")
        own = {name: value for name, value in table.items() if name in OPERATIONS}
        rest = {name: value for name, value in table.items() if name not in OPERATIONS}
        _known(rest)
        return cls(**rest, operations=own)

    def of(self, op: str) -> Promises:
        """Return what is promised of one operation.

        Raises ValueError if nothing is left of it, which names the fields that do not go together.
        """
        return _of(self, op, tuple(getattr(self, name) for name in SAID))

    def without_limits(self) -> Promises:
        """Return promises that take every case, and say the same of results."""
        own = {op: {name: value for name, value in table if name in SAID} for op, table in self._own()}
        return Promises(**{name: getattr(self, name) for name in SAID}, operations=own)

    def narrowed(self, fields: Mapping[str, Mapping[str, Any]]) -> Promises:
        """Return promises that take no more than these fields of operations, by name, leave of each axis.

        Where they leave nothing of it, it stays as it is.
        """
        tables = {op: dict(table) for op, table in self._own()}
        for op, limits in fields.items():
            own, table = self._with_own(op), tables.setdefault(op, {})
            for name, left in limits.items():
                promised = getattr(own, name)
                if isinstance(left, tuple):
                    left = tuple(value for value in left if _AXIS[name].takes(promised, value)) or promised
                table[name] = left
        return replace(self, operations=tables)

    def _own(self) -> Own:
        assert isinstance(self.operations, tuple)  # since it was read
        return self.operations

    def _with_own(self, op: str) -> Promises:
        """Return these promises with an operation's own fields put in."""
        own = dict(self._own()).get(op, ())
        return replace(self, **dict(own), operations=())

    def broken_by(self, case: Case) -> str | None:
        """Say in words what a case asks beyond the promises, or return None."""
        for name, promised, value in self.breaches(case):
            return f"{name}: {_AXIS[name].words(promised)} promised, {promise_axes.shown(value)} asked"
        return None

    def breaches(self, case: Case) -> Iterator[tuple[str, Any, Any]]:
        """List (axis, what is promised, what the case asks) where a case, or a call before it, asks more."""
        own = self.of(case.op)
        if own == EVERYTHING:
            return
        for one in (case, *(made for _, made in company.calls(case))):
            for name, value in promise_axes.asked(one):
                promised = getattr(own, name)
                if not self.takes(name, value, one, promised):
                    yield name, promised, value

    def takes(self, name: str, value: Any, case: Case, promised: Any = None) -> bool:
        """Tell whether a value of an axis is promised, in a case of these dtypes. promised: None for mine."""
        promised = getattr(self, name) if promised is None else promised
        if name in DTYPE_AXES and value == case.dtype and AS_Q in promised:
            return True
        as_gate = name == "dt_bias" and value == case.gates.dtype and AS_GATE in promised
        return as_gate or bool(_AXIS[name].takes(promised, value))

    @functools.cached_property
    def heads(self) -> tuple[tuple[int, int], ...]:
        """List the pairs (H, HV) that are allowed, fewest value heads first."""
        found = [
            (H, HV)
            for H in range(1, MOST_HEADS + 1)
            if spans.holds(self.H, H)
            for HV in range(H, MOST_HEADS + 1, H)
            if spans.holds(self.HV, HV) and spans.holds(self.ratio, HV // H)
        ]
        return tuple(sorted(found, key=lambda pair: (pair[1], pair[0])))

    def takes_gates(self, dtype: str, gate_dtype: str) -> bool:
        """Tell whether gates may have a dtype beside that of q."""
        return gate_dtype in self.gate_dtype or (dtype == gate_dtype and AS_Q in self.gate_dtype)

    def takes_state(self, dtype: str, state_dtype: str) -> bool:
        """Tell whether states may have a dtype beside that of q."""
        return state_dtype in self.state_dtype or (dtype == state_dtype and AS_Q in self.state_dtype)

    def dtypes(self) -> tuple[str, ...]:
        """List the dtypes of q for which gates and states have one."""
        return tuple(
            dtype
            for dtype in self.dtype
            if any(self.takes_gates(dtype, one) for one in ("float32", dtype))
            and any(self.takes_state(dtype, one) for one in DTYPES)
        )


AXES = tuple(spec for spec in fields(Promises) if "axis" in spec.metadata)
_AXIS = {spec.name: spec.metadata["axis"] for spec in AXES}
SAID = {spec.name: spec.metadata["says"] for spec in fields(Promises) if "says" in spec.metadata}
_KINDS = _AXIS | SAID


def _known(names: Mapping[str, Any]) -> None:
    """Check that all of these are fields. Raises ValueError."""
    unknown = [name for name in names if name not in _KINDS]
    require(not unknown, f"promises: unknown field {unknown[:1]!r:.60}; known: {', '.join(_KINDS)}")


def _read_operations(given: Any) -> Own:
    """Check an operation's own fields, and return them as pairs. Raises ValueError."""
    try:
        tables = {op: dict(table) for op, table in dict(given).items()}
    except (TypeError, ValueError):
        raise ValueError(f"operations: expected a table for each operation, got {given!r:.80}") from None
    for op, table in tables.items():
        require(op in OPERATIONS, f"operations: expected names of {', '.join(OPERATIONS)}, got {op!r:.40}")
        try:
            _known(table)
            tables[op] = {name: _KINDS[name].read(name, value) for name, value in table.items()}
        except ValueError as error:
            raise ValueError(f"operations[{op!r}]: {error}") from None
    return tuple((op, tuple(table.items())) for op, table in tables.items())


@functools.lru_cache(maxsize=1024)
def _of(promises: Promises, op: str, said: tuple[str, ...]) -> Promises:
    # What is said of results is no part of equality, by which the cache goes.
    own = promises._with_own(op) if promises.operations else promises
    _check_left(own, OPERATIONS[op])
    return own


def _check_left(own: Promises, operation: Operation) -> None:
    """Check that a case of the operation is left. Raises ValueError that names the fields that exclude it."""
    op = operation.name
    require("eager" in own.execution, f'{op}: execution must allow "eager", which comes before all others')
    require(bool(own.dtypes()), f"{op}: no dtype is left by dtype, gate_dtype and state_dtype")
    require(_dims_left(own), f"{op}: no K and V are left by K, V and square")
    require(bool(own.heads), f"{op}: no heads are left by H, HV and ratio")
    if operation.single_token:
        require(spans.holds(own.length, 1), f"{op}: length must allow 1, the only one that it has")
        return
    forms = BATCHES if operation.is_sigmoid_gating else BATCHES[:2]
    require(
        not set(forms).isdisjoint(own.batch),
        f"{op}: batch must name one of {', '.join(forms)}, got {own.batch}",
    )
    if own.tree == (True,) and (operation.drafts or (operation.kind == "update" and True in own.steps)):
        least = spans.nearest(own.length, 1)
        require(least <= MOST_TREE, f"{op}: length must allow {MOST_TREE} or less where only trees are taken")
    state_options.check_left(own, operation)


def _dims_left(own: Promises) -> bool:
    """Tell whether there are K and V, equal or not as is allowed."""
    K, V = ({n for n in range(1, MAX_DIM + 1) if spans.holds(numbers, n)} for numbers in (own.K, own.V))
    return (True in own.square and bool(K & V)) or (False in own.square and (len(K | V) > 1))


EVERYTHING = Promises()
