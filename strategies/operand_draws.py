"""Draws which operands a call passes in the interpreter: the usual ones, but for one case in SHARE.

They are drawn late, so that a simpler case is the same case without them. On a GPU they are the build's.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from diffgdn.cases import size_limits
from diffgdn.cases.case import Case
from diffgdn.cases.promises import Promises
from diffgdn.strategies import inside
from diffgdn.strategies.batch_layout import among, rarely, whole
from diffgdn.strategies.laws import AT_THRESHOLD, BOUNDS, EXPONENTS_HALF
from diffgdn.strategies.operand_forms import MOST_VALUES, Form, fitted, ways

SHARE = 7


def drawn(draw: st.DrawFn, case: Case, backend: str, own: Promises) -> Case:
    """Draw the operands of a case where no kernel is compiled for them; elsewhere they are the build's."""
    if backend != "interpret":
        return case
    # All is drawn, whether it is needed or not: a case that takes fewer choices would pass for simpler.
    varied, first = draw(rarely(SHARE)), draw(among(*ways(case.op)))
    second, n = draw(among(None, None, None, *ways(case.op))), draw(whole(0, MOST_VALUES - 1))
    bound = draw(among(*inside.bounds(own, BOUNDS)))
    form = Form(
        case.op,
        case.dtype,
        case.gates.dtype,
        case.gates.raw,
        case.gates.lower_bound is not None,
        case.operands,
    )
    if varied:
        form = first(form, n)
        form = second(form, n // 2) if second is not None else form
    return having(case, fitted(form, own), bound, wild=2 * n >= MOST_VALUES)


def having(case: Case, form: Form, bound: float, wild: bool) -> Case:
    """Return the case in another form, with the rest as it has to be then.

    bound: of its gates, if any. wild: gates that become raw have a law that draws a, A_log and dt_bias apart:
    others have short numbers there, which lose nothing in a narrower dtype.
    """
    gates, values = case.gates, case.values
    if (form.raw, form.operands) == (gates.raw, case.operands):
        return case
    lower = (gates.lower_bound or bound) if form.bounded else None
    beta = "one" if gates.beta == "two" and form.raw_beta else gates.beta
    if not (form.operands.plain_softplus or values.law == "exact"):
        gates = replace(gates, law=AT_THRESHOLD, strength=1.0, at=0)
    if wild and form.raw and not gates.raw and values.law != "exact" and form.operands.plain_softplus:
        gates = replace(gates, law="checkpoint", at=0)
    gates = replace(gates, raw=form.raw, lower_bound=lower, beta=beta)
    if "float16" in (form.operands.k, form.operands.v):
        v, q = _small(values.v_exponent, "v"), _small(values.q_exponent, "q")
        values = replace(values, v_exponent=v, q_exponent=q)
    plain = replace(case, gates=gates, operands=form.operands, values=values, edits=())
    tensors = size_limits.tensors(plain)
    return replace(plain, edits=tuple(edit for edit in case.edits if edit.tensor in tensors))


def _small(exponent: int, name: str) -> int:
    """Return an exponent in the range of fp16."""
    most = EXPONENTS_HALF[name]
    return max(-most, min(most, exponent))
