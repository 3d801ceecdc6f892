"""Targets for tests of the bench, as `tests/unit/bench_toys.py:NAME`: the eager target, and what may be the
matter with one.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from diffgdn.cases.case import Case
from diffgdn.reference.noise import Contract
from diffgdn.targets import get
from diffgdn.tensors.arena import Arguments

Spoil = Callable[[Case, dict[str, torch.Tensor]], None]


class Toy:
    """The eager target on three operations; `spoil` acts on the results."""

    layout = "vk"
    operations = ("gdn.extend", "gdn.decode", "gdn.verify")

    def __init__(self, name: str, spoil: Spoil = lambda case, results: None) -> None:
        self.name, self._spoil, self._eager = name, spoil, get("eager")

    def contract(self, op: str) -> Contract:
        return self._eager.contract(op)

    def configurations(self, op: str) -> int:
        return 1

    def refuses(self, case: Case, backend: str) -> str | None:
        return None if case.op in self.operations else f"{self.name} has no {case.op}"

    def run(self, case: Case, arguments: Arguments) -> dict[str, torch.Tensor]:
        results = self._eager.run(case, arguments)
        self._spoil(case, results)
        return results


def _off(case: Case, results: dict[str, torch.Tensor]) -> None:
    results["o"].view(-1)[-1] += 1


def _off_when_long(case: Case, results: dict[str, torch.Tensor]) -> None:
    """Wrong at the last token of the last head, of sequences that a cut case does not have."""
    if max(case.lens) > 200:
        results["o"][0, -1, -1] += 1


def _hole_when_long(case: Case, results: dict[str, torch.Tensor]) -> None:
    """Not a number at a place that no lane of the check has."""
    if max(case.lens) > 200:
        results["o"][0, 100, 1] = torch.nan


def _raise(case: Case, results: dict[str, torch.Tensor]) -> None:
    raise ZeroDivisionError("no such luck")


def _die(case: Case, results: dict[str, torch.Tensor]) -> None:
    if case.op == "gdn.decode":
        os._exit(7)


def _fill(case: Case, results: dict[str, torch.Tensor]) -> None:
    raise torch.OutOfMemoryError("all taken")


def _count_threads(case: Case, results: dict[str, torch.Tensor]) -> None:
    raise RuntimeError(f"{torch.get_num_threads()} threads")


right = Toy("right")
counting = Toy("counting", _count_threads)
full = Toy("full", _fill)
wrong = Toy("wrong", _off)
wrong_when_long = Toy("wrong_when_long", _off_when_long)
hole_when_long = Toy("hole_when_long", _hole_when_long)
raising = Toy("raising", _raise)
dying = Toy("dying", _die)
