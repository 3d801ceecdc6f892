"""What a case of a feature needs beside it: features that its target must have got right before."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from diffgdn.cases import company, promise_axes
from diffgdn.cases.case import Case
from diffgdn.cases.promise_axes import Flag, Floats, Words
from diffgdn.cases.promises import AXES, Promises
from diffgdn.cases.spans import Span
from diffgdn.probe.cells import RIGHT
from diffgdn.probe.features import Feature
from diffgdn.probe.plan import Plan

KIND = {spec.name: spec.metadata["axis"] for spec in AXES}
PLAINER = ("H", "HV", "ratio", "length")  # axes on which smaller numbers are plainer
ALWAYS: dict[str, set[Any]] = {"strides": {"compact"}, "alignment": {256}, "execution": {"eager"}}
MET, OPEN, UNMET = "met", "open", "unmet"


class Known:
    """What is known of an operation so far: which values of which axes are right."""

    def __init__(self, plan: Plan, features: Iterable[Feature]) -> None:
        self.plain: dict[str, set[Any]] = {}
        for axis, value in promise_axes.asked(plan.case()):
            self.plain.setdefault(axis, set()).add(value)
        self.right = {axis: set(values) for axis, values in self.plain.items()}
        self._open: dict[str, set[Any]] = {}
        self._not: dict[str, set[Any]] = {}
        for one in features:
            self._open.setdefault(one.axis, set()).add(one.value)

    def learn(self, feature: Feature, status: str) -> None:
        """Take note of what came of a feature."""
        self._open.get(feature.axis, set()).discard(feature.value)
        if status == RIGHT:
            self.right.setdefault(feature.axis, set()).add(feature.value)
        elif feature.value not in self.plain.get(feature.axis, ()):
            self._not.setdefault(feature.axis, set()).add(feature.value)

    def state(self, case: Case, axes: tuple[str, ...]) -> tuple[str, str]:
        """Say whether what a case has on other axes than these is right: MET, OPEN or UNMET, and what not."""
        state, which = MET, ""
        for one in (case, *(made for _, made in company.calls(case))):
            for axis, value in promise_axes.asked(one):
                if axis in axes or axis not in self.plain or self._is_right(axis, value):
                    continue
                if value in self._open.get(axis, ()) or (self._is_number(axis) and self._open.get(axis)):
                    state, which = OPEN, f"{axis}={value}"
                else:
                    return UNMET, f"{axis}={promise_axes.shown(value)}"
        return state, which

    def _is_number(self, axis: str) -> bool:
        return not isinstance(KIND[axis], (Words, Flag))

    def _is_right(self, axis: str, value: Any) -> bool:
        """Tell whether a value is right, or a number that was not asked about on an axis where all are."""
        if value in self.right.get(axis, ()):
            return True
        if isinstance(KIND[axis], Flag) and not value:
            return True  # what may occur need not
        return self._is_number(axis) and not self._open.get(axis) and not self._not.get(axis)

    def promises(self, feature: Feature, case: Case) -> Promises:
        """Return promises of what is right, and of what a case of a feature has."""
        allowed = {axis: set(values) for axis, values in self.right.items()}
        for axis, value in promise_axes.asked(case):
            allowed.setdefault(axis, set()).add(value)
        fields: dict[str, Any] = {}
        for axis, values in allowed.items():
            kind = KIND[axis]
            if isinstance(kind, Words):
                fields[axis] = tuple(values | ALWAYS.get(axis, set()))
            elif isinstance(kind, Floats):
                fields[axis] = tuple(values)
            elif isinstance(kind, Flag):
                fields[axis] = True in values
            elif axis in PLAINER and not self._not.get(axis):
                fields[axis] = Span(1, max(values))
            else:
                fields[axis] = tuple(values)
        return Promises(**fields)
