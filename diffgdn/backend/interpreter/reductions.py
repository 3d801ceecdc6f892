"""Reduce and scan over whole slices, in every type.

Triton's interpreter sums the bits of bf16 numbers, warns about NaN, and takes a combine function of the
kernel's own element by element. Here such a function is called once for each slice along the axis: what it
does to two numbers it does to two arrays of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

from diffgdn.backend.interpreter.arithmetic import widen
from diffgdn.backend.interpreter.casts import to_bf16


def bf16_sums_bits() -> bool:
    """Probe whether, in bf16, the sum of 1 and 1 is not 2."""
    handle = interpreter.TensorHandle(np.array([0x3F80, 0x3F80], np.uint16), tl.bfloat16)
    ones = tl.tensor(handle, tl.block_type(tl.bfloat16, [2]))
    total = interpreter.ReduceOps(0, tl.standard._sum_combine, False).apply(ones)
    return int(total.handle.data.reshape(-1)[0]) != 0x4000


def reduce_by_slices() -> None:
    """Replace the interpreter's reductions and scans where they are wrong or slow."""
    reduce, scan = interpreter.ReduceOps, interpreter.ScanOps
    reduce.sum, reduce.generic_reduce, reduce.min_max = _sum, _generic_reduce, _min_max
    scan.cumsum, scan.cumprod, scan.generic_scan = _cumulate(np.cumsum), _cumulate(np.cumprod), _generic_scan


def _tensor(data: Any, dtype: Any) -> Any:
    """Wrap an array as a tensor of one of Triton's scalar types; one without dimensions as a scalar."""
    if data.ndim == 0:
        return tl.tensor(interpreter.TensorHandle(data.reshape(1), dtype.scalar), dtype.scalar)
    return tl.tensor(
        interpreter.TensorHandle(data, dtype.scalar), tl.block_type(dtype.scalar, list(data.shape))
    )


def _stored(data: Any, dtype: Any) -> Any:
    """Wrap a result as a tensor of the type that it was computed from, rounded to it."""
    data = np.asarray(data)
    if dtype.scalar == tl.bfloat16:
        return _tensor(to_bf16(data), dtype)
    return _tensor(data.astype(interpreter._get_np_dtype(dtype.scalar), copy=False), dtype)


def _sum(self: Any, tensor: Any) -> Any:
    """Sum along the interpreter's axis; bf16 in fp32, rounded once."""
    data = widen(tensor.handle).data
    return _stored(np.sum(data, axis=self.axis, keepdims=self.keep_dims), tensor.dtype)


def _min_max(self: Any, operands: Any, val_reduce_op: Any, idx_reduce_op: Any = None) -> Any:
    """Find the least or largest value, and with idx_reduce_op the first index of it. NaN loses against any
    number."""
    tensor = operands[0] if isinstance(operands, tuple) else operands
    data = widen(tensor.handle).data
    least = val_reduce_op in (np.nanmin, np.min)
    pick = np.fmin if least else np.fmax
    value = _stored(pick.reduce(data, axis=self.axis, keepdims=self.keep_dims), tensor.dtype)
    if idx_reduce_op is None:
        return value
    if data.dtype.kind == "f":
        data = np.where(np.isnan(data), np.inf if least else -np.inf, data)
    index = (np.argmin if least else np.argmax)(data, axis=self.axis, keepdims=self.keep_dims)
    return value, _stored(index, tl.int32)


def _cumulate(function: Any) -> Any:
    """Make a cumulative sum or product along the interpreter's axis; bf16 in fp32, rounded once."""

    def cumulate(self: Any, tensor: Any) -> list[Any]:
        return [_stored(function(widen(tensor.handle).data, axis=self.axis), tensor.dtype)]

    return cumulate


def _slices(tensors: tuple[Any, ...], axis: int) -> list[tuple[Any, ...]]:
    """List what stands at each place along an axis, of all tensors."""
    moved = [(np.moveaxis(tensor.handle.data, axis, 0), tensor.dtype) for tensor in tensors]
    count = moved[0][0].shape[0]
    return [
        tuple(_tensor(np.array(data[i], order="C"), dtype) for data, dtype in moved) for i in range(count)
    ]


def _combine(function: Any, before: tuple[Any, ...], after: tuple[Any, ...]) -> tuple[Any, ...]:
    """Call the combine function on two slices; the results in the types of the first."""
    semantic = interpreter.interpreter_semantic
    found = function(*before, *after)
    found = found if isinstance(found, tuple) else (found,)
    results = []
    for value, old in zip(found, before, strict=True):
        value = semantic.cast(semantic.to_tensor(value), old.dtype)
        data = np.broadcast_to(value.handle.data, old.handle.data.shape)
        results.append(_tensor(data if old.type.is_block() else data.reshape(()), old.dtype))
    return tuple(results)


def _generic_reduce(self: Any, tensors: Any) -> list[Any]:
    """Reduce with a combine function of the kernel's own, slice after slice."""
    whole = tensors
    if self.axis is None:
        axis, whole = 0, tuple(_tensor(tensor.handle.data.reshape(-1), tensor.dtype) for tensor in tensors)
    else:
        axis = self.axis % tensors[0].handle.data.ndim
    first, *rest = _slices(whole, axis)
    for values in rest:
        first = _combine(self.combine_fn, first, values)
    if not self.keep_dims:
        return list(first)
    shapes = [
        tuple(
            1 if self.axis is None or n == axis else size for n, size in enumerate(tensor.handle.data.shape)
        )
        for tensor in tensors
    ]
    return [
        _tensor(value.handle.data.reshape(shape), value.dtype)
        for value, shape in zip(first, shapes, strict=True)
    ]


def _generic_scan(self: Any, tensors: Any) -> list[Any]:
    """Scan with a combine function of the kernel's own, slice after slice."""
    axis = self.axis % tensors[0].handle.data.ndim
    slices = _slices(tensors, axis)
    found = slices[:1]
    for values in slices[1:]:
        found.append(_combine(self.combine_fn, found[-1], values))
    shape = tensors[0].handle.data.shape
    rest = shape[:axis] + shape[axis + 1 :]
    return [
        _tensor(np.stack([one[n].handle.data.reshape(rest) for one in found], axis=axis), tensor.dtype)
        for n, tensor in enumerate(tensors)
    ]
