"""Take lanes a few at a time: lanes never meet, and what is computed for a few of them stays in a cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from diffgdn.reference.noise.operands import InputErrors
from diffgdn.reference.oracle.lanes import Lanes

CACHED = 1 << 20  # numbers of a group's largest tensor, of which a few are in use at a time


def split(lanes: Lanes, numbers: int, grain: int = 1) -> list[slice]:
    """Divide lanes into groups of neighbours, as slices; one group on a GPU, where launches matter more
    than caches.

    Args:
        numbers: how many numbers the largest tensor has, for one lane.
        grain: how many lanes stay together.
    """
    count = lanes.v.shape[1]
    if lanes.v.is_cuda:
        return [slice(0, count)]
    step = max(1, CACHED // max(1, numbers * grain)) * grain
    return [slice(start, min(start + step, count)) for start in range(0, count, step)] or [slice(0, 0)]


def of_lanes(lanes: Lanes, here: slice) -> Lanes:
    """Select some of the lanes, as views."""
    parts = {name: getattr(lanes, name)[:, here] for name in ("q", "k", "v", "g", "beta", "live")}
    return replace(lanes, **parts, state=lanes.state[here])


def of_errors(errors: InputErrors, here: slice) -> InputErrors:
    """Select the errors of some lanes' inputs, as views."""
    parts = {one.name: getattr(errors, one.name) for one in fields(errors)}
    return InputErrors(**{name: None if x is None else x[:, :, here] for name, x in parts.items()})


def joined(parts: Sequence[tuple[Tensor | None, ...]], axes: Sequence[int]) -> tuple[Any, ...]:
    """Join the results of all groups, each along its axis of lanes; a result that is None stays None.

    Args:
        parts: a tuple of results for each group.
        axes: for each result the dimension that counts lanes.
    """
    if len(parts) == 1:
        return parts[0]
    return tuple(
        None if any(x is None for x in each) else torch.cat([x for x in each if x is not None], axis)
        for each, axis in zip(zip(*parts, strict=True), axes, strict=True)
    )
