"""Holds the pool of states and the intermediate buffer of a serving loop, and watches every byte of them."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from diffgdn.cases.trace import Trace
from diffgdn.tensors import poison
from diffgdn.tensors.inputs import DTYPE
from diffgdn.verdict.failures import CheckFailure, GuardWritten, SlotChanged

GUARD = poison.GUARD_BYTES
# The 16-bit pattern of places that nobody has written yet: finite in every format, 50 in fp32 and bf16, 3.14
# in fp16.
# A NaN keeps its bits through arithmetic, and so would hide that such a place was read and written.
UNUSED = 0x4248
Place = tuple[int, ...]  # (slot,) in the pool, (row, step) in the buffer


class Watched:
    """A tensor [rows, ...] in memory of its own between guard zones; guards and gaps are poison, places
    UNUSED.

    name: as checks name it. view: the tensor.
    """

    def __init__(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: str, pitch: int = 0
    ) -> None:
        """Allocate and fill the memory. pitch: elements of poison between rows."""
        size = math.prod(shape[1:])
        self.name, self._stride = name, size + pitch
        units = shape[0] * self._stride * dtype.itemsize
        self._words = torch.full((units // 2 + GUARD,), poison.POISON, dtype=torch.int16, device=device)
        strides = [1]
        for extent in reversed(shape[2:]):
            strides.append(strides[-1] * extent)
        offset = GUARD // dtype.itemsize
        self.view = self._words.view(dtype).as_strided(shape, (self._stride, *reversed(strides)), offset)
        self._like = self.view
        self.view.copy_(torch.full((1,), UNUSED, dtype=torch.int16).repeat(dtype.itemsize // 2).view(dtype))
        self.snapshot()

    @property
    def words(self) -> Tensor:
        """All memory, guards included, in 16-bit words."""
        return self._words

    def snapshot(self) -> None:
        """Remember all memory, for the next `check` to compare with."""
        self._before = self._words.clone()

    def _at(self, words: Tensor) -> Tensor:
        """View the tensor in a copy of the memory."""
        like = self._like
        return words.view(like.dtype).as_strided(like.shape, like.stride(), like.storage_offset())

    def before(self) -> Tensor:
        """View the tensor as it was at the snapshot."""
        return self._at(self._before)

    def check(self, op: str, written: Iterable[Place], owners: dict[Place, str]) -> None:
        """Raise GuardWritten or SlotChanged if anything differs from the snapshot but the places `written`.

        owners: words for rows, by (row,).
        """
        want, now = self._before.clone(), self.view
        for place in written:
            self._at(want)[place] = now[place]
        different = (want != self._words).nonzero().flatten()
        if not different.numel():
            return
        raise self._failure(op, int(different[0]) * 2, different.numel(), owners)

    def _failure(self, op: str, byte: int, count: int, owners: dict[Place, str]) -> CheckFailure:
        """Describe a change. byte: the first that changed. count: 16-bit words in all."""
        offset = (byte - GUARD) // self.view.dtype.itemsize
        row, inner = divmod(offset, self._stride)
        words = f"({count} 16-bit words changed)"
        if not 0 <= row < self.view.shape[0] or inner >= math.prod(self.view.shape[1:]):
            side = "before its start" if offset < 0 else "past its end or between its slots"
            return GuardWritten(op, self.name, f"at element {offset}", f"memory {side} was written {words}")
        if self.name == "state":
            owner = owners.get((row,), "a slot of nobody")
            return SlotChanged(op, self.name, f"slot {row}", f"{owner} was written {words}")
        step = inner // math.prod(self.view.shape[2:])
        owner = owners.get((row,), "a row of nobody")
        return SlotChanged(op, self.name, f"row {row} step {step}", f"{owner} was written {words}")


class Memory:
    """The pool [slots, HV, V, K] and the buffer [rows, draft, HV, V, K] of a loop, in the target's layout.

    states, drafts: views of both with V, K last whatever the layout. reserved: first slots that nobody gets.
    """

    def __init__(self, trace: Trace, layout: str, device: str) -> None:
        inner = (trace.HV, trace.V, trace.K) if layout == "vk" else (trace.HV, trace.K, trace.V)
        dtype = DTYPE[trace.state]
        self._kv = layout == "kv"
        self.reserved = trace.form.reserved
        self.pool = Watched("state", (trace.slots, *inner), dtype, device, trace.pitch)
        self.buffer = Watched("buffer", (trace.rows, trace.draft, *inner), dtype, device)

    @property
    def states(self) -> Tensor:
        """The pool, [slots, HV, V, K]."""
        return self.vk(self.pool.view)

    @property
    def drafts(self) -> Tensor:
        """The buffer, [rows, draft, HV, V, K]."""
        return self.vk(self.buffer.view)

    def vk(self, tensor: Tensor) -> Tensor:
        """View a state tensor of the layout with V, K last."""
        return tensor.mT if self._kv else tensor

    def before(self, slot: int) -> Tensor:
        """View the state of a slot, [HV, V, K], as it was at the snapshot."""
        return self.vk(self.pool.before())[slot]

    def snapshot(self) -> None:
        """Remember pool and buffer."""
        self.pool.snapshot()
        self.buffer.snapshot()

    def words(self) -> tuple[Tensor, Tensor]:
        """Copy all memory of pool and buffer."""
        return self.pool.words.clone(), self.buffer.words.clone()

    def put_back(self, words: tuple[Tensor, Tensor]) -> None:
        """Overwrite all memory by what `words` had copied."""
        self.pool.words.copy_(words[0])
        self.buffer.words.copy_(words[1])
