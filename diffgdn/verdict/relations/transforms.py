"""Makes the other calls of each relation, from a case and its tensors, and labels their results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from diffgdn import targets
from diffgdn.cases.case import Case, Pool
from diffgdn.cases.state_options import StateOptions
from diffgdn.tensors.inputs import Data
from diffgdn.verdict.relations import call_forms, registry
from diffgdn.verdict.relations.labelled_results import Label, Side, join, states_left
from diffgdn.verdict.relations.related_calls import Calls, DoesNotApply
from diffgdn.verdict.relations.segments import segments
from diffgdn.verdict.relations.subsets import own_slots, pick, whole

MOST_ALONE = 3  # sequences that are run alone: the first, the last and one between
MOST_PATHS = 4


Make = Callable[[Case, Data, Calls], Side | list[Side]]  # a list: each is compared with the case's own


def twice(case: Case, data: Data, calls: Calls) -> Side:
    """Make the same call again; in another order than ascending, with programs in the opposite order."""
    return calls(case, data, again=True)


def permuted(case: Case, data: Data, calls: Calls) -> Side:
    """Call the sequences in another order, each in the next slot and buffer row."""
    order = [*reversed(range(len(case.lens)))]
    order = order[1:] + order[:1] if len(order) > 2 else order
    pool = case.pool
    if pool.indices:
        # Each the next slot: were slots reversed as sequences are, two would come out as before.
        indices = tuple((s + 1) % pool.slots if (s := pool.indices[n]) >= 0 else -1 for n in order)
        pool = replace(pool, indices=indices)
    if pool.rows:
        rows = tuple((r + 1) % pool.buffer if (r := case.pool.rows[n]) >= 0 else -1 for n in order)
        pool = replace(pool, rows=rows)
    parents = tuple(case.parents[n] for n in order) if case.parents else ()
    other = pick(case, data, [whole(case, n) for n in order], pool=pool, parents=parents)
    return calls(*other).relabel(lambda label: (label[0], order[label[1]], label[2]))


def separate(case: Case, data: Data, calls: Calls) -> Side:
    """Call the first, the last and a middle sequence alone."""
    live = [n for n, length in enumerate(case.lens) if length]
    chosen = sorted({live[0], live[len(live) // 2], live[-1]})[:MOST_ALONE]
    sides = []
    for n in chosen:
        parents = (case.parents[n],) if case.parents else ()
        other = pick(case, data, [whole(case, n)], parents=parents)
        sides.append(calls(*other).relabel(_relabelling([n])))
    return join(sides)


def append(case: Case, data: Data, calls: Calls) -> Side:
    """Call with the first token once more, after the last; in a tree as a child of the last."""
    parts = [(n, [*range(length), *([0] if length else [])]) for n, length in enumerate(case.lens)]
    pool = case.pool
    if case.needs_steps:
        pool = replace(pool, steps=max(pool.steps, max(case.lens) + 1))
    parents = tuple((*tree, len(tree) - 1) if tree else () for tree in case.parents)
    return calls(*pick(case, data, parts, pool=pool, parents=parents))


def split(case: Case, data: Data, calls: Calls) -> Side:
    """Call each sequence in two parts, cut in the middle; each part has bounds of its own."""
    N = len(case.lens)
    cuts = [length // 2 if length > 1 else length for length in case.lens]
    pool = case.pool
    if case.values.state != "none" and case.operation.has_pool:
        indices = tuple(n if slot >= 0 else -1 for n, slot in enumerate(case.pool.indices))
        pool = replace(own_slots(case, N), indices=indices)
    head = [(n, range(cut)) for n, cut in enumerate(cuts)]
    first = pick(case, data, head, pool=pool, final=True, inplace=True)
    before = calls(*first, measured=True)
    states = states_left(before)
    rest = [n for n in range(N) if cuts[n] < case.lens[n] and (n, cuts[n]) in states]
    if not rest:
        raise DoesNotApply("no state of a sequence of two tokens is left behind")
    values = replace(case.values, state="law")
    tail, tensors = pick(
        case,
        data,
        [(n, range(cuts[n], case.lens[n])) for n in rest],
        pool=own_slots(case, len(rest)),
        final=True,
        inplace=True,
        values=values,
    )
    tensors["state"] = torch.stack([states[n, cuts[n]] for n in rest]).float()
    after = calls(tail, tensors, measured=True)
    moved = after.relabel(lambda label: (label[0], rest[label[1]], label[2] + cuts[rest[label[1]]]))
    return join([before, moved])


def steps(case: Case, data: Data, calls: Calls) -> Side:
    """Decode the draft token by token, the state carried over."""
    op, sides = calls.counterpart("steps", case), []
    states = {n: data["state"][n] for n in range(len(case.lens))}
    for t in range(max(case.lens)):
        live = [n for n, length in enumerate(case.lens) if length > t]
        pool = replace(own_slots(case, len(live)))
        changes: dict[str, Any] = {"op": op, "pool": pool, "tail": 0, "inplace": True}
        changes["state_options"] = StateOptions()
        step, tensors = pick(case, data, [(n, [t]) for n in live], **changes)
        tensors["state"] = torch.stack([states[n] for n in live])
        side = calls(step, tensors, measured=True)
        left = states_left(side)
        states |= {n: left[i, 1] for i, n in enumerate(live)}
        sides.append(side.relabel(_relabelling(live, t)))
    return join(sides)


def stored(case: Case, data: Data, calls: Calls) -> Side:
    """Verify the draft with the state after each step stored, of which some are those committed."""
    op = calls.counterpart("stored", case)
    other = replace(case, op=op, state_options=StateOptions(), edits=(), only=())
    return replace(calls(other, data, measured=True), repeats=False)


def paths(case: Case, data: Data, calls: Calls) -> Side:
    """Call each path of a tree from root to leaf as a chain, MOST_PATHS at most."""
    every: list[tuple[int, list[int]]] = []
    for n, tree in enumerate(case.parents):
        for leaf in sorted(set(range(len(tree))) - set(tree), reverse=True):
            path = [leaf]
            while tree[path[0]] >= 0:
                path.insert(0, tree[path[0]])
            every.append((n, path))
    chosen = every[:MOST_PATHS]
    slots = tuple(case.pool.indices[n] for n, _ in chosen)
    rows = tuple(i if case.pool.rows[n] >= 0 else -1 for i, (n, _) in enumerate(chosen))
    pool = replace(case.pool, indices=slots, rows=rows, buffer=len(chosen))
    side = calls(*pick(case, data, chosen, pool=pool))

    def node(label: Label) -> Label:
        kind, i, count = label
        n, path = chosen[i]
        return (kind, n, path[count] if kind == "o" else path[count - 1] + 1)

    return side.relabel(node)


def recurrent(case: Case, data: Data, calls: Calls) -> Side:
    """Call recurrent, or update, on the tensors of an extend."""
    op = calls.counterpart("recurrent", case)
    dense = op.endswith("recurrent")
    if not dense and case.values.state == "none":
        raise DoesNotApply(f"{op} always takes a state")
    count = len(case.lens)
    pool = Pool(indices=(), dtype=case.pool.dtype) if dense else own_slots(case, count)
    other = replace(case, op=op, pool=pool, boundary=False, final=True, inplace=True, edits=(), only=())
    return replace(calls(other, data, measured=True), repeats=False)


def channels(case: Case, data: Data, calls: Calls) -> Side:
    """Call the kda operation with the decay of the head in every channel."""
    other = replace(case, op=calls.counterpart("channels", case), edits=(), only=())
    wide = {
        name: data[name].unsqueeze(-1).expand(*data[name].shape, case.K).contiguous()
        for name in ("g", "a", "dt_bias")
        if name in data
    }
    return replace(calls(other, data | wide, measured=True), repeats=False)


def heads(case: Case, data: Data, calls: Calls) -> Side:
    """Call with q and k repeated, so that each value head has a query head of its own."""
    each = {name: data[name].repeat_interleave(case.HV // case.H, 1) for name in ("q", "k")}
    return calls(replace(case, H=case.HV, edits=(), only=()), data | each)


def additive(case: Case, data: Data, calls: Calls) -> Side:
    """Call with the values of even tokens and the initial state, then with those of odd tokens and none, and
    add the results; each call has bounds of its own."""
    plain = replace(case, edits=(), only=())
    even = (torch.arange(len(data["v"])) % 2 == 0).view(-1, 1, 1)
    # A where, not a product: padding tokens are NaN, and stay so.
    real = (torch.arange(len(data["v"])) < case.total).view(-1, 1, 1)
    zero = torch.zeros_like(data["v"])
    first = data | {"v": torch.where(even | ~real, data["v"], zero)}
    second = data | {"v": torch.where(~even | ~real, data["v"], zero)}
    if "state" in data:
        second["state"] = torch.zeros_like(data["state"])
    one, other = calls(plain, first, measured=True), calls(plain, second, measured=True)
    assert one.bounds is not None
    assert other.bounds is not None
    results = {name: one.results[name].double() + other.results[name].double() for name in one.results}
    bounds = {name: one.bounds[name] + other.bounds[name] for name in one.results}
    return Side(results, one.labels, bounds, repeats=False)


def rows(case: Case, data: Data, calls: Calls) -> Side:
    """Call with every other row of V zero, in v and in the initial state."""
    kept = torch.arange(0, case.V, 2)
    v = data["v"].clone()
    v[: case.total, :, 1::2] = 0
    changed = {"v": v}
    if "state" in data:
        changed["state"] = data["state"].clone()
        changed["state"][:, :, 1::2] = 0
    side = calls(replace(case, edits=(), only=()), data | changed)
    results = {
        name: tensor[:, :, kept] if tensor.numel() else tensor for name, tensor in side.results.items()
    }
    return replace(side, results=results, columns=kept)


def layout(case: Case, data: Data, calls: Calls) -> Side:
    """Call the target whose states lie in the other layout."""
    name = registry.LAYOUTS.get(calls.target.name)
    if name is None:
        raise DoesNotApply(f"{calls.target.name} has one layout")
    return replace(calls(case, data, measured=True, target=targets.get(name)), repeats=False)


def _relabelling(sequences: list[int], tokens: int = 0) -> Callable[[Label], Label]:
    """Return the function that relabels a call on some sequences, from a token on, for the whole batch."""
    return lambda label: (label[0], sequences[label[1]], label[2] + tokens)


MAKERS: dict[str, Make] = {
    "twice": twice,
    "permuted": permuted,
    "separate": separate,
    "append": append,
    "split": split,
    "steps": steps,
    "stored": stored,
    "paths": paths,
    "recurrent": recurrent,
    "channels": channels,
    "heads": heads,
    "additive": additive,
    "rows": rows,
    "layout": layout,
    "packed": call_forms.packed,
    "no_state": call_forms.no_state,
    "padding": call_forms.padding,
    "flags": call_forms.flags,
    "segments": segments,
}
