"""Sequences of a case: their lengths, the slots where their states live, and verify's trees.

Everything about one sequence is one element of one drawn list, so that Hypothesis can delete a sequence
whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeVar

from hypothesis import strategies as st

from diffgdn.case import Pool
from diffgdn.operations import Operation
from diffgdn.strategies.menu import Build
from diffgdn.strategies.sizes import Room

FAR_OFFSET = 2**31  # elements; from here on an offset no longer fits 32 bits
EVEN = 64  # elements: a slot pitch that is a multiple of it keeps every slot aligned


T = TypeVar("T")


@lru_cache(maxsize=4096, typed=True)  # typed: 0 and False are different draws
def among(*values: T) -> st.SearchStrategy[T]:
    """One of these values, the first being the simplest.

    Kept, because making a strategy costs more than drawing from it.
    """
    return st.sampled_from(values)


@lru_cache(maxsize=4096)
def whole(low: int, high: int) -> st.SearchStrategy[int]:
    """A whole number from low to high."""
    return st.integers(low, high)


def rarely(one_in: int) -> st.SearchStrategy[bool]:
    """True once in so many."""
    return among(*[False] * (one_in - 1), True)


# How a drawn number of tokens becomes a length. Each takes a number down to a nearby length of interest,
# never up: what fails at a length of interest still fails at the number itself, and shrinks from there one
# token at a time.
def _as_is(n: int, grain: int) -> int:
    return n


def _multiple(n: int, grain: int) -> int:
    return n - n % grain if n >= grain else n


def _one_more(n: int, grain: int) -> int:
    return (n - 1) // grain * grain + 1 if n > 0 else 0


def _one_less(n: int, grain: int) -> int:
    return (n + 1) // grain * grain - 1 if n + 1 >= grain else n


def _nothing(n: int, grain: int) -> int:
    return 0


SNAPS = (_as_is, _as_is, _as_is, _multiple, _one_more, _one_less, _one_less, _one_more, _nothing)
PLAIN = (_as_is,) * 7 + (_nothing,)


def snapped(draw: st.DrawFn, longest: int, grain: int) -> int:
    """A number from 0 to `longest`, often near a multiple of `grain`; shrinks to 0."""
    n = draw(whole(0, longest))
    return draw(among(*SNAPS[:-1]))(n, grain)


class Sequence(NamedTuple):
    """One sequence as drawn. wanted: its length where the batch has room for it. backs: for each token of a
    tree, how many tokens before the previous one its parent lies."""

    wanted: int
    padding: bool = False
    slot: int = 0
    row: int = 0
    kept: bool = True
    backs: tuple[int, ...] = ()


@lru_cache(maxsize=4096)
def sequences(
    operation: Operation, build: Build, longest: int, grain: int, count: int, reach: int
) -> st.SearchStrategy[list[Sequence]]:
    """One to `count` sequences of up to `longest` tokens whose slots reach up to `reach`."""
    return st.lists(_sequence(operation, build, longest, grain, 2 * count, reach), min_size=1, max_size=count)


@st.composite
def _sequence(
    draw: st.DrawFn, operation: Operation, build: Build, longest: int, grain: int, rows: int, reach: int
) -> Sequence:
    backs: tuple[int, ...] = ()
    if build.tree and not draw(rarely(8)):
        backs = tuple(draw(_backs(longest)))
        wanted = len(backs)
    elif build.tree:
        wanted = 0
    elif operation.single_token:
        wanted = 1
    else:
        n = draw(whole(0, longest))
        snap = draw(among(*(SNAPS if grain > 1 else PLAIN)))
        wanted = snap(1 - n if n < 2 else n, grain)  # one token is simpler than none
    found = Sequence(wanted, backs=backs)
    if operation.has_pool and build.given:
        found = found._replace(padding=draw(rarely(6)), slot=draw(whole(0, reach)))
    if operation.keeps_steps or build.steps:
        found = found._replace(row=draw(whole(0, min(reach, rows))), kept=not draw(rarely(5)))
    return found


@lru_cache
def _backs(longest: int) -> st.SearchStrategy[list[int]]:
    back = st.one_of(st.just(0), st.integers(0, 2), st.integers(0, longest))
    return st.lists(back, min_size=1, max_size=longest)


@dataclass(frozen=True)
class Batch:
    """The sequences of a case."""

    lens: tuple[int, ...]
    pool: Pool
    parents: tuple[tuple[int, ...], ...]
    tail: int
    batched: bool


def draw_batch(draw: st.DrawFn, operation: Operation, build: Build, room: Room) -> Batch:
    """Sequences that fit the room, as the build asks for: packed or dense, chains or trees, with or without a
    pool."""
    pooled = operation.has_pool and build.given
    far = pooled and build.state_dtype != "float32" and draw(rarely(16))
    crowd = min(draw(among(2, 4, room.sequences)), room.sequences)
    longest = min(draw(among(room.longest, room.longest, room.longest, room.grain + 2, 3)), room.longest)
    reach = draw(among(0, room.sequences, room.slots - 1)) if pooled else 0
    found = draw(sequences(operation, build, longest, room.grain, 2 if far else crowd, 1 if far else reach))
    batched = operation.kind in ("decode", "verify") and build.packed and draw(rarely(4))
    lens = _lengths(found, build, room, batched)
    found = found[: len(lens)]
    tail = 0
    if build.packed and not batched and not operation.single_token:
        tail = draw(among(0, 0, 0, 1, 3, room.grain, 2 * room.grain + 1))
    pool = _draw_pool(draw, operation, build, found, lens, far)
    parents: tuple[tuple[int, ...], ...] = ()
    if build.tree:
        parents = tuple(_tree(sequence.backs, length) for sequence, length in zip(found, lens, strict=True))
    return Batch(lens, pool, parents, tail, batched)


def _lengths(found: list[Sequence], build: Build, room: Room, batched: bool) -> tuple[int, ...]:
    """Lengths as wanted until the room is full; what comes after that is left out."""
    if not build.packed or batched:
        length = found[0].wanted
        if not build.packed:
            length = 1 if build.one else max(2, length)
        length = max(1, length)
        return (length,) * max(1, min(len(found), room.budget // room.cost(length)))
    lens: list[int] = []
    left = room.budget
    for sequence in found:
        if left <= 0 and sequence.wanted > 0:
            break
        length = min(sequence.wanted, left * room.grain)
        left -= room.cost(length)
        lens.append(length)
    return tuple(lens)


def _tree(backs: tuple[int, ...], length: int) -> tuple[int, ...]:
    """Parents of `length` tokens: -1, then for each token one that comes `back` tokens before the previous
    one."""
    padded = (*backs, *[0] * length)[:length]
    return tuple(-1 if step == 0 else max(0, step - 1 - padded[step]) for step in range(length))


def _spread(wanted: list[int], live: list[bool], shared: bool) -> tuple[int, ...]:
    """Wanted places with -1 where not live; unless shared, one that is taken moves up to the next free
    one."""
    taken: set[int] = set()
    out = []
    for place, alive in zip(wanted, live, strict=True):
        while alive and not shared and place in taken:
            place += 1
        taken.add(place)
        out.append(place if alive else -1)
    return tuple(out)


def _draw_pool(
    draw: st.DrawFn,
    operation: Operation,
    build: Build,
    found: list[Sequence],
    lens: tuple[int, ...],
    far: bool,
) -> Pool:
    """The pool of these sequences. far: one that takes a live slot past 2**31 elements."""
    if not operation.has_pool:
        return Pool(indices=(), dtype=build.state_dtype)
    if not build.given:
        return Pool(indices=(-1,) * len(lens), dtype=build.state_dtype)
    all_padding = draw(rarely(24)) and not far
    live = [not all_padding and not sequence.padding for sequence in found]
    wanted = [sequence.slot for sequence in found]
    odd, keeps_steps = int(build.odd_pitch), operation.keeps_steps or build.steps
    if far:
        # The first sequence is live in the last of two or three slots; the wanted slot of another is 0 or 1.
        slots = draw(whole(2, 3))
        live[0], wanted = True, [slots - 1, *[0] * (len(wanted) - 1)]
        pitch = FAR_OFFSET // (slots - 1) + odd
        indices = _spread(wanted, live, False)
    else:
        read_only = keeps_steps or not build.inplace
        indices = _spread(wanted, live, read_only and draw(rarely(4)))
        slots = max(0, *indices, *[0]) + 1 + draw(among(0, 1, 3))
        pitch = draw(among(0, 0, 0, EVEN, 4 * EVEN)) + odd
    pool = Pool(slots=slots, indices=indices, pitch=pitch, dtype=build.state_dtype)
    if not keeps_steps:
        return pool
    rows = _spread([s.row for s in found], [a and s.kept for a, s in zip(live, found, strict=True)], False)
    buffer = max(0, *rows, *[0]) + 1 + draw(whole(0, 1))
    steps = max(1, *lens) + draw(among(0, 0, 1, 3))
    return Pool(slots, indices, pitch, build.state_dtype, steps, buffer, rows)
