"""Backends and GPUs, chosen before torch is imported."""

import os
import subprocess
import sys

import pytest

from diffgdn.backend import selection


@pytest.fixture(autouse=True)
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two GPUs, and a torch that can use them."""
    monkeypatch.delenv(selection.ENVIRONMENT, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that what `bind` sets is undone after the test
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(selection, "devices_found", lambda: [("0", "a GPU"), ("1", "another")])
    monkeypatch.setattr(selection, "torch_cuda", lambda: "13.0")


@pytest.mark.parametrize(
    ("asked", "visible"),
    [
        (None, ["0", "1"]),
        ("1", ["1"]),
        ("1,0", ["1", "0"]),
        ("0,0", ["0"]),
        ("", []),
        ("-1", []),
        ("1,-1,0", ["1"]),
        ("0,2,1", ["0"]),
        ("GPU-5e1f", ["GPU-5e1f"]),
        ("MIG-1, MIG-2", ["MIG-1", "MIG-2"]),
    ],
)
def test_visible_gpus_are_those_that_cuda_would_see(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, visible: list[str]
) -> None:
    if asked is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", asked)
    assert selection.visible_gpus() == visible


def test_each_worker_is_bound_to_one_gpu_in_turn_and_sees_the_next_behind_it() -> None:
    bound = []
    for index in range(3):
        selection.bind(index)
        bound.append(os.environ.pop("CUDA_VISIBLE_DEVICES"))
    assert bound == ["0,1", "1,0", "0,1"]


def test_a_worker_keeps_to_what_its_caller_made_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    selection.bind(2)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"


def test_binding_without_a_gpu_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "devices_found", list)
    selection.bind(1)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_the_backend_is_gpu_where_there_is_one() -> None:
    assert (selection.detect(), selection.gpu_missing()) == ("gpu", None)


def test_the_environment_overrides_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(selection.ENVIRONMENT, "interpret")
    assert selection.detect() == "interpret"


def test_an_unknown_backend_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(selection.ENVIRONMENT, "tpu")
    with pytest.raises(ValueError, match="DIFFGDN_BACKEND: expected gpu or interpret, got 'tpu'"):
        selection.detect()


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that CUDA_VISIBLE_DEVICES hides, a torch without CUDA, no GPU at all."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert selection.gpu_missing() == "CUDA_VISIBLE_DEVICES='' hides every GPU"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(selection, "torch_cuda", lambda: None)
    assert selection.gpu_missing() == "the installed torch is a CPU build"
    assert selection.detect() == "interpret"
    monkeypatch.setattr(selection, "devices_found", list)
    assert selection.gpu_missing() == "no NVIDIA GPU is visible"


def test_an_unknown_backend() -> None:
    with pytest.raises(ValueError, match="backend: expected gpu or interpret, got 'cpu'"):
        selection.enter("cpu")


@pytest.mark.parametrize(
    ("entered", "other", "word"), [("interpret", "gpu", "with"), ("gpu", "interpret", "without")]
)
def test_a_backend_is_for_the_life_of_a_process(entered: str, other: str, word: str) -> None:
    """Entering it again is harmless, entering the other after triton was imported is an error."""
    code = (
        f"from diffgdn.backend import selection; selection.enter({entered!r})\n"
        f"import triton.language; selection.enter({entered!r})\n"
        f"try: selection.enter({other!r})\n"
        "except RuntimeError as error: print(error)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = f"backend {other}: triton was already imported {word} TRITON_INTERPRET=1 in this process"
    assert result.stdout.strip() == expected


def test_choosing_a_backend_imports_neither_torch_nor_triton() -> None:
    code = (
        "import sys; from diffgdn.backend import selection; selection.detect();"
        "selection.visible_gpus(); selection.enter('interpret');"
        "selection.bind(0); sys.exit(bool({'torch', 'triton'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
