"""The moves that make a case simpler: each yields candidates for the place of one failing case.

`by_field` says what a move is and what it has to keep.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.case_checks import CHUNK_SIZES
from diffgdn.search import (
    company_moves,
    execution_moves,
    lay_moves,
    operand_moves,
    pool_moves,
    state_moves,
)
from diffgdn.search.changes import changed, smaller_numbers, with_lengths

SIMPLEST_DIM = 16
DIMS = (16, 1, 2, 4, 8, 17, 32, 33, 64, 65, 128)
SHORTEST_CHUNK = 16
# Seeds that may have what another one has further on: in one head, in one token, in one token less.
ONE_HEAD, ONE_TOKEN, ONE_LESS = range(1, 13), range(1, 7), range(1, 4)
STRONG = 200.0  # a decay of exp(-200), and its inverse, are past what fp32 holds
UNSEEDED_GATES, UNSEEDED_VALUES = ("zero", "constant", "alternating"), ("ones", "zero")  # of no seed
FEW = 6  # sequences, each of which is tried alone
# Fields that are at their default or not, and nothing else of the case goes by them.
FLAGS: dict[str, Any] = {
    spec.name: spec.default
    for spec in fields(Case)
    if spec.name
    in ("dtype", "packed", "batched", "tail", "cu_dtype", "index_dtype", "view", "l2norm", "scale", "inplace")
    + ("boundary", "final", "batch_invariant", "config", "lay")
}


def _leap(case: Case) -> Iterator[Case | None]:
    """Leave one sequence, all else at its simplest.

    Tried are the longest live and the longest padding sequence, with one token, with as many as they have,
    and one with all tokens. If one of these fails, it saves many a step, which after a crash costs a process
    each.
    """
    slots = case.pool.indices or (0,) * len(case.lens)
    longest: dict[int, int] = {}
    for slot, length in zip(slots, case.lens, strict=True):
        longest[min(slot, 0)] = max(longest.get(min(slot, 0), 0), length)
    alone = [(1, slot) for slot in longest] + [(length, slot) for slot, length in longest.items()]
    for length, slot in [*alone, (case.total, 0)]:
        yield bare(case, length, slot)


def bare(case: Case, length: int, slot: int) -> Case | None:
    """Make the simplest case of one sequence of `length` tokens, in slot 0 or -1, programs in the case's
    order, after the calls that it makes before; None if the operation has none.
    """
    pool = Pool(indices=(slot,)) if case.operation.has_pool else Pool(indices=())
    if case.operation.drafts:
        pool = replace(pool, steps=max(1, length), buffer=1, rows=(slot,))
    try:
        return Case(
            case.op,
            lens=(length,),
            pool=pool,
            chunk_size=SHORTEST_CHUNK if case.operation.is_chunked else Case.chunk_size,
            order=case.order,
            before=case.before,
            execution=execution_moves.kept(case),
        )
    except ValueError:
        return None


def _sequences(case: Case) -> Iterator[Case | None]:
    """Keep one of few sequences, or half of many, then all but a part.

    Of many sequences each alone would take as many runs.
    """
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
        yield with_lengths(case, tuple(case.lens[n] for n in keep), keep)


def _heads(case: Case) -> Iterator[Case | None]:
    """Take one query head with few value heads, as many value heads as query heads, then fewer of both."""
    ratio = case.HV // case.H
    pairs = [
        (1, 1),
        (1, 2),
        (1, ratio),
        (1, case.HV),
        (case.H, case.H),
        *((h, h) for h in smaller_numbers(case.H)),
        *((h, 2 * h) for h in (2, case.H)),  # two groups, or as many as there are, of two
    ]
    for H, HV in pairs:
        if (H, HV) != (case.H, case.HV) and H <= case.H and HV <= case.HV:
            yield changed(case, H=H, HV=HV)


def _plainer_dims(dim: int) -> Iterator[int]:
    """Iterate over plainer values of a dimension: 16, then usual sizes, then by bisection.

    To ask for another value says that the last one has passed: so what fails from some value on is found by
    bisection, and what fails for multiples only, by the smallest of the same power of two.
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
    """Make K and V plainer together, then each of them."""
    if case.K == case.V:
        for dim in _plainer_dims(case.K):
            yield changed(case, K=dim, V=dim)
        if case.K != SIMPLEST_DIM:  # before all values of one are tried beside the other at its largest
            yield changed(case, K=SIMPLEST_DIM)
            yield changed(case, V=SIMPLEST_DIM)
    for K in _plainer_dims(case.K):
        yield changed(case, K=K)
    for V in _plainer_dims(case.V):
        yield changed(case, V=V)


def _chunks(case: Case) -> Iterator[Case | None]:
    """Take the shortest chunk, or the next, with sequences shorter in proportion, then as they are."""
    for size in CHUNK_SIZES if case.operation.is_chunked else ():
        ratio = case.chunk_size // size
        if ratio > 1:
            for lens in (tuple(-(-length // ratio) for length in case.lens), case.lens):
                tail = -(-case.tail // ratio) if lens != case.lens else case.tail
                yield with_lengths(case, lens, chunk_size=size, tail=tail)


def _lengths(case: Case) -> Iterator[Case | None]:
    """Shorten sequences: all of a dense batch together, else all to one token, then one after another."""
    chunk = case.chunk_size if case.operation.is_chunked else 2
    if not case.packed or case.batched:
        for length in smaller_numbers(case.lens[0], chunk, chunk + 1, case.lens[0] - chunk):
            yield with_lengths(case, (length,) * len(case.lens))
        return
    if max(case.lens) > 1 and len(case.lens) > 1:
        yield with_lengths(case, tuple(min(length, 1) for length in case.lens))
    for n, length in enumerate(case.lens):
        shorter = [1] if length == 0 else smaller_numbers(length, chunk, chunk + 1, length - chunk)
        for other in shorter:
            yield with_lengths(case, (*case.lens[:n], other, *case.lens[n + 1 :]))


def _tail(case: Case) -> Iterator[Case | None]:
    """Take fewer padding tokens after the last sequence."""
    for tail in [0, *smaller_numbers(case.tail, SHORTEST_CHUNK)] if case.tail else ():
        yield changed(case, tail=tail)


def _plainest(case: Case) -> Iterator[Case | None]:
    """Set all flags to their defaults and make the pool compact and fp32, with plain laws and without.

    So a case that stays large, and has no time for one flag after the other, is at least plain.
    """
    changes: dict[str, Any] = {**FLAGS, "pool": replace(case.pool, pitch=0, dtype=Pool.dtype)}
    kept, state = _laws(case)
    yield changed(case, **changes, gates=kept, values=state, edits=())
    yield changed(case, **changes)


def _plain_laws(case: Case) -> Iterator[Case | None]:
    """Draw tensors by the plainest laws: all of them, then gates or values only."""
    kept, state = _laws(case)
    yield changed(case, gates=kept, values=state, scale=None, edits=())
    yield changed(case, gates=kept)
    yield changed(case, values=state)


def _laws(case: Case) -> tuple[Gates, Values]:
    """Return the plainest gates and values that are of the case's kind: same gate formula, same kind of
    state.
    """
    return Gates(lower_bound=case.gates.lower_bound, raw=case.gates.raw), Values(state=case.values.state)


def _edits(case: Case) -> Iterator[Case | None]:
    """Drop all edits, then one of them, then move each to an earlier element."""
    if case.edits:
        yield changed(case, edits=())
    for n in range(len(case.edits)) if len(case.edits) > 1 else ():
        yield changed(case, edits=case.edits[:n] + case.edits[n + 1 :])
    for n, edit in enumerate(case.edits):
        for position in [0, *smaller_numbers(edit.position)] if edit.position else ():
            yield changed(
                case, edits=(*case.edits[:n], replace(edit, position=position), *case.edits[n + 1 :])
            )


def _flags(case: Case) -> Iterator[Case | None]:
    """Set flags to their defaults: all, a half, a quarter, ... at a time."""
    names = [name for name, default in FLAGS.items() if getattr(case, name) != default]
    size = len(names)
    while size:
        for n in range(0, len(names), size):
            yield changed(case, **{name: FLAGS[name] for name in names[n : n + size]})
        size //= 2


def gates(case: Case) -> Iterator[Case | None]:
    """Set one field of the gates to its default, or take a constant law, as strong as it was or past what
    fp32 holds, or let g jump earlier.
    """
    yield from _nested(case, "gates", Gates)
    strong = replace(case.gates, law="constant", at=0, strength=STRONG)
    if case.values.law == "exact":  # which goes with gates of few laws
        yield changed(case, gates=replace(strong, beta=Gates.beta), values=Values(state=case.values.state))
    elif case.gates.law not in ("zero", "constant", "exact"):
        yield changed(case, gates=replace(strong, strength=case.gates.strength))
        yield changed(case, gates=strong)
    chunk = case.chunk_size if case.operation.is_chunked else 2
    for at in smaller_numbers(case.gates.at, chunk - 1, chunk):
        yield changed(case, gates=replace(case.gates, at=at))


def values(case: Case) -> Iterator[Case | None]:
    """Set one field of the values to its default, or take smaller exponents or a smaller seed."""
    yield from _nested(case, "values", Values)
    for name in ("v_exponent", "q_exponent"):
        exponent = getattr(case.values, name)
        for size in smaller_numbers(abs(exponent)):
            changes: dict[str, Any] = {name: size if exponent > 0 else -size}
            yield changed(case, values=replace(case.values, **changes))
    for seed in [s for s in (0, 1, 2, 3) if s < case.values.seed]:
        yield changed(case, values=replace(case.values, seed=seed))


def redrawn(case: Case) -> Iterator[Case | None]:
    """Take one token of each sequence and one head, or one of the two, or one token less of the longest, with
    other numbers: where a rare one is needed, another seed may have it at once."""
    if case.gates.law in UNSEEDED_GATES and case.values.law in UNSEEDED_VALUES:
        return
    heads: dict[str, Any] = {"H": 1, "HV": 1}
    short = tuple(min(length, 1) for length in case.lens)
    lens = short if max(case.lens) > 1 and not case.parents else case.lens
    shapes = [(lens, heads, ONE_HEAD), (case.lens, heads, ONE_HEAD)] if case.HV > 1 else []
    if lens != case.lens:
        shapes.append((lens, {}, ONE_TOKEN))
    if len(case.lens) == 1 and lens != case.lens:
        shapes.append(((case.lens[0] - 1,), {}, ONE_LESS))
    for tokens, fewer, seeds in shapes:
        for seed in seeds:
            yield with_lengths(case, tokens, **fewer, values=replace(case.values, seed=seed))


def two_tokens(case: Case) -> Iterator[Case | None]:
    """Take two tokens of each sequence, with values that differ: of equal ones it may take many to differ in
    what comes out."""
    if max(case.lens) > 2 and case.values.law in ("ones", "zero") and not case.parents:
        for law in ("uniform", "normal"):
            lens = tuple(min(length, 2) for length in case.lens)
            yield with_lengths(case, lens, values=replace(case.values, law=law))


def _nested(case: Case, name: str, kind: type[Gates] | type[Values]) -> Iterator[Case | None]:
    """Set each field of the gates or the values to its default, one at a time."""
    record = getattr(case, name)
    for spec in fields(kind):
        if getattr(record, spec.name) != spec.default:
            yield changed(case, **{name: replace(record, **{spec.name: spec.default})})


def _parents(case: Case) -> Iterator[Case | None]:
    """Take chains for trees, shorter trees, and trees in which one more token follows the one before it."""
    if not case.parents:
        return
    yield changed(case, parents=())
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
            smaller = with_lengths(case, lens)
            if smaller is not None:
                yield changed(smaller, parents=(*case.parents[:n], shorter, *case.parents[n + 1 :]))
        for other in others:
            yield changed(case, parents=(*case.parents[:n], other, *case.parents[n + 1 :]))


def order(case: Case) -> Iterator[Case | None]:
    """Run programs in ascending order, or in descending for shuffled.

    It comes last: a case in another order than ascending is always run twice, so that a call that gives other
    bits the second time does so in every smaller case, not in one of four.
    """
    if case.order != Case.order:
        yield changed(case, order=Case.order)
    if case.order == "shuffled":
        yield changed(case, order="descending")


# What makes a case slow comes first.
MOVES = (
    company_moves.none,
    company_moves.leap,
    _leap,
    _plainest,
    lay_moves.fewer,
    _edits,
    _sequences,
    _heads,
    _dims,
    _chunks,
    _lengths,
    _tail,
    _plainest,
    _plain_laws,
    pool_moves.pool,
    state_moves.states,
    _parents,
    _flags,
    lay_moves.plainer,
    operand_moves.operands,
    gates,
    values,
    redrawn,
    two_tokens,
    company_moves.words,
    order,
    execution_moves.execution,
)
# What may become plainer once a case's content is sparse: sizes, and what content goes by.
AROUND_CONTENT = (
    _sequences,
    _heads,
    _dims,
    _lengths,
    pool_moves.pool,
    state_moves.states,
    _parents,
    _flags,
    operand_moves.operands,
)
