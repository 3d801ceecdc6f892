"""Fills memory with poison: bit patterns by which a read or a missing write shows.

POISON fills what must not be read, FRESH what must be written. Each 16-bit pattern is a NaN in bf16 and fp16,
twice over a NaN in fp32, and as an integer an index far out. They differ, because a NaN that is read keeps
its pattern through arithmetic: poison that leaked must not be mistaken for unwritten output.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

POISON = 0x7FDB
FRESH = 0x7FD5
OWN = [pattern for pattern in range(0x7FC1, 0x8000) if pattern not in (POISON, FRESH)]  # quiet NaNs as well
GUARD_BYTES = 1024  # of a guard zone
PARTS = ("guards", "inside")  # of fresh memory that is poisoned
_WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


def _repeat(pattern: int, size: int) -> int:
    """Repeat a 16-bit pattern to an integer of `size` bytes."""
    return int.from_bytes(pattern.to_bytes(2, "little") * (size // 2), "little")


def fill(tensor: Tensor, pattern: int = POISON) -> Tensor:
    """Overwrite every element of a tensor with a 16-bit pattern, in place, and return it.

    Gaps between the elements are left alone, and so are complex tensors and those of 1-byte elements.
    """
    size = tensor.dtype.itemsize
    if tensor.numel() and size in _WORDS and not tensor.dtype.is_complex:
        tensor.view(_WORDS[size]).fill_(_repeat(pattern, size))
    return tensor


def full(shape: tuple[int, ...], dtype: torch.dtype, pattern: int = POISON) -> Tensor:
    """Make a contiguous CPU tensor whose memory is filled with a 16-bit pattern. dtype: of an even size."""
    units = math.prod(shape) * dtype.itemsize // 2
    return torch.full((units,), pattern, dtype=torch.int16).view(dtype).view(shape)


def unwritten(tensor: Tensor, pattern: int = FRESH) -> Tensor:
    """Mark the elements of a float tensor that still hold the pattern that memory was filled with: bool, of
    its shape."""
    size = tensor.dtype.itemsize
    return tensor.contiguous().view(_WORDS[size]) == _repeat(pattern, size)


@dataclass(frozen=True)
class Stray:
    """A write beside fresh memory.

    tensor: in whose guard zone it lies. offset: in elements of the tensor, from its first. count: changed
    bytes.
    """

    tensor: Tensor
    offset: int
    count: int


class Fresh:
    """A tensor in memory of its own, with a guard zone on either side."""

    def __init__(self, like: Tensor, parts: Collection[str] = PARTS, pattern: int = FRESH) -> None:
        """Allocate the memory and fill it.

        like: gives shape, strides, dtype and device. parts: what is poisoned, of "guards" or "before" and
        "after", and "inside"; the rest is zero. pattern: of the inside.
        """
        self.pattern = pattern
        size = like.dtype.itemsize
        extent = 1 + sum((n - 1) * stride for n, stride in zip(like.shape, like.stride(), strict=True))
        self._end = GUARD_BYTES + extent * size
        numel = -(-(self._end + GUARD_BYTES) // 16) * 16
        self._bytes = torch.zeros(numel, dtype=torch.uint8, device=like.device)
        self._inside = self._bytes[GUARD_BYTES : self._end].view(like.dtype)
        self.tensor = self._inside.as_strided(like.shape, like.stride())
        if "guards" in parts or "before" in parts:
            fill(self._bytes[:GUARD_BYTES].view(torch.int16))
        if "guards" in parts or "after" in parts:
            tail = self._bytes[self._end :]
            words = full((2 * (tail.numel() // 2 + 1),), torch.uint8)
            tail.copy_(words[self._end % 2 :][: tail.numel()])
        if "inside" in parts:
            fill(self._inside, pattern)
        self._guards = self.guards().clone()

    def guards(self) -> Tensor:
        """Copy both guard zones into one uint8 tensor."""
        return torch.cat([self._bytes[:GUARD_BYTES], self._bytes[self._end :]])

    def stray(self) -> Stray | None:
        """Find the first byte of a guard zone that has changed; None if none has."""
        changed = (self.guards() != self._guards).nonzero().flatten()
        if not changed.numel():
            return None
        first = int(changed[0])
        place = first - GUARD_BYTES if first < GUARD_BYTES else first - 2 * GUARD_BYTES + self._end
        return Stray(self.tensor, place // self.tensor.dtype.itemsize, changed.numel())


class PoisonedEmpty(TorchDispatchMode):
    """While active, fills memory that torch allocates uninitialised, and puts guard zones around it.

    A kernel's launcher allocates outputs and workspaces by torch.empty and its kin; an element that a kernel
    then leaves unwritten still holds the pattern, and a read of it shows as NaN. Every allocation has a
    pattern of its own: poison copied from a workspace must not be mistaken for unwritten output.

    zeros: fill with zeros instead of poison. only: with zeros, the number of one allocation, and the part of
    it ("before", "inside" or "after") that is poisoned all the same. allocated: the memory, in order.
    """

    NAMES = ("empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided")

    def __init__(self, zeros: bool = False, only: tuple[int, str] | None = None) -> None:
        TorchDispatchMode.__init__(self)
        self.zeros, self.only = zeros, only
        self.allocated: list[Fresh] = []
        self._overloads = {overload for name in self.NAMES for overload in _overloads(name)}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing here is ever compiled; True would import the whole of torch._dynamo, which takes
        seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func not in self._overloads or not isinstance(out, Tensor):
            return out
        if not _plain(out):
            return out.zero_() if self.zeros else fill(out, FRESH)
        parts: Collection[str] = () if self.zeros else PARTS
        if self.only is not None and self.only[0] == len(self.allocated):
            parts = self.only[1:]
        self.allocated.append(Fresh(out, parts, OWN[len(self.allocated) % len(OWN)]))
        return self.allocated[-1].tensor

    def pattern(self, tensor: Tensor) -> int:
        """Look up the 16-bit pattern that a tensor's memory was filled with; FRESH if it is not known."""
        place = tensor.untyped_storage().data_ptr()
        same = (one.pattern for one in self.allocated if one.tensor.untyped_storage().data_ptr() == place)
        return next(same, FRESH)

    def stray(self) -> Stray | None:
        """Find the first write beside any of the memory allocated; None if there is none."""
        found = (fresh.stray() for fresh in self.allocated)
        return next((stray for stray in found if stray is not None), None)


class FilledEmpty(PoisonedEmpty):
    """The same without guard zones: nothing comes from the CPU, so that a stream need not wait, and a graph
    that is captured meanwhile poisons the memory anew whenever it is replayed.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        return fill(out, FRESH) if func in self._overloads and isinstance(out, Tensor) else out


def _plain(tensor: Tensor) -> bool:
    """Whether a tensor may lie anywhere in memory, as far as a caller of torch.empty can tell."""
    return (
        tensor.numel() > 0
        and tensor.layout == torch.strided
        and tensor.device.type in ("cpu", "cuda")
        and not tensor.requires_grad
        and not (tensor.device.type == "cpu" and torch.cuda.is_available() and tensor.is_pinned())
    )


def _overloads(name: str) -> list[Any]:
    """List the overloads of an aten operator."""
    packet = getattr(torch.ops.aten, name)
    return [getattr(packet, overload) for overload in packet.overloads()]
