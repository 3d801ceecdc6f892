"""Let comparisons give truth values, and truth values add modulo 2.

Triton's interpreter calls the result of a comparison a number of the operands' type, so that a cast to that
type leaves bytes where numbers should be. Up to 3.8 it adds booleans as numpy does, True + True being True.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

ORDERS = ("LT", "GT", "LE", "GE", "EQ", "NE")
COMPARISONS = tuple(
    f"create_{kind}{order}"
    for kinds, orders in (
        (("icmpS", "icmpU"), ORDERS[:4]),
        (("icmp",), ORDERS[4:]),
        (("fcmpO", "fcmpU"), ORDERS),
    )
    for kind in kinds
    for order in orders
)


def comparison_is_a_number() -> bool:
    """Probe whether 1 < 1 is a number of the type of 1."""
    one = interpreter.TensorHandle(np.ones(1, np.float32), tl.float32)
    return bool(interpreter.interpreter_builder.create_fcmpOLT(one, one).dtype != tl.int1)


def compare_to_truth_values() -> None:
    """Let every comparison of the interpreter's builder give booleans."""
    builder = interpreter.InterpreterBuilder
    for name in COMPARISONS:
        setattr(builder, name, _to_truth_values(getattr(builder, name)))


def _to_truth_values(original: Callable[..., Any]) -> Callable[..., Any]:
    def compare(self: Any, lhs: Any, rhs: Any) -> Any:
        result = original(self, lhs, rhs)
        result.dtype = tl.int1
        return result

    return compare


def sum_is_saturated() -> bool:
    """Probe whether True + True is True."""
    true = interpreter.TensorHandle(np.ones(1, bool), tl.int1)
    return bool(interpreter.interpreter_builder.create_add(true, true).data[0])


def add_modulo_2() -> None:
    """Let sums and differences of booleans be those of integers of one bit."""
    builder = interpreter.InterpreterBuilder
    for name in ("create_add", "create_sub"):
        setattr(builder, name, _modulo_2(getattr(builder, name)))


def _modulo_2(original: Callable[..., Any]) -> Callable[..., Any]:
    def combine(self: Any, lhs: Any, rhs: Any) -> Any:
        if lhs.data.dtype == bool and rhs.data.dtype == bool:
            return interpreter.TensorHandle(lhs.data ^ rhs.data, tl.int1)
        return original(self, lhs, rhs)

    return combine
