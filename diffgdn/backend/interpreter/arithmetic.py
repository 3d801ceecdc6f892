"""Compute with bf16 numbers, which Triton's interpreter keeps as their bits.

Each operation is computed in fp32 and rounded to bf16 once. For +, -, *, / and sqrt that is the correctly
rounded result, for fp32 has more than twice the digits (Figueroa, "When is double rounding innocuous?",
1995).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

from diffgdn.backend.interpreter.casts import from_bf16, to_bf16

# Methods of the interpreter's builder that compute with numbers; comparisons among them give truth values.
OPERATIONS = (
    *("fadd", "fsub", "fmul", "fdiv", "frem", "fneg", "precise_divf", "approx_divf", "fma"),
    *("minimumf", "minnumf", "maximumf", "maxnumf", "clampf", "floor", "ceil"),
    *("sqrt", "precise_sqrt", "rsqrt", "exp", "exp2", "log", "log2", "sin", "cos", "erf"),
)
BF16 = tl.bfloat16.name
COMPARISONS = [f"fcmp{order}{name}" for order in "OU" for name in ("LT", "GT", "LE", "GE", "EQ", "NE")]


def bf16_adds_bits() -> bool:
    """Probe whether, in bf16, 1 + 1 is not 2."""
    one = interpreter.TensorHandle(np.array([0x3F80], np.uint16), tl.bfloat16)
    return int(interpreter.interpreter_builder.create_fadd(one, one).data[0]) != 0x4000


def compute_bf16_in_fp32() -> None:
    """Replace the operations of the interpreter's builder on floating-point numbers."""
    builder = interpreter.InterpreterBuilder
    for name in (*OPERATIONS, *COMPARISONS):
        original = getattr(builder, f"create_{name}", None)
        if original is not None:
            setattr(builder, f"create_{name}", _widened(original, rounds=name in OPERATIONS))


def _widened(original: Callable[..., Any], rounds: bool) -> Callable[..., Any]:
    """Wrap an operation so that it gets fp32 if it was given bf16.

    Args:
        original: a method of the builder.
        rounds: whether its result is a bf16 number again, not a truth value.
    """

    def operation(self: Any, first: Any, *rest: Any) -> Any:
        if first.dtype.name != BF16:
            return original(self, first, *rest)
        result = original(self, widen(first), *(widen(value) for value in rest))
        return narrow(result) if rounds else result

    return operation


def widen(handle: Any) -> Any:
    """Convert a handle of bf16 numbers to one of fp32; return anything else as it is."""
    if isinstance(handle, interpreter.TensorHandle) and handle.dtype.scalar == tl.bfloat16:
        return interpreter.TensorHandle(from_bf16(handle.data), tl.float32)
    return handle


def narrow(handle: Any) -> Any:
    """Round a handle of fp32 numbers to bf16."""
    return interpreter.TensorHandle(to_bf16(handle.data), tl.bfloat16)
