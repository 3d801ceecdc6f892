"""Add bf16 numbers atomically, which Triton's interpreter refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

from diffgdn.backend.interpreter.casts import from_bf16, to_bf16


def bf16_is_refused() -> bool:
    """Probe whether an atomic addition of 1 to 1 in bf16 raises, or does not give 2."""
    memory = np.array([0x3F80], np.uint16)
    pointer = interpreter.TensorHandle(
        np.array([memory.ctypes.data], np.uint64), tl.pointer_type(tl.bfloat16)
    )
    value = interpreter.TensorHandle(np.array([0x3F80], np.uint16), tl.bfloat16)
    mask = interpreter.TensorHandle(np.ones(1, bool), tl.int1)
    try:
        interpreter.interpreter_builder.create_atomic_rmw(
            interpreter._ir.ATOMIC_OP.FADD, pointer, value, mask, interpreter._ir.MEM_SEMANTIC.RELAXED, None
        )
    except ValueError:
        return True
    return int(memory[0]) != 0x4000


def add_bf16() -> None:
    """Replace atomic addition of bf16 by one element after another: several may go to one place."""
    original = interpreter.InterpreterBuilder.create_atomic_rmw

    def create_atomic_rmw(
        self: Any, operation: Any, ptr: Any, val: Any, mask: Any, sem: Any, scope: Any
    ) -> Any:
        if operation != interpreter._ir.ATOMIC_OP.FADD or val.dtype.scalar != tl.bfloat16:
            return original(self, operation, ptr, val, mask, sem, scope)
        places, values, wanted = np.broadcast_arrays(ptr.data, val.data, mask.data)
        before = np.zeros(places.shape, np.uint16)
        for at in zip(*np.nonzero(wanted), strict=True):
            before[at] = _add(places[at], values[at])
        return interpreter.TensorHandle(before, tl.bfloat16)

    interpreter.InterpreterBuilder.create_atomic_rmw = create_atomic_rmw


def _add(address: Any, bits: Any) -> Any:
    """Add a bf16 number to the one at an address; returns the bits that were there."""
    place, yes = np.array([address], np.uint64), np.ones(1, bool)
    old = interpreter._interpreter.load(place, yes, np.zeros(1, np.uint16), np.dtype(np.uint16))
    total = from_bf16(old) + from_bf16(np.array([bits], np.uint16))
    interpreter._interpreter.store(place, to_bf16(total), yes)
    return old[0]
