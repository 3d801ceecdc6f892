"""Any stride goes: every argument of every public function far apart along each axis, bit for bit as beside
each other. And every kernel is launched on the tensors' device.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from diffgdn.backend import selection

selection.enter(selection.detect())

import torch  # noqa: E402

from diffgdn import kernels  # noqa: E402
from diffgdn.kernels import fold, recurrent_launch  # noqa: E402
from diffgdn.kernels.chunk import pipeline  # noqa: E402
from diffgdn.kernels.current_device import current  # noqa: E402
from diffgdn.kernels.recurrent import recurrent_kernel  # noqa: E402

HANGS = 600  # seconds; a call takes a fraction of one

SCRIPT = Path(__file__).parent / "far_calls.py"
NAMES = (
    "chunk_gdn", "chunk_kda", "recurrent_gdn", "recurrent_kda", "update", "verify", "keeping",
    "commit", "both", "packed_decode_gdn", "packed_decode_kda",
)  # fmt: skip


@pytest.fixture(scope="module")
def far_calls() -> ModuleType:
    spec = importlib.util.spec_from_file_location("far_calls", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(sys.platform != "linux", reason="maps memory as Linux does")
@pytest.mark.parametrize("name", NAMES)
def test_a_far_view_of_any_argument_gives_the_same_bits(name: str) -> None:
    environment = {**os.environ, "DIFFGDN_BACKEND": "interpret"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), name], env=environment, capture_output=True, text=True, timeout=HANGS
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {axis: what for axis, what in found.items() if what != "same"} == {}
    assert len(found) >= (2 if name == "both" else 11)


def test_the_far_calls_are_those_of_every_public_function(far_calls: ModuleType) -> None:
    assert tuple(far_calls.CALLS) == NAMES
    assert {function for function, _ in far_calls.CALLS.values()} == set(kernels.__all__) - {"change_numbers"}


# -- devices -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_kernel_is_launched_while_the_tensors_device_is_current(
    name: str, far_calls: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[torch.device] = []
    launched: list[list[torch.device]] = []

    @contextmanager
    def watched(device: torch.device) -> Iterator[None]:
        entered.append(device)
        with current(device):
            yield
        entered.pop()

    def run(kernel: Any, *args: Any, **kwargs: Any) -> Any:
        launched.append([*entered])
        return launch(kernel, *args, **kwargs)

    launch = type(recurrent_kernel).run
    monkeypatch.setattr(type(recurrent_kernel), "run", run)
    monkeypatch.setattr(pipeline, "current", watched)
    monkeypatch.setattr(recurrent_launch, "current", watched)
    monkeypatch.setattr(fold, "current", watched)
    function, variants = far_calls.CALLS[name]
    for make, _ in variants:
        launched.clear()
        found = far_calls.called(getattr(kernels, function), make)
        assert len(launched) >= (4 if name.startswith("chunk") else 1)
        assert all(devices == [found["result 0"].device] for devices in launched)


def test_the_current_device_of_a_gpu_tensor_is_set_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []

    @contextmanager
    def device(which: torch.device) -> Iterator[None]:
        asked.append(which)
        yield

    monkeypatch.setattr(torch.cuda, "device", device)
    with current(torch.device("cpu")):
        assert asked == []
    with current(torch.device("cuda", 1)):
        assert asked == [torch.device("cuda", 1)]
