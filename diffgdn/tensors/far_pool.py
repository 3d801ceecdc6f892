"""A pool of states too large for the arena: an allocation of its own, touched only around the named slots.

Its untouched pages take no memory on a CPU; on a GPU they do.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.tensors import poison
from diffgdn.tensors.inputs import DTYPE
from diffgdn.tensors.region import Change, contiguous_strides, unravel

WATCHED_BESIDE = 4096  # elements watched on either side of a named slot
SPARE_BYTES = 1 << 30  # GPU memory that must stay free beside the pool
TRIES, PAUSE_SECONDS = 600, 0.1  # how long to wait for it


@dataclass
class FarPool:
    """A far pool and what is watched of it.

    storage: the allocation, [elements]. view: the pool, [slots, HV, V, K] or [slots, HV, K, V]. named: the
    slots around which memory is poisoned and watched, slot 0 always among them. written: the slots that the
    operation writes.
    """

    storage: Tensor
    view: Tensor
    named: tuple[int, ...]
    written: tuple[int, ...] = ()
    _before: list[tuple[int, Tensor]] = field(default_factory=list)

    @property
    def _size(self) -> int:
        """Elements of one slot."""
        return self.view[0].numel()

    @property
    def _stride(self) -> int:
        """Elements from one slot to the next."""
        return self.view.stride(0)

    def watched(self) -> list[tuple[int, int]]:
        """First element of each watched part of the storage, and one past its last."""
        size, stride = self._size, self._stride
        return [
            (
                max(slot * stride - WATCHED_BESIDE, 0),
                min(slot * stride + size + WATCHED_BESIDE, self.storage.numel()),
            )
            for slot in self.named
        ]

    def parts(self) -> list[Tensor]:
        """Views of the watched parts, in the pool's dtype."""
        return [self.storage[start:stop] for start, stop in self.watched()]

    def snapshot(self) -> None:
        """Remember every watched element."""
        self._before = [(start, self.storage[start:stop].clone()) for start, stop in self.watched()]

    def restore(self) -> None:
        """Put every watched element back, in place, as it was at the snapshot."""
        for start, part in self._before:
            self.storage[start : start + part.numel()] = part

    def find_change(self) -> Change | None:
        """The first watched place that differs from the snapshot outside the written slots, if any."""
        size, stride = self._size, self._stride
        for start, before in self._before:
            now = self.storage[start : start + before.numel()]
            want = before.clone()
            for slot in self.written:
                low, high = max(slot * stride - start, 0), min(slot * stride + size - start, before.numel())
                if low < high:
                    want[low:high] = now[low:high]
            different = (want.view(torch.int16) != now.view(torch.int16)).nonzero().flatten()
            if different.numel():
                return self._locate(start + int(different[0]) * 2 // before.element_size(), different.numel())
        return None

    def _locate(self, offset: int, count: int) -> Change:
        slot, inner = divmod(offset, self._stride)
        where = "element" if inner < self._size else "gap"
        return Change("state", where, (slot, *unravel(inner, self.view.shape[1:])), offset, count)


def allocate(
    case: Case,
    states: Tensor,
    inner: Sequence[int],
    device: torch.device | str,
    pattern: int,
    fresh: int = poison.FRESH,
) -> FarPool:
    """Allocate a far pool, fill it with `pattern` around the named slots and put the initial states there.

    fresh: what slots are filled with that must be written and are not read. states [N, *inner], on any
    device: of each sequence, as they lie in a slot. Waits on a GPU until there is room.
    """
    pool, dtype = case.pool, DTYPE[case.pool.dtype]
    size = case.HV * case.V * case.K
    stride = size + pool.pitch
    device = torch.device(device)
    numel = (pool.slots - 1) * stride + size + WATCHED_BESIDE
    if device.type == "cuda":
        _wait_for_memory(device, numel * dtype.itemsize)
    storage = torch.empty(numel, dtype=dtype, device=device)
    view = storage.as_strided((pool.slots, *inner), (stride, *contiguous_strides(inner)))
    kept = {slot for _, slot, _ in case.kept} if case.state_options.slots else set()
    named = tuple(sorted({slot for slot in pool.indices if slot >= 0} | kept | {0}))
    far = FarPool(storage, view, named)
    for part in far.parts():
        poison.fill(part, pattern)
    for slot in kept:
        poison.fill(view[slot], fresh)
    for n, slot in enumerate(pool.indices):
        if slot >= 0:
            view[slot] = states[n].to(device)
    return far


def _wait_for_memory(device: torch.device, needed: int) -> None:
    """Wait until other workers have given back enough GPU memory; after a minute go on without."""
    for _ in range(TRIES):
        torch.cuda.empty_cache()
        if torch.cuda.mem_get_info(device)[0] > needed + SPARE_BYTES:
            return
        time.sleep(PAUSE_SECONDS)
