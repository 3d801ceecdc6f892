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

import torch  # noqa: E402

from diffgdn.cases.case import Case, Pool, Values  # noqa: E402
from diffgdn.cases.lay import FAR, Lay  # noqa: E402
from diffgdn.search import hypothesis_search  # noqa: E402
from diffgdn.strategies import cases  # noqa: E402
from diffgdn.verdict import execute  # noqa: E402
from diffgdn.verdict.failures import KernelCrashed, Verdict  # noqa: E402

SOURCE = Path(__file__).parents[1] / "unit" / "slipped_kernels.py"
CASES = 400  # of an operation, among which a slip is met; a campaign draws as many in less than a minute
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


def smallest(target: Any, planted: Planted) -> list[Case]:
    run: Callable[[Case, Any], Verdict] = forked if planted.forked else _here
    found = hypothesis_search.find(
        cases(planted.op),
        lambda case: run(case, target),
        max_examples=CASES,
        seed=3,
        max_shrink_seconds=120.0,
        by_field=True,
    )
    return [failing.case for failing in found]


def _here(case: Case, target: Any) -> Verdict:
    return execute.run(case, target, "interpret")


SMALLEST: dict[str, Planted] = {}
