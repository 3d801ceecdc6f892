"""Pairs of features that kernels handle together: each alone may be right, and both at once wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from diffgdn.cases.case import Case
from diffgdn.probe.features import Feature, cases
from diffgdn.probe.plan import Plan

PAIRS = (
    ("dtype", "state_dtype"),
    ("dtype", "l2norm"),
    ("dtype", "gate_dtype"),
    ("dtype", "K"),
    ("dtype", "batch"),
    ("state_dtype", "pitch"),
    ("state_dtype", "inplace"),
    ("K", "ratio"),
    ("K", "l2norm"),
    ("K", "view"),
    ("K", "chunk_size"),
    ("square", "ratio"),
    ("ratio", "batch"),
    ("ratio", "view"),
    ("ratio", "length"),
    ("batch", "length"),
    ("batch", "initial_state"),
    ("batch", "boundary"),
    ("batch", "view"),
    ("length", "chunk_size"),
    ("length", "boundary"),
    ("empty", "padding"),
    ("empty", "tail"),
    ("empty", "initial_state"),
    ("empty", "boundary"),
    ("empty", "indices"),
    ("empty", "initial_flags"),
    ("empty", "track"),
    ("tail", "boundary"),
    ("padding", "inplace"),
    ("padding", "initial_flags"),
    ("padding", "slot_zero"),
    ("padding", "steps"),
    ("padding", "token_slots"),
    ("pitch", "padding"),
    ("final", "inplace"),
    ("raw_gates", "l2norm"),
    ("raw_gates", "state_dtype"),
    ("raw_gates", "ratio"),
    ("bounded", "ratio"),
    ("bounded", "A_log"),
    ("bounded", "dt_bias"),
    ("tree", "step_update"),
    ("tree", "unkept"),
    ("tree", "spare_steps"),
    ("tree", "batch"),
    ("steps", "ratio"),
    ("token_slots", "length"),
    ("unkept", "padding"),
    ("unkept", "step_update"),
    ("spare_steps", "cache_steps"),
    ("strides", "ratio"),
)
# Of axes with more values than matter here, those that are paired.
CHOSEN = {
    "K": (17, 128),
    "ratio": (2, 3),
    "length": (1, 5, 65),
    "pitch": (1, 64),
    "tail": (3,),
    "strides": ("nested tokens", "gapped tokens", "nested states"),
}


@dataclass(frozen=True)
class Pair:
    """Two features in one case."""

    first: Feature
    second: Feature
    case: Case

    @property
    def name(self) -> str:
        """Return the names of both."""
        return f"{self.first.name}, {self.second.name}"

    @property
    def axes(self) -> tuple[str, ...]:
        """List the axes of both."""
        return (*self.first.axes, *self.second.axes)


def pairs(plan: Plan, right: list[Feature]) -> Iterator[Pair]:
    """Iterate over pairs of features, of those that are right and not plain, that one case can have."""
    for one, other in PAIRS:
        for first, second in product(_of(right, one), _of(right, other)):
            made = _together(plan, first, second)
            if made is not None:
                yield Pair(first, second, made)


def _of(right: list[Feature], axis: str) -> list[Feature]:
    found = [one for one in right if one.axis == axis]
    if axis == "K":
        found = [one for one in found if "V" in one.ways[0]]  # both at once
    return [one for one in found if one.value in CHOSEN.get(axis, (one.value,))]


def _together(plan: Plan, first: Feature, second: Feature) -> Case | None:
    """Return a case with the first way of each, whose changes do not take each other back; or None."""
    one, other = first.ways[0], second.ways[0]
    if any(one[name] != other[name] for name in one.keys() & other.keys()):
        return None
    both = {**one, **other}
    found = {case for feature in (first, second) for case in cases(replace(feature, ways=(both,)), plan)}
    kept = [
        case
        for case in sorted(found, key=lambda case: case.id)
        if all(case in cases(replace(feature, ways=(both,)), plan) for feature in (first, second))
    ]
    return kept[0] if kept else None
