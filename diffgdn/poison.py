"""Poison: bit patterns for memory that nobody may read or leave as it is.

POISON fills what must not be read, FRESH what must be written. Both are NaN in bf16 and fp16, NaN twice over
in fp32, and a far index in integers; they differ, because a NaN that is read keeps its pattern through
arithmetic, and a leak is no hole.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

POISON = 0x7FDB
FRESH = 0x7FD5
_WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


def _repeated(pattern: int, size: int) -> int:
    """A 16-bit pattern side by side, in `size` bytes."""
    return int.from_bytes(pattern.to_bytes(2, "little") * (size // 2), "little")


def fill(tensor: Tensor, pattern: int = POISON) -> Tensor:
    """Overwrite every element that the tensor shows, in place; tensors of odd-sized elements are left
    alone."""
    size = tensor.dtype.itemsize
    if tensor.numel() and size in _WORDS and not tensor.dtype.is_complex:
        tensor.view(_WORDS[size]).fill_(_repeated(pattern, size))
    return tensor


def full(shape: tuple[int, ...], dtype: torch.dtype, pattern: int = POISON) -> Tensor:
    """A new CPU tensor of poison."""
    units = math.prod(shape) * dtype.itemsize // 2
    return torch.full((units,), pattern, dtype=torch.int16).view(dtype).view(shape)


def unwritten(tensor: Tensor) -> Tensor:
    """Boolean mask of the elements of a float tensor that still hold what fresh memory held."""
    size = tensor.dtype.itemsize
    return tensor.contiguous().view(_WORDS[size]) == _repeated(FRESH, size)


class PoisonedEmpty(TorchDispatchMode):
    """While active, memory that torch allocates without initialising it is filled: with poison, or with
    zeros.

    A kernel's launcher allocates outputs and workspaces by torch.empty and its kin; an element that a kernel
    then leaves unwritten still holds the pattern, and a read of it shows as NaN.
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
            out.zero_() if self.zeros else fill(out, FRESH)
        return out


def _overloads(name: str) -> list[Any]:
    packet = getattr(torch.ops.aten, name)
    return [getattr(packet, overload) for overload in packet.overloads()]
