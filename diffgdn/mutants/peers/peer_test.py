"""A test of another project as data: shapes, how tensors are drawn, when it fails. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

PEERS = ("FLA", "SGLang")
CHUNK = 64  # tokens of a chunk, where a test does not say

# What a result is compared with. PLAIN: the recurrence, in float64. OUTSIDE: the same call with its gates and
# beta activated before it. RECURRENT: the same tokens through the fused recurrent kernel. COMPACT: the same
# call with a and b in tensors of their own. LAYOUT: the same call with states laid out [K, V]. DECODE: the
# unpacked decode of the same tokens. NOTHING: what a criterion says of a result alone.
PLAIN, OUTSIDE, RECURRENT, COMPACT, LAYOUT, DECODE, NOTHING = (
    "plain", "outside", "recurrent", "compact", "layout", "decode", "nothing"
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Where a test is from: a file of a public repository at a revision.

    copies: whether each call in it gets tensors of its own, so that one that writes over its arguments is not
    told by another.
    """

    peer: str
    repository: str
    revision: str
    file: str
    copies: bool = False


@dataclass(frozen=True)
class Draw:
    """How a tensor is drawn: `law` times `times` plus `plus`, then an activation, `over` a divisor.

    law: rand (uniform on 0 to 1), randn (standard normal), zeros, or rate (the logarithm of a uniform number
    from 1 to 16, as of A_log). then: "", sigmoid or logsigmoid. dtype: None for the test's.
    """

    law: str
    times: float = 1.0
    plus: float = 0.0
    then: str = ""
    over: float = 1.0
    dtype: str | None = None


RAND, RANDN, ZEROS = Draw("rand"), Draw("randn"), Draw("zeros", dtype="float32")


@dataclass(frozen=True)
class Gate:
    """How a test makes its log decay, or with A_log the raw gate that a kernel makes one from.

    zeros: the share of entries that are set to 0; deep: the share that is set to -1000. clamp: whether
    entries are held within -5 to 0. rate, bias: of A_log and dt_bias. lower_bound: of the bounded gate.
    outside: the test activates it, rounds it to its dtype, and hands over that.
    """

    draw: Draw
    zeros: float = 0.0
    deep: float = 0.0
    clamp: bool = False
    rate: Draw | None = None
    bias: Draw | None = None
    lower_bound: float | None = None
    outside: bool = False


@dataclass(frozen=True)
class Slots:
    """A pool of states: count of slots, in `dtype`.

    order: shuffled, ascending, or the slots themselves, -1 for padding. others: what a slot that is not named
    holds, None for what the states hold.
    """

    count: int
    order: str | tuple[int, ...] = "ascending"
    others: float | None = None


@dataclass(frozen=True)
class Ratio:
    """Root mean square of the difference over that of what is expected: below `most`, no NaN.

    Differences of at most `least` are let through.
    """

    most: float
    least: float = 1e-6


@dataclass(frozen=True)
class Close:
    """Each element within atol + rtol times what is expected."""

    atol: float
    rtol: float


@dataclass(frozen=True)
class Below:
    """The largest and the mean difference below these, all elements finite."""

    largest: float
    mean: float


@dataclass(frozen=True)
class Finite:
    """No element is infinite or NaN."""


Criterion = Ratio | Close | Below | Finite
SAME = Close(0.0, 0.0)


@dataclass(frozen=True)
class PeerTest:
    """One test with one set of parameters.

    name: of the function, and what tells its sets apart. operation: that the kernels here call what it
    calls. lens: tokens of each sequence; packed: given as cu_seqlens, else as a batch. dtype: of q, k and v,
    and of what is drawn without one. unit: which of q and k are divided by their norms before the call
    ("", "k", "qk"); l2norm: or by the kernel. state: the initial one. raw_beta: beta is drawn before its
    sigmoid, which the kernel takes; doubled: and doubles. split: whether a and b are views of one tensor.
    spare: steps of verify's buffer past those in use. criteria: of each result that is compared (o; state,
    of each sequence; others, slots that no sequence names; pool, all of it, as it was before; steps).
    against: see above.
    """

    name: str
    operation: str
    lens: tuple[int, ...]
    H: int
    HV: int
    K: int
    V: int
    dtype: str
    gate: Gate
    beta: Draw
    criteria: dict[str, Criterion]
    packed: bool = False
    q: Draw = RAND
    k: Draw = RAND
    v: Draw = RAND
    unit: str = ""
    l2norm: bool = False
    state: Draw = ZEROS
    slots: Slots | None = None
    scale: float | None = None
    chunk_size: int = CHUNK
    raw_beta: bool = False
    doubled: bool = False
    split: bool = False
    spare: int = 0
    against: str = PLAIN
    source: Source = field(default=Source("", "", "", ""), compare=False)

    @property
    def operations(self) -> tuple[str, ...]:
        """The operations that it calls, in the names used here."""
        family = self.operation.partition(".")[0]
        return (
            self.operation,
            *([f"{family}.{self.against}"] if self.against in (RECURRENT, DECODE) else []),
        )


MOST_HEADS = 2  # of q and k, as many value heads to each as there were
MOST_CHUNKS = 3  # the first, one in the middle, the last
MOST_TOKENS = 32  # of a sequence that is not cut into chunks
MOST_ALIKE = {True: 4, False: 2}  # sequences of one length, where that is one token, or more
TABLE = 64  # sequences that a chunk table is made for at a time: of more, two more are kept
MOST_SLOTS = 16


def reduced(test: PeerTest) -> PeerTest:
    """Return a test cut down for the interpreter, which takes a thousand times longer than a GPU.

    What decides is kept: dtypes, K and V, how many value heads there are to a head, the rest of a sequence
    behind its last full chunk, up to three chunks, more than one head and sequence where there were, padding.
    """
    ratio, H = test.HV // test.H, min(test.H, MOST_HEADS)
    chunk = test.chunk_size if test.operation.endswith(".extend") else None
    lens = test.lens
    if len(set(lens)) == 1:
        past_the_table = chunk is not None and len(lens) > TABLE
        lens = lens[: TABLE + 2 if past_the_table else MOST_ALIKE[lens[0] == 1]]
    lens = tuple(_shorter(length, chunk) for length in lens)
    slots = test.slots
    if slots is not None:
        order = slots.order if isinstance(slots.order, str) else slots.order[: len(lens)]
        spare = min(slots.count - len(test.lens), MOST_SLOTS)
        slots = replace(slots, count=max(len(lens) + spare, *_named(order)), order=order)
    return replace(test, H=H, HV=H * ratio, lens=lens, slots=slots)


def _named(order: str | tuple[int, ...]) -> tuple[int, ...]:
    """How many slots an order needs at least, twice."""
    return (0, 0) if isinstance(order, str) else (0, 1 + max(order))


def _shorter(length: int, chunk: int | None) -> int:
    """Cut a sequence to three chunks with the same rest, or to 32 tokens."""
    if chunk is None:
        return min(length, MOST_TOKENS)
    chunks = -(-length // chunk)
    return length - max(0, chunks - MOST_CHUNKS) * chunk


def without(test: PeerTest, stages: str) -> PeerTest | None:
    """Return what is left of a test for kernels of which some are as they were: "extend", "recurrent" or "".

    The recurrence stands in for a kernel that is right, which a test compares another one with. None for a
    test of right kernels alone.
    """
    extend = test.operation.endswith(".extend")
    if stages == "recurrent" and extend and test.against == RECURRENT:
        return replace(test, against=PLAIN)
    if stages == "extend" and extend and test.against == RECURRENT:  # which is called for each sequence alone
        operation = test.operation.replace("extend", "recurrent")
        one = replace(test, lens=test.lens[:1], packed=False, slots=None, chunk_size=CHUNK)
        return replace(one, operation=operation, against=PLAIN)
    right = (
        ("extend",) if stages == "extend" else ("recurrent", "update", "decode", "verify", "packed_decode")
    )
    return None if stages and test.operation.partition(".")[2] in right else test


def for_backend(tests: tuple[PeerTest, ...], backend: str, right: str = "") -> list[PeerTest]:
    """Return the tests as a backend runs them: all of them on a GPU, in the interpreter cut down, each once.

    right: the kernels that are as they were, see `without`; in the interpreter they are not run.
    """
    if backend == "gpu":
        return list(tests)
    found: list[PeerTest] = []
    for whole in tests:
        left = without(whole, right)
        test = None if left is None else reduced(left)
        if test is not None and not any(replace(test, name=other.name) == other for other in found):
            found.append(test)
    return found
