"""What a shrunk case needs to fail: where it differs from the plainest case of its operation.

A shrink leaves what it could not take away. So each difference is a condition on cases that fail alike: a
number as small, or as large, as it is; a word as it is; a law that is not the plainest one. It is a guess,
which is shown to the user and is theirs to change.
"""

from __future__ import annotations

from typing import Any

from diffgdn.cases import conditions, promise_axes, spans
from diffgdn.cases.case import Case, Values
from diffgdn.cases.promise_axes import Flag, Whole, Words
from diffgdn.cases.promises import AXES, EVERYTHING, Promises
from diffgdn.cases.trace import Trace
from diffgdn.search.moves import SIMPLEST_DIM, bare

# What follows from other axes: HV from H and ratio; a gate's bound is content.
LEFT_OUT = ("HV", "lower_bound")
# Of what a loop does, its last call says little; these hold for all calls of a trace.
OF_TRACES = ("dtype", "state_dtype", "pitch", "ratio", "l2norm", "gates.law", "gates.beta", "order")


def of(subject: Case | Trace, promises: Promises = EVERYTHING) -> dict[str, Any]:
    """Return conditions, in their TOML form, that a shrunk case meets and the plainest case does not.

    promises: of the target; what holds for all that is promised is left out. Of a trace, conditions on what
    is the same in each of its calls.
    """
    case = subject.last_call() if isinstance(subject, Trace) else subject
    plain = bare(case, 1, 0)
    if plain is None:  # no operation lacks one; if one did, only what is drawn would be compared
        return _content(case)
    found = {**_axes(case, plain), **_content(case)}
    own = promises.of(case.op)
    return {
        word: value
        for word, value in found.items()
        if (case is subject or word in OF_TRACES) and not _always(own, word, value)
    }


def _axes(case: Case, plain: Case) -> dict[str, Any]:
    """Compare on each axis of promises."""
    kinds = {spec.name: spec.metadata["axis"] for spec in AXES}
    usual: dict[str, Any] = dict(promise_axes.asked(plain))
    found: dict[str, Any] = {}
    for name, value in promise_axes.asked(case):
        if name in LEFT_OUT or value == usual.get(name):
            continue
        if isinstance(kinds[name], Whole) and name in usual:
            found[name] = {"least": value} if value > usual[name] else {"most": value}
        elif isinstance(kinds[name], Flag | Words):
            found[name] = value
    if len(case.lens) > 1:
        found[conditions.SEQUENCES] = {"least": len(case.lens)}
    _tidy(case, found)
    return found


def _tidy(case: Case, found: dict[str, Any]) -> None:
    """Say once what several axes say."""
    if found.get("square") is False:
        # 16 is tried first. What fails beside 16 with a smaller dimension mostly needs two that differ.
        small = [name for name in ("K", "V") if getattr(case, name) < SIMPLEST_DIM]
        for name in small:
            found.pop(name, None)
        if not small:
            del found["square"]
    if "slot_zero" in found:
        del found["slot_zero"]
        if max(case.pool.indices, default=0) > 0:
            found["pool.indices"] = {"least": 1}


def _content(case: Case) -> dict[str, Any]:
    """Compare laws of tensors and what is not an axis. Where single elements are set, laws say little."""
    found: dict[str, Any] = {}
    if case.gates.law != "zero":
        found["gates.law"] = {"not": "zero"}
    if case.gates.beta != "one":
        found["gates.beta"] = {"not": "one"}
    if case.values.law not in (Values.law, "zero") and not case.only and not case.edits:
        found["values.law"] = {"not": Values.law}
    # A shrink that leaves little of the content empties the state wherever it may.
    if case.values.state == "zero" and not case.only and case.values.law != "zero":
        found["values.state"] = "zero"
    for name in ("v_exponent", "q_exponent"):
        exponent = getattr(case.values, name)
        if exponent:
            found[f"values.{name}"] = {"least": exponent} if exponent > 0 else {"most": exponent}
    if case.order != Case.order:
        found["order"] = {"not": Case.order}
    if case.config:
        found["config"] = case.config
    return found


def _always(own: Promises, word: str, value: Any) -> bool:
    """Tell whether all that is promised on an axis meets a condition."""
    spec = next((spec for spec in AXES if spec.name == word), None)
    if spec is None:
        return False
    promised = getattr(own, word)
    if isinstance(promised, tuple):
        ends = promised
    elif isinstance(promised, spans.Span) and isinstance(spec.metadata["axis"], Whole):
        ends = (promised.first, promised.last)
    else:
        return False
    if isinstance(value, dict):
        return all(value.get("least", end) <= end <= value.get("most", end) for end in ends)
    return all(end == value for end in ends)
