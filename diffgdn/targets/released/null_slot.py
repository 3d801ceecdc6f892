"""Translates pools and slots for kernels that keep slot 0 for themselves, as vLLM's do.

There an index of 0 or below is padding; here -1 is, and slot 0 is a slot as any other. So each slot moves up
by one: a kernel gets a copy of the pool behind one more slot, and indices that are one higher. What it wrote
is copied back, gaps included, so that a stray write is seen where it happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffgdn.tensors import far_memory
from diffgdn.tensors.layout import FAR_BYTES

ALIGN_BYTES = 256


@dataclass(frozen=True)
class Moved:
    """A pool whose slots lie one further.

    own: the caller's pool, [slots, ...]. pool: its copy, [slots + 1, ...], at addresses that are as aligned;
    slot 0 holds NaN. Its strides are the same, save where another axis lies outside of the slots. span: what
    lies between the first and the last element of the own one and of the copy, gaps included; None where
    strides differ, or where it is too large to copy.
    """

    own: Tensor
    pool: Tensor
    span: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, own: Tensor) -> Moved:
        """Copy a pool, [slots, ...], floating point with strides above 0."""
        strides, size = with_one_more(own), own.element_size()
        reach = _reach(own.shape, strides)
        align = ALIGN_BYTES // size
        first = int(own.data_ptr() // size - strides[0]) % align  # of slot 0, so that slot 1 lies as theirs
        memory = _memory(align + first + strides[0] + reach, own)
        # On from the first multiple of 256 bytes; `as_strided` counts from the start of the storage.
        first += int(memory.storage_offset()) - (memory.data_ptr() // size) % -align
        pool = memory.as_strided((own.shape[0] + 1, *own.shape[1:]), strides, first)
        span = None
        if strides == own.stride() and reach * size <= FAR_BYTES:
            there = memory.as_strided((reach,), (1,), first + strides[0])
            span = (own.as_strided((reach,), (1,), own.storage_offset()), there)
            there.copy_(span[0])
        else:
            pool[1:].copy_(own)
        pool[0].fill_(torch.nan)
        return cls(own, pool, span)

    def put_back(self) -> None:
        """Copy what a call left in the slots to the caller's pool."""
        if self.span is None:
            self.own.copy_(self.pool[1:])
        else:
            self.span[0].copy_(self.span[1])


def with_one_more(pool: Tensor) -> tuple[int, ...]:
    """Return strides with which a pool has room for one more slot, and the gaps that it has."""
    strides = list(pool.stride())
    alone = pool.shape[0] == 1  # then its stride may say nothing: slots lie outermost
    axes = [axis for axis in range(pool.ndim) if pool.shape[axis] > 1 and axis > 0]
    axes = sorted([*axes, *([] if alone else [0])], key=lambda axis: strides[axis]) + [0] * alone
    before = now = 1  # elements that an axis' index takes, in the own pool and in the copy
    for axis in axes:
        stride = strides[axis]
        strides[axis] = now + max(0, stride - before)
        before += (pool.shape[axis] - 1) * stride
        now += (pool.shape[axis] - (axis > 0)) * strides[axis]
    return tuple(strides)


def _memory(elements: int, like: Tensor) -> Tensor:
    """Allocate so many elements of a tensor's dtype on its device.

    Of many, on a CPU those that are not touched take none. torch.empty is what a run fills and guards, which
    is too much for them.
    """
    size = elements * like.element_size()
    if size <= FAR_BYTES:
        return torch.empty(elements, dtype=like.dtype, device=like.device)
    if not like.is_cuda:
        return far_memory.lazily(-(-size // 8) * 4, like.device).view(like.dtype)
    if not torch.cuda.is_current_stream_capturing():
        far_memory.wait_for_memory(like.device, size)
    return torch.zeros(elements, dtype=like.dtype, device=like.device)


def _reach(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Count the elements from the first to the last of a strided tensor that has any."""
    return 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))


def moved_indices(indices: Tensor) -> Tensor:
    """Return slot indices one higher, so that -1 is 0, with the strides of those given."""
    if not indices.numel():
        return indices.clone()
    shape, strides = indices.shape, indices.stride()
    memory = _memory(_reach(shape, strides), indices)
    return memory.as_strided(shape, strides, memory.storage_offset()).copy_(indices + 1)
