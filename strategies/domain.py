"""Lists what cases can reach: the values of every axis, and which of two axes occur together.

All is derived from what cases are drawn from: the choices of builds or a menu, the laws, the promises. Only
what no table says, `apart` declares.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from diffgdn.cases import axis_values as axes
from diffgdn.cases.axis_values import NONE, usual
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.promises import EVERYTHING, Promises
from diffgdn.cases.trace_steps import ACTS, CALLS
from diffgdn.strategies import apart, domain_options, generate, inside, laws, sizes
from diffgdn.strategies.batch_layout import MANY
from diffgdn.strategies.menu import Build, Menu, options, promised

# Of each case exactly one: what none of their words goes with, no case has.
ALWAYS = ("batch", "initial_state", "steps", "raw_gates", "dtype", "l2norm", "gate_law", "sequences")
# Choices of a build that an axis has as they are.
FLAGS = {
    "l2norm": "l2norm",
    "view": "view",
    "batch_invariant": "batch_invariant",
    "chunk_size": "chunk_size",
    "boundary": "boundary",
    "raw_gates": "raw",
    "index_dtype": "index_dtype",
    "initial_state": "given",
    "final": "final",
    "inplace": "inplace",
    "steps": "steps",
    "cu_dtype": "cu_dtype",
}
Pairs = dict[str, frozenset[str]]


@dataclass(frozen=True)
class Domain:
    """What cases can reach.

    values: every value that a case can have, axis by axis. partners: for each of them, the values of other
    axes that it is wanted together with. plain: likewise, what only cases have that prove little. declared:
    values on axes that promises have and of which no more is known.
    """

    values: tuple[str, ...]
    partners: Pairs
    plain: Pairs
    declared: tuple[str, ...] = ()

    @property
    def axes(self) -> tuple[str, ...]:
        """List the axes of which something is known."""
        return tuple(dict.fromkeys(axes.axis(value) for value in self.values))

    def pairs(self) -> Iterator[tuple[str, str]]:
        """List the pairs that are wanted, each once, the value that comes first in the alphabet first."""
        for one in self.values:
            yield from ((one, other) for other in sorted(self.partners[one]) if one < other)

    def holds(self, one: str, other: str) -> bool:
        """Tell whether a case can have both values; also where nothing is known of an axis of theirs."""
        first, second = axes.axis(one), axes.axis(other)
        if first == second or not {first, second} <= self._known:
            return True
        return other in self.partners.get(one, ()) or other in self.plain.get(one, ())

    @functools.cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.axes)


@dataclass(frozen=True)
class Part:
    """What cases of one build, or of any, can have: words by axis, and axes whose numbers hang together.

    together: for each group of such axes, what cases can have on all of them at once.
    """

    words: Mapping[str, set[str]]
    together: tuple[set[tuple[str, ...]], ...]


def domain(
    operations: Iterable[str],
    *,
    backend: str = "interpret",
    menu: Menu | None = None,
    configs: Mapping[str, int] | None = None,
    promises: Promises = EVERYTHING,
) -> Domain:
    """Return what `strategies.cases` can reach over these operations; the arguments are those of `cases`.

    configs: by operation.
    """
    operations = tuple(operations)
    found: dict[str, set[str]] = defaultdict(set)
    parts = []
    for op in operations:
        own = promised(promises, op)
        for picks in _picks(op, backend, menu, own):
            parts.append(_part(op, backend, picks, own, (configs or {}).get(op, 1), menu is None))
    every = sorted({f"{axis}={word}" for part in parts for axis, some in part.words.items() for word in some})
    never, plain = apart.table(apart.APART, every), apart.table((*apart.PLAIN, *apart.SELDOM), every)
    for part in parts:
        _add(found, part, never)
    order = {axis: n for n, axis in enumerate(_axis_order(parts))}
    values = tuple(sorted(found, key=lambda value: (order[axes.axis(value)], value)))
    return Domain(
        values,
        {value: frozenset(found[value] - plain[value]) for value in values},
        {value: frozenset(found[value] & plain[value]) for value in values},
        tuple(_declared({*order}, backend, {op: promised(promises, op) for op in operations})),
    )


def of_traces(operations: Iterable[str]) -> Domain:
    """Return what traces can reach that call these operations: their steps. Which of them can follow which is
    not listed.
    """
    kinds = {op.partition(".")[2] for op in operations}
    acts = [
        act for act in ACTS if act in kinds or (act not in CALLS and (act != "commit" or "verify" in kinds))
    ]
    values = tuple(f"step={act}" for act in acts)
    return Domain(values, dict.fromkeys(values, frozenset()), dict.fromkeys(values, frozenset()))


def _declared(known: set[str], backend: str, promises: Mapping[str, Promises]) -> Iterator[str]:
    """List what cases of any operation can have on axes of which no more is known. promises: of each."""
    found: dict[str, set[str]] = {}
    for op, own in promises.items():
        for axis, some in domain_options.words(op, backend, own).items():
            found.setdefault(axis, set()).update(some)
        if backend == "gpu":
            found.setdefault("execution", set()).update(own.execution)
    for axis, some in found.items():
        if axis not in known:
            yield from sorted(f"{axis}={word}" for word in some)


def _axis_order(parts: list[Part]) -> list[str]:
    return list(dict.fromkeys(axis for part in parts for axis in part.words))


def _add(found: dict[str, set[str]], part: Part, never: dict[str, set[str]]) -> None:
    """Add the values of a part, and of each the values that it occurs with."""
    words = {axis: {f"{axis}={word}" for word in some} for axis, some in part.words.items()}
    while True:  # a value that nothing on some axis goes with, no case has; then neither what hangs on it
        alone = [
            (axis, value)
            for axis, some in words.items()
            for value in some
            if any(words.get(other) and words[other] <= never[value] for other in ALWAYS if other != axis)
        ]
        if not alone:
            break
        for axis, value in alone:
            words[axis].discard(value)
    grouped: dict[str, tuple[set[str], set[str]]] = {}  # value: the axes of its groups, what it has there
    for group in part.together:
        for row in group:
            for value in row:
                others, mates = grouped.setdefault(value, (set(), set()))
                others.update(map(axes.axis, row))
                mates.update(row)
    for axis, some in words.items():
        for value in some:
            others, mates = grouped.get(value, (set(), set()))
            for other, more in words.items():
                if other != axis:
                    left = more & mates if other in others else more
                    found[value] |= left - never[value]
            found.setdefault(value, set())


def _picks(op: str, backend: str, menu: Menu | None, own: Promises) -> Iterator[dict[str, Any]]:
    """List what builds are made of: the choices of any, or of each on the menu.

    `dims` holds the pairs (K, V), `dtypes` those of q, gates and states, `like` builds for their room.
    """
    if menu is None:
        table = {name: set(values) for name, values in options(op, backend, own).items()}
        likes = {Build(), Build(crowded="crowded" in table)}
        table |= {"dims": set(_dims(table, own)), "dtypes": set(_dtypes(table, own)), "like": likes}
        yield table | _records(op, None, own)
        return
    names = tuple(options(op, backend))
    for build in menu.entries(op):
        if inside.takes_build(op, build, names, own):
            picks = {name: {getattr(build, name)} for name in names if hasattr(build, name)}
            dtypes = {(build.dtype, build.gate_dtype, build.state_dtype)}
            picks |= {"dims": {(build.K, build.V)}, "dtypes": dtypes, "like": {build}}
            picks |= {} if build.config is None else {"config": {build.config}}
            yield picks | _records(op, build, own)


def _records(op: str, build: Build | None, own: Promises) -> dict[str, set[bool]]:
    """List choices that operands and options of states change; build: None for any."""
    operation = OPERATIONS[op]
    picks: dict[str, set[bool]] = {}
    if operation.kind in apart.EITHER_FORM:
        picks["raw"] = {*own.raw_gates} if build is None else {build.raw}
        if operation.is_kda:
            picks["bounded"] = {*own.bounded} if build is None else {build.bounded}
    if "token_slots" in getattr(build, "states", ()):
        picks["tree"] = {False}
    return picks


def _dims(table: Mapping[str, Any], own: Promises) -> Iterator[tuple[int, int]]:
    dtypes = {"dtype": own.dtypes()[0], "own_gates": False, "state_dtype": "float32"}
    for K, V, square in product(table["K"], table["V"], table["square"]):
        for side in table.get("side", (0,)):
            picks = inside.fitted({**dtypes, "K": K, "V": V, "square": square, "side": side}, own)
            yield (max(picks["K"], picks["V"]),) * 2 if picks["square"] else (picks["K"], picks["V"])
            if not square:
                break


def _dtypes(table: Mapping[str, Any], own: Promises) -> Iterator[tuple[str, str, str]]:
    for dtype, same, state in product(table["dtype"], table["own_gates"], table["state_dtype"]):
        picks = {"dtype": dtype, "own_gates": same, "state_dtype": state}
        if own != EVERYTHING:
            picks = inside.fitted({**picks, "K": 1, "V": 2, "square": False, "side": 0}, own)
        yield dtype, dtype if picks["own_gates"] else "float32", picks["state_dtype"]


def _part(op: str, backend: str, picks: Mapping[str, Any], own: Promises, configs: int, listed: bool) -> Part:
    """Return what cases of these builds can have. listed: also on the axes of `domain_options`."""
    operation = OPERATIONS[op]
    dims = {(f"K={axes.dim(K)}", f"V={axes.dim(V)}", f"square={usual(K == V)}") for K, V in picks["dims"]}
    dtypes = {(f"dtype={q}", f"gate_dtype={g}", f"state_dtype={s}") for q, g, s in picks["dtypes"]}
    rooms = set(_rooms(op, backend, picks, own))
    together: tuple[set[tuple[str, ...]], ...] = ({*dims}, {*dtypes}, rooms)
    words: dict[str, set[str]] = {"operation": {op}}
    for value in sorted({value for group in together for row in group for value in row}):
        words.setdefault(axes.axis(value), set()).add(axes.word(value))
    for axis, name in FLAGS.items():
        if name in picks:
            words[axis] = {str(v) if axis == "chunk_size" else usual(v) for v in picks[name]}
    words |= _batch(op, picks, own) | _pool(op, picks, own) | _laws(op, picks, own)
    words["gate_law"] |= {laws.AT_THRESHOLD} if _meets_threshold(op, backend, picks, own, listed) else set()
    words["order"] = set(generate.ORDERS) if backend == "interpret" else {"ascending"}
    words["config"] = {str(n) for n in picks.get("config", range(configs))}
    if operation.is_chunked:
        words["chunk_size"] = words.get("chunk_size", {"64"})
    if backend == "interpret" and listed:
        words |= domain_options.words(op, backend, own)
    return Part({axis: some for axis, some in words.items() if some}, together)


def _meets_threshold(op: str, backend: str, picks: Mapping[str, Any], own: Promises, listed: bool) -> bool:
    """Tell whether a threshold of softplus may be other than the usual one, so that gates lie at it."""
    if listed:
        return usual(True) in domain_options.words(op, backend, own).get("softplus", ())
    return any(not build.operands.plain_softplus for build in picks["like"])


def _rooms(op: str, backend: str, picks: Mapping[str, Any], own: Promises) -> Iterator[tuple[str, ...]]:
    """List heads, number of sequences and length of one that fit together, in words."""
    operation = OPERATIONS[op]
    chunk = sorted(picks.get("chunk_size", {64}))[0]
    found: dict[int, set[tuple[str, ...]]] = {}  # by the longest sequence that there is room for
    for like in picks["like"]:
        build = replace(like, chunk_size=chunk)
        for (H, HV), roomy, long in product(
            generate.possible_heads(operation, backend, like, own), (False, True), (False, True)
        ):
            heads = (f"H={axes.count(H)}", f"HV={axes.count(HV)}", f"ratio={axes.count(HV // H)}")
            room = sizes.room(op, backend, build, HV, roomy, long and own == EVERYTHING)
            batches = {axes.batch_size(n) for n in range(1, room.sequences + 1)}
            if operation.is_chunked and own == EVERYTHING:
                batches |= {axes.batch_size(many + 1) for many in MANY}
            if room.longest not in found:
                lens = _lengths(room.longest, picks, own)
                found[room.longest] = {value for n in lens for value in _length(op, n, chunk)}
            lengths = found[room.longest]
            yield from (
                (*heads, f"sequences={some}", *length) for some in batches for length in lengths or {()}
            )


def _length(op: str, n: int, chunk: int) -> Iterator[tuple[str, ...]]:
    """Say how long a sequence of n tokens is."""
    operation = OPERATIONS[op]
    if operation.is_chunked:
        yield (f"chunks={axes.chunks(n, chunk)}",)
    elif not operation.single_token:
        yield (f"length={axes.length(n)}",)


def _lengths(longest: int, picks: Mapping[str, Any], own: Promises) -> set[int]:
    """Return the lengths that sequences may have in a batch with this room."""
    found = set()
    packed, one = picks.get("packed", {True}), picks.get("one", {False})
    for n in range(longest + 1):
        if True in packed:
            found.add(inside.length(n, own))
        if False in packed:
            found.update(1 if alone else inside.length(max(2, n), own, 2) for alone in one)
    return found


def _batch(op: str, picks: Mapping[str, Any], own: Promises) -> dict[str, set[str]]:
    """Return how tokens can lie in a batch."""
    operation = OPERATIONS[op]
    if operation.single_token:
        return {}
    words: dict[str, set[str]] = {"batch": set(), "tail": set()}
    if False in picks["packed"]:
        words["batch"].add("dense")
    if True in picks["packed"]:
        batched = operation.is_sigmoid_gating and "batched" in own.batch
        words["batch"] |= {"packed"} & set(own.batch) | ({"batched"} if batched else set())
        grains = picks.get("chunk_size", {1})
        words["tail"] = {axes.tail(n) for grain in grains for n in inside.tails(own, grain)}
    if operation.is_chunked:
        lengths = _lengths(2 * max(picks["chunk_size"]), picks, own)
        whole = any(n > 0 and n % chunk == 0 for n in lengths for chunk in picks["chunk_size"])
        part = any(n % chunk for n in lengths for chunk in picks["chunk_size"])
        words["behind"] = {
            *(["whole chunks"] if whole else []),
            *(["a part"] if part else []),
            *(["an empty one"] if 0 in lengths else []),
        }
    return words


def _pool(op: str, picks: Mapping[str, Any], own: Promises) -> dict[str, set[str]]:
    """Return how states can lie in a pool and in a buffer."""
    operation = OPERATIONS[op]
    words: dict[str, set[str]] = {}
    if operation.has_pool:
        far = any(inside.takes_far(own, odd) for odd in picks["odd_pitch"])
        words["pitch"] = {axes.pitch(n) for odd in picks["odd_pitch"] for n in inside.pitches(own, odd)}
        words["pitch"] |= {"far"} if far else set()
        words["padding"] = {NONE, "some", "all"} if own.padding else {NONE}
        may = own.shared and op not in ("gdn.packed_decode", "kda.packed_decode")
        keeps = operation.keeps_steps or True in picks.get("steps", {False})
        may = may and not operation.commits
        shared = may and (keeps or False in picks.get("inplace", {True}))
        words["shared"] = {"no", "yes"} if shared else {"no"}
        words["slot_zero"] = {"no", "yes"} if own.slot_zero else {"no"}
    if operation.drafts or True in picks.get("steps", {False}):
        words["unkept"] = {"no", "yes"} if own.unkept else {"no"}
        words["spare_steps"] = {"no", "yes"} if own.spare_steps else {"no"}
        trees = {True: {"chain", "branching"}, False: {NONE}}
        words["tree"] = set().union(*(trees[tree] for tree in picks["tree"]))
    return words


def _laws(op: str, picks: Mapping[str, Any], own: Promises) -> dict[str, set[str]]:
    """Return how tensors can be drawn."""
    operation = OPERATIONS[op]
    raw = {True} if operation.raw_gates else set(picks.get("raw", {False}))
    words = {
        "scale": {axes.scale(one) for one in inside.scales(own, laws.SCALES)},
        "value_law": {*laws.VALUES, "exact"},
        "state_law": {"law", "zero"},
        "v_exponent": {"below 0", "0", "above 0"},
        "q_exponent": {"below 0", "0", "above 0"},
        "gate_law": set(laws.GATES),
        "beta_law": set(laws.BETAS if False in raw else laws.BETAS_RAW),
        "strength": {axes.strength(size) for size in laws.STRENGTHS},
        "jump": {"first token", "later token"},
        "edits": {NONE, "q", "k", "v", *(["g"] if False in raw else [])},
    }
    if operation.single_token:
        words["jump"] = {"first token"}
    elif operation.is_chunked:
        words["jump"] |= {"chunk's edge"}
    if operation.is_kda and True in raw:
        bounded = picks.get("bounded", {False})
        words["lower_bound"] = {NONE} if False in bounded else set()
        if True in bounded:
            words["lower_bound"] |= {axes.lower_bound(one) for one in inside.bounds(own, laws.BOUNDS)}
    return words
