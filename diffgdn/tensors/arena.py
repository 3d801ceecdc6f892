"""How a case's tensors lie in memory when a kernel gets them: one allocation, poison between tensors, every
byte watched.

All tensors of a call are views into one arena, filled with poison. Tensors are 256-byte aligned and stand
apart by guard zones; gaps of strided views, slots that no sequence names and padding tokens are poison too.
After a call the arena must equal its snapshot but for the places that the operation documents as written.
Pools past FAR_BYTES get an allocation of their own, whose pages are touched only around the named slots.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.tensors import poison
from diffgdn.tensors.inputs import DTYPE, Data
from diffgdn.tensors.poison import GUARD_BYTES
from diffgdn.tensors.results import RETURNED, results_of

ALIGN_BYTES = 256
FAR_BYTES = 1 << 28
FAR_WATCH = 4096  # elements watched on either side of a named slot in a far pool
ODD_GAP = 5  # elements between rows of a "gapped" view: no row after the first is 16-byte aligned


@dataclass(frozen=True)
class Change:
    """One place outside the documented writes that differs after a call."""

    tensor: str
    where: str  # "element", "gap" (between rows or slots of a view) or "guard" (before or after the tensor)
    index: tuple[int, ...]
    offset: int  # in elements of the tensor, from its first element
    count: int  # changed places in all


@dataclass
class _Region:
    name: str
    start: int  # bytes
    extent: int  # elements from the first to one past the last
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _View:
    """A tensor that is a part of another: the columns of a projection, from `column` on."""

    name: str
    joint: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    column: int


@dataclass
class Arguments:
    """The tensors of one call by name, and what to compare afterwards.

    q, k, v; g and beta or a, b, A_log, dt_bias; cu_seqlens (None for dense); state (pool or dense, in the
    target's layout; None where the case has none); indices; mixed_qkv and out (packed_decode); buffer, rows
    and parents (verify).
    """

    case: Case
    layout: str
    tensors: dict[str, Tensor | None]
    arena: Tensor
    regions: list[_Region]
    writable: dict[str, tuple[Any, ...]]  # of each argument that is written, an index of where
    far: Tensor | None = None
    live_slots: tuple[int, ...] = ()  # slots of the pool that the operation writes
    views: list[_View] = field(default_factory=list)
    _before: Tensor | None = None
    _far_before: list[tuple[int, Tensor]] = field(default_factory=list)

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.tensors.get(name)
        if tensor is None:
            raise KeyError(f"{self.case.op} has no {name} in this case")
        return tensor

    def get(self, name: str) -> Tensor | None:
        return self.tensors.get(name)

    def state_vk(self, name: str = "state") -> Tensor:
        """A state tensor with its last two dimensions as V, K whatever the layout."""
        return self[name].mT if self.layout == "kv" else self[name]

    def snapshot(self) -> None:
        """Remember every watched byte."""
        self._before = self.arena.clone()
        self._far_before = [(start, part.clone()) for start, part in self._far_parts()]

    def restore(self) -> None:
        """Put everything back as it was at the snapshot."""
        assert self._before is not None
        self.arena.copy_(self._before)
        if self.far is not None:
            for start, part in self._far_before:
                self.far[start : start + part.numel()] = part

    def bits(self) -> Tensor:
        """Every watched byte, as one int16 tensor on the CPU."""
        parts = [self.arena, *(part.view(torch.int16) for _, part in self._far_parts())]
        return torch.cat([part.reshape(-1).cpu() for part in parts])

    def changes(self) -> Change | None:
        """The first place that changed though the operation does not document it as written, if any."""
        assert self._before is not None
        want = self._before.clone()
        for name, index in self.writable.items():
            if self._in_far(name):
                continue
            region = next(region for region in self.regions if region.name == name)
            _view(want, region)[index] = _view(self.arena, region)[index]
        different = (want != self.arena).nonzero().flatten()
        if different.numel():
            return self._describe(int(different[0]) * 2, different.numel())
        return self._far_changes()

    def _in_far(self, name: str) -> bool:
        return self.far is not None and name == "state"

    def _far_parts(self) -> list[tuple[int, Tensor]]:
        if self.far is None:
            return []
        return [(start, self.far[start:stop]) for start, stop in self.far_watched()]

    def far_watched(self) -> list[tuple[int, int]]:
        """First element of each watched part of a far pool, and one past its last."""
        assert self.far is not None
        size, stride = self.case.HV * self.case.V * self.case.K, self._slot_stride()
        return [
            (max(slot * stride - FAR_WATCH, 0), min(slot * stride + size + FAR_WATCH, self.far.numel()))
            for slot in sorted({slot for slot in self.case.pool.indices if slot >= 0} | {0})
        ]

    def _slot_stride(self) -> int:
        return self.case.HV * self.case.V * self.case.K + self.case.pool.pitch

    def _far_changes(self) -> Change | None:
        if self.far is None:
            return None
        size, stride = self.case.HV * self.case.V * self.case.K, self._slot_stride()
        for start, before in self._far_before:
            now = self.far[start : start + before.numel()]
            want = before.clone()
            for slot in self.live_slots:
                low, high = max(slot * stride - start, 0), min(slot * stride + size - start, before.numel())
                if low < high:
                    want[low:high] = now[low:high]
            different = (want.view(torch.int16) != now.view(torch.int16)).nonzero().flatten()
            if different.numel():
                offset = start + int(different[0]) * 2 // before.element_size()
                slot, inner = divmod(offset, stride)
                where = "element" if inner < size else "gap"
                return Change(
                    "state", where, (slot, *_unravel(inner, self._state_shape())), offset, different.numel()
                )
        return None

    def _state_shape(self) -> tuple[int, int, int]:
        case = self.case
        return (case.HV, case.V, case.K) if self.layout == "vk" else (case.HV, case.K, case.V)

    def poisoned(self, other: Arguments) -> Tensor:
        """16-bit words of the arena that were poison, where the same arguments without poison are `other`."""
        assert self._before is not None
        assert other._before is not None
        return (self._before != other._before).nonzero().flatten()

    def copy_words(self, other: Arguments, words: Tensor) -> None:
        """Put words of another's arena in place, as they were before its call."""
        assert other._before is not None
        self.arena[words] = other._before[words]

    def describe(self, word: int) -> Change:
        """What lies at a 16-bit word of the arena."""
        return self._describe(2 * word, 1)

    def _describe(self, byte: int, count: int) -> Change:
        for region in self.regions:
            size = region.dtype.itemsize
            offset = (byte - region.start) // size
            if 0 <= offset < region.extent:
                for view in self.views:
                    inner = _index_in(offset - view.column, view) if view.joint == region.name else None
                    if inner is not None:
                        return Change(view.name, "element", inner, offset - view.column, count)
                index = _index_in(offset, region)
                return Change(region.name, "element" if index else "gap", index or (offset,), offset, count)
        nearest = min(
            self.regions,
            key=lambda r: min(abs(byte - r.start), abs(byte - r.start - r.extent * r.dtype.itemsize)),
        )
        offset = (byte - nearest.start) // nearest.dtype.itemsize
        return Change(nearest.name, "guard", (), offset, count)


def _unravel(offset: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    out = []
    for size in reversed(shape):
        offset, index = divmod(offset, size)
        out.append(index)
    return tuple(reversed(out))


def _index_in(offset: int, region: _Region | _View) -> tuple[int, ...] | None:
    """Index of the element at an offset of a strided view, or None where it falls between the view's
    elements, or before its first."""
    if offset < 0:
        return None
    index = [0] * len(region.shape)
    for axis in sorted(range(len(region.shape)), key=lambda axis: -region.strides[axis]):
        if region.shape[axis] > 1:
            index[axis], offset = divmod(offset, region.strides[axis])
            if index[axis] >= region.shape[axis]:
                return None
    return tuple(index) if offset == 0 else None


def _view(arena: Tensor, region: _Region) -> Tensor:
    size = region.dtype.itemsize
    return arena.view(region.dtype).as_strided(region.shape, region.strides, region.start // size)


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


class _Builder:
    """Collects tensors with their placement, then lays them out in one allocation."""

    def __init__(self) -> None:
        self.planned: list[tuple[str, tuple[int, ...], tuple[int, ...], torch.dtype, int, Tensor | None]] = []
        self.views: list[tuple[str, str, tuple[int, ...], tuple[int, ...], int]] = []

    def add(
        self,
        name: str,
        values: Tensor | None,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        strides: tuple[int, ...] | None = None,
        extent: int = 0,
    ) -> None:
        """Plan a tensor of its own; values None leaves it poisoned."""
        strides = strides or _contiguous(shape)
        needed = (
            1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
            if math.prod(shape)
            else 0
        )
        self.planned.append((name, shape, strides, dtype, max(needed, extent), values))

    def build(
        self, device: torch.device | str, pattern: int
    ) -> tuple[Tensor, list[_Region], dict[str, Tensor]]:
        regions, cursor = [], GUARD_BYTES
        for name, shape, strides, dtype, extent, _ in self.planned:
            regions.append(_Region(name, cursor, extent, dtype, shape, strides))
            end = cursor + extent * dtype.itemsize + GUARD_BYTES
            cursor = -(-end // ALIGN_BYTES) * ALIGN_BYTES
        arena = torch.full((cursor // 2,), pattern, dtype=torch.int16)
        for region, (*_, values) in zip(regions, self.planned, strict=True):
            if values is not None and values.numel():
                _view(arena, region).copy_(values.view(region.shape))
        arena = arena.to(device)
        return arena, regions, {region.name: _view(arena, region) for region in regions}


def _rows(case: Case) -> tuple[int, ...]:
    """Leading dimensions of per-token tensors: (B, T) or (1, tokens)."""
    if case.packed and not case.batched:
        return (1, case.tokens)
    return (len(case.lens), case.lens[0])


def _row_strides(case: Case, token: int) -> tuple[int, int]:
    return (_rows(case)[1] * token, token)


def _add_projection(
    builder: _Builder, case: Case, parts: Sequence[tuple[str, Tensor, tuple[int, ...]]], joint: str
) -> None:
    """Per-token tensors as views of one row-wise projection (view "packed"), with gaps ("gapped") or apart
    ("contiguous")."""
    rows, dtype = _rows(case), parts[0][1].dtype
    if case.view == "packed":
        width = sum(math.prod(inner) for _, _, inner in parts)
        values = torch.cat([tensor.flatten(1) for _, tensor, _ in parts], dim=1)
        builder.add(joint, values, (*rows, width), dtype)
        column = 0
        for name, _, inner in parts:
            builder.views.append(
                (name, joint, (*rows, *inner), (*_row_strides(case, width), *_contiguous(inner)), column)
            )
            column += math.prod(inner)
        return
    for name, tensor, inner in parts:
        strides = list(_contiguous(inner))
        token = math.prod(inner)
        if case.view == "gapped":
            strides = [
                stride + ODD_GAP if axis == len(inner) - 2 else stride for axis, stride in enumerate(strides)
            ]
            token = strides[0] * inner[0] + ODD_GAP
        builder.add(name, tensor, (*rows, *inner), dtype, (*_row_strides(case, token), *strides))


def _add_tokens(builder: _Builder, case: Case, data: Data, fresh: int) -> None:
    """fresh: the pattern that `out` starts with."""
    heads = [
        ("q", data["q"], (case.H, case.K)),
        ("k", data["k"], (case.H, case.K)),
        ("v", data["v"], (case.HV, case.V)),
    ]
    if case.operation.single_token:
        values = torch.cat([tensor.flatten(1) for _, tensor, _ in heads], dim=1)
        width = values.shape[1]
        stride = width + (ODD_GAP if case.view == "gapped" else 16 if case.view == "packed" else 0)
        builder.add("mixed_qkv", values, (case.tokens, width), values.dtype, (stride, 1))
        out = (case.tokens, 1, case.HV, case.V)
        builder.add("out", poison.full(out, values.dtype, fresh), out, values.dtype)
    else:
        _add_projection(builder, case, heads, "qkv")
    names = ("a", "b") if case.raw_gates and "a" in data else ("g", "beta")
    gate_inner = (case.HV, case.K) if case.operation.is_kda else (case.HV,)
    if case.operation.raw_gates and case.operation.is_kda:
        gate_inner = (
            case.HV * case.K,
        )  # as SGLang's callers pass it; the axes are split in "gapped" views below
    if case.operation.single_token:
        for name, inner in zip(names, (math.prod(gate_inner), case.HV), strict=True):
            stride = inner + (ODD_GAP if case.view == "gapped" else 16 if case.view == "packed" else 0)
            builder.add(name, data[name], (case.tokens, inner), data[name].dtype, (stride, 1))
    else:
        gates = [(names[0], data[names[0]], gate_inner), (names[1], data[names[1]], (case.HV,))]
        _add_projection(builder, case, gates, "gates")
    for name in ("A_log", "dt_bias"):
        if name in data:
            builder.add(name, data[name], tuple(data[name].shape), data[name].dtype)


def _add_indices(builder: _Builder, case: Case) -> None:
    pool, dtypes = case.pool, {"int32": torch.int32, "int64": torch.int64}
    if case.packed and not case.operation.single_token:
        builder.add("cu_seqlens", torch.tensor(case.starts), (len(case.starts),), dtypes[case.cu_dtype])
    if case.operation.has_pool and case.values.state != "none":
        builder.add("indices", torch.tensor(pool.indices), (len(pool.indices),), dtypes[case.index_dtype])
    if case.keeps_steps:
        builder.add("rows", torch.tensor(pool.rows), (len(pool.rows),), dtypes[case.index_dtype])
    if case.parents:
        table = torch.zeros(len(case.lens), pool.steps, dtype=dtypes[case.index_dtype])
        for n, tree in enumerate(case.parents):
            table[n, : len(tree)] = torch.tensor(tree, dtype=table.dtype)
        builder.add("parents", table, tuple(table.shape), table.dtype, (pool.steps + 1, 1))


def _wait_for_memory(device: torch.device, needed: int) -> None:
    """A far pool takes real memory on a GPU; wait until other workers have given theirs back."""
    for _ in range(600):
        torch.cuda.empty_cache()
        if torch.cuda.mem_get_info(device)[0] > needed + (1 << 30):
            return
        time.sleep(0.1)


def _far_pool(
    case: Case, data: Data, layout: str, device: torch.device | str, pattern: int
) -> tuple[Tensor, Tensor]:
    pool, dtype = case.pool, DTYPE[case.pool.dtype]
    size = case.HV * case.V * case.K
    stride = size + pool.pitch
    device = torch.device(device)
    numel = (pool.slots - 1) * stride + size + FAR_WATCH
    if device.type == "cuda":
        _wait_for_memory(device, numel * dtype.itemsize)
    storage = torch.empty(numel, dtype=dtype, device=device)
    inner = (case.HV, case.V, case.K) if layout == "vk" else (case.HV, case.K, case.V)
    view = storage.as_strided((pool.slots, *inner), (stride, *_contiguous(inner)))
    for slot in sorted({slot for slot in pool.indices if slot >= 0} | {0}):
        start = max(slot * stride - FAR_WATCH, 0)
        poison.fill(storage[start : slot * stride + size + FAR_WATCH], pattern)
    for n, slot in enumerate(pool.indices):
        if slot >= 0:
            view[slot] = (data["state"][n].mT if layout == "kv" else data["state"][n]).to(device)
    return storage, view


def arrange(
    case: Case, data: Data, device: torch.device | str, layout: str = "vk", zeros: bool = False
) -> Arguments:
    """Lay a case's tensors (from `inputs.draw`) out on a device, with states in the given layout, and take
    the snapshot.

    zeros: fill what is otherwise poison with zeros.
    """
    builder, fresh = _Builder(), 0 if zeros else poison.FRESH
    _add_tokens(builder, case, data, fresh)
    _add_indices(builder, case)
    inner = (case.HV, case.V, case.K) if layout == "vk" else (case.HV, case.K, case.V)
    size, dtype, pool = math.prod(inner), DTYPE[case.pool.dtype], case.pool
    far = None
    has_state = case.values.state != "none"
    if has_state and case.operation.has_pool:
        stride = size + pool.pitch
        far_bytes = pool.slots * stride * dtype.itemsize
        if far_bytes <= FAR_BYTES:
            values = poison.full((pool.slots, *inner), dtype, 0 if zeros else poison.POISON)
            for n, slot in enumerate(pool.indices):
                if slot >= 0:
                    values[slot] = data["state"][n].mT if layout == "kv" else data["state"][n]
            builder.add(
                "state",
                values,
                (pool.slots, *inner),
                dtype,
                (stride, *_contiguous(inner)),
                pool.slots * stride,
            )
        else:
            far = far_bytes
    elif has_state:
        builder.add(
            "state", data["state"].mT if layout == "kv" else data["state"], (len(case.lens), *inner), dtype
        )
    if case.keeps_steps:
        kept = (pool.buffer, pool.steps, *inner)
        builder.add("buffer", poison.full(kept, dtype, fresh), kept, dtype)
    pattern = 0 if zeros else poison.POISON
    arena, regions, tensors = builder.build(device, pattern)
    for name, joint, shape, strides, column in builder.views:
        owner = tensors[joint]
        tensors[name] = owner.as_strided(shape, strides, owner.storage_offset() + column)
    far_storage = None
    if far is not None:
        far_storage, tensors["state"] = _far_pool(case, data, layout, device, pattern)
    known: dict[str, Tensor | None] = dict.fromkeys(
        ("cu_seqlens", "state", "indices", "parents", "rows", "buffer")
    )
    views = [
        _View(name, joint, shape, strides, column) for name, joint, shape, strides, column in builder.views
    ]
    given = {**known, **tensors}
    written = [one for one in results_of(case) if one.lies != RETURNED]
    writable = {one.lies: one.index for one in written}
    live = tuple(slot for one in written if one.lies == "state" for (slot,) in one.at)
    arguments = Arguments(case, layout, given, arena, regions, writable, far_storage, live, views)
    arguments.snapshot()
    return arguments
