"""Draws where states come from and go to, apart from the usual: options that most cases leave alone.

A case is drawn without them and then given some. What kernels are compiled for comes from its build where
there is a menu.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from diffgdn.cases import spans
from diffgdn.cases.case import Case, Pool
from diffgdn.cases.promises import Promises
from diffgdn.cases.state_options import options_of
from diffgdn.strategies import inside
from diffgdn.strategies.batch_layout import among, rarely, whole
from diffgdn.strategies.inside import FAR_OFFSET
from diffgdn.strategies.menu import Build
from diffgdn.strategies.state_builds import APART, AXES, SECOND_IN, promised

ONE_IN = 7  # cases of an operation that has options that kernels are compiled for
ONE_IN_BUFFERED = 4  # of updates that keep steps
WEIGHTS = {"token_slots": 2, "step_update": 2, "track": 2}
# How rows are named and what is said of the buffer's steps.
FEWER = ("given", "longest")
WORDS = (
    *(("given", "buffer"),) * 14,
    *(("slots", "buffer"), FEWER, FEWER, ("given", "none"), ("slots", "longest"), ("slots", "none")),
)
MOST_ROWS = 8  # of a buffer whose rows are slots, unless there are more sequences
MORE_STEPS = 3  # slots of a sequence than tokens of the longest
BITS = 10  # sequences after which flags repeat

Pick = Callable[[int, int], int]  # a whole number from the first to the second, the first is the simplest


def draw_options(draw: st.DrawFn, case: Case, build: Build, free: bool, own: Promises) -> Case:
    """Draw options of states for a case. free: whichever; else those that the build is compiled for."""
    names = _forced(case, own)
    # An update seldom has a buffer: where it has one, it is made use of.
    buffered = case.has_buffer and case.operation.kind == "update"
    if free and options_of(case.op) and draw(rarely(ONE_IN_BUFFERED if buffered else ONE_IN)):
        for _ in range(1 + draw(rarely(SECOND_IN))):
            left = [
                name for name in options_of(case.op) if name not in names and _fits(name, case, names, own)
            ]
            left = [name for name in left for _ in range(WEIGHTS.get(name, 1))]
            names += (draw(among(*left)),) if left else ()
    elif not free:
        names += tuple(name for name in build.states if name not in names)
    case = applied(case, names, lambda low, high: draw(whole(low, high)), own)
    if not case.has_buffer:
        return case
    words = tuple(pair for pair in WORDS if pair[0] in own.step_rows and pair[1] in own.cache_steps)
    return with_words(case, *draw(among(*(words or ((own.step_rows[0], own.cache_steps[0]),)))))


def plain_options(case: Case, build: Build, own: Promises) -> Case:
    """Return a case with the options that its build is compiled for, each at its simplest."""
    names = _forced(case, own) + tuple(build.states)
    case = applied(case, tuple(dict.fromkeys(names)), lambda low, high: low, own)
    return with_words(case, own.step_rows[0], own.cache_steps[0]) if case.has_buffer else case


def applied(case: Case, names: tuple[str, ...], pick: Pick, own: Promises) -> Case:
    """Return the case with options of these names. pick: chooses their numbers."""
    for name in names:
        case = _APPLY[name](case, pick, own)
    return case


def _forced(case: Case, own: Promises) -> tuple[str, ...]:
    """Name the options that a case must have, as nothing else is promised."""
    out = []
    for name in options_of(case.op):
        axis, without, _ = AXES[name]
        counts = case.has_buffer if name in ("step_update", "token_slots") else True
        counts = counts and (name not in ("no_indices", "flags") or case.values.state != "none")
        if counts and without not in getattr(own, axis):
            out.append(name)
    return tuple(name for name in out if name != "step_update" or "token_slots" not in out)


def _fits(name: str, case: Case, names: tuple[str, ...], own: Promises) -> bool:
    """Tell whether a case may be given an option beside others."""
    if not promised(name, own) or APART.get(name) in names:
        return False
    if name == "step_update":
        return case.has_buffer
    if name == "token_slots":
        slots = len(case.lens) * (max(1, *case.lens) + MORE_STEPS) + 3
        return case.inplace and not case.parents and slots <= inside.most_slots(_least_pitch(case, own))
    if name == "no_output":
        return case.keeps_steps or case.writes_state
    return name == "track" or case.values.state != "none"


def with_words(case: Case, rows: str, steps: str) -> Case:
    """Return a case with a buffer whose rows and steps are named in these ways."""
    options = replace(case.state_options, step_rows=rows, cache_steps=steps)
    if rows == "slots":
        case = _close(_apart(case))
        pool = replace(case.pool, rows=case.pool.indices, buffer=case.pool.slots)
        return replace(case, pool=pool, state_options=options)
    return replace(case, state_options=options)


def _apart(case: Case) -> Case:
    """Return the case with a slot for each live sequence alone."""
    taken: set[int] = set()
    slots = []
    for slot in case.pool.indices:
        while slot >= 0 and slot in taken:
            slot += 1
        taken.add(slot)
        slots.append(slot)
    pool = replace(case.pool, indices=tuple(slots), slots=max(case.pool.slots, max(slots) + 1))
    return replace(case, pool=pool)


def _close(case: Case) -> Case:
    """Return the case with its slots one after another if there are so many that a buffer would be large."""
    pool = case.pool
    if pool.slots <= MOST_ROWS:
        return case
    live = sorted(slot for slot in pool.indices if slot >= 0)
    first = min(1, min(live, default=0))
    indices = tuple(first + live.index(slot) if slot >= 0 else -1 for slot in pool.indices)
    return replace(case, pool=replace(pool, indices=indices, slots=max(0, *indices) + 1))


def _changed(case: Case, **options: Any) -> Case:
    return replace(case, state_options=replace(case.state_options, **options))


def _step_update(case: Case, pick: Pick, own: Promises) -> Case:
    return _changed(_apart(case), step_update=True)


def _no_output(case: Case, pick: Pick, own: Promises) -> Case:
    return _changed(case, output=False)


def _no_indices(case: Case, pick: Pick, own: Promises) -> Case:
    N = len(case.lens)
    pool = replace(case.pool, slots=N, indices=tuple(range(N)))
    return replace(case, pool=pool, state_options=replace(case.state_options, indices=False))


def _flags(case: Case, pick: Pick, own: Promises) -> Case:
    bits = pick(0, (1 << min(len(case.lens), BITS)) - 1)
    return _changed(case, initial=tuple(bool(bits >> n % BITS & 1) for n in range(len(case.lens))))


def _track(case: Case, pick: Pick, own: Promises) -> Case:
    """Track the last chunk of the first sequence, the one before the last of the second, and so on, or so
    many before; none of every fourth."""
    chunks = [-(-length // case.chunk_size) for length in case.lens]
    shift = pick(0, max(3, *chunks))
    track = [c - 1 - (shift + n) % c if c and (shift + n) % 4 < 3 else -1 for n, c in enumerate(chunks)]
    return _changed(case, track=tuple(track))


def _token_slots(case: Case, pick: Pick, own: Promises) -> Case:
    """Give each token a slot, in place of a buffer: sequence by sequence, step by step, or backwards."""
    N, steps = len(case.lens), max(1, *case.lens) + pick(0, MORE_STEPS)
    order, first = pick(0, 2), (0 if own.slot_zero else 1) + pick(0, 1)
    holes, spare = own.padding and pick(0, 3) == 3, pick(0, 1)
    accepted = tuple(pick(1, steps) for _ in range(N))
    table = []
    for n, (slot, count) in enumerate(zip(case.pool.indices, accepted, strict=True)):
        row = [n * steps + t if order == 0 else t * N + n for t in range(steps)]
        row = [first + (N * steps - 1 - place if order == 2 else place) for place in row]
        if holes and count < steps:
            row[-1] = -1
        table.append((-1,) * steps if slot < 0 else tuple(row))
    starts = tuple(row[count - 1] for row, count in zip(table, accepted, strict=True))
    slots = max(1, 1 + max(max(row) for row in table)) + spare
    pool = Pool(slots, starts, _pitch(case, slots, own), case.pool.dtype)
    options = replace(case.state_options, slots=tuple(table), accepted=accepted)
    return replace(case, pool=pool, parents=(), state_options=options)


def _least_pitch(case: Case, own: Promises) -> int:
    return min(inside.pitches(own, case.pool.pitch % inside.EVEN > 0), default=0)


def _pitch(case: Case, slots: int, own: Promises) -> int:
    """Return the pitch of a case's pool, made smaller if it has more slots now and lies far."""
    pitch, odd = case.pool.pitch, case.pool.pitch % inside.EVEN > 0
    if (case.pool.slots - 1) * pitch < FAR_OFFSET // 2:
        return pitch
    far = FAR_OFFSET // max(1, slots - 1) // inside.EVEN * inside.EVEN + odd
    return far if spans.holds(own.pitch, far) else inside.pitches(own, odd)[0]


_APPLY: dict[str, Callable[[Case, Pick, Promises], Case]] = {
    "step_update": _step_update,
    "token_slots": _token_slots,
    "no_output": _no_output,
    "no_indices": _no_indices,
    "flags": _flags,
    "track": _track,
}
