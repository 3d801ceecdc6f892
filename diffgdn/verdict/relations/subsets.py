"""Makes cases and tensors of others: some tokens of some sequences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from diffgdn.cases.case import Case, Pool
from diffgdn.cases.state_options import StateOptions
from diffgdn.tensors.inputs import Data

PER_TOKEN = ("q", "k", "v", "g", "beta", "a", "b")
Part = tuple[int, Sequence[int]]  # a sequence, and which of its tokens


def whole(case: Case, n: int) -> Part:
    """Name all tokens of a sequence."""
    return n, range(case.lens[n])


def pick(case: Case, data: Data, parts: Sequence[Part], **changes: Any) -> tuple[Case, Data]:
    """Make a case of one sequence for each part, with its initial state, slot and buffer row.

    data: tensors of the case, as `inputs.draw` returns them. changes: other values of fields; a tree is only
    kept if it is among them. Returns the case and its tensors, new where they differ.
    """
    lens = tuple(len(tokens) for _, tokens in parts)
    even = len(set(lens)) == 1 and lens[0] > 0
    pool = case.pool
    if pool.indices:
        pool = replace(pool, indices=tuple(pool.indices[n] for n, _ in parts))
    if pool.rows:
        pool = replace(pool, rows=tuple(case.pool.rows[n] for n, _ in parts))
    made: dict[str, Any] = {
        "lens": lens,
        "packed": case.packed or not even,
        "batched": case.batched and even,
        "pool": pool,
        "parents": (),
        "edits": (),  # they are in the tensors, as `only` is
        "only": (),
        "state_options": _accepted_of(case, parts),
    }
    other = replace(case, **{**made, **changes})
    tokens = torch.tensor([case.starts[n] + t for n, part in parts for t in part], dtype=torch.long)
    out: Data = {}
    for name, tensor in data.items():
        if name in PER_TOKEN:
            tail = torch.full((other.tail, *tensor.shape[1:]), math.nan, dtype=tensor.dtype)
            out[name] = torch.cat([tensor[tokens], tail])
        elif name == "state":
            out[name] = tensor[[n for n, _ in parts]]
        else:
            out[name] = tensor
    return other, out


def _accepted_of(case: Case, parts: Sequence[Part]) -> StateOptions:
    """Return the options of states, of which a relation meets accepted steps alone, of these sequences."""
    options = case.state_options
    return replace(options, accepted=tuple(options.accepted[n] for n, _ in parts if options.accepted))


def own_slots(case: Case, count: int, **changes: Any) -> Pool:
    """Make a pool of `count` sequences, each in a slot of its own, without a buffer; without indices for a
    dense state. changes: other values of its fields."""
    indices = tuple(range(count)) if case.operation.has_pool else ()
    return Pool(slots=max(1, count), indices=indices, pitch=case.pool.pitch, dtype=case.pool.dtype, **changes)


def no_slots(case: Case, count: int) -> Pool:
    """Make the pool of `count` sequences that are passed no state."""
    return Pool(indices=(-1,) * count if case.operation.has_pool else (), dtype=case.pool.dtype)
