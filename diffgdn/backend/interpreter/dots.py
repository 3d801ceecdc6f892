"""Multiply matrices as tensor cores do: bf16 numbers, not their bits, and fp32 through tf32.

A tensor core takes the upper 19 bits of an fp32 operand (PTX ISA, `mma` with .tf32: the lower 13 are
ignored). Products are exact in fp32, sums are in fp32; their order is numpy's, and a GPU's is another.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

from diffgdn.backend.interpreter.arithmetic import widen
from diffgdn.backend.interpreter.casts import from_bf16, to_bf16

TF32_BITS = np.uint32(0xFFFFE000)


def bf16_multiplies_bits() -> bool:
    """Probe whether, in bf16, the product of the 1 x 1 matrices 1 and 1 is not 1."""
    one = interpreter.TensorHandle(np.array([[0x3F80]], np.uint16), tl.bfloat16)
    none = interpreter.TensorHandle(np.zeros((1, 1), np.float32), tl.float32)
    precision = interpreter._ir.INPUT_PRECISION.TF32
    return float(interpreter.interpreter_builder.create_dot(one, one, none, precision, 0).data[0, 0]) != 1.0


def multiply_as_tensor_cores() -> None:
    """Replace the interpreter's product of matrices; that of 8-bit floats stays its own."""
    builder = interpreter.InterpreterBuilder
    original = builder.create_dot

    def create_dot(
        self: Any, a: Any, b: Any, d: Any, input_precision: Any, max_num_imprecise_acc: Any
    ) -> Any:
        if a.dtype.scalar.is_fp8() or b.dtype.scalar.is_fp8():
            return original(self, a, b, d, input_precision, max_num_imprecise_acc)
        if a.dtype.scalar == tl.float32 and b.dtype.scalar == tl.float32:
            products = SPLIT.get(input_precision.name, _whole)
            total = sum(_product(x, y, d) for x, y in products(a.data, b.data))
        else:
            total = _product(widen(a).data, widen(b).data, d)
        return interpreter.TensorHandle(total + d.data, d.dtype.scalar)

    builder.create_dot = create_dot


def _product(a: Any, b: Any, d: Any) -> Any:
    """Multiply a by b, summed in the accumulator's format, but never in less than fp32."""
    dtype = np.float32 if d.data.dtype == np.float16 else d.data.dtype
    product = np.matmul(a, b, dtype=dtype)
    return product.astype(d.data.dtype, copy=False)


def tf32(data: Any) -> Any:
    """Cut fp32 numbers to what a tensor core reads of them: the last 13 bits are not there."""
    return (data.view(np.uint32) & TF32_BITS).view(np.float32)


def _whole(a: Any, b: Any) -> list[tuple[Any, Any]]:
    """Split nothing: one product of the operands as they are."""
    return [(a, b)]


def _tf32(a: Any, b: Any) -> list[tuple[Any, Any]]:
    """Cut each operand to tf32: one product."""
    return [(tf32(np.ascontiguousarray(a)), tf32(np.ascontiguousarray(b)))]


def _tf32x3(a: Any, b: Any) -> list[tuple[Any, Any]]:
    """Split each operand into a large part and what it leaves; the product of the two small parts is left
    out."""
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    large_a, large_b = tf32(a), tf32(b)
    return [(tf32(a - large_a), large_b), (large_a, tf32(b - large_b)), (large_a, large_b)]


def _bf16_parts(data: Any, count: int) -> list[Any]:
    """Split fp32 numbers into a sum of `count` bf16 numbers, the largest first."""
    parts = []
    for _ in range(count):
        parts.append(from_bf16(to_bf16(data)))
        data = data - parts[-1]
    return parts


def _bf16xn(count: int) -> Any:
    """Split each operand into `count` bf16 numbers, and take the products of the `count` largest orders."""

    def products(a: Any, b: Any) -> list[tuple[Any, Any]]:
        parts_a, parts_b = _bf16_parts(a, count), _bf16_parts(b, count)
        return [(parts_a[i], parts_b[n - i]) for n in reversed(range(count)) for i in range(n + 1)]

    return products


# How an fp32 product is split, by the name of its input precision; any other is taken whole.
SPLIT = {"TF32": _tf32, "TF32x3": _tf32x3, "BF16x3": _bf16xn(2), "BF16x6": _bf16xn(3)}
