"""Device guards and streams of torch, which kernels' launchers enter whatever device their tensors are on.

Around CPU tensors `torch.cuda.device` raises, as do streams where no CUDA is built in, and `torch.cpu` has no
`device` at all. None of it means anything in the interpreter.
"""

from __future__ import annotations

from typing import Any

import torch


def guard_is_missing() -> bool:
    """torch has no device guard for the CPU."""
    return not hasattr(torch.cpu, "device")


def ignore_for_cpu_tensors() -> None:
    """Let guards and streams do nothing for the CPU, and where there is no GPU."""
    torch.cpu.device = _Nothing  # type: ignore[attr-defined]
    torch.cuda.device = _guard(torch.cuda.device)  # type: ignore[misc]
    torch.cuda.device_of = _guard(torch.cuda.device_of)  # type: ignore[misc]
    if not torch.cuda.is_available():
        torch.cuda.current_stream = lambda device=None: NO_STREAM  # type: ignore[assignment, return-value]
        torch.cuda.default_stream = torch.cuda.current_stream
        torch.cuda.stream = lambda stream: _Nothing()  # type: ignore[assignment, return-value]
        torch.cuda.synchronize = lambda device=None: None


class _Nothing:
    """A guard that guards nothing."""

    def __init__(self, device: Any = None) -> None:
        pass

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *error: object) -> None:
        return None


class _Stream(_Nothing):
    """The one stream of a machine without a GPU: everything on it is done when it is asked for."""

    cuda_stream = 0
    device = torch.device("cpu")

    def synchronize(self) -> None:
        pass

    def wait_stream(self, stream: Any) -> None:
        pass

    def query(self) -> bool:
        return True


NO_STREAM = _Stream()


def _guard(original: Any) -> Any:
    """A guard class of torch.cuda that takes CPU devices and tensors, and None where there is no GPU."""

    class Guard(original):
        def __init__(self, device: Any) -> None:
            self._ignored = _is_cpu(device)
            if not self._ignored:
                super().__init__(device)

        def __enter__(self) -> Any:
            return None if self._ignored else super().__enter__()

        def __exit__(self, *error: Any) -> Any:
            return False if self._ignored else super().__exit__(*error)

    Guard.__name__, Guard.__qualname__ = original.__name__, original.__qualname__
    return Guard


def _is_cpu(device: Any) -> bool:
    if device is None or isinstance(device, int):
        return not torch.cuda.is_available()
    device = getattr(device, "device", device)
    return torch.device(device).type == "cpu"
