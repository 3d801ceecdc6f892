"""Which operands a call passes, in which dtypes, and the options that go with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffgdn.cases.json_record import Record, require

if TYPE_CHECKING:
    from diffgdn.cases.case import Case

FLOATS = ("float32", "float16", "bfloat16")
COARSENESS = ("float32", "float16", "bfloat16")  # fewer bits later
AS_Q, AS_GATE, NONE = "q", "gate", "none"
BETAS = ("usual", "raw", "activated", NONE)
MOST_THRESHOLD = 80.0  # of softplus: from 88.8 on exp overflows in fp32
EITHER_FORM = ("extend", "recurrent")  # kinds whose gates and beta come given or raw, each by itself


@dataclass(frozen=True, repr=False)
class Operands(Record):
    """Operands that differ from the usual ones of an operation.

    k, v: dtypes of k and v, "q" for that of q. o has that of q, boundary states that of k.

    beta: "usual" is raw where the gates are, "raw" is raw beside a log decay, "activated" is not beside raw
    gates (both in extend and recurrent), "none" is not passed and means ones (recurrent, update). beta_dtype:
    of beta or b, float32 or that of q; "gate" for `gates.dtype`. neg_eigval: a raw beta means 2 sigmoid(b)
    (extend, recurrent).

    dt_bias, A_log: dtypes of these, beside raw gates; for dt_bias "gate" is that of a, and "none" passes
    none, which means zeros. softplus_beta, softplus_threshold: of raw gates without a bound, in decode and
    verify: softplus(x) = log(1 + exp(beta x)) / beta, and x where beta x is past the threshold.
    """

    k: str = AS_Q
    v: str = AS_Q
    beta: str = "usual"
    beta_dtype: str = AS_GATE
    neg_eigval: bool = False
    dt_bias: str = AS_GATE
    A_log: str = "float32"
    softplus_beta: float = 1.0
    softplus_threshold: float = 20.0

    @property
    def plain_softplus(self) -> bool:
        """Tell whether softplus is log(1 + exp(x)), to all digits of fp32."""
        return (self.softplus_beta, self.softplus_threshold) == (1.0, 20.0)


USUAL = Operands()


def takes_either_form(case: Case) -> bool:
    """Tell whether the operation takes gates and beta given or raw, as the case says."""
    return case.operation.kind in EITHER_FORM


def raw_beta(case: Case) -> bool:
    """Tell whether the kernel gets b, of which it makes beta."""
    return case.operands.beta == "raw" or (case.operands.beta == "usual" and case.raw_gates)


def passes_beta(case: Case) -> bool:
    """Tell whether beta, or b, is passed at all."""
    return case.operands.beta != NONE


def dtype_of(case: Case, name: str) -> str:
    """Return the dtype of an operand of the case: q, k, v, a, g, b, beta, dt_bias or A_log."""
    operands = case.operands
    if name == "q":
        return case.dtype
    if name in ("k", "v"):
        own: str = getattr(operands, name)
        return case.dtype if own == AS_Q else own
    if name in ("b", "beta"):
        return case.gates.dtype if operands.beta_dtype == AS_GATE else operands.beta_dtype
    if name == "dt_bias":
        return case.gates.dtype if operands.dt_bias in (AS_GATE, NONE) else operands.dt_bias
    return operands.A_log if name == "A_log" else case.gates.dtype


def coarsest(case: Case) -> str:
    """Return the coarsest dtype among q, k and v: what a kernel may bring the operands of a product to."""
    return max((dtype_of(case, name) for name in "qkv"), key=COARSENESS.index)


def check(case: Case) -> None:
    """Check the operands of a case. Raises ValueError."""
    operands, kind = case.operands, case.operation.kind
    for name in ("k", "v"):
        _one_of(name, getattr(operands, name), (AS_Q, *FLOATS))
    mixed = (operands.k, operands.v) != (AS_Q, AS_Q)
    require(not (mixed and case.operation.single_token), f"operands.k, v: {case.op} has q, k and v in one")
    _one_of("beta", operands.beta, BETAS)
    _one_of("beta_dtype", operands.beta_dtype, (AS_GATE, "float32", case.dtype))
    _one_of("dt_bias", operands.dt_bias, (AS_GATE, NONE, *FLOATS))
    _one_of("A_log", operands.A_log, FLOATS)
    if operands.beta in ("raw", "activated"):
        require(
            takes_either_form(case) and case.raw_gates == (operands.beta == "activated"),
            f"operands.beta: {operands.beta!r} in extend and recurrent, beside gates of the other form",
        )
    require(
        operands.beta != NONE or kind in ("recurrent", "update"),
        f"operands.beta: only recurrent and update go without, got {case.op}",
    )
    require(
        not operands.neg_eigval or (takes_either_form(case) and raw_beta(case)),
        "operands.neg_eigval: for a raw beta of extend and recurrent",
    )
    usual = (operands.dt_bias, operands.A_log) == (AS_GATE, "float32")
    require(usual or case.raw_gates, "operands.dt_bias, A_log: of raw gates alone")
    _check_softplus(case)


def _check_softplus(case: Case) -> None:
    operands = case.operands
    factor, threshold = operands.softplus_beta, operands.softplus_threshold
    if not (0.0 < factor < float("inf") and 0.0 <= threshold <= MOST_THRESHOLD):
        raise ValueError(
            f"operands.softplus: beta above 0, threshold 0 to {MOST_THRESHOLD:g}, got {operands}"
        )
    takes = case.operation.is_sigmoid_gating and case.gates.lower_bound is None
    require(operands.plain_softplus or takes, "operands.softplus: of unbounded gates in decode and verify")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        expected = ", ".join(dict.fromkeys(allowed))
        raise ValueError(f"operands.{name}: expected one of {expected}, got {value!r:.40}")


def asked(case: Case) -> Iterator[tuple[str, Any]]:
    """List (axis of promises, value) for the operands of a case."""
    operands, kind = case.operands, case.operation.kind
    if not case.operation.single_token:
        dtypes = {dtype_of(case, name) for name in "kv"}
        yield "mixed_qkv", dtypes != {case.dtype}
        for dtype in sorted(dtypes):
            yield "dtype", dtype
    if takes_either_form(case):
        yield "raw_gates", case.raw_gates
    if kind in ("recurrent", "update"):
        yield "no_beta", not passes_beta(case)
    if passes_beta(case):
        dtype = dtype_of(case, "beta")
        yield "mixed_beta", dtype != case.gates.dtype
        yield "gate_dtype", dtype
        if takes_either_form(case):
            yield "raw_beta", raw_beta(case)
            if raw_beta(case):
                yield "neg_eigval", operands.neg_eigval
    if case.raw_gates:
        yield "dt_bias", NONE if operands.dt_bias == NONE else dtype_of(case, "dt_bias")
        yield "A_log", operands.A_log
    if case.operation.is_sigmoid_gating and case.gates.lower_bound is None:
        yield "softplus", not operands.plain_softplus
