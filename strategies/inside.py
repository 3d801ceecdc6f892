"""Narrows what is drawn to what a target promises, so that no case is drawn and thrown away.

Where all is promised, all is drawn as it was. Where an axis is narrower, the usual values that are left keep
their weights, and what else is promised is added. Values that depend on each other are put right after they
are drawn, never drawn again.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from diffgdn.cases import spans
from diffgdn.cases.lay import ALIGNMENTS
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.promise_axes import MOST_TREE
from diffgdn.cases.promises import EVERYTHING, Promises
from diffgdn.cases.size_limits import MOST_REACH
from diffgdn.cases.spans import Span
from diffgdn.strategies import state_builds

FAR_OFFSET = 2**31  # elements; from here on an offset no longer fits 32 bits
EVEN = 64  # elements: a slot pitch that is a multiple of it keeps every slot aligned
MOST_STATE = 1 << 22  # elements of a state: 64 heads of 256 by 256
PITCHES = (0, 0, 0, EVEN, 4 * EVEN)
MOST_HEADS = {"interpret": 12, "gpu": 64}  # value heads of a span of them, unless it begins above
MOST_DIM = 256
DEEPEST_BOUND = -20.0

# Choices of a build, and the axes of promises that list what is left of them.
AXES = {
    "l2norm": "l2norm",
    "view": "view",
    "batch_invariant": "batch_invariant",
    "bounded": "bounded",
    "chunk_size": "chunk_size",
    "boundary": "boundary",
    "raw": "raw_gates",
    "index_dtype": "index_dtype",
    "cu_dtype": "cu_dtype",
    "given": "initial_state",
    "final": "final",
    "inplace": "inplace",
    "steps": "steps",
    "tree": "tree",
}


def _plain_dim(n: int) -> tuple[int, ...]:
    """Order dimensions: 16 first, then the smallest."""
    return n != 16, n


def narrowed(op: str, table: dict[str, tuple[Any, ...]], own: Promises) -> dict[str, tuple[Any, ...]]:
    """Return what each choice of a build is drawn from, within the promises of its operation."""
    if own == EVERYTHING:
        return table
    left = dict(table)
    for name, axis in AXES.items():
        if name in table:
            left[name] = tuple(value for value in table[name] if value in getattr(own, axis))
    left["dtype"] = tuple(value for value in table["dtype"] if value in own.dtypes())
    left["state_dtype"] = tuple(
        state
        for state in table["state_dtype"]
        if any(own.takes_state(dtype, state) for dtype in own.dtypes())
    )
    for name in "KV":
        left[name] = spans.choices(getattr(own, name), table[name], MOST_DIM, _plain_dim)
    both = tuple(n for n in range(1, MOST_DIM + 1) if spans.holds(own.K, n) and spans.holds(own.V, n))
    square = own.square if both else (False,)
    left["square"] = tuple(value for value in table["square"] if value in square)
    left["side"] = spans.choices(both, table["K"], MOST_DIM, _plain_dim) if both else (0,)
    if "packed" in table:
        packed = "packed" in own.batch or ("batched" in own.batch and _can_be_batched(op))
        allowed = {True: packed, False: "dense" in own.batch}
        left["packed"] = tuple(value for value in table["packed"] if allowed[value])
        allowed = {True: spans.holds(own.length, 1), False: spans.any_from(own.length, 2)}
        left["one"] = tuple(value for value in table["one"] if allowed[value])
    if "lay" in table:
        left["lay"] = tuple(word for word in table["lay"] if takes_lay(own, word))
    if "odd_pitch" in table:
        left["odd_pitch"] = tuple(odd for odd in table["odd_pitch"] if pitches(own, odd))
    if "tree" in table and spans.nearest(own.length, 1) > MOST_TREE:
        left["tree"] = (False,)
    return left


def fitted(picks: dict[str, Any], own: Promises) -> dict[str, Any]:
    """Return the choices of a build with those put right that depend on each other."""
    if own == EVERYTHING:
        return picks
    picks = dict(picks)
    side, dtype = picks.pop("side"), picks["dtype"]
    if picks["square"]:
        largest = max(picks["K"], picks["V"])
        fits = spans.holds(own.K, largest) and spans.holds(own.V, largest)
        picks["K"] = picks["V"] = largest if fits else side
    elif picks["K"] == picks["V"] and True not in own.square:
        picks["K"], picks["V"] = _unequal(picks["K"], own)
    picks["square"] = False
    if not own.takes_gates(dtype, dtype if picks["own_gates"] else "float32"):
        picks["own_gates"] = not picks["own_gates"]
    if not own.takes_state(dtype, picks["state_dtype"]):
        allowed = [one for one in ("float32", "bfloat16", "float16") if own.takes_state(dtype, one)]
        picks["state_dtype"] = allowed[0]
    return picks


def _unequal(dim: int, own: Promises) -> tuple[int, int]:
    """Return K and V of which one is `dim` and the other is not."""
    dims = sorted(range(1, MOST_DIM + 1), key=_plain_dim)
    V = next((n for n in dims if n != dim and spans.holds(own.V, n)), None)
    return (dim, V) if V is not None else (next(n for n in dims if n != dim and spans.holds(own.K, n)), dim)


def _can_be_batched(op: str) -> bool:
    return OPERATIONS[op].is_sigmoid_gating


@lru_cache(maxsize=256)
def pitches(own: Promises, odd: bool) -> tuple[int, ...]:
    """Return what the elements between slots are drawn from; odd: what leaves slots unaligned."""
    habits = tuple(pitch + odd for pitch in PITCHES)
    found = spans.choices(own.pitch, habits, 4 * EVEN + 1)
    return tuple(pitch for pitch in found if (pitch % EVEN > 0) == odd)


def most_slots(pitch: int) -> int:
    """Count the slots that fit into the reach of a pool: few where all that is promised is a large pitch."""
    return MOST_REACH // (pitch + MOST_STATE)


def takes_far(own: Promises, odd: bool) -> bool:
    """Tell whether slots may lie so far apart that the second or the third is past 2**31 elements."""
    return all(spans.holds(own.pitch, FAR_OFFSET // last + odd) for last in (1, 2))


def takes_lay(own: Promises, word: str) -> bool:
    """Tell whether a build's lay is promised: "even", "odd" or "rows"."""
    if word == "rows":
        return "gapped states" in own.strides and "gapped buffers" in own.strides
    return word == "even" or ALIGNMENTS[0] in own.alignment


@lru_cache(maxsize=256)
def tails(own: Promises, grain: int) -> tuple[int, ...]:
    """Return what the number of padding tokens after the last sequence is drawn from."""
    return spans.choices(own.tail, (0, 0, 0, 1, 3, grain, 2 * grain + 1), 2 * grain + 1)


def any_heads(own: Promises) -> bool:
    """Tell whether all heads are promised."""
    return (own.H, own.HV, own.ratio) == (EVERYTHING.H, EVERYTHING.HV, EVERYTHING.ratio)


@lru_cache(maxsize=256)
def heads(
    own: Promises, backend: str, habits: tuple[tuple[int, int], ...], most: int
) -> tuple[tuple[int, int], ...]:
    """Return what H and HV are drawn from together, simplest first.

    habits: pairs that are drawn where all is promised. most: value heads, where there are pairs of so few.
    """
    allowed = [pair for pair in own.heads if pair[1] <= most] or list(own.heads[:1])
    cheap = [pair for pair in allowed if pair[1] <= MOST_HEADS[backend]]
    if not any(isinstance(numbers, Span) for numbers in (own.H, own.HV)) or len(allowed) <= spans.SHORT:
        others = allowed
    else:
        others = [cheap[0], cheap[-1]] if cheap else allowed[:1]
    for numbers, place in ((own.H, 0), (own.HV, 1)):  # of what is listed, each has its simplest pair
        if isinstance(numbers, tuple):
            others = [*others, *(pair for n in numbers for pair in [p for p in allowed if p[place] == n][:1])]
    kept = [pair for pair in habits if pair in set(allowed)]
    return (*sorted({*kept, *others}, key=lambda pair: (pair[1], pair[0])), *kept)


def bounds(own: Promises, habits: tuple[float, ...]) -> tuple[float, ...]:
    """Return what the lower bound of a kda gate is drawn from."""
    promised = own.lower_bound
    if isinstance(promised, tuple):
        return (*(bound for bound in habits if bound in promised), *promised)
    assert promised.least is not None
    assert promised.most is not None
    kept = tuple(bound for bound in habits if promised.least <= bound <= promised.most)
    if len(kept) == len(habits):
        return kept
    ends = tuple(end for end in (promised.least, promised.most) if DEEPEST_BOUND <= end < 0.0)
    return (*kept, *ends) or (2 * promised.most if promised.least < 2 * promised.most else promised.least,)


def scales(own: Promises, habits: tuple[float | None, ...]) -> tuple[float | None, ...]:
    """Return what the factor of q is drawn from; None is the default."""
    return tuple(scale for scale in habits if ("default" if scale is None else "given") in own.scale)


def length(wanted: int, own: Promises, low: int = 1) -> int:
    """Return an allowed number of tokens, near `wanted` and `low` at least; none stays none where allowed."""
    if wanted == 0 and low <= 1 and own.empty:
        return 0
    return spans.nearest(own.length, wanted, low)


def takes_build(op: str, build: Any, names: tuple[str, ...], own: Promises) -> bool:
    """Tell whether all that a build fixes is promised. names: the choices that there are in the operation."""
    kind = OPERATIONS[op].kind
    idle = {"cu_dtype"} if not build.packed else set()
    idle |= {"inplace"} if build.steps or not build.given else set()
    idle |= {"bounded"} if op == "kda.extend" and not build.raw else set()
    idle |= {"tree"} if kind == "update" and not build.steps else set()
    fixed = all(
        getattr(build, name) in getattr(own, axis)
        for name, axis in AXES.items()
        if name in names and name not in idle
    )
    dims = spans.holds(own.K, build.K) and spans.holds(own.V, build.V) and (build.K == build.V) in own.square
    dtypes = (
        build.dtype in own.dtype
        and own.takes_gates(build.dtype, build.gate_dtype)
        and own.takes_state(build.dtype, build.state_dtype)
    )
    states = state_builds.takes(build.states, own)
    return fixed and dims and dtypes and states and _takes_layout(op, build, names, own)


def _takes_layout(op: str, build: Any, names: tuple[str, ...], own: Promises) -> bool:
    """Tell whether the form of a build's batch, its lengths and its pool are promised."""
    if not takes_lay(own, build.lay):
        return False
    if "odd_pitch" in names and build.given and not pitches(own, build.odd_pitch):
        return False
    if "packed" not in names:
        return True
    if build.packed:
        return "packed" in own.batch or ("batched" in own.batch and _can_be_batched(op))
    return "dense" in own.batch and (
        spans.holds(own.length, 1) if build.one else spans.any_from(own.length, 2)
    )
