"""The plain case of an operation, as a plan of a few plain values from which a case is built.

A feature changes values of a plan; all that hangs on them (slots, rows of a buffer, trees, the dtypes that go
together) is put right when the case is built. So a case differs from a plain one in that feature alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.operand_options import EITHER_FORM, USUAL, Operands
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.promises import EVERYTHING, Promises
from diffgdn.probe.argument_lays import aligned, in_form
from diffgdn.strategies import state_draws

LENS = {  # tokens that two sequences usually have: a few, in extend more and less than a chunk
    "extend": (70, 5),
    "recurrent": (4, 3),
    "update": (4, 3),
    "decode": (1, 1),
    "packed_decode": (1, 1),
    "verify": (4, 4),
    "verify_commit": (4, 4),
}
CHUNK = 64
# How tensors are drawn: nothing is special, and every wrong result differs from the right one. One of the
# two runs programs in another order, which means nothing to a correct kernel.
VARIANTS = (
    (Values(law="normal", seed=1), Gates(law="uniform", strength=0.25, beta="uniform"), "ascending"),
    (Values(law="uniform", seed=2), Gates(law="model", beta="uniform"), "shuffled"),
)


@dataclass(frozen=True)
class Plan:
    """What a case is built from; the defaults are what models and servers usually ask.

    Fields that a case has mean the same here. raw: gates are given raw where the operation takes either form;
    beta: as `Operands.beta`; bound: of a kda gate. given: an initial state is passed. steps: update keeps the
    state after each step, spare: steps of the buffer beyond the longest draft. padded: sequences with index
    -1; shared: all name one slot; first: the lowest slot that is named; unkept: the last sequence has no row
    of the buffer. states: options of `state_options.COMPILED`. form: of strides ("gapped tokens"); offset:
    bytes past 256 at which every argument starts.
    """

    op: str
    lens: tuple[int, ...]
    H: int = 2
    HV: int = 2
    K: int = 64
    V: int = 64
    dtype: str = "bfloat16"
    gate_dtype: str = "float32"
    state_dtype: str = "float32"
    packed: bool = True
    batched: bool = False
    tail: int = 0
    cu_dtype: str = "int32"
    index_dtype: str = "int32"
    view: str = "contiguous"
    l2norm: bool = True
    scale: float | None = None
    chunk_size: int = CHUNK
    inplace: bool = True
    boundary: bool = False
    final: bool = True
    batch_invariant: bool = False
    raw: bool = False
    bound: float | None = None
    given: bool = True
    steps: bool = False
    spare: int = 0
    tree: bool = False
    pitch: int = 0
    padded: tuple[int, ...] = ()
    shared: bool = False
    first: int = 1
    unkept: bool = False
    step_rows: str = "given"
    cache_steps: str = "buffer"
    states: tuple[str, ...] = ()
    k: str = USUAL.k
    v: str = USUAL.v
    beta: str = USUAL.beta
    beta_dtype: str = USUAL.beta_dtype
    neg_eigval: bool = False
    dt_bias: str = "float32"
    A_log: str = "float32"
    softplus: tuple[float, float] = (USUAL.softplus_beta, USUAL.softplus_threshold)
    form: str = ""
    offset: int = 0
    before: tuple[str, ...] = ()
    execution: str = "eager"

    def case(self, variant: int = 0) -> Case:
        """Build a case. variant: of VARIANTS. Raises ValueError where the operation has no such case."""
        operation = OPERATIONS[self.op]
        if (operation.single_token or operation.commits) and not self.inplace:
            raise ValueError(f"{self.op} always writes its states")
        values, gates, order = VARIANTS[variant]
        same = self.gate_dtype == "float32"
        raw = self.raw and operation.kind in EITHER_FORM
        gates = replace(
            gates,
            dtype="float32" if same else self.dtype,
            lower_bound=self.bound,
            raw=raw,
        )
        case = Case(
            op=self.op,
            lens=self.lens,
            H=self.H,
            HV=self.HV,
            K=self.K,
            V=self.V,
            dtype=self.dtype,
            pool=self._pool(),
            gates=gates,
            values=values if self.given else replace(values, state="none"),
            packed=self.packed,
            batched=self.batched,
            tail=self.tail,
            cu_dtype=self.cu_dtype,
            index_dtype=self.index_dtype,
            view=self.view,
            l2norm=self.l2norm,
            scale=self.scale,
            chunk_size=self.chunk_size,
            inplace=self.inplace,
            boundary=self.boundary,
            final=self.final,
            batch_invariant=self.batch_invariant,
            parents=tuple(map(_tree, self.lens)) if self.tree else (),
            operands=self._operands(raw or operation.raw_gates),
            order=order,
        )
        case = state_draws.applied(case, self.states, _middle, self._own())
        if case.has_buffer:
            case = state_draws.with_words(case, self.step_rows, self.cache_steps)
        elif self.cache_steps != "buffer" or self.step_rows != "given":
            raise ValueError("no buffer of steps")
        if self.form:
            case = replace(case, lay=in_form(case, self.form))
        if self.offset:
            case = replace(case, lay=aligned(case, self.offset))
        return replace(case, before=self.before, execution=self.execution)

    def _own(self) -> Promises:
        return replace(EVERYTHING, slot_zero=self.first == 0)

    def _pool(self) -> Pool:
        """Slots in no order, the first left alone; rows of the buffer likewise."""
        operation, count = OPERATIONS[self.op], len(self.lens)
        if not operation.has_pool:
            return Pool(indices=(), dtype=self.state_dtype)
        live = self.given
        slots = [self.first + 2 * (count - 1 - n) for n in range(count)]
        if self.shared:
            slots = [self.first] * count
        indices = tuple(-1 if n in self.padded or not live else slot for n, slot in enumerate(slots))
        pool = Pool(max(1, *slots) + 2, indices, self.pitch, self.state_dtype)
        if not (operation.drafts or self.steps):
            return pool
        rows = [-1 if index < 0 else count - n for n, index in enumerate(indices)]
        if self.unkept:
            rows[-1] = -1
        return replace(pool, steps=max(1, *self.lens) + self.spare, buffer=count + 1, rows=tuple(rows))

    def _operands(self, raw: bool) -> Operands:
        return Operands(
            k=self.k,
            v=self.v,
            beta=self.beta,
            beta_dtype=self.beta_dtype,
            neg_eigval=self.neg_eigval,
            dt_bias=self.dt_bias if raw else USUAL.dt_bias,
            A_log=self.A_log if raw else USUAL.A_log,
            softplus_beta=self.softplus[0],
            softplus_threshold=self.softplus[1],
        )


def _middle(low: int, high: int) -> int:
    """Choose a number of an option of states: neither none nor all."""
    return (low + high) // 2


def _tree(length: int) -> tuple[int, ...]:
    """Make a tree in which two tokens follow the first one, and later ones the one two before."""
    return tuple(-1 if step == 0 else max(0, step - 2) for step in range(length))


def usual(op: str) -> Plan:
    """Return the plan of an operation's plainest case."""
    return Plan(op, LENS[OPERATIONS[op].kind])
