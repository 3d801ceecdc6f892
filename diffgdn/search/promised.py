"""Keeps the candidates of a shrink inside what a target promises."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from diffgdn.cases.case import Case
from diffgdn.cases.promises import AXES, Promises
from diffgdn.search.changes import changed

# Fields of a case, of its gates, pool and options of states, that an axis of promises is about.
CASE = {
    "dtype": ("dtype",),
    "K": ("K", "V"),
    "V": ("K", "V"),
    "square": ("K", "V"),
    "H": ("H", "HV"),
    "HV": ("H", "HV"),
    "ratio": ("H", "HV"),
    "strides": ("lay",),
    "alignment": ("lay",),
    **{
        name: (name,)
        for name in ("chunk_size", "view", "cu_dtype", "index_dtype", "tail", "l2norm", "scale", "inplace")
        + ("final", "boundary", "batch_invariant", "execution")
    },
    "company": ("before",),
}
GATES = {"gate_dtype": "dtype", "bounded": "lower_bound", "lower_bound": "lower_bound", "raw_gates": "raw"}
POOL = {"state_dtype": "dtype", "pitch": "pitch"}
# Axes of the record of operands, which goes back as a whole, with the gates' form that it goes with.
OPERANDS = ("mixed_qkv", "mixed_beta", "A_log", "dt_bias", "raw_beta", "neg_eigval", "no_beta", "softplus")
STATES = {
    **{name: (name,) for name in ("step_update", "step_rows", "cache_steps", "output", "indices", "track")},
    "token_slots": ("slots", "accepted"),
    "initial_flags": ("initial",),
}


def inside(candidate: Case, best: Case, promises: Promises) -> Case | None:
    """Return a candidate for the place of `best`, with what is not promised as `best` has it; None if that
    is no valid case, or still outside.
    """
    for _ in AXES:
        axis = next((name for name, _, _ in promises.breaches(candidate)), None)
        if axis is None:
            return candidate
        back = changed(candidate, **restored(axis, candidate, best))
        if back is None or back == candidate:
            return None
        candidate = back
    return None


def restored(axis: str, candidate: Case, best: Case) -> dict[str, Any]:
    """Return changes that give a candidate what `best` has on an axis; none if the axis is about more."""
    if axis in OPERANDS:
        form: dict[str, Any] = {
            "raw": best.gates.raw,
            "lower_bound": best.gates.lower_bound,
            "dtype": best.gates.dtype,
        }
        return {"operands": best.operands, "dtype": best.dtype, "gates": replace(candidate.gates, **form)}
    if axis in GATES:
        own = {GATES[axis]: getattr(best.gates, GATES[axis])}
        return {"gates": replace(candidate.gates, **own)}
    if axis in POOL:
        own = {POOL[axis]: getattr(best.pool, POOL[axis])}
        return {"pool": replace(candidate.pool, **own)}
    if axis in STATES:
        own = {name: getattr(best.state_options, name) for name in STATES[axis]}
        return {"state_options": replace(candidate.state_options, **own)}
    return {name: getattr(best, name) for name in CASE.get(axis, ())}
