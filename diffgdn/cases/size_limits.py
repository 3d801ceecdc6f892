"""How large a case is in memory, known before anything is allocated, and which ones are refused for that."""

from __future__ import annotations

from diffgdn.cases import lay
from diffgdn.cases.case import Case
from diffgdn.cases.trace import Trace

# Five times what a campaign draws at most. Tensors are made in float64, so this is a few gigabytes.
MOST_ELEMENTS = 1 << 27
# A pool's unnamed slots, and gaps in arguments that lie far, cost address space alone. It must hold offsets
# past 2**31 elements, which are within the contract of every operation.
MOST_REACH = 1 << 33
EXPONENTS = range(-1074, 1024)  # of the powers of two that float64 holds


def tensors(case: Case) -> dict[str, int]:
    """Count the elements of each tensor that `inputs.draw` makes, by name, padding tokens included."""
    T, gate = case.tokens, case.HV * (case.K if case.operation.is_kda else 1)
    sizes = {"q": T * case.H * case.K, "k": T * case.H * case.K, "v": T * case.HV * case.V}
    sizes |= dict(zip(case.decay_and_beta, (T * gate, T * case.HV), strict=False))
    if case.raw_gates:
        sizes |= {"A_log": case.HV} | ({"dt_bias": gate} if case.operands.dt_bias != "none" else {})
    if case.values.state != "none":
        sizes["state"] = len(case.lens) * case.HV * case.V * case.K
    return sizes


def elements(case: Case) -> int:
    """Estimate the elements of a call's tensors and results; of a pool only the named states count."""
    state = case.HV * case.V * case.K
    results = case.tokens * case.HV * case.V + len(case.lens) * state
    return sum(tensors(case).values()) + results + (case.total * state if case.needs_steps else 0)


def reach(case: Case) -> int:
    """Count the elements of the largest argument, with the gaps between them, which cost memory on a GPU."""
    pool = case.pool.slots * (case.HV * case.V * case.K + case.pool.pitch)
    laid = (lay.reach(shape, steps) for _, shape, steps in lay.placed(case))
    return max(pool, *laid, *tensors(case).values())


def refusal(case: Case | Trace) -> str | None:
    """Say in one line why no machine should be asked to run a case or a trace, or return None."""
    state = case.HV * case.V * case.K
    if isinstance(case, Trace):  # it limits the tokens of a call itself; its pool is filled
        held = case.slots * (state + case.pitch) + case.rows * case.draft * state
        return _most("slots, rows and draft", held, MOST_ELEMENTS)
    pool, values = case.pool, case.values
    if values.v_exponent not in EXPONENTS or values.q_exponent not in EXPONENTS:
        return f"values: no float holds 2**{max(values.v_exponent, values.q_exponent, key=abs)}"
    return (
        _most("lens, tail and heads", elements(case), MOST_ELEMENTS)
        or _most("pool.buffer and pool.steps", pool.buffer * pool.steps * state, MOST_ELEMENTS)
        or _most("pool.slots and pool.pitch", pool.slots * (state + pool.pitch), MOST_REACH)
        or _lays(case)
        or _edits(case)
    )


def _most(what: str, size: int, most: int) -> str | None:
    """Say what is too large and by how much, or return None."""
    return f"{what}: {size} elements, where {most} are the most" if size > most else None


def _lays(case: Case) -> str | None:
    """Say which argument is spread over too much memory, or return None."""
    found = (
        _most(f"lay of {one.tensor}", lay.reach(shape, steps), MOST_REACH)
        for one, shape, steps in lay.placed(case)
    )
    return next((why for why in found if why), None)


def _edits(case: Case) -> str | None:
    """Say which edit lies outside of the case's tensors, or return None."""
    sizes = tensors(case)
    for edit in case.edits:
        if edit.tensor not in sizes:
            return f"edits: {case.op} has no tensor {edit.tensor!r:.40}; it has {', '.join(sizes)}"
        if not 0 <= edit.position < sizes[edit.tensor]:
            return f"edits: {edit} is outside of {edit.tensor}, which has {sizes[edit.tensor]} elements"
    return None
