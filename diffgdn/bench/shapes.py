"""List the shapes that are timed: K = V = 128, bf16 inputs, fp32 gates and state, as published models are
served.

The heads are those of Qwen3-Next-80B (16/32), Qwen3.5 (16/64), Kimi-Linear-48B (32/32) and Kimi K3 (96/96),
and what tensor parallelism leaves of them on a GPU (2/8, 4/16, 2/4; 12/12, 6/6, 4/4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from diffgdn.bench import floors
from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.operand_options import Operands

PREFILL = ((1, 2048), (1, 8192), (1, 32768), (8, 1024), (64, 128))
ALONE = ((1, 2048), (1, 8192), (1, 32768), (1, 65536))
BATCHES = (1, 8, 64, 256)
LARGEST_BATCH = 512
DRAFT_TOKENS = 4
MORE_DRAFT_TOKENS = 8
USUAL_HEADS = {"gdn": (16, 32), "kda": (32, 32)}
MANY_HEADS = {"gdn": (16, 64), "kda": (96, 96)}
SHARDS = {"gdn": ((2, 8), (4, 16)), "kda": ((12, 12), (6, 6))}
DECODE_HEADS = {"gdn": ((2, 4), (32, 96)), "kda": ((4, 4), (96, 96))}
STEP_KINDS = ("decode", "packed_decode", "verify")
SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
STACK_LAYERS, STACK_HIDDEN = 36, 2048  # layers with a state, and hidden size, of Qwen3-Next-80B-A3B
STACK_PREFILL = ((1, 2048), (1, 8192))
LOWER_BOUND = -5.0  # of raw gates, as Kimi K3 has it

Sizes = Sequence[tuple[int, int]]  # sequences, tokens of each


@dataclass(frozen=True)
class Shape:
    """Hold one timed call.

    Attributes:
        label: sequences x tokens.
    """

    op: str
    label: str
    case: Case

    @property
    def heads(self) -> str:
        """The query and value heads, H/HV."""
        return f"{self.case.H}/{self.case.HV}"

    @property
    def variant(self) -> str:
        """What differs from fp32 states and given gates, in a word or two; "" if nothing does."""
        state = SHORT[self.case.pool.dtype]
        words = ["raw"] * (self.case.gates.raw) + [state] * (state != "fp32")
        return " ".join(words)

    @property
    def name(self) -> str:
        """The row's name, which no other has: operation, label, heads and variant."""
        return " ".join(filter(None, (self.op, self.label, self.heads, self.variant)))

    @property
    def moved(self) -> int:
        """Bytes that a call must move."""
        return floors.moved_bytes(self.case)

    @property
    def formed(self) -> int:
        """FLOPs of the products that a call must form."""
        return floors.flops(self.case)


@dataclass(frozen=True)
class StackShape(Shape):
    """Hold one timed step of a whole stack of layers (`bench.stack`).

    Attributes:
        op: "stack.decode" or "stack.extend"; case: of each layer's operation.
    """

    layers: int = STACK_LAYERS
    hidden: int = STACK_HIDDEN

    @property
    def weights(self) -> int:
        """Numbers in the projections of a layer: of q, k, v and z, of a and b, and back."""
        case = self.case
        out = 2 * case.H * case.K + 2 * case.HV * case.V + 2 * case.HV
        return self.hidden * (out + case.HV * case.V)

    @property
    def moved(self) -> int:
        """Bytes of weights and states; what passes between kernels may stay in the cache."""
        each = self.weights * floors.BYTES[self.case.dtype] + floors.state_bytes(self.case)
        return self.layers * each

    @property
    def formed(self) -> int:
        """FLOPs of the projections, two for each weight and token, and of the operations."""
        return self.layers * (2 * self.weights * self.case.total + floors.flops(self.case))


def _pool(case_op: str, sequences: int, length: int, state: str) -> Pool:
    """Make a pool with a slot for each sequence, and for verify a buffer with a row for each."""
    order, verify = tuple(range(sequences)), case_op.endswith("verify")
    if not verify:
        return Pool(slots=sequences, indices=order, dtype=state)
    return Pool(sequences, order, dtype=state, steps=length, buffer=sequences, rows=order)


def _shape(
    op: str,
    sequences: int,
    length: int,
    heads: tuple[int, int],
    state: str = "float32",
    raw: bool = False,
    dim: int = 128,
) -> Shape:
    """Make a shape. raw: kda.extend gets raw gates and beta in bf16 and
    a lower bound, as FlashKDA takes them. dim: K and V."""
    gates = Gates(law="model", beta="uniform")
    if raw:
        gates = Gates(law="model", beta="uniform", dtype="bfloat16", lower_bound=LOWER_BOUND, raw=True)
    case = Case(
        op=op,
        lens=(length,) * sequences,
        H=heads[0],
        HV=heads[1],
        K=dim,
        V=dim,
        dtype="bfloat16",
        pool=_pool(op, sequences, length, state),
        gates=gates,
        values=Values(law="normal", seed=1),
        l2norm=True,
        final=False,
        operands=Operands(dt_bias="float32") if raw else Operands(),
    )
    return Shape(op, f"{sequences}x{length}", case)


def _short(op: str) -> Iterator[Shape]:
    """List the rows of the page of measurements: the usual heads."""
    family, kind = op.split(".")
    if kind == "extend":
        yield from (_shape(op, *size, USUAL_HEADS[family]) for size in PREFILL)
    elif kind in STEP_KINDS:
        length = DRAFT_TOKENS if kind == "verify" else 1
        yield from (_shape(op, n, length, USUAL_HEADS[family]) for n in BATCHES)


def _full(op: str) -> Iterator[Shape]:
    """List the short rows, other heads and their shards, and other dtypes of the state."""
    yield from _short(op)
    family, kind = op.split(".")
    usual = USUAL_HEADS[family]
    if kind == "extend":
        yield _shape(op, 1, 65536, usual)
        yield from (_shape(op, *size, MANY_HEADS[family]) for size in PREFILL)
        yield from (_shape(op, *size, heads) for heads in SHARDS[family] for size in ALONE)
        if family == "kda":
            yield from (_shape(op, *size, usual, raw=True) for size in PREFILL)
    elif kind in STEP_KINDS:
        length = DRAFT_TOKENS if kind == "verify" else 1
        if kind == "verify":
            yield _shape(op, 64, MORE_DRAFT_TOKENS, usual)
        else:
            yield _shape(op, LARGEST_BATCH, 1, usual)
            for state in ("bfloat16", "float16"):
                yield from (_shape(op, n, length, usual, state) for n in (1, 64, 256))
        yield from (_shape(op, n, length, heads) for heads in DECODE_HEADS[family] for n in (1, 64))


def _tiny(op: str) -> Iterator[Shape]:
    """List what the interpreter can do in a moment: to try the command, no measure of anything."""
    family, kind = op.split(".")
    heads = (1, 2) if family == "gdn" else (2, 2)
    length = {"extend": 70, "verify": 3}.get(kind, 1)
    if kind in ("extend", *STEP_KINDS):
        yield _shape(op, 2, length, heads, dim=16)


SETS: dict[str, Callable[[str], Iterator[Shape]]] = {"short": _short, "full": _full, "tiny": _tiny}


def shapes(op: str, chosen: str = "short") -> list[Shape]:
    """List the timed shapes of an operation in a set of SETS; none for recurrent and update."""
    return list(SETS[chosen](op))


def stacks(tiny: bool = False) -> list[StackShape]:
    """List the steps of a stack that are timed: decode of BATCHES, and prefill. tiny: for the interpreter."""
    if tiny:
        small = [shape for kind in ("decode", "extend") for shape in _tiny(f"gdn.{kind}")]
        return [_stack(shape, layers=2, hidden=32) for shape in small]
    heads = USUAL_HEADS["gdn"]
    decode = [_shape("gdn.decode", n, 1, heads) for n in BATCHES]
    prefill = [_shape("gdn.extend", *size, heads) for size in STACK_PREFILL]
    return [_stack(shape) for shape in (*decode, *prefill)]


def _stack(shape: Shape, **sizes: int) -> StackShape:
    return StackShape(shape.op.replace("gdn", "stack"), shape.label, shape.case, **sizes)
