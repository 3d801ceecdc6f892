"""Slips in how kernels address memory, each in a copy of our own: found, and shrunk to the strides that show
them and nothing else.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from diffgdn.backend import selection

if selection.detect() != "interpret":
    pytest.skip("slips are planted under the interpreter", allow_module_level=True)
selection.enter("interpret")

from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402

from diffgdn.cases.case import Case, Pool  # noqa: E402
from diffgdn.cases.lay import FAR, Lay  # noqa: E402
from diffgdn.search import by_field  # noqa: E402
from diffgdn.strategies import cases  # noqa: E402
from diffgdn.verdict import execute  # noqa: E402
from diffgdn.verdict.failures import KernelCrashed, Verdict  # noqa: E402

SOURCE = Path(__file__).parents[1] / "unit" / "slipped_kernels.py"
CASES, SEED = 400, 3  # of an operation, among which a slip is met
CHUNK = {"chunk_size": 16}
PAIR = Pool(2, (0, 1))


class Planted(NamedTuple):
    """An operation that the slip is in, and how the smallest case differs from the simplest one. forked: it
    reads far outside, which ends a process, so each case has one.
    """

    op: str
    changes: dict[str, Any]
    forked: bool = False


def one(tensor: str, *gaps: int, **others: Any) -> dict[str, Any]:
    return {"lay": (Lay(tensor, gaps, **others),)}


@pytest.fixture(scope="module")
def slipped() -> ModuleType:
    return load()


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("slipped_kernels", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def forked(case: Case, target: Any) -> Verdict:
    """The verdict of a run in a process forked for it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        verdict = execute.run(case, target, "interpret")
        os.write(writer, pickle.dumps(verdict.failure))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    crash = KernelCrashed(case.op, None, None, f"died of {signal.Signals(-status).name}" if status else "")
    return Verdict(case, "slipped", "interpret", pickle.loads(told) if status == 0 else crash)


def first_failing(op: str, run: Callable[[Case], Verdict]) -> tuple[Case, Verdict]:
    """The first case of a campaign's draws that fails, of CASES at most, and how."""
    found: list[tuple[Case, Verdict]] = []

    @seed(SEED)
    @settings(
        max_examples=CASES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(op))
    def ask(case: Case) -> None:
        verdict = None if found else run(case)
        if verdict is not None and not verdict.ok:
            found.append((case, verdict))

    ask()
    assert found, f"no case of {CASES} fails"
    return found[0]


def smallest(op: str, run: Callable[[Case], Verdict]) -> Case:
    """What the first failing case shrinks to."""
    case, verdict = first_failing(op, run)
    kind = type(verdict.failure)
    return by_field.simplest(case, lambda other: type(run(other).failure) is kind)


SMALLEST: dict[str, Planted] = {}
