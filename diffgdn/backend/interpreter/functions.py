"""Repair functions of numbers that Triton's interpreter gets from numpy and a GPU gets otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter


def logarithm_is_rough() -> bool:
    """Probe whether some logarithm of an fp32 number near 1 is not the nearest.

    Numpy's are up to 3.2 ulp off where it uses AVX-512, those of CUDA 1 ulp (CUDA C++ Programming Guide,
    Mathematical Functions).
    """
    values = (1 + np.arange(1, 4096) * 2.0**-23).astype(np.float32)
    handle = interpreter.TensorHandle(values, tl.float32)
    found = interpreter.interpreter_builder.create_log(handle).data
    return not np.array_equal(found, np.log(values.astype(np.float64)).astype(np.float32))


def compute_in_float64() -> None:
    """Round exp, log and log2 of fp32 numbers from float64: the same bits on every machine, too."""
    builder = interpreter.InterpreterBuilder
    for name, function in (("exp", np.exp), ("log", np.log), ("log2", np.log2)):
        setattr(builder, f"create_{name}", _rounded(function))


def _rounded(function: Any) -> Callable[..., Any]:
    """Make the builder's method for a function: fp32 numbers from float64, others as numpy has them."""

    def compute(self: Any, handle: Any) -> Any:
        data = handle.data
        if data.dtype == np.float32:
            return interpreter.TensorHandle(function(data, dtype=np.float64).astype(np.float32), tl.float32)
        return interpreter.TensorHandle(function(data), handle.dtype.scalar)

    return compute


def zeros_are_unordered() -> bool:
    """Probe whether the smaller of 0 and -0 is 0, or (up to 3.7) the larger of NaN and 1 is NaN."""
    builder = interpreter.interpreter_builder
    nan, one, zero, below = (
        interpreter.TensorHandle(np.array([x], np.float32), tl.float32) for x in (np.nan, 1.0, 0.0, -0.0)
    )
    smaller = builder.create_minnumf(zero, below).data[0]
    return not np.signbit(smaller) or bool(np.isnan(builder.create_maxnumf(nan, one).data[0]))


def order_as_ptx() -> None:
    """Let minnumf, maxnumf and a clamp that propagates no NaN pass over NaN and put -0 below 0 (PTX ISA, min
    and max)."""
    builder = interpreter.InterpreterBuilder
    propagating = builder.create_clampf

    def create_clampf(self: Any, value: Any, low: Any, high: Any, propagate_nans: Any) -> Any:
        if propagate_nans == interpreter._ir.PROPAGATE_NAN.NONE:
            return self.create_minnumf(self.create_maxnumf(value, low), high)
        return propagating(self, value, low, high, propagate_nans)

    builder.create_minnumf = lambda self, lhs, rhs: self.binary_op(lhs, rhs, smaller)
    builder.create_maxnumf = lambda self, lhs, rhs: self.binary_op(lhs, rhs, larger)
    builder.create_clampf = create_clampf


def smaller(x: Any, y: Any) -> Any:
    """Choose the smaller of two numbers, elementwise: the other one if one is NaN, -0 of two zeros."""
    return np.where(
        (x == 0) & (y == 0), np.copysign(0.0, np.where(np.signbit(x), x, y)), np.fmin(x, y)
    ).astype(x.dtype)


def larger(x: Any, y: Any) -> Any:
    """Choose the larger of two numbers, elementwise: the other one if one is NaN, +0 of two zeros."""
    return np.where(
        (x == 0) & (y == 0), np.copysign(0.0, np.where(np.signbit(x), y, x)), np.fmax(x, y)
    ).astype(x.dtype)


def high_half_is_signed() -> bool:
    """Probe whether the upper half of the product of -1 and -1, taken as unsigned, is not -2."""
    value = interpreter.TensorHandle(np.array([-1], np.int32), tl.int32)
    return int(interpreter.interpreter_builder.create_umulhi(value, value).data[0]) != -2


def multiply_unsigned() -> None:
    """Let umulhi take its operands as unsigned integers, and multiply 64 bits by parts of 32."""

    def create_umulhi(self: Any, lhs: Any, rhs: Any) -> Any:
        dtype = lhs.data.dtype
        x, y = (handle.data.view(f"u{dtype.itemsize}") for handle in (lhs, rhs))
        high = _high_half_64(x, y) if dtype.itemsize == 8 else _high_half(x, y)
        return interpreter.TensorHandle(high.astype(x.dtype).view(dtype), lhs.dtype.scalar)

    interpreter.InterpreterBuilder.create_umulhi = create_umulhi


def _high_half(x: Any, y: Any) -> Any:
    """Multiply unsigned integers of at most 32 bits, and return the upper halves of the products."""
    return x.astype(np.uint64) * y.astype(np.uint64) >> np.uint64(8 * x.itemsize)


def _high_half_64(x: Any, y: Any) -> Any:
    """Multiply unsigned 64-bit integers by parts of 32 bits, and return the upper halves of the products."""
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    x_low, x_high, y_low, y_high = x & mask, x >> half, y & mask, y >> half
    cross = x_high * y_low + (x_low * y_low >> half)
    other = x_low * y_high + (cross & mask)
    return x_high * y_high + (cross >> half) + (other >> half)
