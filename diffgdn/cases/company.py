"""Calls that a case makes before its own, in the same process: each is named by how it differs from it.

A kernel may keep something from call to call: a table by the address of cu_seqlens, a compiled kernel under a
key without the dtype, a workspace as large as the first call needed. A word stands for the earlier call that
meets such a thing, and `earlier` derives it from the case, so that a finding in company is still one case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from diffgdn.cases.json_record import require
from diffgdn.cases.state_options import StateOptions

if TYPE_CHECKING:
    from diffgdn.cases.case import Case, Pool

MOST_POOL = 1 << 26  # elements of a pool that may be made twice
DTYPE_AFTER = {"float32": "bfloat16", "bfloat16": "float16", "float16": "float32"}
VIEW_AFTER = {"contiguous": "gapped", "gapped": "packed", "packed": "contiguous"}
BOUND = -5.0  # of a kda gate that has none

T = TypeVar("T")


def _turned(values: tuple[T, ...]) -> tuple[T, ...]:
    """Move the first to the end."""
    return values[1:] + values[:1]


def _options(case: Case, change: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> StateOptions:
    """Change what the options of states hold for each sequence as the sequences are changed."""
    options = case.state_options
    return replace(
        options,
        slots=change(options.slots),
        accepted=change(options.accepted),
        initial=change(options.initial),
        track=change(options.track),
    )


def _in_rows(case: Case, pool: Pool, count: int) -> Pool:
    """Return the pool of a call of so many sequences: where none are given slots, row n is sequence n."""
    if case.state_options.indices:
        return pool
    return replace(pool, slots=count, indices=tuple(range(count)))


def _same(case: Case) -> Case:
    return replace(case, values=replace(case.values, seed=case.values.seed + 1))


def _new_values(case: Case) -> Case:
    """Other contents of every tensor: the sequences in another order, or of other lengths."""
    pool, values, gates = case.pool, case.values, case.gates
    values = replace(values, law="uniform" if values.law == "normal" else "normal", seed=values.seed + 1)
    gates = replace(gates, law="constant" if gates.law == "uniform" else "uniform", strength=0.5, at=0)
    pool = replace(pool, indices=_turned(pool.indices), rows=_turned(pool.rows))
    pool, lens = _in_rows(case, pool, len(case.lens)), _turned(case.lens)
    if lens == case.lens and not case.parents and case.packed and not case.batched and len(lens) > 1:
        longest = pool.steps if case.needs_steps else lens[0] + 1
        if lens[0] > 1 and longest > lens[0]:
            lens = (lens[0] + 1, *lens[1:-1], lens[-1] - 1)
    return replace(
        case,
        lens=lens,
        pool=pool,
        gates=gates,
        values=values,
        parents=_turned(case.parents),
        state_options=_options(case, _turned),
    )


def _smaller_batch(case: Case) -> Case | None:
    """The first half of the sequences."""
    count = len(case.lens) // 2
    if not count:
        return None
    pool = replace(case.pool, indices=case.pool.indices[:count], rows=case.pool.rows[:count])
    pool = _in_rows(case, pool, count)
    options = _options(case, lambda values: values[:count])
    return replace(
        case, lens=case.lens[:count], pool=pool, parents=case.parents[:count], state_options=options
    )


def _bigger_batch(case: Case) -> Case:
    """All sequences twice, the second time in slots and buffer rows of their own."""
    pool = case.pool
    indices = tuple(slot + pool.slots if slot >= 0 else -1 for slot in pool.indices)
    rows = tuple(row + pool.buffer if row >= 0 else -1 for row in pool.rows)
    pool = replace(
        pool,
        slots=pool.slots * (2 if max(indices, default=-1) >= 0 else 1),
        indices=pool.indices + indices,
        buffer=2 * pool.buffer,
        rows=pool.rows + rows,
    )
    options = _options(case, lambda values: values * 2)
    second = tuple(
        tuple(slot + case.pool.slots if slot >= 0 else -1 for slot in slots) for slots in options.slots
    )[len(case.lens) :]
    options = replace(options, slots=options.slots[: len(case.lens)] + second)
    return replace(case, lens=case.lens * 2, pool=pool, parents=case.parents * 2, state_options=options)


def _other_dtype(case: Case) -> Case:
    """What had the dtype of q, unless that is fp32, has it again."""
    dtype = DTYPE_AFTER[case.dtype]
    if case.dtype == "float32":
        return replace(case, dtype=dtype)
    gates, pool = case.gates, case.pool
    if gates.dtype == case.dtype:
        gates = replace(gates, dtype=dtype)
    if pool.dtype == case.dtype:
        pool = replace(pool, dtype=dtype)
    return replace(case, dtype=dtype, gates=gates, pool=pool)


def _other_gate_dtype(case: Case) -> Case | None:
    if case.dtype == "float32":
        return None
    dtype = case.dtype if case.gates.dtype == "float32" else "float32"
    return replace(case, gates=replace(case.gates, dtype=dtype))


def _other_state_dtype(case: Case) -> Case | None:
    if case.values.state == "none":
        return None
    return replace(case, pool=replace(case.pool, dtype=DTYPE_AFTER[case.pool.dtype]))


def _other_strides(case: Case) -> Case:
    """Arguments where their view has them, if some lie elsewhere; else another view."""
    return replace(case, lay=()) if case.lay else replace(case, view=VIEW_AFTER[case.view])


def _other_l2norm(case: Case) -> Case:
    return replace(case, l2norm=not case.l2norm)


def _other_scale(case: Case) -> Case:
    return replace(case, scale=2.0 * case.effective_scale if case.scale is None else None)


def _other_chunk_size(case: Case) -> Case | None:
    if not case.operation.is_chunked:
        return None
    return replace(case, chunk_size=32 if case.chunk_size == 16 else case.chunk_size // 2)


def _other_outputs(case: Case) -> Case | None:
    """With boundary states or without them; else with a final state; else with the state written in place."""
    kind = case.operation.kind
    if kind == "extend":
        return replace(case, boundary=not case.boundary)
    if kind == "recurrent":
        return replace(case, final=not case.final)
    return replace(case, inplace=not case.inplace) if kind in ("update", "decode") else None


def _other_gate(case: Case) -> Case | None:
    """A raw kda gate with a lower bound, or without one."""
    if not (case.operation.is_kda and case.raw_gates):
        return None
    bound = BOUND if case.gates.lower_bound is None else None
    return replace(case, gates=replace(case.gates, lower_bound=bound))


# The simplest first.
_MAKERS: dict[str, Callable[[Any], Any]] = {
    "same": _same,
    "new_values": _new_values,
    "smaller_batch": _smaller_batch,
    "bigger_batch": _bigger_batch,
    "other_dtype": _other_dtype,
    "other_gate_dtype": _other_gate_dtype,
    "other_state_dtype": _other_state_dtype,
    "other_strides": _other_strides,
    "other_l2norm": _other_l2norm,
    "other_scale": _other_scale,
    "other_chunk_size": _other_chunk_size,
    "other_outputs": _other_outputs,
    "other_gate": _other_gate,
}
EARLIER = tuple(_MAKERS)
# Words whose call runs the same compiled kernels.
SAME_KERNELS = ("same", "new_values", "smaller_batch", "bigger_batch")
IN_PLACE = "new_values"  # the word whose call lies in the memory of the case itself
_WORDS = {
    "same": "the same call, other values, in memory of its own",
    "new_values": "the same tensors with other values in them",
    "smaller_batch": "half the sequences",
    "bigger_batch": "twice the sequences",
    "other_dtype": "another dtype of q, k, v",
    "other_gate_dtype": "another dtype of the gates",
    "other_state_dtype": "another dtype of the states",
    "other_strides": "other strides",
    "other_l2norm": "use_qk_l2norm_in_kernel turned",
    "other_scale": "another scale",
    "other_chunk_size": "another chunk size",
    "other_outputs": "other outputs",
    "other_gate": "lower_bound of the gate turned",
}


def earlier(case: Case, word: str) -> Case | None:
    """Derive the earlier call of a word: a case without earlier calls, edits and zeroed parts of its own, run
    eagerly; None if the word says nothing about this case. Raises KeyError for an unknown word.
    """
    maker = _MAKERS[word]
    room = case.pool.slots * (case.HV * case.V * case.K + case.pool.pitch)
    if room > MOST_POOL and case.operation.has_pool and case.values.state != "none":
        return None
    try:
        made: Case | None = maker(replace(case, before=(), edits=(), only=(), execution="eager"))
    except ValueError:
        return None
    return made


def calls(case: Case) -> Iterator[tuple[str, Case]]:
    """Iterate over the earlier calls of a case in their order, each with its word."""
    for word in case.before:
        made = earlier(case, word)
        assert made is not None  # as `check` found
        yield word, made


def asked(case: Case) -> Iterator[tuple[str, Any]]:
    """List the axis of promises that is about earlier calls, and whether a case has any."""
    yield "company", bool(case.before)


def lines(case: Case) -> list[str]:
    """Say for a person what runs before the case's own call, a line for each earlier call."""
    return [f"{word}: {_WORDS[word]}: {made!r}" for word, made in calls(case)]


def check(case: Case) -> None:
    """Check the earlier calls of a case. Raises ValueError."""
    if not case.before:
        return
    for word in case.before:
        require(word in _MAKERS, f"before: expected some of {', '.join(EARLIER)}, got {word!r:.40}")
        require(earlier(case, word) is not None, f"before: {word} says nothing about this case")
    require(len(set(case.before)) == len(case.before), f"before: each word once, got {case.before}")
