"""Pads a batch to a size that an engine captures, and says what the arguments may hold at capture.

An engine captures a call once for each of a few sizes, then replays it with fewer live rows: index -1, and
cu_seqlens that stay at the last token, mark the rows behind them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from diffgdn.cases.case import Case
from diffgdn.cases.state_options import StateOptions

# States up to which stages of extend have one tile. A padded batch stays below where its case does, so that
# no kernel is compiled for the padding alone.
ONE_TILE = 64
MOST_GROWTH = 1 << 22  # elements up to which a pool gets slots of its own for the padding rows


def captured_size(sequences: int) -> int:
    """Return the smallest power of two from `sequences` on: engines capture at 1, 2, 4, 8, ..."""
    return 1 << max(0, sequences - 1).bit_length()


def is_ragged(case: Case) -> bool:
    """Tell whether sequences may be empty: cu_seqlens cuts them from one row of tokens."""
    return case.packed and not case.batched and not case.operation.single_token


def padded(case: Case, sequences: int, tokens: int = 0, room: bool = True) -> Case:
    """Put padding sequences behind those of a case, up to `sequences`, and `tokens` padding tokens.

    A packed batch gets empty sequences, others rows as long as theirs; all have index -1. With `room` the
    pool and the buffer get so much that as many sequences could be live. Raises ValueError where an operation
    knows no padding, and where options of the case go by its number of sequences.
    """
    more = sequences - len(case.lens)
    ragged = is_ragged(case)
    if not ragged and not case.operation.has_pool:
        raise ValueError(f"padding: {case.op} has no index to mark it in a dense batch")
    length = 0 if ragged else case.lens[0]
    chain = tuple(range(-1, length - 1))
    return replace(
        case,
        lens=case.lens + (length,) * more,
        pool=replace(case.pool, **_places(case, sequences, room)),
        parents=case.parents + (chain,) * more if case.parents else (),
        state_options=_accepting(case, more),
        tail=case.tail + tokens if ragged else case.tail,
    )


def _accepting(case: Case, more: int) -> StateOptions:
    """Return the options of states, with no step accepted of so many sequences more."""
    options = case.state_options
    if not (case.operation.commits and options.accepted):
        return options
    return replace(options, accepted=options.accepted + (0,) * more)


def _places(case: Case, sequences: int, room: bool) -> dict[str, Any]:
    """Return the changes of the pool that go with so many sequences."""
    pool, more = case.pool, (-1,) * (sequences - len(case.lens))
    changes: dict[str, Any] = {}
    if case.operation.has_pool:
        changes["indices"] = pool.indices + more
        wanted = max(pool.slots, sequences + 1)
        size = wanted * (case.HV * case.V * case.K + pool.pitch)
        if room and case.values.state != "none" and size <= MOST_GROWTH:
            changes["slots"] = wanted
    if pool.rows:
        changes["rows"] = pool.rows + more
        changes["buffer"] = max(pool.buffer, sequences) if room else pool.buffer
    return changes


def for_graph(case: Case) -> Iterator[Case]:
    """Iterate over what may run in the place of a case that is executed in a graph, the case itself last.

    First comes a batch of more sequences and, if it is packed, a padding token for each of them.
    """
    live = len(case.lens)
    sequences = captured_size(live + 1)
    if case.operation.is_chunked and live * case.HV <= ONE_TILE:
        sequences = min(sequences, ONE_TILE // case.HV)
    for tokens in dict.fromkeys((sequences - live, 0)):
        try:
            yield padded(case, sequences, tokens)
        except ValueError:
            continue
    yield case


def _slots(case: Case, live: int) -> tuple[int, ...]:
    """Return a slot for each sequence: the last have those of live ones; where the pool is too small, all
    have those of the case in opposite order.
    """
    indices, count = case.pool.indices, len(case.lens)
    named = tuple(dict.fromkeys(index for index in indices[:live] if index >= 0))
    if case.pool.slots <= count:
        return indices[::-1]
    free = [slot for slot in range(case.pool.slots - 1, 0, -1) if slot not in named]
    last = (*named[: count - live], *free)[: count - live]
    others = [slot for slot in (*named, *free) if slot not in last]
    return (*others[::-1][: count - len(last)], *last)


def other_contents(case: Case, live: int) -> Case | None:
    """Return a case of the same shapes in which all sequences are live, if there is room for them.

    live: sequences of `case` that are no padding. Where it has `tail` tokens enough, the others have one
    token each, and come first; the rest comes in opposite order, with other rows of the buffer, and chains
    for trees. The last sequences have the slots that live ones of `case` have, so that what an index table
    holds of them later is somebody's. None if that is no valid case.
    """
    count, pool = len(case.lens), case.pool
    lens, padding = case.lens, count - live
    if is_ragged(case):
        ones = (1,) * padding if case.tail >= padding else (0,) * padding
        lens = ones + case.lens[:live][::-1]
    changes: dict[str, Any] = {}
    if pool.indices and case.values.state != "none":
        own = _slots(case, live)
        changes["indices"] = own
        if pool.rows:
            free = range(count - 1, -1, -1)
            changes["rows"] = tuple(
                row if row < pool.buffer and index >= 0 else -1 for row, index in zip(free, own, strict=True)
            )
    parents = tuple(tuple(range(-1, length - 1)) for length in lens) if case.parents else ()
    tail = case.tokens - sum(lens) if is_ragged(case) else case.tail
    try:
        return replace(
            case, lens=lens, pool=replace(pool, **changes), parents=parents, tail=tail, edits=(), only=()
        )
    except ValueError:
        return None
