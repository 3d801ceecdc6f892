"""What operands a call may pass, in which dtypes: the ways in which they may be other than usual.

On a GPU kernels are compiled for them: there they are part of a build, and one build of a menu's has others.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from diffgdn.cases.operand_options import AS_GATE, AS_Q, EITHER_FORM, FLOATS, NONE, USUAL, Operands
from diffgdn.cases.operations import OPERATIONS, Operation
from diffgdn.cases.promises import EVERYTHING, Promises

if TYPE_CHECKING:
    from diffgdn.strategies.menu import Build

MOST_VALUES = 12  # a number below it picks one of a few values
SOFTPLUS = ((1.0, 2.0), (2.0, 20.0), (1.0, 2.0), (2.0, 0.0), (0.5, 2.0), (1.0, 60.0))  # factor, threshold


@dataclass(frozen=True)
class Form:
    """What there is to choose: the operands of an operation, and whether its gates are raw and bounded."""

    op: str
    dtype: str
    gate_dtype: str
    raw: bool
    bounded: bool
    operands: Operands = USUAL

    @property
    def operation(self) -> Operation:
        """Look up the operation."""
        return OPERATIONS[self.op]

    @property
    def either(self) -> bool:
        """Tell whether gates and beta come given or raw."""
        return self.operation.kind in EITHER_FORM

    @property
    def raw_gates(self) -> bool:
        """Tell whether gates come raw."""
        return self.raw or self.operation.raw_gates

    @property
    def raw_beta(self) -> bool:
        """Tell whether beta comes raw."""
        beta = self.operands.beta
        return beta == "raw" or (beta == "usual" and self.raw_gates)

    def having(self, **changes: Any) -> Form:
        """Return the form with other operands."""
        return replace(self, operands=replace(self.operands, **changes))


def _other_dtypes(form: Form, usual: str) -> tuple[str, ...]:
    """List dtypes other than the usual one, first those that the call has elsewhere."""
    likely = ("float32", form.dtype, *FLOATS[::-1])
    return tuple(dict.fromkeys(dtype for dtype in likely if dtype != usual))


# What may be otherwise: each way takes a form and a number, and returns another form.
def _k(form: Form, n: int) -> Form:
    return form.having(k=_nth(_other_dtypes(form, form.dtype), n))


def _v(form: Form, n: int) -> Form:
    return form.having(v=_nth(_other_dtypes(form, form.dtype), n))


def _raw(form: Form, n: int) -> Form:
    return replace(form, raw=True, bounded=form.operation.is_kda and n % 3 == 1)


def _beta(form: Form, n: int) -> Form:
    """Pass a beta of the other form than the gates, or none."""
    if form.operation.kind == "update" or (form.operation.kind == "recurrent" and n % 2):
        if n % 4 == 3 and form.either:
            form = replace(form, raw=True, bounded=form.operation.is_kda and n > 3)
        return form.having(beta=NONE)
    if n % 4 < 2:
        return form.having(beta="activated" if form.raw_gates else "raw")
    return _raw(form, n).having(beta="activated")


def _beta_dtype(form: Form, n: int) -> Form:
    return form.having(beta_dtype=form.dtype if form.gate_dtype == "float32" else "float32")


def _neg_eigval(form: Form, n: int) -> Form:
    return (form if form.raw_beta else form.having(beta="raw")).having(neg_eigval=True)


def _with_raw_gates(form: Form) -> Form:
    return form if form.raw_gates else replace(form, raw=True)


def _dt_bias(form: Form, n: int) -> Form:
    values = (NONE, *_other_dtypes(form, form.gate_dtype))
    return _with_raw_gates(form).having(dt_bias=_nth(values, n))


def _A_log(form: Form, n: int) -> Form:
    return _with_raw_gates(form).having(A_log=_nth(("bfloat16", "float16"), n))


def _softplus(form: Form, n: int) -> Form:
    factor, threshold = _nth(SOFTPLUS, n)
    return form.having(softplus_beta=factor, softplus_threshold=threshold)


Way = Callable[[Form, int], Form]


def _nth(values: tuple[Any, ...], n: int) -> Any:
    return values[n % len(values)]


@lru_cache
def ways(op: str) -> tuple[Way, ...]:
    """List what may be otherwise in an operation."""
    kind = OPERATIONS[op].kind
    if kind == "packed_decode":
        return (_dt_bias, _beta_dtype, _A_log)
    if kind == "update":
        return (_v, _k, _beta, _beta_dtype)
    if OPERATIONS[op].is_sigmoid_gating:
        return (_v, _k, _dt_bias, _dt_bias, _beta_dtype, _A_log, _softplus, _softplus)
    return (_v, _k, _v, _k, _raw, _beta, _neg_eigval, _dt_bias, _dt_bias, _beta_dtype, _A_log)


def fitted(form: Form, own: Promises) -> Form:
    """Return the form with what does not go together, or is not promised, put right."""
    form = _fitted_gates(form, own)
    operands = form.operands
    changes: dict[str, Any] = {}
    if operands.neg_eigval and not (form.raw_beta and own.neg_eigval):
        changes["neg_eigval"] = False
    if operands.beta == NONE or not _takes_beta_dtype(form, own):
        changes["beta_dtype"] = AS_GATE
    for name in ("k", "v"):
        if not own.mixed_qkv or getattr(operands, name) not in (AS_Q, *own.dtype):
            changes[name] = AS_Q
    if not form.raw_gates:
        changes |= {"dt_bias": AS_GATE, "A_log": "float32"}
    else:
        bias = _promised(operands.dt_bias, (AS_GATE, NONE, *FLOATS), lambda one: _takes_bias(form, one, own))
        A_log = _promised(operands.A_log, FLOATS, lambda one: one in own.A_log)
        changes |= {"dt_bias": bias, "A_log": A_log}
    if form.bounded or not own.softplus:
        changes |= {"softplus_beta": 1.0, "softplus_threshold": 20.0}
    return form.having(**changes)


def _fitted_gates(form: Form, own: Promises) -> Form:
    """Return the form with gates and beta raw, given or bounded as they may be."""
    if form.either and form.raw not in own.raw_gates:
        form = replace(form, raw=not form.raw)
    if form.operation.is_kda and form.raw_gates and form.bounded not in own.bounded:
        form = replace(form, bounded=not form.bounded)
    if form.bounded and not form.raw_gates:
        form = replace(form, bounded=False)
    beta = form.operands.beta
    if beta == NONE and own.no_beta:
        return form
    wanted = beta == "raw" or (beta in ("usual", NONE) and form.raw_gates)
    if form.either and wanted not in own.raw_beta:
        wanted = not wanted
    usual = wanted == form.raw_gates or not form.either
    return form.having(beta="usual" if usual else "raw" if wanted else "activated")


def _takes_beta_dtype(form: Form, own: Promises) -> bool:
    return own.mixed_beta and form.operands.beta_dtype in _gate_dtypes(form, own)


def _gate_dtypes(form: Form, own: Promises) -> tuple[str, ...]:
    return tuple(one for one in ("float32", form.dtype) if own.takes_gates(form.dtype, one))


def _takes_bias(form: Form, bias: str, own: Promises) -> bool:
    """Tell whether a dtype of dt_bias, or none, is promised."""
    if bias in own.dt_bias:
        return True
    dtype = form.gate_dtype if bias == AS_GATE else bias
    return dtype in own.dt_bias or (dtype == form.dtype and AS_Q in own.dt_bias)


def _promised(wanted: str, others: tuple[str, ...], takes: Callable[[str], bool]) -> str:
    """Return what is wanted if it is promised, else the first that is."""
    return next(one for one in (wanted, *others) if takes(one))


def of_build(op: str, build: Build) -> Form:
    """Return the form that a build has."""
    return Form(op, build.dtype, build.gate_dtype, build.raw, build.bounded, build.operands)


def fitted_build(op: str, build: Build, own: Promises) -> Build:
    """Return the build with operands that are promised."""
    form = fitted(of_build(op, build), own)
    return replace(build, raw=form.raw, bounded=form.bounded, operands=form.operands)


def takes_build(op: str, build: Build, own: Promises) -> bool:
    """Tell whether the operands of a build are promised."""
    return own == EVERYTHING or fitted_build(op, build, own) == build


def varied(op: str, found: list[Build], seed: int, own: Promises) -> list[Build]:
    """Return builds of which the last has other operands than the usual ones, if there is more than one."""
    rng = random.Random(f"{seed}/{op}/operands")
    way, n = rng.choice(ways(op)), rng.randrange(MOST_VALUES)
    if len(found) < 2:
        return found
    *others, build = found
    form = fitted(way(of_build(op, build), n), own)
    return [*others, replace(build, raw=form.raw, bounded=form.bounded, operands=form.operands)]
