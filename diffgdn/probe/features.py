"""What a probe asks about: features, each a value of an axis of promises, as data.

A feature says how the plan of a plain case is changed. It may be asked in several ways, such as an empty
sequence at each place of a batch. `diffgdn probe` names it AXIS=VALUE, as promises have both.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from diffgdn.cases import company, promise_axes
from diffgdn.cases.case import Case
from diffgdn.cases.case_checks import CHUNK_SIZES, DTYPES
from diffgdn.cases.execution import EXECUTIONS
from diffgdn.cases.lay import ALIGNMENTS, STRIDES
from diffgdn.cases.operand_options import EITHER_FORM
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.promise_axes import shown
from diffgdn.cases.state_options import CACHE_STEPS
from diffgdn.probe.plan import Plan

Ways = tuple[dict[str, Any], ...]
HEADS = ("H", "HV", "ratio")
DIMS = ("K", "V", "square")
ONCE = ("K", "V", "alignment")  # K and V each by itself
SIDES = (1, 8, 16, 17, 32, 48, 64, 100, 128, 256)  # of K and V
FAR_PITCH = 1 << 30  # elements between slots; the third lies past 2**31
SOFTPLUS = (2.0, 10.0)
BOUNDS = (-5.0, -1.0)  # that of published models first


@dataclass(frozen=True)
class Feature:
    """A value of an axis of promises.

    ways: changes of a plan, each a case of its own. own: other axes on which it has values that come with it.
    """

    axis: str
    value: Any
    ways: Ways = field(hash=False)
    own: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return AXIS=VALUE, and where K and V are asked about together, both."""
        axis = "K=V" if self.axis == "K" and "V" in self.ways[0] else self.axis
        return f"{axis}={shown(self.value)}"

    @property
    def asked_once(self) -> bool:
        """Tell whether one case will do: such values of an axis are many, and alike."""
        return self.axis in ONCE and "V" not in self.ways[0].keys() - {self.axis}

    @property
    def axes(self) -> tuple[str, ...]:
        """List the axes on which its cases differ from a plain one."""
        return (self.axis, *self.own)


def plans(feature: Feature, plan: Plan) -> Iterator[Plan]:
    """Iterate over the plans in which a plain plan is changed so that it has the feature."""
    for way in feature.ways:
        yield replace(plan, **way)


def cases(feature: Feature, plan: Plan) -> tuple[Case, ...]:
    """Return the cases that decide a feature: two of its way, or of many ways one each.

    They are those of the plan, changed, that there are; none where the operation knows no such feature.
    """
    variants = (0,) if feature.asked_once else (0, 1)
    found = []
    for number, changed in enumerate(plans(feature, plan)):
        for variant in variants if len(feature.ways) == 1 else (number % 2,):
            try:
                found.append(changed.case(variant))
            except ValueError:
                continue
    return tuple(case for case in found if _has(feature, case))


def _has(feature: Feature, case: Case) -> bool:
    """Tell whether a case has the feature: a way may say nothing in some operation."""
    asked = {value for axis, value in promise_axes.asked(case) if axis == feature.axis}
    return feature.value in asked


@functools.cache
def features(op: str, plan: Plan) -> tuple[Feature, ...]:
    """List the features of an operation, as they change a plan."""
    every = (
        *_dtypes(plan),
        *_sizes(plan),
        *_tokens(plan),
        *_memory(plan),
        *_slots(plan),
        *_options(op, plan),
    )
    return tuple(one for one in every if cases(one, plan))


def _flag(axis: str, *ways: dict[str, Any], own: tuple[str, ...] = ()) -> Feature:
    return Feature(axis, True, ways, own)


def _dtypes(plan: Plan) -> Iterator[Feature]:
    for dtype in DTYPES:
        yield Feature("dtype", dtype, ({"dtype": dtype},))
    for dtype in DTYPES:
        yield Feature("state_dtype", dtype, ({"state_dtype": dtype},))
    for dtype in DTYPES:
        dtypes = {"gate_dtype": dtype} | ({} if dtype == "float32" else {"dtype": dtype})
        yield Feature("gate_dtype", dtype, (dtypes,))
    other = "bfloat16" if plan.dtype == "float32" else "float32"
    yield _flag("mixed_qkv", {"v": other}, {"k": other}, {"k": other, "v": other})
    yield _flag("mixed_beta", {"beta_dtype": plan.dtype if plan.gate_dtype == "float32" else "float32"})
    for dtype in DTYPES:
        yield Feature("A_log", dtype, ({**_raw(plan), "A_log": dtype},))
    for dtype in (*DTYPES, "none"):
        yield Feature("dt_bias", dtype, ({**_raw(plan), "dt_bias": dtype},))


def _sizes(plan: Plan) -> Iterator[Feature]:
    half = plan.K // 2
    yield Feature("square", True, ({"V": plan.K},), DIMS)
    yield Feature("square", False, ({"K": half}, {"V": half}), DIMS)
    for n in SIDES:
        yield Feature("K", n, ({"K": n, "V": n},), DIMS)
    for axis in "KV":
        for n in SIDES:
            if n != plan.K:
                yield Feature(axis, n, ({axis: n},))
    for n in (1, 3, 4, 8):
        yield Feature("H", n, ({"H": n, "HV": n},), HEADS)
    yield Feature("ratio", 2, ({"H": 2, "HV": 4}, {"H": 1, "HV": 2}), HEADS)
    for n in (3, 4, 8):
        yield Feature("ratio", n, ({"H": 1, "HV": n},), HEADS)
    for size in CHUNK_SIZES:
        yield Feature("chunk_size", size, ({"chunk_size": size},))


def _tokens(plan: Plan) -> Iterator[Feature]:
    kind, lens = OPERATIONS[plan.op].kind, plan.lens
    even = (max(lens),) * len(lens)
    yield Feature("batch", "packed", ({"packed": True, "batched": False},))
    yield Feature("batch", "dense", ({"packed": False, "batched": False, "lens": even},))
    yield Feature("batch", "batched", ({"packed": True, "batched": True, "lens": even},))
    chunk = plan.chunk_size
    lengths = (1, chunk - 1, chunk, chunk + 1, 2 * chunk) if kind == "extend" else (1, 2, 3, 5, 17)
    for n in lengths:
        yield Feature("length", n, ({"lens": (n,) * len(lens)},))
    first, *rest = lens
    yield _flag("empty", *({"lens": some} for some in ((0, *lens), (first, 0, *rest), (*lens, 0))))
    for n in (1, 3, 64):
        yield Feature("tail", n, ({"tail": n},))


def _memory(plan: Plan) -> Iterator[Feature]:
    for axis in ("cu_dtype", "index_dtype"):
        for dtype in ("int32", "int64"):
            yield Feature(axis, dtype, ({axis: dtype},))
    for view in ("contiguous", "packed", "gapped"):
        yield Feature("view", view, ({"view": view},))
    for pitch in (0, 64, 8, 1, FAR_PITCH):
        yield Feature("pitch", pitch, ({"pitch": pitch},))
    for word in STRIDES:
        # Of one sequence or one head an axis has one element, whose stride says nothing.
        ways: Ways = ({"form": word},)
        if word.startswith("lying"):
            ways = ({"form": word}, {"form": word, "H": 1, "HV": 1})
        if word == "wide tokens":
            ways = ({"form": word, "packed": False, "lens": (max(plan.lens),) * len(plan.lens)},)
        own = (*HEADS, "batch") if ways[-1] != {"form": word} else ()
        own = ("strides", *own) if word.startswith("far") else own
        yield Feature("strides", word, ways, own)
    for size in reversed(ALIGNMENTS):
        yield Feature("alignment", size, ({"offset": size},), ("alignment",))


def _slots(plan: Plan) -> Iterator[Feature]:
    last = len(plan.lens) - 1
    yield _flag("padding", {"padded": (0,)}, {"padded": (last,)})
    yield _flag("shared", {"shared": True, "inplace": False}, {"shared": True})
    yield _flag("slot_zero", {"first": 0})
    yield _flag("unkept", {**_kept(plan), "unkept": True})
    yield _flag("spare_steps", *({**_kept(plan), "spare": steps} for steps in (1, 3)))


def _options(op: str, plan: Plan) -> Iterator[Feature]:
    for value in (True, False):
        for axis in ("l2norm", "inplace", "final", "boundary", "batch_invariant"):
            yield Feature(axis, value, ({axis: value},))
    yield Feature("scale", "default", ({"scale": None},))
    yield Feature("scale", "given", ({"scale": 0.5},))
    yield Feature("initial_state", True, ({"given": True},))
    yield Feature("initial_state", False, ({"given": False},))
    yield from _gates(plan) if OPERATIONS[op].kind in EITHER_FORM else ()
    yield Feature("bounded", False, ({**_raw(plan), "bound": None},))
    usual, other = ({**_raw(plan), "bound": bound} for bound in BOUNDS)
    yield Feature("bounded", True, (usual,), ("lower_bound",))
    yield Feature("lower_bound", BOUNDS[1], (other,), ("bounded",))
    yield _flag("no_beta", {"beta": "none"})
    yield _flag("softplus", {"softplus": SOFTPLUS}, {"softplus": (1.0, 1.0)})
    yield from _steps(plan)
    yield Feature("output", False, ({"states": ("no_output",)},))
    yield Feature("indices", False, ({"states": ("no_indices",)},), ("slot_zero",))
    yield Feature("initial_flags", True, ({"states": ("flags",)},))
    yield Feature("track", True, ({"states": ("track",)},))
    yield _flag("company", *({"before": (word,)} for word in company.EARLIER))
    for execution in EXECUTIONS:
        yield Feature("execution", execution, ({"execution": execution},))


def _gates(plan: Plan) -> Iterator[Feature]:
    """Gates and beta of extend and recurrent, each given or raw."""
    given: dict[str, Any] = {"raw": False, "bound": None}
    is_raw = plan.case().raw_beta  # as beta is in the plain case, it stays beside other gates
    yield Feature("raw_gates", False, ({**given, "beta": "raw" if is_raw else "usual"},))
    yield Feature("raw_gates", True, ({"raw": True, "beta": "usual" if is_raw else "activated"},))
    yield Feature("raw_beta", False, ({**given, "beta": "usual"}, {"raw": True, "beta": "activated"}))
    yield Feature("raw_beta", True, ({**given, "beta": "raw"}, {"raw": True, "beta": "usual"}))
    ways = {**given, "beta": "raw"}, {"raw": True, "beta": "usual"}
    yield _flag("neg_eigval", *({**way, "neg_eigval": True} for way in ways))


def _raw(plan: Plan) -> dict[str, Any]:
    """Return changes by which gates are raw, where the operation takes either form, and beta as it was."""
    if OPERATIONS[plan.op].kind not in EITHER_FORM or plan.raw:
        return {}
    return {"raw": True, "beta": "usual" if plan.case().raw_beta else "activated"}


def _steps(plan: Plan) -> Iterator[Feature]:
    """Steps that are kept, and what is done with them."""
    kept = _kept(plan)
    yield Feature("steps", False, ({"steps": False},))
    yield Feature("steps", True, ({"steps": True},))
    yield Feature("tree", True, ({**kept, "tree": True},))
    yield Feature("step_update", True, ({**kept, "states": ("step_update",)},))
    yield Feature("step_rows", "slots", ({**kept, "step_rows": "slots"},))
    for word in CACHE_STEPS:
        spare = {"spare": 2} if word == "longest" else {}
        yield Feature("cache_steps", word, ({**kept, **spare, "cache_steps": word},))
    yield Feature("token_slots", True, ({"states": ("token_slots",)},), ("tree", "slot_zero"))


def _kept(plan: Plan) -> dict[str, Any]:
    """Return changes by which the state after each step is kept, where that is an option."""
    return {"steps": True} if OPERATIONS[plan.op].kind == "update" else {}
