"""Multiply and add with one rounding.

Triton's interpreter rounds the product first, up to 3.8. Newer ones bring a correctly rounded function of
their own.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter


def product_is_rounded() -> bool:
    """Probe whether (1 + 2^-12)^2 - 1 - 2^-11 is 0 in fp32, where 2^-24 is right."""
    x = interpreter.TensorHandle(np.array([1 + 2**-12], np.float32), tl.float32)
    z = interpreter.TensorHandle(np.array([-1 - 2**-11], np.float32), tl.float32)
    return float(interpreter.interpreter_builder.create_fma(x, x, z).data[0]) == 0.0


def round_once() -> None:
    """Replace the interpreter's fused multiply-add."""

    def create_fma(self: Any, x: Any, y: Any, z: Any) -> Any:
        return interpreter.TensorHandle(fma(x.data, y.data, z.data), z.dtype.scalar)

    interpreter.InterpreterBuilder.create_fma = create_fma


def fma(x: Any, y: Any, z: Any) -> Any:
    """Compute x * y + z of arrays of one floating-point format, rounded once, to nearest even."""
    x, y, z = np.broadcast_arrays(x, y, z)
    if z.dtype == np.float64:
        return _fma_fp64(x, y, z)
    with np.errstate(all="ignore"):
        return _sum_rounded_to_odd(x.astype(np.float64) * y.astype(np.float64), z.astype(np.float64)).astype(
            z.dtype
        )


def _sum_rounded_to_odd(p: Any, z: Any) -> Any:
    """Compute p + z in float64, rounded to odd: rounded again to 24 digits or fewer it is right.

    The product of two fp32 numbers is exact in float64. Knuth's two-sum gives the error of the sum; Boldo
    and Melquiond, "Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to odd",
    2008.
    """
    total = p + z
    part = total - p
    error = (p - (total - part)) + (z - part)
    bits = total.view(np.int64)
    inexact = np.isfinite(total) & (error != 0) & ((bits & 1) == 0)
    away = np.where((error > 0) == (total > 0), 1, -1)  # towards a larger magnitude, or a smaller one
    return np.where(inexact, bits + away, bits).astype(np.int64).view(np.float64)


def _exact(x: float, y: float, z: float) -> float:
    """Compute x * y + z in rational arithmetic, rounded once to float64; infinite beyond its range."""
    if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(z)):
        return x * y + z
    exact = Fraction(x) * Fraction(y) + Fraction(z)
    if exact == 0:
        return x * y + z  # the sign of a zero
    try:
        return exact.numerator / exact.denominator
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


_fma_fp64 = np.vectorize(_exact, otypes=[np.float64])
