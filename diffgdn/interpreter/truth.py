"""Truth values.

Triton's interpreter says of what a comparison gives that it is of the type of the numbers compared. Spread
over a block, as a condition on a whole program is in `mask & (slot >= 0)`, it becomes integers, which are no
mask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter


def comparisons_give_integers() -> bool:
    """What 0 >= 0 gives is said to be an int32."""
    zero = interpreter.TensorHandle(np.zeros(1, np.int32), tl.int32)
    return bool(interpreter.interpreter_builder.create_icmpSGE(zero, zero).dtype != tl.int1)


def let_comparisons_give_truth() -> None:
    """Make what any operation of two operands gives a truth value where numpy says that it is one."""
    original: Callable[..., Any] = interpreter.InterpreterBuilder.binary_op

    def binary_op(self: Any, lhs: Any, rhs: Any, op: Any) -> Any:
        result = original(self, lhs, rhs, op)
        if result.data.dtype == np.bool_:
            result.dtype = tl.int1
        return result

    interpreter.InterpreterBuilder.binary_op = binary_op
