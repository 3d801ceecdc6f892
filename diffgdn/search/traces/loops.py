"""Draws the sizes of a serving loop, and how it makes its calls, inside what a target promises.

Operations of a target may promise different things, and a loop has one size for all of its calls. So one
operation leads: the loop takes what it promises, and calls the others that promise the same as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from hypothesis import strategies as st

from diffgdn.cases import spans
from diffgdn.cases.case_checks import DTYPES, MAX_DIM, VIEWS
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.promises import Promises
from diffgdn.cases.trace import MOST_PITCH, MOST_SLOTS, Trace
from diffgdn.cases.trace_form import BATCHED, INDEX_DTYPES, Form
from diffgdn.strategies import inside

PITCHES = (0, 16, 5)
DRAFTS = (2, 3, 4)
BOUNDS = (-5.0, -1.0)
ORDERS = ("ascending", "ascending", "ascending", "descending", "shuffled")  # of programs, in the interpreter
MOVES = (False, False, True)  # whether a loop keeps and moves states, as drawn: the others keep their share
USUAL = 5  # times that the usual value of a form is drawn for once another

Options = dict[str, tuple[Any, ...]]  # by name, what is drawn from; the simplest first


@dataclass(frozen=True)
class Served:
    """A loop without steps, and what it may do.

    own: the promises of each kind of operation that it may call. moves: whether it takes snapshots, moves
    states and verifies drafts again.
    """

    loop: Trace
    own: dict[str, Promises]
    moves: bool


def loops(family: str, kinds: Iterable[str], backend: str, promises: Promises) -> st.SearchStrategy[Served]:
    """Draw loops that call operations of a family, of those kinds; no loop if none can be served.

    On a GPU, whatever kernels are compiled for is the same in all that the same operation leads.
    """
    kinds = tuple(kinds)
    groups = {group(family, lead, kinds, backend, promises): lead for lead in kinds}
    return st.one_of([_loops(family, members, backend, promises) for members in groups if members])


@lru_cache(maxsize=256)
def group(
    family: str, lead: str, kinds: tuple[str, ...], backend: str, promises: Promises
) -> tuple[str, ...]:
    """List the kinds of operations that one loop can call, beginning with `lead`; none if not even that."""
    members: tuple[str, ...] = ()
    for kind in (lead, *(kind for kind in kinds if kind != lead)):
        if all(options(family, (*members, kind), backend, promises).values()):
            members = (*members, kind)
        elif kind == lead:
            return ()
    return tuple(kind for kind in kinds if kind in members)


def _loops(
    family: str, members: tuple[str, ...], backend: str, promises: Promises
) -> st.SearchStrategy[Served]:
    """Draw loops that call these operations, which promise what they have in common."""
    own = {kind: promises.of(f"{family}.{kind}") for kind in members}
    drawn = {name: st.sampled_from(few) for name, few in options(family, members, backend, promises).items()}

    def made(picks: dict[str, Any], moves: bool, slots: int, **sizes: Any) -> Served:
        dtype, gate_dtype, state = picks.pop("dtypes")
        form = Form(gate_dtype=gate_dtype, **{name: picks.pop(name) for name in FORM})
        (H, HV), (K, V) = picks.pop("heads"), picks.pop("dims")
        loop = Trace(
            family,
            slots=form.reserved + slots + 2 * moves,
            H=H,
            HV=HV,
            K=K,
            V=V,
            dtype=dtype,
            state=state,
            form=form,
            **picks,
            **sizes,
        )
        return Served(loop, own, moves)

    return st.builds(
        made,
        st.fixed_dictionaries(drawn),
        moves=st.sampled_from(MOVES),
        slots=st.integers(2, 4),
        rows=st.integers(2, 3),
        gate=st.sampled_from(("zero", "model", "mixed", "uniform")),
        beta=st.sampled_from(("half", "uniform", "one")),
        seed=st.integers(0, 999),
        order=st.sampled_from(ORDERS) if backend != "gpu" else st.just(ORDERS[0]),
        reuse=st.booleans(),
        graphs=st.booleans() if backend == "gpu" else st.just(False),
    )


FORM = (
    "index_dtype",
    "cu_dtype",
    "view",
    "batch",
    "scale",
    "lower_bound",
    "raw",
    "batch_invariant",
    "final",
    "boundary",
    "reserved",
)


@lru_cache(maxsize=1024)
def options(family: str, kinds: tuple[str, ...], backend: str, promises: Promises) -> Options:
    """List what each choice of a loop is drawn from, if it calls operations of all these kinds.

    A choice of which nothing is left is empty: then no loop calls all of them.
    """
    ops = [f"{family}.{kind}" for kind in kinds]
    own = {op: promises.of(op) for op in ops}
    common = _Common(list(own.values()))
    small = backend != "gpu"
    found = _sizes(common, small) | _forms(own, family)
    if not _takes_the_rest(own):
        found["served"] = ()
    return found if small else {name: few[:1] for name, few in found.items()}


class _Common:
    """What several promises have in common."""

    def __init__(self, owns: list[Promises]) -> None:
        self.owns = owns

    def few(self, axis: str, habits: Iterable[Any]) -> tuple[Any, ...]:
        """Keep of these values those that all list."""
        return tuple(value for value in habits if all(value in getattr(own, axis) for own in self.owns))

    def numbers(self, axis: str, habits: tuple[int, ...], least: int, most: int) -> tuple[int, ...]:
        """Keep of these numbers those that all take; where not all are left, two others as well."""
        kept = tuple(n for n in habits if self.takes(axis, n))
        if len(kept) == len(habits):
            return kept
        others = [n for n in range(least, most + 1) if self.takes(axis, n) and n not in kept]
        return kept + tuple(others[:2])

    def takes(self, axis: str, n: int) -> bool:
        """Tell whether all take a number."""
        return all(spans.holds(getattr(own, axis), n) for own in self.owns)


def _sizes(common: _Common, small: bool) -> Options:
    """List dtypes and sizes."""
    owns = common.owns
    kinds = ("float32", "bfloat16", "float16") if small else ("bfloat16",)
    states = kinds if small else ("float32",)
    triples = [
        (dtype, gate, state)
        for dtype in (*kinds, *(one for one in DTYPES if one not in kinds))
        for gate in dict.fromkeys(("float32", dtype))
        for state in (*states, *(one for one in DTYPES if one not in states))
        if all(
            dtype in own.dtype and own.takes_gates(dtype, gate) and own.takes_state(dtype, state)
            for own in owns
        )
    ]
    return {
        "dtypes": _usual(triples, lambda triple: triple[1] == "float32") if small else tuple(triples),
        "dims": _dims(common, small),
        "heads": _heads(common),
        "pitch": common.numbers("pitch", PITCHES, 0, MOST_PITCH),
        "l2norm": common.few("l2norm", (False, True) if small else (True, False)),
    }


def _dims(common: _Common, small: bool) -> tuple[tuple[int, int], ...]:
    """List pairs of K and V."""
    habits = ((1, 4, 8, 5), (1, 4, 8, 3)) if small else ((64,), (64,))
    Ks, Vs = (common.numbers(axis, few, 1, MAX_DIM) for axis, few in zip("KV", habits, strict=True))
    every = [n for n in range(1, MAX_DIM + 1) if common.takes("K", n) and common.takes("V", n)]
    for pairs in ([(K, V) for K in Ks for V in Vs], [(n, n) for n in every]):
        left = tuple(pair for pair in pairs if all((pair[0] == pair[1]) in own.square for own in common.owns))
        if left:
            return left
    return ()


def _heads(common: _Common) -> tuple[tuple[int, int], ...]:
    """List pairs of H and HV."""
    habits = ((1, 1), (1, 2))
    allowed = set.intersection(*(set(own.heads) for own in common.owns))
    kept = tuple(pair for pair in habits if pair in allowed)
    if len(kept) == len(habits):
        return kept
    return (*kept, *sorted(allowed - set(kept), key=lambda pair: (pair[1], pair[0]))[:2])


def _usual(values: Iterable[Any], usual: Callable[[Any], bool]) -> tuple[Any, ...]:
    """List values, the usual ones more often."""
    return tuple(value for value in values for _ in range(USUAL if usual(value) else 1))


def _forms(own: dict[str, Promises], family: str) -> Options:
    """List how calls are made."""

    def few(axis: str, values: Iterable[Any], *kinds: str) -> tuple[Any, ...]:
        asked = [one for op, one in own.items() if not kinds or OPERATIONS[op].kind in kinds]
        left = _Common(asked).few(axis, values)
        return _usual(left, lambda value: value == next(iter(values)))

    several = ("extend", "update", "decode", "verify")  # those of several tokens
    batched = few("batch", ("batched",), *BATCHED) and few("batch", ("packed",), "extend", "update")
    chunks = few("chunk_size", (64, 16), "extend") or few("chunk_size", (32,), "extend")
    raw = few("raw_gates", (False, True), "extend") if family == "kda" else (False,)
    return {
        "chunk_size": tuple(dict.fromkeys(chunks)),
        "draft": _drafts(own),
        "index_dtype": few("index_dtype", INDEX_DTYPES),
        "cu_dtype": few("cu_dtype", INDEX_DTYPES, *several),
        "view": few("view", VIEWS),
        "batch": few("batch", ("packed", "dense"), *several) + (("batched",) if batched else ()),
        "scale": tuple(None if word == "default" else 0.5 for word in few("scale", ("default", "given"))),
        "lower_bound": _bounds(own, family, True in raw[:1]),
        "raw": raw[:1],
        "batch_invariant": few("batch_invariant", (False, True))[:1],
        "final": few("final", (True, False), "extend")[:1],
        "boundary": few("boundary", (False, True), "extend")[:1],
        "reserved": (0,) if all(one.slot_zero for one in own.values()) else (1,),
    }


def _drafts(own: dict[str, Promises]) -> tuple[int, ...]:
    """List lengths of the longest draft."""
    asked = [one for op, one in own.items() if OPERATIONS[op].kind == "verify"]
    least = max((spans.nearest(one.length, 1) for one in asked), default=1)
    kept = tuple(n for n in DRAFTS if all(spans.holds(one.length, n) for one in asked))
    return kept or ((least,) if least <= MOST_SLOTS else ())


def _bounds(own: dict[str, Promises], family: str, raw: bool) -> tuple[float | None, ...]:
    """List lower bounds of raw kda gates."""
    asked = [one for op, one in own.items() if OPERATIONS[op].raw_gates or (raw and op == "kda.extend")]
    if family != "kda" or all(False in one.bounded for one in asked):
        return (None,)
    if not all(True in one.bounded for one in asked):
        return ()
    habits = [bound for one in asked for bound in inside.bounds(one, BOUNDS)]
    taken = [bound for bound in habits if all(_takes_bound(one, bound) for one in asked)]
    return tuple(dict.fromkeys(taken))


def _takes_bound(own: Promises, bound: float) -> bool:
    promised = own.lower_bound
    if isinstance(promised, tuple):
        return bound in promised
    assert promised.least is not None
    assert promised.most is not None
    return promised.least <= bound <= promised.most


def _takes_the_rest(own: dict[str, Promises]) -> bool:
    """Tell whether what every loop does is promised: states are read and written in place, and no tokens are
    padding."""
    for op, one in own.items():
        kind = OPERATIONS[op].kind
        if kind in ("extend", "update", "decode") and True not in one.inplace:
            return False
        if kind == "extend" and True not in one.initial_state:
            return False
        if kind == "update" and False not in one.steps:
            return False
        if kind != "packed_decode" and not spans.holds(one.tail, 0):
            return False
    return True
