"""Looks for the plain case of an operation that a target gets right, from which features differ.

Usually it is the usual one, inside the target's promises. A kernel that is made for other sizes or options
gets the nearest that works.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice, product
from typing import Any

from diffgdn.cases import spans
from diffgdn.cases.case import Case
from diffgdn.cases.promises import Promises
from diffgdn.probe import plan as plans_of
from diffgdn.probe.cells import RIGHT, Cell
from diffgdn.probe.features import Feature, features, plans
from diffgdn.probe.plan import VARIANTS, Plan

# Axes of features that may take the place of what is usual, those that kernels differ in most often first.
REPLACED = (
    ("l2norm", "batch", "state_dtype", "gate_dtype", "H", "length", "raw_gates", "raw_beta", "bounded")
    + ("initial_state", "steps", "token_slots", "step_update", "tree", "scale", "chunk_size", "inplace")
    + ("final", "indices", "slot_zero", "cu_dtype", "index_dtype", "A_log", "dt_bias", "K", "V")
)
# What kernels are made for, each with each.
DTYPES = ("bfloat16", "float16", "float32")
SIDES = (64, 128, 16)
GATES: tuple[dict[str, Any], ...] = ({}, {"raw": True, "beta": "usual"}, {"raw": True, "bound": -5.0})
MOST_TRIES = 400
MOST_STEPS = 16
SECONDS = 60.0

Ask = Callable[[tuple[Case, ...]], Cell]


def find(op: str, promises: Promises, ask: Ask) -> tuple[Plan | None, Cell, tuple[str, ...]]:
    """Return the plan of a plain case that is right, its cell, and in what it differs from the usual one.

    ask: what comes of cases. promises: of the operation. None for the plan if none is right; the cell is then
    that of the first that was tried.
    """
    start = inside(plans_of.usual(op), promises)
    first, until = ask(_cases(start)), time.monotonic() + SECONDS
    if first.status == RIGHT:
        return start, first, _differences(start)
    for plan in islice(_others(start), MOST_TRIES):
        if time.monotonic() > until:
            break
        cell = ask(_cases(plan))
        if cell.status == RIGHT:
            return plan, cell, _differences(plan)
    return None, first, ()


def _cases(plan: Plan) -> tuple[Case, ...]:
    return tuple(plan.case(variant) for variant in range(len(VARIANTS)))


def _differences(plan: Plan) -> tuple[str, ...]:
    """Say in which fields a plan is not the usual one."""
    usual = plans_of.usual(plan.op)
    return tuple(f"{name}={value}" for name, value in vars(plan).items() if value != getattr(usual, name))


def _others(plan: Plan) -> Iterator[Plan]:
    """Iterate over plans for other kernels than the plan is for, then over those with one other feature."""
    kernels = list(dict.fromkeys(filter(_valid_plan, _kernels(plan))))
    yield from (one for one in kernels if one != plan)
    for one in dict.fromkeys((plan, *kernels)):
        for axis in REPLACED:
            for feature in features(one.op, one):
                yield from _valid(feature, one) if feature.axis == axis else ()


def _kernels(plan: Plan) -> Iterator[Plan]:
    for gates, side, dtype in product(GATES, SIDES, DTYPES):
        gate_dtype = plan.gate_dtype if plan.gate_dtype == "float32" else dtype
        yield replace(plan, dtype=dtype, gate_dtype=gate_dtype, K=side, V=side, **gates)


def _valid(feature: Feature, plan: Plan) -> Iterator[Plan]:
    for other in plans(feature, plan):
        if other != plan and _valid_plan(other):
            yield other


def _valid_plan(plan: Plan) -> bool:
    try:
        _cases(plan)
    except ValueError:
        return False
    return True


def inside(plan: Plan, own: Promises) -> Plan:
    """Return the plan nearest to one whose case is promised; as near as it gets, where none is found.

    own: promises of the operation.
    """
    sized = _sized(plan, own)
    plan = sized if _valid_plan(sized) else plan
    for _ in range(MOST_STEPS):
        left = _breaches(plan, own)
        if not left:
            break
        better = [
            other
            for feature in features(plan.op, plan)
            if feature.axis in left
            for other in _valid(feature, plan)
            if own.takes(feature.axis, feature.value, other.case()) and _breaches(other, own) < left
        ]
        if not better:
            break
        plan = better[0]
    return plan


def _breaches(plan: Plan, own: Promises) -> set[str]:
    return {name for name, _, _ in own.breaches(plan.case())}


def _sized(plan: Plan, own: Promises) -> Plan:
    """Return the plan with sizes that are promised, near its own."""
    K, V = spans.nearest(own.K, plan.K), spans.nearest(own.V, plan.V)
    if K != V and True in own.square:
        both = [n for n in range(1, 257) if spans.holds(own.K, n) and spans.holds(own.V, n)]
        if both:
            K = V = min(both, key=lambda n: (abs(n - plan.K), n))
    H, HV = min(own.heads, key=lambda pair: (abs(pair[1] - plan.HV), pair[1] // pair[0]))
    lens = tuple(spans.nearest(own.length, n, 1) for n in plan.lens)
    return replace(plan, K=K, V=V, H=H, HV=HV, lens=lens, pitch=spans.nearest(own.pitch, plan.pitch))
