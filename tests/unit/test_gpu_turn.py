"""Large cases take turns on a GPU; what finds its memory full is no fault of a kernel."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from diffgdn import targets
from diffgdn.cases.case import Case, Pool
from diffgdn.cases.lay import Lay
from diffgdn.cases.prelude import History
from diffgdn.probe import matrix
from diffgdn.probe.asker import Asker
from diffgdn.probe.matrix import Config
from diffgdn.runner import in_child
from diffgdn.runner.gpu_turn import gpu_turn
from diffgdn.runner.in_process import InProcess
from diffgdn.runner.kernel_child import Ended
from diffgdn.tensors import far_memory
from diffgdn.verdict.failures import KernelCrashed, KernelRaised, Verdict
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


def test_memory_goes_back_to_the_gpu_before_the_turn_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    alive: list[Callable[[], object | None]] = []
    given: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given.append(alive[-1]() is None))

    class Held:
        pass

    class Asking(CompareWithOracle):
        def answer(self, subject: Any, target: Any, *_: Any) -> Verdict:
            try:
                held = Held()
                alive.append(weakref.ref(held))
                raise KernelRaised(subject.op, None, None, "no")
            except KernelRaised as failure:
                return Verdict(subject, "vk", "gpu", failure)

    runner = InProcess("gpu")
    monkeypatch.setattr(runner, "_target", lambda name: type("Named", (), {"name": name}))
    monkeypatch.setattr(targets, "provenance_of", lambda target, op: {})
    runner.run(SMALL, "vk", Asking())
    assert given == []  # a small case keeps what torch has, for the next one
    runner.run(FAR_POOL, "vk", Asking())
    assert given == [True]


@pytest.fixture
def full_gpu(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A GPU of 80 GB with 10 free, and a clock that waiting moves; what was waited for."""
    now, waited = [1000.0], list[float]()
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 << 30, 80 << 30))
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(far_memory, "_in_vain", -far_memory.AGAIN_SECONDS)
    return waited


def test_the_far_arguments_of_a_case_wait_once_together(full_gpu: list[float]) -> None:
    for _ in range(4):
        far_memory.wait_for_memory(torch.device("cuda"), 20 << 30)
    assert far_memory.WAIT_SECONDS <= sum(full_gpu) < far_memory.WAIT_SECONDS + 1


def test_what_a_gpu_has_no_room_for_is_not_waited_for(full_gpu: list[float]) -> None:
    far_memory.wait_for_memory(torch.device("cuda"), 90 << 30)
    far_memory.wait_for_memory(torch.device("cuda"), 1 << 30)
    assert full_gpu == []


def test_large_cases_of_a_probe_keep_no_worker_from_the_others() -> None:
    config = Config("vk", "gpu", ("gdn.decode",), workers=1)
    run = matrix._Run(config, cast(Asker, None), [], 0.0, lambda *_: None)
    inside, done = threading.Event(), threading.Event()

    def large() -> None:
        inside.set()
        assert done.wait(5)

    run._submit(lambda _: None, large, some=[SMALL, FAR_POOL])
    assert inside.wait(5)
    run._submit(lambda _: None, done.set, some=[SMALL])  # would wait for the large one behind the same worker
    assert done.wait(5)
    run._pool.shutdown()
    run._large_pool.shutdown()
