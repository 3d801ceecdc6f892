"""The tensors of one call: one allocation in which they lie, every byte of it watched.

`layout` lays them out there. After a call the arena must equal its snapshot but for the places that the
operation documents as written.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.tensors.far_memory import FarTensor
from diffgdn.tensors.region import Change, Columns, Region, locate


@dataclass
class Arguments:
    """The tensors of one call by name, and the memory that is compared afterwards.

    tensors: q, k, v; g and beta or a, b, A_log, dt_bias; cu_seqlens (None for dense); state (pool or dense,
        in the target's layout; None if the case has none); indices; mixed_qkv and out (packed_decode);
        buffer, rows and parents (verify); changes, accepted and path (verify_commit).
    layout: of states, "vk" or "kv".
    arena: the allocation, [16-bit words], int16.
    regions, columns: where each tensor lies in it.
    writable: for each argument in it that the operation writes, an index that selects what it may write.
    far: the arguments that do not lie in the arena.
    """

    case: Case
    layout: str
    tensors: dict[str, Tensor | None]
    arena: Tensor
    regions: list[Region]
    columns: list[Columns]
    writable: dict[str, tuple[Any, ...]]
    far: tuple[FarTensor, ...] = ()
    _before: Tensor | None = field(default=None, init=False)

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of a name. Raises KeyError if this case has none."""
        tensor = self.tensors.get(name)
        if tensor is None:
            raise KeyError(f"{self.case.op} has no {name} in this case")
        return tensor

    def get(self, name: str) -> Tensor | None:
        """The tensor of a name, or None if this case has none."""
        return self.tensors.get(name)

    def snapshot(self) -> None:
        """Remember every watched byte."""
        self._before = self.arena.clone()
        for one in self.far:
            one.snapshot()

    def restore(self) -> None:
        """Put every watched byte back, in place, as it was at the snapshot."""
        assert self._before is not None
        self.arena.copy_(self._before)
        for one in self.far:
            one.restore()

    def bits(self) -> Tensor:
        """Copy every watched byte into one int16 tensor on the CPU."""
        far = [part for one in self.far for part in one.parts()]
        return torch.cat([part.reshape(-1).cpu() for part in (self.arena, *far)])

    def find_change(self) -> Change | None:
        """The first place that changed though the operation does not document it as written, if any."""
        assert self._before is not None
        want = self._before.clone()
        for name, index in self.writable.items():
            region = next(region for region in self.regions if region.name == name)
            region.view(want)[index] = region.view(self.arena)[index]
        different = (want != self.arena).nonzero().flatten()
        if different.numel():
            return locate(int(different[0]) * 2, different.numel(), self.regions, self.columns)
        found = (one.find_change() for one in self.far)
        return next((change for change in found if change is not None), None)

    def poisoned_words(self, calm: Arguments) -> Tensor:
        """Numbers of the 16-bit words of the arena that held poison before the call, int64.

        calm: the same arguments laid out without poison.
        """
        assert self._before is not None
        assert calm._before is not None
        return (self._before != calm._before).nonzero().flatten()

    def copy_words(self, other: Arguments, words: Tensor) -> None:
        """Overwrite words of this arena, in place, by those that another arena held before its call."""
        assert other._before is not None
        self.arena[words] = other._before[words]

    def locate_word(self, word: int) -> Change:
        """Name what lies at a 16-bit word of the arena."""
        return locate(2 * word, 1, self.regions, self.columns)
