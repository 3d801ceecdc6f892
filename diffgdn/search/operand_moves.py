"""Moves on the operands of a case: back to the usual ones, one after another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

from diffgdn.cases.case import Case
from diffgdn.cases.operand_options import FLOATS, USUAL, Operands, dtype_of, takes_either_form
from diffgdn.search.changes import changed


def operands(case: Case) -> Iterator[Case | None]:
    """Take the usual operands, gates and beta given where they can be; else one of them at a time."""
    yield from _given(case)
    own = case.operands
    if own == USUAL:
        return
    yield changed(case, operands=USUAL)
    for spec in fields(Operands):
        usual = getattr(USUAL, spec.name)
        if getattr(own, spec.name) != usual:
            yield changed(case, operands=replace(own, **{spec.name: usual}))
    yield from _plainer_dtypes(case)


def _given(case: Case) -> Iterator[Case | None]:
    """Give the log decay in place of raw gates, beta in the form that it has, then in the usual one."""
    if not (takes_either_form(case) and case.gates.raw):
        return
    gates = replace(case.gates, raw=False, lower_bound=None)
    plain: dict[str, Any] = {"dt_bias": USUAL.dt_bias, "A_log": USUAL.A_log}
    yield changed(case, gates=gates, operands=USUAL)
    beta = {"usual": "raw", "activated": "usual"}.get(case.operands.beta, case.operands.beta)
    yield changed(case, gates=gates, operands=replace(case.operands, beta=beta, **plain))


def _plainer_dtypes(case: Case) -> Iterator[Case | None]:
    """Take fp32 for q, gates and state, and the first dtype that is another for what differs from them."""
    own, other = case.operands, FLOATS[-1]
    names = [name for name in ("k", "v") if dtype_of(case, name) != case.dtype]
    changes: dict[str, Any] = dict.fromkeys(names, other)
    if own.dt_bias in FLOATS:
        changes["dt_bias"] = other
    if own.A_log != USUAL.A_log:
        changes["A_log"] = other
    if changes:
        gates = replace(case.gates, dtype="float32")
        yield changed(case, dtype="float32", gates=gates, operands=replace(own, **changes))
        yield changed(case, operands=replace(own, **changes))
