"""Let kernels' launchers enter device guards and streams of torch, whatever device their tensors are on.

Around CPU tensors `torch.cuda.device` raises, as do streams if no CUDA is built in, and `torch.cpu` has no
`device` at all. None of it means anything in the interpreter.
"""

from __future__ import annotations

from typing import Any

import torch


def guard_is_missing() -> bool:
    """Probe whether torch has no device guard for the CPU."""
    return not hasattr(torch.cpu, "device")


def ignore_for_cpu_tensors() -> None:
    """Let guards and streams do nothing for the CPU, and nothing at all if there is no GPU."""
    torch.cpu.device = _Nothing  # type: ignore[attr-defined]
    torch.cuda.device = _guard(torch.cuda.device)  # type: ignore[misc]
    torch.cuda.device_of = _guard(torch.cuda.device_of)  # type: ignore[misc]
    if not torch.cuda.is_available():
        torch.cuda.current_stream = lambda device=None: NO_STREAM  # type: ignore[assignment, return-value]
        torch.cuda.default_stream = torch.cuda.current_stream
        torch.cuda.stream = lambda stream: _Nothing()  # type: ignore[assignment, return-value]
        torch.cuda.synchronize = lambda device=None: None


class _Nothing:
    """Guard nothing."""

    def __init__(self, device: Any = None) -> None:
        pass

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *error: object) -> None:
        return None


class _Stream(_Nothing):
    """Stand for the one stream of a machine without a GPU: everything on it is done when it is asked for."""

    cuda_stream = 0
    device = torch.device("cpu")

    def synchronize(self) -> None:
        """Wait for nothing."""

    def wait_stream(self, stream: Any) -> None:
        """Wait for nothing."""

    def query(self) -> bool:
        """Say that all is done."""
        return True


NO_STREAM = _Stream()


class _Guard:
    """Guard as a class of torch.cuda does, but nothing for the CPU: mixed in before that class."""

    original: Any  # the class of torch.cuda

    def __init__(self, device: Any) -> None:
        self._ignored = _is_cpu(device)
        if not self._ignored:
            self.original.__init__(self, device)

    def __enter__(self) -> Any:
        return None if self._ignored else self.original.__enter__(self)

    def __exit__(self, *error: Any) -> Any:
        return False if self._ignored else self.original.__exit__(self, *error)


def _guard(original: Any) -> Any:
    """Derive a guard class of torch.cuda that takes CPU devices and tensors, and None if there is no GPU."""
    members = {"original": original, "__qualname__": original.__qualname__}
    return type(original.__name__, (_Guard, original), members)


def _is_cpu(device: Any) -> bool:
    """Tell whether a device, a tensor's device, an index or None stands for the CPU here."""
    if device is None or isinstance(device, int):
        return not torch.cuda.is_available()
    device = getattr(device, "device", device)
    return torch.device(device).type == "cpu"
