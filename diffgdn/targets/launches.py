"""Records which Triton kernels are launched: by name, in the order of their first launch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

CLASSES: tuple[Any, ...] = (JITFunction, InterpretedFunction)


@contextmanager
def recorded(names: dict[str, None]) -> Iterator[None]:
    """While active, note the names of kernels that are launched."""
    before = [(cls, cls.run) for cls in CLASSES]
    for cls, run in before:
        cls.run = _noting(run, names)
    try:
        yield
    finally:
        for cls, run in before:
            cls.run = run


def _noting(run: Callable[..., Any], names: dict[str, None]) -> Callable[..., Any]:
    def noted(kernel: Any, *args: Any, **given: Any) -> Any:
        names[getattr(kernel.fn, "__name__", type(kernel).__name__)] = None
        return run(kernel, *args, **given)

    return noted
