"""Hold the faults that `diffgdn.selftest.planted_faults` plants, and the targets that have them.

Which cases have one goes by their id, so that parent and child agree without a word: one in a hundred, each
kind equally often.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.selftest.faulty_target import Planted

ONE_IN = 100
FACTOR = 1000.0  # a wrong value is so many times the largest: no bound is so wide
FAR = 2**40  # elements from any tensor, where nothing is mapped


@dataclass(frozen=True)
class Plant:
    """Describe a fault.

    Attributes:
        kind: of the failure that it must become, as `bucket.fault` names it.
        strike: called with a case and what the kernel returned.
    """

    kind: str
    strike: Callable[[Case, dict[str, Tensor]], None]


def _raise(case: Case, results: dict[str, Tensor]) -> None:
    """Raise, as a kernel's checks might."""
    raise RuntimeError("planted")


@triton.jit
def _store_far_kernel(p_x, far):  # type: ignore[no-untyped-def]  # triton resolves annotations
    tl.store(p_x + far, 1.0)


def store_far(x: Tensor) -> None:
    """Store far outside a tensor on a GPU: an illegal memory access, which breaks the context of the
    process."""
    _store_far_kernel[(1,)](x, FAR)


def _crash(case: Case, results: dict[str, Tensor]) -> None:
    """End the process, or break its GPU context."""
    if results["o"].is_cuda:
        store_far(results["o"])
    else:
        os._exit(3)


def _spoil(case: Case, results: dict[str, Tensor]) -> None:
    """Spoil one element of the first token's output, in place."""
    o = results["o"]
    largest = max(1.0, float(o.reshape(case.tokens, case.HV, case.V)[0].abs().max()))
    o[(0,) * o.ndim] = min(FACTOR * largest, torch.finfo(o.dtype).max / 2)


RAISE, CRASH, SPOIL = Plant("raised", _raise), Plant("crashed", _crash), Plant("wrong", _spoil)


def plant_of(case: Case) -> Plant | None:
    """Return the fault of a case, None if it has none. Without tokens there is no value to be wrong: it
    raises instead."""
    number = int(case.id, 16)
    if number % ONE_IN:
        return None
    plant = (RAISE, CRASH, SPOIL)[number // ONE_IN % 3]
    return RAISE if plant is SPOIL and case.total == 0 else plant


def _strike(case: Case, results: dict[str, Tensor]) -> None:
    plant = plant_of(case)
    assert plant is not None
    plant.strike(case, results)


class _Refusing(Planted):
    """Take no case: what is left is the way to it and back."""

    def refuses(self, case: Case, backend: str) -> str | None:
        """Refuse every case."""
        return "not today"


def _has_one(case: Case) -> bool:
    return plant_of(case) is not None


eager, vk = (Planted(name, _strike, _has_one, target=name) for name in ("eager", "vk"))
refusing = _Refusing("refusing", _strike, _has_one)
