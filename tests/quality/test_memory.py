"""Slips in how kernels address memory, each in a copy of our own: found, and shrunk to the strides that show
them and nothing else.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import os
import pickle
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from diffgdn.backend import selection

if selection.detect() != "interpret":
    pytest.skip("slips are planted under the interpreter", allow_module_level=True)
selection.enter("interpret")

from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402

from diffgdn.cases.case import Case  # noqa: E402
from diffgdn.cases.lay import Lay  # noqa: E402
from diffgdn.search import by_field  # noqa: E402
from diffgdn.strategies import cases  # noqa: E402
from diffgdn.verdict import execute  # noqa: E402
from diffgdn.verdict.failures import KernelCrashed, NotFinite, PoisonLeaked, Verdict  # noqa: E402

SOURCE = Path(__file__).parents[1] / "unit" / "slipped_kernels.py"
CASES, FEW, SEED = 400, 30, 3  # of an operation, among which a slip is met
STRAYED = (PoisonLeaked, NotFinite)


class Planted(NamedTuple):
    """An operation that the slip is in, and of the smallest case its lay, its lengths and its value heads.

    forked: it reads far outside, which ends a process, so each case has one. cases: among which it is met.
    """

    op: str
    lay: Lay
    lens: tuple[int, ...] = (1,)
    HV: int = 1
    forked: bool = False
    cases: int = CASES


SMALLEST = {
    "batch stride is T token strides": Planted("gdn.update", Lay("k", (1, 0, 0, 0)), (1, 1)),
    "slot indices lie side by side": Planted("gdn.decode", Lay("indices", (1,)), (1, 1)),
    "buffer rows lie side by side": Planted("gdn.verify", Lay("rows", (1,)), (1, 1)),
    "cu_seqlens lies side by side": Planted("gdn.recurrent", Lay("cu_seqlens", (1,))),
    "heads of the pool are compact": Planted("gdn.decode", Lay("state", (0, 1, 0, 0)), HV=2, forked=True),
    "rows of the pool are compact": Planted("kda.decode", Lay("state", (0, 0, 1, 0))),
    "the pool starts on 32 bytes": Planted("gdn.decode", Lay("state", offset=16)),
    "q starts on 16 bytes": Planted("gdn.recurrent", Lay("q", offset=8), cases=900),
}
LONG = ("the pool starts on 32 bytes", "q starts on 16 bytes")
FAR = {
    "offset of a head in 32 bits": ("gdn.recurrent", "q", 2),
    "offset of a head of the pool in 32 bits": ("gdn.decode", "state", 1),
}
MANY, SEEDS = 1500, 4  # draws of an operation, among which an argument lies far on one axis, and how often


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.nightly if name in LONG else ()) for name in SMALLEST]
)
def test_a_slip_is_found_and_shrinks_to_the_strides_that_show_it(name: str) -> None:
    planted, target = SMALLEST[name], load().target_with(name)
    run = forked if planted.forked else execute.run
    found = smallest(planted.op, lambda case: run(case, target, "interpret"), planted.cases)
    assert found.lay == (planted.lay,)
    assert (found.lens, found.H, found.HV) == (planted.lens, 1, planted.HV)
    assert (found.K, found.V, found.view, found.tail) == (16, 16, "contiguous", 0)


@pytest.mark.parametrize("name", SMALLEST)
def test_without_strides_of_its_own_a_case_does_not_show_it(name: str) -> None:
    """Of the same draws those without."""
    planted, target = SMALLEST[name], load().target_with(name)
    for case in drawn(planted.op, FEW):
        verdict = execute.run(replace(case, lay=()), target, "interpret")
        assert verdict.ok, verdict.failure


@pytest.mark.nightly
@pytest.mark.parametrize("name", FAR)
def test_an_offset_past_32_bits_is_drawn_and_shows(name: str) -> None:
    """Of the axis that the slip forms its offset on. Such a case takes seconds, and may end its process."""
    (op, tensor, axis), target = FAR[name], load().target_with(name)

    def past(lay: Lay) -> bool:
        return lay.tensor == tensor and len(lay.gaps) > axis and lay.gaps[axis] > 1 << 20

    far = (
        case
        for number in range(SEEDS)
        for case in drawn(op, MANY, SEED + number)
        if any(map(past, case.lay)) and all(case.lens) and all(slot >= 0 for slot in case.pool.indices)
    )
    case = next(case for case in far if not forked(case, target, "interpret").ok)
    plain = replace(case, lay=tuple(lay for lay in case.lay if not past(lay)))
    assert forked(plain, target, "interpret").ok


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("slipped_kernels", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def forked(case: Case, target: Any, backend: str) -> Verdict:
    """The verdict of a run in a process forked for it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        faulthandler.disable()  # its death is an answer
        verdict = execute.run(case, target, backend)
        os.write(writer, pickle.dumps(verdict.failure))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    crash = KernelCrashed(case.op, None, None, f"died of {signal.Signals(-status).name}" if status else "")
    return Verdict(case, "slipped", backend, pickle.loads(told) if status == 0 else crash)


def drawn(op: str, count: int, start: int = SEED) -> list[Case]:
    """So many of a campaign's draws."""
    met: list[Case] = []

    @seed(start)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(op))
    def collect(case: Case) -> None:
        met.append(case)

    collect()
    return met


def first_failing(op: str, run: Callable[[Case], Verdict], count: int) -> tuple[Case, Verdict]:
    """The first of so many of a campaign's draws that fails and ends no process, and how."""
    for case in drawn(op, count):
        verdict = run(case)
        if not verdict.ok and not isinstance(verdict.failure, KernelCrashed):
            return case, verdict
    pytest.fail(f"no case of {count} fails")


def smallest(op: str, run: Callable[[Case], Verdict], count: int) -> Case:
    """What the first failing case shrinks to. What a stray read meets is poison or no number by chance."""
    case, verdict = first_failing(op, run, count)
    kind = type(verdict.failure)
    alike = STRAYED if kind in STRAYED else (kind,)
    return by_field.simplest(case, lambda other: type(run(other).failure) in alike)
