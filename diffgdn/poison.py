"""Poison: one bit pattern for memory that nobody may read or leave as it is.

As int16 it is 0x7FDB: NaN in bf16 and fp16, NaN twice over in fp32, and 2145091547, a far index, in int32.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

POISON = 0x7FDB
_AS_FLOAT_BITS = {
    torch.float32: (torch.int32, 0x7FDB7FDB),
    torch.float16: (torch.int16, POISON),
    torch.bfloat16: (torch.int16, POISON),
}


def fill(tensor: Tensor) -> Tensor:
    """Overwrite every element that the tensor shows with poison, in place; tensors of odd-sized elements are
    left alone."""
    if tensor.numel() and tensor.dtype.itemsize % 2 == 0 and not tensor.dtype.is_complex:
        pattern = {2: POISON, 4: 0x7FDB7FDB, 8: 0x7FDB7FDB7FDB7FDB}[tensor.dtype.itemsize]
        kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.dtype.itemsize]
        tensor.view(kind).fill_(pattern)
    return tensor


def full(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A new CPU tensor of poison."""
    return (
        torch.full((math.prod(shape) * dtype.itemsize // 2,), POISON, dtype=torch.int16)
        .view(dtype)
        .view(shape)
    )


def where(tensor: Tensor) -> Tensor:
    """Boolean mask of the elements of a float tensor that still hold the poison pattern."""
    kind, pattern = _AS_FLOAT_BITS[tensor.dtype]
    return tensor.contiguous().view(kind) == pattern


class PoisonedEmpty(TorchDispatchMode):
    """While active, memory that torch allocates without initialising it is filled: with poison, or with
    zeros.

    A kernel's launcher allocates outputs and workspaces by torch.empty and its kin; an element that a kernel
    then leaves unwritten still holds poison, and a read of it shows as NaN.
    """

    NAMES = ("empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided")

    def __init__(self, zeros: bool = False) -> None:
        super().__init__()
        self.zeros = zeros
        self._overloads = {overload for name in self.NAMES for overload in _overloads(name)}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing here is ever compiled; True would import the whole of torch._dynamo, which takes
        seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in self._overloads and isinstance(out, Tensor):
            out.zero_() if self.zeros else fill(out)
        return out


def _overloads(name: str) -> list[Any]:
    packet = getattr(torch.ops.aten, name)
    return [getattr(packet, overload) for overload in packet.overloads()]
