"""Makes a failing case simpler, one field after another, in few runs.

Hypothesis shrinks the choices behind a case and needs hundreds of runs; where a run takes a second, a
campaign has time for a dozen. Here every candidate is a plausible case, the largest step comes first, and
what makes a case slow (sequences, heads, dimensions, tokens) goes first, so that most runs are of small
cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

from diffgdn.cases.case import Case, Gates, Pool, Values

SIMPLEST_DIM = 16
DIMS = (16, 1, 2, 4, 8, 17, 32, 33, 64, 65, 128)
SHORTEST_CHUNK = 16
FEW = 6  # sequences, each of which is tried alone
# Fields that are at their default or not, and nothing else of the case goes by them.
FLAGS: dict[str, Any] = {
    spec.name: spec.default
    for spec in fields(Case)
    if spec.name
    in ("dtype", "packed", "batched", "tail", "cu_dtype", "index_dtype", "view", "l2norm", "scale", "inplace")
    + ("boundary", "final", "batch_invariant", "config")
}


def simplest(case: Case, fails: Callable[[Case], bool], expired: Callable[[], bool] = lambda: False) -> Case:
    """The simplest case that still fails, as far as single steps lead, or led when time expired.

    fails: whether a case fails as `case` does; it may forget that it was asked before.
    """
    seen, best = {case.id}, case
    while True:
        before = best
        for move in MOVES:
            best = follow(move, best, fails, expired, seen)
        if best == before or expired():
            return best


def follow(
    move: Callable[[Case], Iterator[Case | None]],
    best: Case,
    fails: Callable[[Case], bool],
    expired: Callable[[], bool],
    seen: set[str],
) -> Case:
    """One move, as often as it succeeds."""
    again = True
    while again:
        again = False
        for candidate in move(best):
            if candidate is None or candidate.id in seen:
                continue
            if expired():
                return best
            seen.add(candidate.id)
            if fails(candidate):
                best, again = candidate, True
                break
    return best


def _changed(case: Case, **changes: Any) -> Case | None:
    """The case with changes, or None where they do not fit together."""
    if changes.keys() & {"lens", "H", "HV", "K", "V"}:
        # Positions lie in tensors of another shape now; the first of each tensor is always there.
        first = {edit.tensor: replace(edit, position=0) for edit in case.edits}
        changes.setdefault("edits", tuple(first.values()))
        changes.setdefault("only", ())
    try:
        return replace(case, **changes)
    except ValueError:
        return None


def _with_lengths(
    case: Case, lens: tuple[int, ...], keep: tuple[int, ...] | None = None, **changes: Any
) -> Case | None:
    """The case with other lengths of the sequences `keep` (None: of all), and what goes by them."""
    keep = tuple(range(len(case.lens))) if keep is None else keep
    pool, longest = case.pool, max(lens)
    pool = replace(
        pool,
        indices=tuple(pool.indices[n] for n in keep) if pool.indices else (),
        rows=tuple(pool.rows[n] for n in keep) if pool.rows else (),
        steps=max(1, longest + pool.steps - max(1, *case.lens)) if pool.steps else 0,
    )
    return _changed(
        case,
        lens=lens,
        pool=pool,
        parents=tuple(case.parents[n][:length] for n, length in zip(keep, lens, strict=True))
        if case.parents
        else (),
        gates=replace(case.gates, at=max(0, min(case.gates.at, longest - 1))),
        **changes,
    )


def _smaller(n: int, *marks: int) -> list[int]:
    """Numbers from 1 below n, the boldest step first."""
    steps = (1, 2, n // 2, n - n // 4, n - n // 8, n - n // 16, n - 1)
    return sorted({m for m in (*steps, *marks) if 1 <= m < n})


def _leap(case: Case) -> Iterator[Case | None]:
    """The longest live and the longest padding sequence alone, of one token, of as many as they have, and of
    all tokens, all else at its simplest. What fails of that saves many a step, which after a crash costs a
    process each.
    """
    slots = case.pool.indices or (0,) * len(case.lens)
    longest: dict[int, int] = {}
    for slot, length in zip(slots, case.lens, strict=True):
        longest[min(slot, 0)] = max(longest.get(min(slot, 0), 0), length)
    alone = [(1, slot) for slot in longest] + [(length, slot) for slot, length in longest.items()]
    for length, slot in [*alone, (case.total, 0)]:
        yield bare(case, length, slot)


def bare(case: Case, length: int, slot: int) -> Case | None:
    """The simplest case of one sequence, in slot 0 or -1."""
    pool = Pool(indices=(slot,)) if case.operation.has_pool else Pool(indices=())
    if case.operation.keeps_steps:
        pool = replace(pool, steps=max(1, length), buffer=1, rows=(slot,))
    try:
        return Case(
            case.op,
            lens=(length,),
            pool=pool,
            chunk_size=SHORTEST_CHUNK if case.operation.is_chunked else Case.chunk_size,
        )
    except ValueError:
        return None


def _sequences(case: Case) -> Iterator[Case | None]:
    """One of few, half of many, then all but a part: of many each alone would take as many runs."""
    count = len(case.lens)
    everyone = tuple(range(count))
    kept: list[tuple[int, ...]] = [(n,) for n in everyone] if 1 < count <= FEW else []
    if count > 3:
        kept += [everyone[: count // 2], everyone[count // 2 :]]
    size = count // 4 if count > FEW else 1
    while size and count > 2:
        kept += [everyone[:n] + everyone[n + size :] for n in range(0, count, size)]
        size //= 2
    for keep in kept:
        yield _with_lengths(case, tuple(case.lens[n] for n in keep), keep)


def _heads(case: Case) -> Iterator[Case | None]:
    ratio = case.HV // case.H
    pairs = [(1, 1), (1, 2), (1, ratio), (1, case.HV), (case.H, case.H), *((h, h) for h in _smaller(case.H))]
    for H, HV in pairs:
        if (H, HV) != (case.H, case.HV) and H <= case.H and HV <= case.HV:
            yield _changed(case, H=H, HV=HV)


def _plainer_dims(dim: int) -> Iterator[int]:
    """Plainer values of a dimension. To ask for another one says that the last has passed: so what fails from
    some value on is found by bisection; what fails for multiples alone, by the smallest of the same power.
    """
    if dim == SIMPLEST_DIM:
        return
    step, power = dim & -dim, 1 << (dim.bit_length() - 1)
    marks = [d for d in (*DIMS, dim // 2, 3 * step, power + step) if d == SIMPLEST_DIM or 1 <= d < dim]
    yield from dict.fromkeys(marks)
    low = max((d for d in marks if d < dim), default=0)
    if dim in DIMS or dim % SIMPLEST_DIM == 0:
        yield dim - 1  # where that passes, such a value is an edge by itself
        yield (low + dim) // 2
        return
    while dim - low > 1:
        low = (low + dim) // 2
        yield low


def _dims(case: Case) -> Iterator[Case | None]:
    if case.K == case.V:
        for dim in _plainer_dims(case.K):
            yield _changed(case, K=dim, V=dim)
        if case.K != SIMPLEST_DIM:  # before all values of one are tried beside the other at its largest
            yield _changed(case, K=SIMPLEST_DIM)
            yield _changed(case, V=SIMPLEST_DIM)
    for K in _plainer_dims(case.K):
        yield _changed(case, K=K)
    for V in _plainer_dims(case.V):
        yield _changed(case, V=V)


def _chunks(case: Case) -> Iterator[Case | None]:
    if not case.operation.is_chunked or case.chunk_size == SHORTEST_CHUNK:
        return
    ratio = case.chunk_size // SHORTEST_CHUNK
    for lens in (tuple(-(-length // ratio) for length in case.lens), case.lens):
        tail = -(-case.tail // ratio) if lens != case.lens else case.tail
        yield _with_lengths(case, lens, chunk_size=SHORTEST_CHUNK, tail=tail)


def _lengths(case: Case) -> Iterator[Case | None]:
    chunk = case.chunk_size if case.operation.is_chunked else 2
    if not case.packed or case.batched:
        for length in _smaller(case.lens[0], chunk, chunk + 1, case.lens[0] - chunk):
            yield _with_lengths(case, (length,) * len(case.lens))
        return
    if max(case.lens) > 1 and len(case.lens) > 1:
        yield _with_lengths(case, tuple(min(length, 1) for length in case.lens))
    for n, length in enumerate(case.lens):
        shorter = [1] if length == 0 else _smaller(length, chunk, chunk + 1, length - chunk)
        for other in shorter:
            yield _with_lengths(case, (*case.lens[:n], other, *case.lens[n + 1 :]))


def _tail(case: Case) -> Iterator[Case | None]:
    for tail in [0, *_smaller(case.tail, SHORTEST_CHUNK)] if case.tail else ():
        yield _changed(case, tail=tail)


def _plainest(case: Case) -> Iterator[Case | None]:
    """All flags at their defaults, the pool compact and in fp32, with plain laws and without: so a case that
    stays large, and has no time for one flag after the other, is at least plain."""
    changes: dict[str, Any] = {**FLAGS, "pool": replace(case.pool, pitch=0, dtype=Pool.dtype)}
    kept, state = _laws(case)
    yield _changed(case, **changes, gates=kept, values=state, edits=())
    yield _changed(case, **changes)


def _plain_laws(case: Case) -> Iterator[Case | None]:
    kept, state = _laws(case)
    yield _changed(case, gates=kept, values=state, scale=None, edits=())
    yield _changed(case, gates=kept)
    yield _changed(case, values=state)


def _laws(case: Case) -> tuple[Gates, Values]:
    return Gates(lower_bound=case.gates.lower_bound, raw=case.gates.raw), Values(state=case.values.state)


def _edits(case: Case) -> Iterator[Case | None]:
    if case.edits:
        yield _changed(case, edits=())
    for n in range(len(case.edits)) if len(case.edits) > 1 else ():
        yield _changed(case, edits=case.edits[:n] + case.edits[n + 1 :])
    for n, edit in enumerate(case.edits):
        for position in [0, *_smaller(edit.position)] if edit.position else ():
            yield _changed(
                case, edits=(*case.edits[:n], replace(edit, position=position), *case.edits[n + 1 :])
            )


def _flags(case: Case) -> Iterator[Case | None]:
    """Flags at their defaults: all, a half, a quarter, ... at a time."""
    names = [name for name, default in FLAGS.items() if getattr(case, name) != default]
    size = len(names)
    while size:
        for n in range(0, len(names), size):
            yield _changed(case, **{name: FLAGS[name] for name in names[n : n + size]})
        size //= 2


def gates(case: Case) -> Iterator[Case | None]:
    yield from _nested(case, "gates", Gates)
    if case.gates.law not in ("zero", "constant", "exact") and case.values.law != "exact":
        yield _changed(case, gates=replace(case.gates, law="constant", at=0))
    chunk = case.chunk_size if case.operation.is_chunked else 2
    for at in _smaller(case.gates.at, chunk - 1, chunk):
        yield _changed(case, gates=replace(case.gates, at=at))


def values(case: Case) -> Iterator[Case | None]:
    yield from _nested(case, "values", Values)
    for name in ("v_exponent", "q_exponent"):
        exponent = getattr(case.values, name)
        for size in _smaller(abs(exponent)):
            changes: dict[str, Any] = {name: size if exponent > 0 else -size}
            yield _changed(case, values=replace(case.values, **changes))
    for seed in [s for s in (0, 1, 2, 3) if s < case.values.seed]:
        yield _changed(case, values=replace(case.values, seed=seed))


def _nested(case: Case, name: str, kind: type[Gates] | type[Values]) -> Iterator[Case | None]:
    record = getattr(case, name)
    for spec in fields(kind):
        if getattr(record, spec.name) != spec.default:
            yield _changed(case, **{name: replace(record, **{spec.name: spec.default})})


def _pool(case: Case) -> Iterator[Case | None]:
    pool = case.pool
    if not pool.indices:
        if pool.dtype != Pool.dtype:
            yield _changed(case, pool=replace(pool, dtype=Pool.dtype))
        return
    order = tuple(range(len(pool.indices)))
    live = sorted({index for index in pool.indices if index >= 0})
    dense = tuple(live.index(index) if index >= 0 else -1 for index in pool.indices)
    rows: dict[str, Any] = {"rows": order, "buffer": len(order)} if pool.rows else {}
    kept = sorted(row for row in pool.rows if row >= 0)
    closer = tuple(kept.index(row) if row >= 0 else -1 for row in pool.rows)
    needed = max(1, *case.lens)
    candidates = [
        replace(
            pool,
            slots=len(order),
            indices=order,
            pitch=0,
            dtype=Pool.dtype,
            steps=needed if pool.steps else 0,
            **rows,
        ),
        replace(pool, slots=len(order), indices=order, **rows),
        replace(pool, slots=max(1, len(live)), indices=dense),
        replace(pool, slots=max(0, *pool.indices) + 1),
        replace(pool, pitch=0),
        replace(pool, pitch=min(1, pool.pitch)),
        replace(pool, dtype=Pool.dtype),
    ]
    if case.values.state == "none":
        candidates = candidates[3:]
    elif all(index >= 0 for index in dense):
        candidates.insert(2, replace(pool, slots=len(order), indices=order))
    # One sequence at a time: live, or in the first slot that is free.
    for n, index in enumerate(pool.indices):
        free = next(slot for slot in range(len(order) + 1) if slot not in pool.indices)
        if case.values.state != "none" and (index < 0 or index > free):
            changed = (*pool.indices[:n], free, *pool.indices[n + 1 :])
            row: dict[str, Any] = {}
            if pool.rows and index < 0:
                place = next(r for r in range(len(order) + 1) if r not in pool.rows)
                row = {
                    "rows": (*pool.rows[:n], place, *pool.rows[n + 1 :]),
                    "buffer": max(pool.buffer, place + 1),
                }
            candidates.append(replace(pool, slots=max(0, *changed) + 1, indices=changed, **row))
        for slot in _smaller(index):
            if slot not in pool.indices:
                changed = (*pool.indices[:n], slot, *pool.indices[n + 1 :])
                candidates.append(replace(pool, slots=max(0, *changed) + 1, indices=changed))
    if pool.rows:
        candidates += [
            replace(pool, steps=needed),
            replace(pool, steps=needed + 1) if pool.steps > needed + 1 else pool,
            replace(pool, rows=tuple(n if pool.indices[n] >= 0 else -1 for n in order), buffer=len(order)),
            replace(pool, rows=closer, buffer=max(1, len(kept))),
            replace(pool, buffer=max(0, *pool.rows) + 1),
        ]
    if case.operation.kind == "update" and pool.steps:
        yield _changed(case, pool=replace(pool, steps=0, buffer=0, rows=()), parents=())
    for candidate in candidates:
        if candidate != pool:
            yield _changed(case, pool=candidate)


def _parents(case: Case) -> Iterator[Case | None]:
    if not case.parents:
        return
    yield _changed(case, parents=())
    for n, tree in enumerate(case.parents):
        chain = tuple(range(-1, len(tree) - 1))
        others = [chain] if tree != chain else []
        others += [
            (*tree[:step], step - 1, *tree[step + 1 :])
            for step in range(2, len(tree))
            if tree[step] != step - 1
        ]
        # the parents of one step less: what comes after it moves up
        for step in range(1, len(tree)) if case.packed and not case.batched and len(tree) > 2 else ():
            moved = tuple(p - (p >= step) for p in tree[:step] + tree[step + 1 :])
            shorter = tuple(-1 if s == 0 else max(0, min(p, s - 1)) for s, p in enumerate(moved))
            lens = (*case.lens[:n], len(shorter), *case.lens[n + 1 :])
            smaller = _with_lengths(case, lens)
            if smaller is not None:
                yield _changed(smaller, parents=(*case.parents[:n], shorter, *case.parents[n + 1 :]))
        for other in others:
            yield _changed(case, parents=(*case.parents[:n], other, *case.parents[n + 1 :]))


# What makes a case slow comes first.
MOVES = (
    _leap,
    _plainest,
    _edits,
    _sequences,
    _heads,
    _dims,
    _chunks,
    _lengths,
    _tail,
    _plainest,
    _plain_laws,
    _pool,
    _parents,
    _flags,
    gates,
    values,
)
