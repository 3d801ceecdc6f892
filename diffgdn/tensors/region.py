"""Where a tensor lies in an allocation: strided regions, and what lies at an offset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Change:
    """One place outside the documented writes that differs after a call.

    tensor: name of the argument.
    where: "element", "gap" (between rows or slots of a view) or "guard" (before or after the tensor).
    index: of the element; of a gap where it lies, () for a guard.
    offset: in elements of the tensor, from its first element.
    count: 16-bit words that changed in all.
    """

    tensor: str
    where: str
    index: tuple[int, ...]
    offset: int
    count: int


@dataclass(frozen=True)
class Region:
    """A tensor that lies in the allocation by itself.

    start: first byte. extent: elements from the first to one past the last, gaps included. strides: in
    elements.
    """

    name: str
    start: int
    extent: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def view(self, memory: Tensor) -> Tensor:
        """View the region in `memory` (int16, the whole allocation or a copy of it)."""
        start = self.start // self.dtype.itemsize
        return memory.view(self.dtype).as_strided(self.shape, self.strides, start)


@dataclass(frozen=True)
class Columns:
    """A tensor that is a part of a region, as q is of a joint projection: its columns from `column` on."""

    name: str
    joint: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    column: int

    def view(self, joint: Tensor) -> Tensor:
        """View the columns in the joint tensor."""
        return joint.as_strided(self.shape, self.strides, joint.storage_offset() + self.column)


ALIGN_BYTES = 256  # of an allocation, and of each tensor in it that has no offset


def aligned(words: int, pattern: int) -> Tensor:
    """Allocate 16-bit words on the CPU, from a boundary of ALIGN_BYTES on, and fill them with a pattern.

    torch aligns memory to 64 bytes there, to 512 on a GPU.
    """
    memory = torch.empty(2 * words + ALIGN_BYTES, dtype=torch.uint8)
    start = -memory.data_ptr() % ALIGN_BYTES
    return torch.frombuffer(memory.numpy(), dtype=torch.int16, count=words, offset=start).fill_(pattern)


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides, in elements, of a contiguous tensor of a shape."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def unravel(offset: int, shape: Sequence[int]) -> tuple[int, ...]:
    """Index of the element at an offset of a contiguous tensor."""
    out = []
    for size in reversed(shape):
        offset, index = divmod(offset, size)
        out.append(index)
    return tuple(reversed(out))


def index_at(offset: int, region: Region | Columns) -> tuple[int, ...] | None:
    """Index of the element at an offset of a strided view; None between its elements or before its first."""
    if offset < 0:
        return None
    index = [0] * len(region.shape)
    for axis in sorted(range(len(region.shape)), key=lambda axis: -region.strides[axis]):
        if region.shape[axis] > 1:
            index[axis], offset = divmod(offset, region.strides[axis])
            if index[axis] >= region.shape[axis]:
                return None
    return tuple(index) if offset == 0 else None


def locate(byte: int, count: int, regions: Sequence[Region], columns: Sequence[Columns]) -> Change:
    """Name the tensor, the element, gap or guard zone in which a byte of the allocation lies.

    count: 16-bit words that changed, passed on.
    """
    for region in regions:
        offset = (byte - region.start) // region.dtype.itemsize
        if 0 <= offset < region.extent:
            return _locate_within(offset, count, region, columns)
    nearest = min(
        regions,
        key=lambda r: min(abs(byte - r.start), abs(byte - r.start - r.extent * r.dtype.itemsize)),
    )
    offset = (byte - nearest.start) // nearest.dtype.itemsize
    return Change(nearest.name, "guard", (), offset, count)


def _locate_within(offset: int, count: int, region: Region, columns: Sequence[Columns]) -> Change:
    for part in columns:
        inner = index_at(offset - part.column, part) if part.joint == region.name else None
        if inner is not None:
            return Change(part.name, "element", inner, offset - part.column, count)
    index = index_at(offset, region)
    return Change(region.name, "element" if index else "gap", index or (offset,), offset, count)
