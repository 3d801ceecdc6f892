"""Cast between formats, rounded as a GPU's instructions round.

Arrays of bf16 numbers hold their bits as uint16, as everywhere in Triton's interpreter. IEEE 754-2019,
4.3.1 (roundTiesToEven) and 5.8 (conversion to integer); PTX ISA, `cvt`, for what IEEE leaves open: NaN
becomes one quiet NaN in 16-bit formats and 0 in integers, and integers saturate.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

QUIET_NAN = {np.dtype(np.uint16): 0x7FFF, np.dtype(np.float16): 0x7FFF}  # bf16's bits, and fp16's
FLOATS = (tl.float16, tl.bfloat16, tl.float32, tl.float64)


def bf16_is_truncated() -> bool:
    """Probe whether the fp32 number half a unit and a little above 1 becomes 1."""
    value = np.array([1 + 2**-8 + 2**-20], np.float32)
    handle = interpreter.TensorHandle(value, tl.float32)
    return int(interpreter.interpreter_builder.create_fp_trunc(handle, tl.bfloat16).data[0]) == 0x3F80


def round_to_nearest() -> None:
    """Replace the interpreter's casts between numbers; those of 8-bit floats stay its own."""
    builder = interpreter.InterpreterBuilder
    original_cast, original_custom = builder.cast_impl, builder.create_fp_to_fp

    def cast_impl(self: Any, source: Any, type_: Any) -> Any:
        before, after = source.dtype.scalar, type_.scalar
        if before.is_fp8() or after.is_fp8():
            return original_cast(self, source, type_)
        return interpreter.TensorHandle(cast(source.data, before, after), after)

    def create_fp_to_fp(self: Any, source: Any, type_: Any, rounding: Any) -> Any:
        nearest = rounding is None or rounding == interpreter._ir.ROUNDING_MODE.RTNE
        before, after = source.dtype.scalar, type_.scalar
        if before in FLOATS and after in FLOATS and nearest:
            return cast_impl(self, source, type_)
        if (before, after) == (tl.float32, tl.bfloat16):
            return interpreter.TensorHandle(truncate_to_bf16(source.data), after)
        return original_custom(self, source, type_, rounding)

    def get_bf16(self: Any, value: float) -> Any:
        return interpreter.TensorHandle(to_bf16(np.array([value], np.float64)), tl.bfloat16)

    builder.cast_impl, builder.create_fp_to_fp, builder.get_bf16 = cast_impl, create_fp_to_fp, get_bf16


def cast(data: Any, before: Any, after: Any) -> Any:
    """Convert an array of one of Triton's scalar types to another. bf16 comes and goes as uint16."""
    if before == after:
        return data
    if before == tl.bfloat16:
        data, before = from_bf16(data), tl.float32
    if after == tl.bfloat16:
        return to_bf16(data)
    with np.errstate(all="ignore"):
        if after.is_int() and before.is_floating():
            return to_integer(data, interpreter._get_np_dtype(after))
        result = data.astype(interpreter._get_np_dtype(after))
    if after == tl.float16 and before.is_floating():
        return _one_nan(result, np.isnan(data))
    return result


def from_bf16(bits: Any) -> Any:
    """Convert bf16 numbers, given as uint16, to fp32: exact."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bf16(data: Any) -> Any:
    """Round numbers of any kind to bf16, ties to even, as uint16."""
    values = (
        _odd_fp32(data) if data.dtype.itemsize > 2 and data.dtype != np.float32 else data.astype(np.float32)
    )
    bits = np.ascontiguousarray(values).view(np.uint32).reshape(values.shape)
    rounded = (
        (bits + (((bits >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF))) >> np.uint32(16)
    ).astype(np.uint16)
    return _one_nan(rounded, np.isnan(values))


def truncate_to_bf16(data: Any) -> Any:
    """Round fp32 numbers to bf16 towards zero, as uint16."""
    return (data.view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def to_integer(data: Any, dtype: Any) -> Any:
    """Round floating-point numbers towards zero to integers, as an H100 does it.

    What does not fit is saturated; 8 bits are the lower half of 16, for there is no instruction for fewer.
    NaN becomes 0, but from fp64 or in 64 bits the upper bit alone (CUDA Math API, type casting intrinsics).
    """
    dtype = np.dtype(dtype)
    if dtype.itemsize == 1:
        return to_integer(data, f"{dtype.kind}2").astype(dtype)
    info = np.iinfo(dtype)
    wide = data.astype(np.float64)
    nan = np.isnan(wide)
    inside = np.where(nan, 0.0, np.clip(np.trunc(wide), float(info.min), float(info.max)))
    # float(info.max) of 64 bits is one past the largest, which no cast may meet
    high = inside >= float(info.max)
    result = np.where(high, info.max, np.where(high, 0.0, inside).astype(dtype)).astype(dtype)
    if data.dtype == np.float64 or dtype.itemsize == 8:
        result[nan] = np.array(1 << (info.bits - 1), f"u{dtype.itemsize}").view(dtype)
    return result


def _odd_fp32(data: Any) -> Any:
    """Convert numbers of more digits than fp32's to fp32, rounded to odd: a second rounding then goes the
    right way.

    Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to
    odd", 2008.
    """
    with np.errstate(all="ignore"):
        wide = data.astype(np.float64)
        nearest = wide.astype(np.float32)
    bits = nearest.view(np.uint32)
    inexact = (nearest.astype(np.float64) != wide) & np.isfinite(nearest)
    away = np.abs(nearest.astype(np.float64)) > np.abs(wide)
    towards_zero = np.where(inexact & away, bits - np.uint32(1), bits)
    return np.where(inexact, towards_zero | np.uint32(1), bits).astype(np.uint32).view(np.float32)


def _one_nan(result: Any, nan: Any) -> Any:
    """Put the one NaN that a GPU's conversions to 16 bits make where `nan` is set, whatever sign and
    payload it came with."""
    if nan.any():
        bits = np.where(nan, np.uint16(QUIET_NAN[result.dtype]), result.view(np.uint16))
        return bits.astype(np.uint16).view(result.dtype)
    return result
