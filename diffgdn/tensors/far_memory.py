"""Arguments too large for the arena: an allocation each, touched only around their elements.

A far argument has a handful of elements and strides past 2**30. Its untouched pages take no memory on a CPU;
on a GPU they do.
"""

from __future__ import annotations

import contextlib
import mmap
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from diffgdn.tensors import poison
from diffgdn.tensors.region import Change, Region, locate

# Elements watched on either side of a run of elements: so many, or fewer where there are many runs.
WATCHED_BESIDE = 4096
LEAST_BESIDE = 64
WATCHED_IN_ALL = 1 << 16
SPARE_BYTES = 1 << 30  # GPU memory that must stay free beside a far argument
WAIT_SECONDS = 20.0  # for memory, at most
AGAIN_SECONDS = 60.0  # after a wait in vain, until the next one
PAUSE_SECONDS = 0.1  # between two looks
MAP_NORESERVE = 0x4000  # Linux; in Python's mmap from 3.13 on

_in_vain = -AGAIN_SECONDS  # when a wait last ended without


@dataclass
class FarTensor:
    """A far argument and what is watched of it.

    words: the allocation, [16-bit words], int16. region: where the argument lies in it. watched: first word
    of each part that is poisoned and watched, and one past its last. writable: an index that selects what the
    operation may write of it; None for nothing.
    """

    words: Tensor
    region: Region
    watched: tuple[tuple[int, int], ...]
    writable: tuple[Any, ...] | None = None
    _before: list[Tensor] = field(default_factory=list, init=False)
    _old: Tensor | None = field(default=None, init=False)  # what lay where it may be written

    @property
    def view(self) -> Tensor:
        """The argument."""
        return self.region.view(self.words)

    def parts(self) -> list[Tensor]:
        """Views of the watched parts, int16."""
        return [self.words[start:stop] for start, stop in self.watched]

    def snapshot(self) -> None:
        """Remember every watched word."""
        self._before = [part.clone() for part in self.parts()]
        self._old = None if self.writable is None else self.view[self.writable].clone()

    def restore(self) -> None:
        """Put every watched word back, in place, as it was at the snapshot."""
        for part, before in zip(self.parts(), self._before, strict=True):
            part.copy_(before)

    def find_change(self) -> Change | None:
        """The first watched place that differs from the snapshot outside what may be written, if any."""
        new = None
        if self.writable is not None:  # what may be written is put back for a moment
            assert self._old is not None
            new = self.view[self.writable].clone()
            self.view[self.writable] = self._old
        words = [
            start + (now != before).nonzero().flatten().cpu()
            for (start, _), now, before in zip(self.watched, self.parts(), self._before, strict=True)
        ]
        if new is not None:
            self.view[self.writable] = new
        changed = torch.cat(words)
        if not changed.numel():
            return None
        return locate(2 * int(changed[0]), changed.numel(), [self.region], [])


def runs(
    shape: Sequence[int], strides: Sequence[int], rows: Sequence[int] | None = None, near: int = LEAST_BESIDE
) -> list[tuple[int, int]]:
    """First element of each run of neighbouring elements of a strided tensor, and one past its last.

    Runs are in order; those of no more elements between them than `near` are one. rows: the indices of the
    first axis that count; None for all.
    """
    block, starts = 1, torch.zeros(1, dtype=torch.int64)
    for axis in sorted(range(len(shape)), key=lambda axis: strides[axis]):
        chosen = range(shape[axis]) if axis or rows is None else rows
        if len(chosen) == 1 or strides[axis] != block or (not axis and rows is not None):
            starts = (starts[:, None] + torch.tensor(chosen, dtype=torch.int64) * strides[axis]).flatten()
        else:
            block *= shape[axis]
    if not starts.numel():
        return []
    starts = starts.sort().values
    breaks = (starts.diff() > block + near).nonzero().flatten()
    first, last = torch.cat([starts[:1], starts[breaks + 1]]), torch.cat([starts[breaks], starts[-1:]])
    return list(zip(first.tolist(), (last + block).tolist(), strict=True))


def place(
    region: Region,
    pieces: Sequence[tuple[Any, Tensor]],
    device: torch.device | str,
    pattern: int,
    rows: Sequence[int] | None = None,
) -> FarTensor:
    """Allocate a far argument, fill it with `pattern` around its elements, and put values there.

    region: its shape and strides; its start is moved to leave room before it. pieces: (index, values on the
    CPU). rows: the indices of its first axis around which memory is poisoned and watched; None for all. Waits
    on a GPU until there is room.
    """
    size = region.dtype.itemsize
    start = 2 * WATCHED_BESIDE * size + region.start
    region = Region(region.name, start, region.extent, region.dtype, region.shape, region.strides)
    lead = start // size
    words = lazily((lead + region.extent + 2 * WATCHED_BESIDE) * size // 2 // 4 * 4, device)
    found = runs(region.shape, region.strides, rows, near=2 * WATCHED_BESIDE)
    beside = min(WATCHED_BESIDE, max(LEAST_BESIDE, WATCHED_IN_ALL // max(1, len(found))))
    watched = tuple(
        ((lead + first - beside) * size // 2, (lead + last + beside) * size // 2) for first, last in found
    )
    far = FarTensor(words, region, watched)
    for part in far.parts():
        poison.fill(part, pattern)
    for index, values in pieces:
        far.view[index] = values.to(device)
    return far


def lazily(words: int, device: torch.device | str) -> Tensor:
    """Allocate 16-bit words, int16 [words]; on a CPU a page takes no memory until it is touched."""
    device = torch.device(device)
    if device.type == "cuda":
        wait_for_memory(device, 2 * words)
    elif sys.platform == "linux":
        # Without a reservation: the kernel refuses one that is larger than the machine's memory.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        memory = mmap.mmap(-1, 2 * words, flags=flags)
        with contextlib.suppress(OSError):  # a Linux without huge pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)  # or a touched element would take 2 MiB
        return torch.frombuffer(memory, dtype=torch.int16)
    return torch.empty(words, dtype=torch.int16, device=device)


def wait_for_memory(device: torch.device, needed: int) -> None:
    """Wait until other processes have given back enough GPU memory; go on without, after WAIT_SECONDS.

    After a wait in vain there is none for AGAIN_SECONDS: a case has several far arguments, and its waits
    together would look like a hang.
    """
    global _in_vain
    began = time.monotonic()
    while True:
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(device)
        if free > needed + SPARE_BYTES or total < needed or began < _in_vain + AGAIN_SECONDS:
            return
        if time.monotonic() > began + WAIT_SECONDS:
            _in_vain = time.monotonic()
            return
        time.sleep(PAUSE_SECONDS)
