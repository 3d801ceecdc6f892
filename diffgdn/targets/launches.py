"""Records which Triton kernels are launched: by name, in the order of their first launch; and their tiles."""

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

    def note(kernel: Any, given: dict[str, Any]) -> None:
        names[getattr(kernel.fn, "__name__", type(kernel).__name__)] = None

    with _watched(note):
        yield


@contextmanager
def tiles(least: dict[str, int]) -> Iterator[None]:
    """While active, note the smallest tile along V and along K of the kernels that are launched: what they
    are passed as BV and BK, by name or in a record of constants. Nothing is noted of other kernels.

    Tiles are powers of two, so the edges of the smallest are those of every other too.
    """

    def note(kernel: Any, given: dict[str, Any]) -> None:
        for axis in ("V", "K"):
            for holder in (given, *map(_fields, given.values())):
                size = holder.get(f"B{axis}")
                if isinstance(size, int):
                    least[axis] = min(size, least.get(axis, size))

    with _watched(note):
        yield


def _fields(one: Any) -> dict[str, Any]:
    """Return the fields of a NamedTuple, as which some kernels take their constants; of others none."""
    return dict(one._asdict()) if isinstance(one, tuple) and hasattr(one, "_asdict") else {}


@contextmanager
def _watched(note: Callable[[Any, dict[str, Any]], None]) -> Iterator[None]:
    """While active, call `note` with each kernel launched and its keyword arguments."""
    before = [(cls, cls.run) for cls in CLASSES]
    for cls, run in before:
        cls.run = _noting(run, note)
    try:
        yield
    finally:
        for cls, run in before:
            cls.run = run


def _noting(run: Callable[..., Any], note: Callable[[Any, dict[str, Any]], None]) -> Callable[..., Any]:
    def noted(kernel: Any, *args: Any, **given: Any) -> Any:
        note(kernel, given)
        return run(kernel, *args, **given)

    return noted
