"""Moves on the options of where states come from and go to: fewer of them, then each at its simplest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

from diffgdn.cases.case import Case, Pool
from diffgdn.cases.state_options import StateOptions
from diffgdn.search.changes import changed, smaller_numbers


def states(case: Case) -> Iterator[Case | None]:
    """Leave all options out, then one after another; then simplify those that name places or chunks."""
    options = case.state_options
    if case.operation.commits:
        yield from _accepted(case)
        return
    if options == StateOptions():
        return
    yield _without(case)
    if options.slots and case.operation.kind == "update":
        yield changed(case, state_options=StateOptions(), pool=_in_buffer(case))
    yield from _each(case)
    if options.slots:
        yield from _token_slots(case)
    if options.step_rows == "slots":
        yield from _slot_rows(case)
    yield from _flags(case)
    yield from _track(case)


def _without(case: Case) -> Case | None:
    """Leave all options out; steps that went to slots go to a buffer where the operation always has one."""
    return changed(case, state_options=StateOptions(), pool=_plain_pool(case))


def _plain_pool(case: Case) -> Pool:
    """Return the pool without slots for each token."""
    if not case.state_options.slots:
        return case.pool
    if case.operation.keeps_steps:
        return _in_buffer(case)
    return replace(_in_buffer(case), steps=0, buffer=0, rows=())


def _in_buffer(case: Case) -> Pool:
    """Return the pool with a slot for each sequence, and a buffer for the state after each step."""
    N, padding = len(case.lens), [slot < 0 for slot in case.pool.indices]
    order = tuple(-1 if none else n for n, none in enumerate(padding))
    pool = Pool(N, order, case.pool.pitch, case.pool.dtype)
    return replace(pool, steps=max(1, *case.lens), buffer=N, rows=order)


def _each(case: Case) -> Iterator[Case | None]:
    """Leave one option out, slots with their counts."""
    for spec in fields(StateOptions):
        if spec.name == "accepted" or getattr(case.state_options, spec.name) == spec.default:
            continue
        left: dict[str, Any] = {spec.name: spec.default}
        if spec.name == "slots":
            left["accepted"] = ()
            yield changed(case, state_options=replace(case.state_options, **left), pool=_plain_pool(case))
        else:
            yield changed(case, state_options=replace(case.state_options, **left))


def _accepted(case: Case) -> Iterator[Case | None]:
    """Accept all steps of each draft; else fewer, each alone; first, of chains as many as of trees."""
    counts = case.accepted
    if case.state_options.accepted:
        yield _without(case)
    if case.parents:
        accepted = tuple(map(len, case.accepted_paths))
        yield _with_accepted(case, accepted, parents=())
    for n, count in enumerate(counts if case.state_options.accepted else ()):
        for other in dict.fromkeys((case.lens[n], 0, *smaller_numbers(count))):
            if other != count:
                yield _with_accepted(case, (*counts[:n], other, *counts[n + 1 :]))


def _with_accepted(case: Case, counts: tuple[int, ...], **changes: Any) -> Case | None:
    """Accept so many steps of each draft; all of them are said by saying nothing."""
    accepted = () if counts == case.lens else counts
    return changed(case, state_options=replace(case.state_options, accepted=accepted), **changes)


def _token_slots(case: Case) -> Iterator[Case | None]:
    """Give tokens the first slots, in their order, as few as there are tokens or one more for each
    sequence; then accept fewer steps, each alone.
    """
    options = case.state_options
    needed = max(1, *case.lens)
    for steps in dict.fromkeys((needed, min(needed + 1, len(options.slots[0])), len(options.slots[0]))):
        for accepted in ((1,) * len(case.lens), tuple(min(count, steps) for count in options.accepted)):
            yield _in_order(case, steps, accepted)
    for n, count in enumerate(options.accepted):
        for fewer in [1, *smaller_numbers(count)] if count > 1 else ():
            accepted = (*options.accepted[:n], fewer, *options.accepted[n + 1 :])
            yield _in_order(case, len(options.slots[0]), accepted)


def _in_order(case: Case, steps: int, accepted: tuple[int, ...]) -> Case | None:
    """Give each sequence that is not padding the next slots of the pool."""
    table, first = [], 0
    for slot in case.pool.indices:
        table.append((-1,) * steps if slot < 0 else tuple(range(first, first + steps)))
        first += steps * (slot >= 0)
    starts = tuple(row[count - 1] for row, count in zip(table, accepted, strict=True))
    options = replace(case.state_options, slots=tuple(table), accepted=accepted)
    pool = replace(case.pool, indices=starts, slots=max(1, first))
    return changed(case, pool=pool, state_options=options)


def _slot_rows(case: Case) -> Iterator[Case | None]:
    """Take the first slots, and with them rows, in the order of the sequences; then a smaller one each."""
    slots = case.pool.indices
    candidates = [tuple(n if slot >= 0 else -1 for n, slot in enumerate(slots)), slots]
    for n, slot in enumerate(slots):
        smaller = (other for other in (0, *smaller_numbers(slot)) if other < slot and other not in slots)
        candidates += [(*slots[:n], other, *slots[n + 1 :]) for other in smaller]
    for rows in candidates:
        places = max(0, *rows) + 1
        pool = replace(case.pool, indices=rows, rows=rows, slots=places, buffer=places)
        yield changed(case, pool=pool)
        yield changed(case, pool=replace(pool, steps=max(1, *case.lens)))


def _flags(case: Case) -> Iterator[Case | None]:
    """Let all sequences but one have an initial state, or none."""
    initial = case.state_options.initial
    for n in range(len(initial)) if len(initial) > 1 else ():
        yield _changed(case, initial=tuple(other != n for other in range(len(initial))))
    if any(initial):
        yield _changed(case, initial=(False,) * len(initial))


def _track(case: Case) -> Iterator[Case | None]:
    """Track a chunk of one sequence alone, or an earlier one."""
    track = case.state_options.track
    for n, chunk in enumerate(track):
        alone = tuple(chunk if other == n else -1 for other in range(len(track)))
        if alone != track:
            yield _changed(case, track=alone)
        for earlier in [0, *smaller_numbers(chunk)] if chunk > 0 else ():
            yield _changed(case, track=(*track[:n], earlier, *track[n + 1 :]))


def _changed(case: Case, **options: Any) -> Case | None:
    return changed(case, state_options=replace(case.state_options, **options))
