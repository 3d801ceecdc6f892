"""Changes of a case that give a valid case or None, of which the moves are made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from diffgdn.cases.case import Case
from diffgdn.cases.state_options import StateOptions


def changed(case: Case, **changes: Any) -> Case | None:
    """Change fields of a case; None if they do not fit together.

    With other lengths, heads or dimensions the tensors have other shapes: one edit a tensor is kept, moved to
    the first element, and `only` is left out.
    """
    if changes.keys() & {"lens", "H", "HV", "K", "V"}:
        # Positions lie in tensors of another shape now; the first of each tensor is always there.
        first = {edit.tensor: replace(edit, position=0) for edit in case.edits}
        changes.setdefault("edits", tuple(first.values()))
        changes.setdefault("only", ())
    try:
        return replace(case, **changes)
    except ValueError:
        return None


def with_lengths(
    case: Case, lens: tuple[int, ...], keep: tuple[int, ...] | None = None, **changes: Any
) -> Case | None:
    """Give the sequences numbered in `keep` (None for all) other lengths, and drop the other sequences.

    Slots, buffer rows and trees go with their sequences; the buffer keeps as many spare steps as it has;
    further changes may be given. Returns None if that is no valid case.
    """
    keep = tuple(range(len(case.lens))) if keep is None else keep
    pool, longest = case.pool, max(lens)
    pool = replace(
        pool,
        indices=tuple(pool.indices[n] for n in keep) if pool.indices else (),
        rows=tuple(pool.rows[n] for n in keep) if pool.rows else (),
        steps=max(1, longest + pool.steps - max(1, *case.lens)) if pool.steps else 0,
    )
    if not case.state_options.indices:
        pool = replace(pool, indices=tuple(range(len(keep))), slots=len(keep))
    return changed(
        case,
        lens=lens,
        pool=pool,
        state_options=_state_options(case, lens, keep, changes.get("chunk_size", case.chunk_size)),
        parents=tuple(case.parents[n][:length] for n, length in zip(keep, lens, strict=True))
        if case.parents
        else (),
        gates=replace(case.gates, at=max(0, min(case.gates.at, longest - 1))),
        **changes,
    )


def smaller_numbers(n: int, *marks: int) -> list[int]:
    """List a few numbers from 1 up to n - 1, the boldest step first: 1, 2, some fractions of n, n - 1, and
    `marks`.
    """
    steps = (1, 2, n // 2, n - n // 4, n - n // 8, n - n // 16, n - 1)
    return sorted({m for m in (*steps, *marks) if 1 <= m < n})


def _state_options(case: Case, lens: tuple[int, ...], keep: tuple[int, ...], chunk_size: int) -> StateOptions:
    """Return the options of states of the sequences numbered in `keep`, whose lengths are `lens` now."""
    options = case.state_options
    chunks = [-(-length // chunk_size) for length in lens]
    track = zip((options.track[n] for n in keep if options.track), chunks, strict=False)
    return replace(
        options,
        slots=tuple(options.slots[n] for n in keep if options.slots),
        accepted=tuple(options.accepted[n] for n in keep if options.accepted),
        initial=tuple(options.initial[n] for n in keep if options.initial),
        track=tuple(min(chunk, count - 1) for chunk, count in track),
    )
