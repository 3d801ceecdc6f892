"""Moves on the pool of a case: which slots and buffer rows its sequences name, and how they lie in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from diffgdn.cases.axis_values import FAR
from diffgdn.cases.case import Case, Pool
from diffgdn.cases.state_options import StateOptions
from diffgdn.search.changes import changed, smaller_numbers


def pool(case: Case) -> Iterator[Case | None]:
    """Simplify the pool: in a dense state its dtype alone; else all of it, then one slot after another, then
    the intermediate buffer.
    """
    if not case.pool.indices:
        candidates = [replace(case.pool, dtype=Pool.dtype)]
    else:
        yield from _without_steps(case)
        candidates = [*_in_order(case), *_compact(case), *_slot_by_slot(case), *_buffer(case)]
    for candidate in candidates:
        if candidate != case.pool:
            yield changed(case, pool=candidate)


def _without_steps(case: Case) -> Iterator[Case | None]:
    """Leave verify's options out of an update, and with the buffer what is said of it."""
    if case.operation.kind == "update" and case.pool.steps:
        options, usual = case.state_options, StateOptions()
        of_steps = {name: getattr(usual, name) for name in ("step_update", "step_rows", "cache_steps")}
        yield changed(
            case,
            pool=replace(case.pool, steps=0, buffer=0, rows=()),
            parents=(),
            state_options=replace(options, **of_steps),
        )


def _in_order(case: Case) -> Iterator[Pool]:
    """Put all sequences into slots of their own, in their order, or close the gaps between the slots that
    they have; a case that passes no state names none.
    """
    if case.values.state == "none":
        return
    pool, order = case.pool, tuple(range(len(case.pool.indices)))
    rows: dict[str, Any] = {"rows": order, "buffer": len(order)} if pool.rows else {}
    live = sorted({index for index in pool.indices if index >= 0})
    steps = _steps_needed(case) if pool.steps else 0
    yield replace(
        pool, slots=len(order), indices=order, pitch=0, dtype=Pool.dtype, **{"steps": steps, **rows}
    )
    yield replace(pool, slots=len(order), indices=order, **rows)
    if -1 not in pool.indices:
        yield replace(pool, slots=len(order), indices=order)
    dense = tuple(live.index(index) if index >= 0 else -1 for index in pool.indices)
    yield replace(pool, slots=max(1, len(live)), indices=dense)


def _compact(case: Case) -> Iterator[Pool]:
    """Leave out slots behind the last one that is named, or all but one, and room between slots; hold fp32,
    and reach as far by fewer slots.
    """
    pool = case.pool
    last = max(0, *pool.indices)
    yield replace(pool, slots=last + 1)
    if pool.slots > last + 2:
        yield replace(pool, slots=last + 2)
    yield replace(pool, pitch=0)
    yield replace(pool, pitch=min(1, pool.pitch))
    if pool.pitch >= FAR and last > 1 and len(pool.indices) == 1:
        yield replace(pool, slots=2, indices=(1,), pitch=last * pool.pitch)  # as far, by fewer slots
    yield replace(pool, dtype=Pool.dtype)


def _slot_by_slot(case: Case) -> Iterator[Pool]:
    """Move one sequence at a time: padding to the first free slot, which makes it live, with a row of the
    buffer or without, and a live sequence to that slot or another one before its own.
    """
    pool = case.pool
    for n, index in enumerate(pool.indices):
        free = _first_free(pool.indices)
        if case.values.state != "none" and (index < 0 or index > free):
            yield _in_slot(pool, n, free, **(_in_free_row(pool, n) if pool.rows and index < 0 else {}))
            if pool.rows and index < 0:
                yield _in_slot(pool, n, free)
        for slot in smaller_numbers(index):
            if slot not in pool.indices:
                yield _in_slot(pool, n, slot)


def _in_slot(pool: Pool, n: int, slot: int, **rows: Any) -> Pool:
    """The pool with sequence `n` in another slot, and no slots behind the last one that is named."""
    indices = (*pool.indices[:n], slot, *pool.indices[n + 1 :])
    return replace(pool, slots=max(0, *indices) + 1, indices=indices, **rows)


def _in_free_row(pool: Pool, n: int) -> dict[str, Any]:
    """Changes of a pool that give sequence `n` the first free row of the buffer, made larger if need be."""
    row = _first_free(pool.rows)
    return {"rows": (*pool.rows[:n], row, *pool.rows[n + 1 :]), "buffer": max(pool.buffer, row + 1)}


def _first_free(taken: tuple[int, ...]) -> int:
    return next(place for place in range(len(taken) + 1) if place not in taken)


def _buffer(case: Case) -> Iterator[Pool]:
    """Give the intermediate buffer no more steps than the longest draft has, or one more, and no more rows
    than there are sequences, in their order, or no more than are named.
    """
    pool = case.pool
    if not pool.rows:
        return
    needed, count = _steps_needed(case), len(pool.indices)
    yield replace(pool, steps=needed)
    if pool.steps > needed + 1:
        yield replace(pool, steps=needed + 1)
    own = tuple(n if pool.indices[n] >= 0 else -1 for n in range(count))
    yield replace(pool, rows=own, buffer=count)
    kept = sorted(row for row in pool.rows if row >= 0)
    closer = tuple(kept.index(row) if row >= 0 else -1 for row in pool.rows)
    yield replace(pool, rows=closer, buffer=max(1, len(kept)))
    yield replace(pool, buffer=max(0, *pool.rows) + 1)
    for n, row in enumerate(pool.rows):
        for other in smaller_numbers(row):
            if other not in pool.rows:
                rows = (*pool.rows[:n], other, *pool.rows[n + 1 :])
                yield replace(pool, rows=rows, buffer=max(0, *rows) + 1)


def _steps_needed(case: Case) -> int:
    return max(1, *case.lens)
