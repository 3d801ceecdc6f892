"""Draws the sequences of a case: their lengths, the slots where their states live, and verify's trees.

Everything about one sequence is one element of one drawn list, so that Hypothesis can delete a sequence
whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeVar

from hypothesis import strategies as st

from diffgdn.cases.case import Pool
from diffgdn.cases.operations import Operation
from diffgdn.cases.promises import EVERYTHING, Promises
from diffgdn.strategies import inside
from diffgdn.strategies.inside import FAR_OFFSET
from diffgdn.strategies.menu import Build
from diffgdn.strategies.sizes import STEPS_MORE, Room

# Empty sequences before the others of an extend, now and then: 64 need the second block of a table.
MANY = (64, 8, 64, 16)
SPARE = (0, 1, 3)  # slots after the last one that is named
LONG_PART = 8  # a long sequence has so many tokens less than there is room for, at most


T = TypeVar("T")


@lru_cache(maxsize=4096, typed=True)  # typed: 0 and False are different draws
def among(*values: T) -> st.SearchStrategy[T]:
    """Return the strategy of one of these values, the first being the simplest.

    Kept, because making a strategy costs more than drawing from it.
    """
    return st.sampled_from(values)


@lru_cache(maxsize=4096)
def whole(low: int, high: int) -> st.SearchStrategy[int]:
    """Return the strategy of whole numbers from low to high, both included."""
    return st.integers(low, high)


def rarely(one_in: int) -> st.SearchStrategy[bool]:
    """Return the strategy of a flag that is True once in so many draws."""
    return among(*[False] * (one_in - 1), True)


# How a drawn number of tokens becomes a length. Each takes a number down to a nearby length of interest,
# never up: what fails at a length of interest still fails at the number itself, and shrinks from there one
# token at a time.
def _as_is(n: int, grain: int) -> int:
    """Return n."""
    return n


def _multiple(n: int, grain: int) -> int:
    """Return the largest multiple of grain up to n, n itself if it is below the first."""
    return n - n % grain if n >= grain else n


def _one_more(n: int, grain: int) -> int:
    """Return the largest length up to n that is one more than a multiple of grain."""
    return (n - 1) // grain * grain + 1 if n > 0 else 0


def _one_less(n: int, grain: int) -> int:
    """Return the largest length up to n that is one less than a multiple of grain, n itself if none is."""
    return (n + 1) // grain * grain - 1 if n + 1 >= grain else n


def _nothing(n: int, grain: int) -> int:
    """Return 0."""
    return 0


SNAPS = (_as_is, _as_is, _as_is, _multiple, _one_more, _one_less, _one_more, _nothing)

# What a sequence is there for. padding: slot -1. unkept: its steps are not kept. empty: no tokens.
ROLES = ("live",) * 10


class Sequence(NamedTuple):
    """One sequence as drawn.

    wanted: its length in tokens, if the batch has room for it. padding: its slot is -1. slot, row: its places
    in the pool and in verify's buffer, if they are free. kept: whether its steps are kept there. refused: how
    many of its last tokens are not accepted, where some are committed.
    """

    wanted: int
    padding: bool = False
    slot: int = 0
    row: int = 0
    kept: bool = True
    refused: int = 0


@lru_cache(maxsize=4096)
def sequences(
    operation: Operation, build: Build, longest: int, grain: int, count: int, reach: int
) -> st.SearchStrategy[list[Sequence]]:
    """Return the strategy of one to `count` sequences of up to `longest` tokens, slots from 0 to `reach`.

    grain: tokens of a chunk; lengths near its multiples are drawn more often. 1: there are no chunks.
    """
    has_rows = operation.drafts or build.steps
    element = _sequence(operation, has_rows, longest, grain, min(2 * count, reach), reach)
    return st.lists(element, min_size=1, max_size=count)


@st.composite
def _sequence(
    draw: st.DrawFn,
    operation: Operation,
    has_rows: bool,
    longest: int,
    grain: int,
    rows: int,
    reach: int,
) -> Sequence:
    """Draw one sequence of up to `longest` tokens. rows, reach: last buffer row and last slot it may name."""
    # Hypothesis deletes five choices in a row at most: an element of more would often stay for good.
    roles = ROLES + ("padding", "padding") * operation.has_pool + ("unkept", "unkept") * has_rows
    wanted = 1
    if operation.single_token:
        role = draw(among(*roles))
    else:
        n = draw(whole(0, longest))
        wanted = 1 - n if n < 2 else n  # one token is simpler than none
        if grain > 1:
            wanted = draw(among(*SNAPS))(wanted, grain)
            role = draw(among(*roles))
        else:
            role = draw(among(*roles, "empty"))
    if role == "empty":
        wanted = 0
    slot = draw(whole(0, reach)) if operation.has_pool else 0
    row = draw(whole(0, rows)) if has_rows else 0
    refused = draw(whole(0, longest)) if operation.commits else 0
    return Sequence(wanted, role == "padding", slot, row, role != "unkept", refused)


@lru_cache
def _trees(longest: int) -> st.SearchStrategy[list[list[int]]]:
    """Return the strategy of one to three trees for sequences of up to `longest` tokens.

    A tree says of its third and later tokens how far before the previous token the parent lies. Sequences
    take trees in turn: if each had its own, it could not be deleted alone.
    """
    back = st.one_of(st.integers(0, 2), st.integers(0, longest))
    return st.lists(st.lists(back, max_size=max(2, longest)), min_size=1, max_size=3)


@dataclass(frozen=True)
class Batch:
    """The sequences of a case, as the fields of `Case` of the same names."""

    lens: tuple[int, ...]
    pool: Pool
    parents: tuple[tuple[int, ...], ...]
    tail: int
    batched: bool
    accepted: tuple[int, ...] = ()


def draw_batch(draw: st.DrawFn, operation: Operation, build: Build, room: Room, own: Promises) -> Batch:
    """Draw sequences that fit the room and the build: packed or dense, chains or trees, a pool or none.

    own: what is promised of the operation.
    """
    far = draw(rarely(20)) and operation.has_pool and build.given and build.state_dtype != "float32"
    far = far and inside.takes_far(own, build.odd_pitch)
    crowd = min(draw(among(2, 4, room.sequences)), room.sequences)
    longest = min(draw(among(*[room.longest] * 4, room.grain + 2, 3)), room.longest)
    reach = draw(among(0, room.sequences, room.slots - 1))
    # At least two may be drawn: a list of fixed size takes fewer choices, and would pass for simpler.
    found = draw(sequences(operation, build, longest, room.grain, max(2, crowd), reach))
    batched = draw(rarely(4)) and build.packed and operation.is_sigmoid_gating
    if build.packed and operation.is_sigmoid_gating:
        batched = "packed" not in own.batch or (batched and "batched" in own.batch)
    tail = draw(among(*inside.tails(own, room.grain)))
    if not build.packed or batched or operation.single_token:
        tail = 0
    least = min(inside.pitches(own, build.odd_pitch), default=0)
    found = found[: 2 if far else max(1, inside.most_slots(least) - SPARE[-1] - 1)][:crowd]
    if operation.is_chunked and draw(rarely(5)):  # each but the last ends where a chunk does
        found = [one._replace(wanted=_multiple(one.wanted, room.grain)) for one in found[:-1]] + found[-1:]
    if room.long and draw(among(False, True)):
        found[0] = found[0]._replace(wanted=room.longest - found[0].wanted % LONG_PART)
    lens = _lengths(found, build, room, batched, own)
    found = found[: len(lens)]
    many = operation.is_chunked and draw(rarely(12)) and build.packed and not far
    if many and own == EVERYTHING:  # promises may leave out empty sequences, padding, or so many
        count, padding = draw(among(*MANY)), draw(among(True, False))
        padding = operation.has_pool and (padding or count + room.slots > room.states)
        lens, found = (0,) * count + lens, [Sequence(0, padding=padding)] * count + found
    pool = _draw_pool(draw, operation, build, found, lens, far, own)
    parents: tuple[tuple[int, ...], ...] = ()
    if build.tree:
        trees = draw(_trees(room.longest))
        parents = tuple(_tree(trees[n % len(trees)], length) for n, length in enumerate(lens))
    accepted: tuple[int, ...] = ()
    if any(length and one.refused for one, length in zip(found, lens, strict=True)):
        accepted = tuple(max(0, length - one.refused) for one, length in zip(found, lens, strict=True))
    return Batch(lens, pool, parents, tail, batched, accepted)


def _lengths(
    found: list[Sequence], build: Build, room: Room, batched: bool, own: Promises
) -> tuple[int, ...]:
    """Return the lengths as wanted until the room is full; sequences after that are left out.

    Each is as near to what is wanted as the promises allow, the first one whatever it costs.
    """
    if not build.packed or batched:
        low = 1 if batched or build.one else 2
        length = 1 if not build.packed and build.one else max(low, found[0].wanted)
        length = inside.length(length, own, low)
        return (length,) * max(1, min(len(found), room.budget // room.cost(length)))
    lens: list[int] = []
    left = room.budget
    for sequence in found:
        if left <= 0 and sequence.wanted > 0:
            break
        length = inside.length(min(sequence.wanted, left * room.grain), own)
        if lens and room.cost(length) > left:
            break
        left -= room.cost(length)
        lens.append(length)
    return tuple(lens)


def _tree(backs: list[int], length: int) -> tuple[int, ...]:
    """Return parents of `length` tokens: -1, 0, then for each token one so far before the previous token."""
    padded = (0, 0, *backs, *[0] * length)[:length]
    return tuple(-1 if step == 0 else max(0, step - 1 - back) for step, back in enumerate(padded))


def _spread(wanted: list[int], live: list[bool], shared: bool) -> tuple[int, ...]:
    """Return the wanted places, -1 if not live.

    Unless shared, one that is taken moves up to the next free one.
    """
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
    own: Promises,
) -> Pool:
    """Draw the pool of these sequences. far: one that takes a live slot past 2**31 elements."""
    if not operation.has_pool:
        return Pool(indices=(), dtype=build.state_dtype)
    # All is drawn, whether it is needed or not: a case that takes fewer choices would pass for simpler.
    all_padding, shared = draw(rarely(24)), draw(rarely(4))
    spare = draw(among(*SPARE))
    # Where no state is given there is no pitch to keep, and what is promised may hold none of this kind.
    pitch = draw(among(*(inside.pitches(own, build.odd_pitch) or (0,))))
    if not build.given:
        return Pool(indices=(-1,) * len(lens), dtype=build.state_dtype)
    keeps_steps = operation.keeps_steps or build.steps
    has_rows = keeps_steps or operation.commits
    live = [not (own.padding and (all_padding or sequence.padding)) for sequence in found]
    least = 0 if own.slot_zero else 1
    wanted = [max(least, sequence.slot) for sequence in found]
    if far:
        # The last sequence that has tokens is live in the last of two or three slots.
        last = 1 if spare == 0 and own.slot_zero else 2
        there = max((n for n, length in enumerate(lens) if length), default=0)
        wanted = [least] * len(wanted)
        live[there], wanted[there], shared = True, last, False
        pitch = FAR_OFFSET // last + int(build.odd_pitch)
    shared = shared and own.shared and (keeps_steps or not build.inplace)
    named = [slot for slot, alive in zip(wanted, live, strict=True) if alive]
    if shared and len(named) > 1 and len({*named}) == len(named):
        wanted[len(live) - 1 - live[::-1].index(True)] = named[0]  # the last live one joins the first
    indices = _spread(wanted, live, shared)
    if not far and max(indices) + 1 + spare > inside.most_slots(pitch):
        indices = _spread([least] * len(wanted), live, shared)
    slots = max(0, *indices, *[0]) + 1 + (0 if far else spare)
    pool = Pool(slots=slots, indices=indices, pitch=pitch, dtype=build.state_dtype)
    if not has_rows:
        return pool
    kept = [a and (s.kept or not own.unkept) for a, s in zip(live, found, strict=True)]
    rows = _spread([s.row for s in found], kept, False)
    buffer = max(0, *rows, *[0]) + 1 + draw(whole(0, 1))
    steps = max(1, *lens) + draw(among(*STEPS_MORE)) * own.spare_steps
    return Pool(slots, indices, pitch, build.state_dtype, steps, buffer, rows)
