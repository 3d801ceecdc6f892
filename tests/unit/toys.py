"""Targets for tests of the campaign and the command line: the eager target, and what can go wrong with one.

Worker processes load them as `tests/unit/toys.py:NAME`. The wrong ones are wrong from three tokens on.
"""

import os
import signal
import time
from collections.abc import Callable

import torch

from diffgdn.cases.case import Case
from diffgdn.cases.promises import Promises
from diffgdn.cases.spans import Span
from diffgdn.reference.noise import Contract
from diffgdn.targets import get
from diffgdn.tensors.arena import Arguments

OPERATIONS = ("gdn.decode", "kda.recurrent")
SMALLEST_WRONG = 3


class Toy:
    """The eager target on two operations; `spoil` acts on the results of larger cases."""

    layout = "vk"
    operations = OPERATIONS

    def __init__(self, name: str, spoil: Callable[[dict[str, torch.Tensor]], None]) -> None:
        self.name, self._spoil, self._eager = name, spoil, get("eager")

    def contract(self, op: str) -> Contract:
        return self._eager.contract(op)

    def configurations(self, op: str) -> int:
        return 1

    def refuses(self, case: Case, backend: str) -> str | None:
        return None

    def run(self, case: Case, arguments: Arguments) -> dict[str, torch.Tensor]:
        results = self._eager.run(case, arguments)
        if case.total >= SMALLEST_WRONG:
            self._spoil(results)
        return results


class Refusing(Toy):
    def refuses(self, case: Case, backend: str) -> str | None:
        return "not today"


class Picky(Toy):
    def refuses(self, case: Case, backend: str) -> str | None:
        return None if case.dtype == "float32" else "it is written for float32"


class Promising(Toy):
    promises = Promises(
        dtype=("bfloat16",),
        K=(8, 32),
        V=(8, 32),
        ratio=(2,),
        view=("packed",),
        l2norm=(True,),
        length=Span(1, 6),
        empty=False,
        padding=False,
        scale=("default",),
    )


def off(results: dict[str, torch.Tensor]) -> None:
    results["o"].view(-1)[0] += 1


def die(results: dict[str, torch.Tensor]) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def leave(results: dict[str, torch.Tensor]) -> None:
    print("no more", flush=True)
    os._exit(3)


def hang(results: dict[str, torch.Tensor]) -> None:
    time.sleep(600)


def nothing(results: dict[str, torch.Tensor]) -> None:
    pass


right = Toy("right", nothing)
wrong = Toy("wrong", off)
dying = Toy("dying", die)
leaving = Toy("leaving", leave)
hanging = Toy("hanging", hang)
picky = Picky("picky", nothing)
promising = Promising("promising", nothing)
promising_wrong = Promising("promising_wrong", off)
refusing = Refusing("refusing", nothing)
no_target = 7
