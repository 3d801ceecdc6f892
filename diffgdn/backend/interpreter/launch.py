"""Launch an interpreted kernel: turn arguments into the values that a compiled one would see, then run
program after program.

Triton's interpreter passes floats on as Python's, 64-bit integers as 32-bit ones where they fit, looks at
the kernel's signature anew each time and copies every tensor's memory onto itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.errors import InterpreterError
from triton.runtime.jit import _normalize_ty

FLOATS = {"fp16": tl.float16, "bf16": tl.bfloat16, "fp32": tl.float32, "f32": tl.float32, "fp64": tl.float64}
INTEGERS = {
    name: getattr(tl, long)
    for width in (8, 16, 32, 64)
    for name, long in ((f"i{width}", f"int{width}"), (f"u{width}", f"uint{width}"))
}


def arguments_are_untyped() -> bool:
    """Probe whether a float argument arrives as Python's, in double precision."""
    return isinstance(interpreter._implicit_cvt(0.1), float)


def type_arguments() -> None:
    """Replace the launch of interpreted kernels by the one below."""
    original = interpreter.GridExecutor.__call__

    def patched(self: Any, *args: Any, **kwargs: Any) -> None:
        if all(_is_here(value) for value in (*args, *kwargs.values())):
            _launch(self, args, kwargs)
        else:
            original(self, *args, **kwargs)

    interpreter.GridExecutor.__call__ = patched
    interpreter._implicit_cvt = lambda value: argument(value, "")


def _is_here(value: Any) -> bool:
    """Tell whether an argument needs no copy to the CPU and back."""
    device = getattr(value, "device", None)
    return not isinstance(device, torch.device) or device.type == "cpu"


@dataclass(frozen=True)
class _Parameters:
    """Hold what a kernel's signature says.

    Attributes:
        kinds: of each parameter, `constexpr`, the name of a type, or nothing.
    """

    signature: inspect.Signature
    kinds: Mapping[str, str]


@cache
def _parameters(function: Callable[..., Any]) -> _Parameters:
    """Read a kernel's signature; once for each function."""
    annotations = {name: _kind(kind) for name, kind in inspect.get_annotations(function).items()}
    signature = inspect.signature(function)
    return _Parameters(signature, {name: annotations.get(name) or "" for name in signature.parameters})


def _kind(annotation: Any) -> str:
    """Normalise an annotation as Triton does; `constexpr` by whatever name triton.language goes, as the
    compiler has it."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return "constexpr" if text.rpartition(".")[2] == "constexpr" else _normalize_ty(annotation)


def _launch(executor: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Run every program of a grid, in ascending order or as `program_order` has it.

    Raises:
        ValueError: the grid has more than three dimensions.
        InterpreterError: of Triton: a program raised.
    """
    found = _parameters(executor.fn)
    bound = found.signature.bind(*args, **{k: v for k, v in kwargs.items() if k in found.kinds})
    bound.apply_defaults()
    for hook in executor.pre_run_hooks:
        hook(*bound.args, **bound.kwargs)
    given = dict(bound.arguments)
    grid = executor.grid(given) if callable(executor.grid) else executor.grid
    sizes = [int(size) for size in ((grid,) if isinstance(grid, int) else grid)]
    if len(sizes) > 3:
        raise ValueError(f"grid: expected at most 3 dimensions, got {len(sizes)}")
    sizes += [1] * (3 - len(sizes))
    values = {name: argument(value, found.kinds[name]) for name, value in given.items()}
    builder = interpreter.interpreter_builder
    builder.set_grid_dim(*sizes)
    try:
        # What overflows, or divides by zero, is infinite or NaN without a word, as on a GPU.
        with np.errstate(all="ignore"):
            for place in programs(sizes):
                builder.set_grid_idx(*place)
                executor.fn(**values)
    except Exception as error:
        raise InterpreterError(repr(error)) from error


def programs(sizes: Iterable[int]) -> Iterable[tuple[int, ...]]:
    """List the places of a grid in ascending order, the last axis fastest."""
    return product(*(range(size) for size in sizes))


def argument(value: Any, kind: str) -> Any:
    """Convert an argument to what the kernel's body sees.

    Args:
        value: what the caller passed.
        kind: the parameter's annotation, normalised as Triton does: "constexpr", the name of a type, or "".
    """
    if kind == "constexpr" or value is None:
        return value
    if isinstance(value, float):
        return _scalar(value, FLOATS.get(kind, tl.float32))
    if isinstance(value, bool):
        return _scalar(value, tl.int1)
    if isinstance(value, int) and kind in INTEGERS:
        return _scalar(value, INTEGERS[kind])
    if isinstance(value, int) and kind in FLOATS:
        return _scalar(float(value), FLOATS[kind])
    return _convert(value)


_convert = interpreter._implicit_cvt  # as Triton has it: integers, tensors, tuples and descriptors


def _scalar(value: Any, dtype: Any) -> Any:
    """Make a scalar tensor of a number, in one of Triton's types."""
    return interpreter.interpreter_semantic.scalar_constant(value, dtype)
