"""Large cases take turns on a GPU; what finds its memory full is no fault of a kernel."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from diffgdn.cases.case import Case, Pool
from diffgdn.cases.lay import Lay
from diffgdn.cases.prelude import History
from diffgdn.runner import in_child
from diffgdn.runner.gpu_turn import gpu_turn
from diffgdn.runner.in_process import InProcess
from diffgdn.runner.kernel_child import Ended
from diffgdn.verdict.failures import KernelCrashed
from diffgdn.verdict.question import ORACLE, CompareWithOracle

SMALL = Case(op="gdn.decode")
FAR_POOL = Case(op="gdn.decode", pool=Pool(slots=3, pitch=1 << 30))
FAR_HEADS = Case(op="gdn.decode", H=2, HV=2, lay=(Lay("v", gaps=(0, 0, 1 << 30, 0)),))


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))


def _waits(case: Case, environment: dict[str, str] | None = None) -> bool:
    """Whether a case waits while a large one runs on a GPU."""
    inside, done = threading.Event(), threading.Event()

    def other() -> None:
        with gpu_turn(FAR_POOL, "gpu", {"CUDA_VISIBLE_DEVICES": "0"}):
            inside.set()
            done.wait(5)

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(5)
    seconds: list[float] = []

    def mine() -> None:
        began = time.monotonic()
        with gpu_turn(case, "gpu", environment or {"CUDA_VISIBLE_DEVICES": "0"}):
            seconds.append(time.monotonic() - began)

    second = threading.Thread(target=mine)
    second.start()
    second.join(0.2)
    waited = not seconds
    done.set()
    second.join(5)
    thread.join(5)
    assert seconds  # it comes to its turn in the end
    return waited


@pytest.mark.parametrize("case", [FAR_POOL, FAR_HEADS], ids=["pool", "heads"])
def test_large_cases_run_one_after_another(case: Case) -> None:
    assert _waits(case)


def test_small_cases_do_not_wait() -> None:
    assert not _waits(SMALL)


def test_each_gpu_has_turns_of_its_own() -> None:
    assert not _waits(FAR_POOL, {"CUDA_VISIBLE_DEVICES": "1"})


def test_in_the_interpreter_nothing_waits(tmp_path: Path) -> None:
    with gpu_turn(FAR_POOL, "interpret"):
        assert not list(tmp_path.iterdir())


def test_a_turn_that_does_not_come_is_not_waited_for_forever() -> None:
    entered = []
    with gpu_turn(FAR_POOL, "gpu"), gpu_turn(FAR_POOL, "gpu", most_seconds=0.1):
        entered.append(True)
    assert entered


def test_a_runner_takes_the_turn_before_the_clock_of_a_hang_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, str]] = []

    @contextlib.contextmanager
    def turn(subject: Any, backend: str, environment: Any) -> Iterator[None]:
        asked.append((subject, backend))
        time.sleep(1.5)  # longer than a case may take
        yield

    monkeypatch.setattr(in_child, "gpu_turn", turn)
    runner = in_child.InChild("interpret", tmp_path / "log", hang_seconds=1.0)
    monkeypatch.setattr(runner, "_ready", lambda target: Child())

    class Child:
        cases, history = 1, History()

        def ask(self, *_: Any) -> Any:
            raise Ended("gone")

    verdict, _ = runner._once(SMALL, "vk", ORACLE, False)
    runner.close()
    assert asked == [(SMALL, "interpret")]
    assert verdict.seconds["kernel"] < 1.0


@pytest.mark.parametrize(
    ("message", "kind"),
    [("CUDA error: out of memory", None), ("CUDA error: an illegal memory access", KernelCrashed)],
)
def test_a_context_lost_for_lack_of_memory_is_no_crash_of_the_kernel(
    monkeypatch: pytest.MonkeyPatch, message: str, kind: type[KernelCrashed] | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def lost() -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(torch.cuda, "synchronize", lost)

    class Asking(CompareWithOracle):
        def answer(self, *_: Any) -> Any:
            raise RuntimeError(message)

    runner = InProcess("gpu")
    monkeypatch.setattr(runner, "_target", lambda name: type("Named", (), {"name": name}))
    verdict = runner._judged(SMALL, runner._target("vk"), Asking())
    assert runner.broken == message
    if kind is None:
        assert verdict.failure is None
        assert verdict.refused == "no room in the GPU's memory"
    else:
        assert isinstance(verdict.failure, kind)
