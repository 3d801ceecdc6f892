"""Makes the other calls of relations that ask for the same computation in another form: batches packed or
dense, states given or not, flags turned."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import torch

from diffgdn.cases.case import Case
from diffgdn.tensors.inputs import DTYPE, Data
from diffgdn.verdict.relations.labelled_results import Side
from diffgdn.verdict.relations.registry import flags_of
from diffgdn.verdict.relations.related_calls import Calls, DoesNotApply
from diffgdn.verdict.relations.subsets import no_slots, own_slots, pick, whole


def packed(case: Case, data: Data, calls: Calls) -> list[Side]:
    """Call a batch in every form that it is not in: packed, dense, and, in decode and verify, dense with
    cu_seqlens. Of sequences of several lengths those of the most frequent one."""
    length, _ = max(Counter(filter(None, case.lens)).items(), key=lambda pair: (pair[1], pair[0]))
    chosen = [n for n, tokens in enumerate(case.lens) if tokens == length]
    parents = tuple(case.parents[n] for n in chosen) if case.parents else ()
    forms = [(True, False), (False, False)]
    if case.operation.is_sigmoid_gating:
        forms.append((True, True))
    sides = []
    for packed, batched in forms:
        if (packed, batched) == (case.packed, case.batched):
            continue
        changes = {"packed": packed, "batched": batched, "tail": 0, "parents": parents}
        other = pick(case, data, [whole(case, n) for n in chosen], **changes)
        sides.append(calls(*other).relabel(lambda label: (label[0], chosen[label[1]], label[2])))
    return sides


def no_state(case: Case, data: Data, calls: Calls) -> Side:
    """Call with zero states where the case passes none, without any where its states are zero."""
    count, dtype = len(case.lens), DTYPE[case.pool.dtype]
    if case.values.state == "none":
        kind, pool = "zero", own_slots(case, count)
        states = {"state": torch.zeros(count, case.HV, case.V, case.K, dtype=dtype)}
    else:
        kind, pool, states = "none", no_slots(case, count), {}
    values = replace(case.values, state=kind)
    other = replace(case, values=values, pool=pool, final=True, edits=(), only=())
    return calls(other, {name: tensor for name, tensor in data.items() if name != "state"} | states)


def padding(case: Case, data: Data, calls: Calls) -> Side:
    """Call with a slot of its own, which holds zeros, for every sequence that has index -1."""
    pool = case.pool
    spare = [slot for slot in range(pool.slots + len(case.lens)) if slot not in pool.indices]
    indices = [slot if slot >= 0 else spare.pop(0) for slot in pool.indices]
    state = data["state"].clone()
    state[[n for n, slot in enumerate(pool.indices) if slot < 0]] = 0
    pool = replace(pool, indices=tuple(indices), slots=max(pool.slots, max(indices) + 1))
    return calls(replace(case, pool=pool, edits=(), only=()), data | {"state": state})


def flags(case: Case, data: Data, calls: Calls) -> list[Side]:
    """Call once for each flag that asks for more or for less, with that flag turned."""
    sides, refusals = [], []
    for flag in flags_of(case):
        try:
            turned: dict[str, Any] = {flag: not getattr(case, flag)}
            sides.append(calls(replace(case, **turned), data))
        except DoesNotApply as why:
            refusals.append(why)
    if not sides:
        raise refusals[0]
    return sides
