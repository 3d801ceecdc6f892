"""Lays a case's tensors out as a caller would, in one allocation, with poison in between.

Tensors are 256-byte aligned and stand apart by guard zones; gaps of strided views, slots that no sequence
names and padding tokens are poison too. What is larger than FAR_BYTES gets an allocation of its own
(`far_memory`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffgdn.cases import lay
from diffgdn.cases.case import Case
from diffgdn.tensors import far_memory, poison
from diffgdn.tensors.arena import Arguments
from diffgdn.tensors.far_memory import FarTensor
from diffgdn.tensors.inputs import DTYPE, Data
from diffgdn.tensors.poison import GUARD_BYTES
from diffgdn.tensors.region import ALIGN_BYTES, Columns, Region, aligned, contiguous_strides
from diffgdn.tensors.results import RETURNED, results_of

FAR_BYTES = 1 << 28
FAR_LAY_BYTES = 1 << 22  # of an argument with strides of its own, whose gaps nobody reads
ODD_GAP = 5  # elements between rows of a "gapped" view: no row after the first is 16-byte aligned
EVEN_GAP = 16  # between rows of a one-token batch in a "packed" view: each is as aligned as the first
INDEX_DTYPE = {"int32": torch.int32, "int64": torch.int64}
# Arguments that a case may be without; asking for them gives None.
OPTIONAL = (
    *("cu_seqlens", "state", "indices", "accepted", "has_initial", "parents", "rows", "buffer"),
    *("changes", "path"),
    *("track", "track_chunk"),
)

Part = tuple[str, Tensor, tuple[int, ...]]  # name, values [tokens, ...], dimensions of one token


def arrange(
    case: Case, data: Data, device: torch.device | str, layout: str = "vk", zeros: bool = False
) -> Arguments:
    """Lay a case's tensors (from `inputs.draw`) out on a device and take the snapshot.

    layout: of states, "vk" [..., V, K] or "kv" [..., K, V]. zeros: fill with zeros what is otherwise poison.
    """
    plan = _Plan(case, layout, zeros)
    _plan_tokens(plan, data)
    _plan_gates(plan, data)
    _plan_indices(plan)
    if case.values.state != "none":
        _plan_state(plan, data["state"])
    if case.has_buffer:
        plan.add_fresh("buffer", (case.pool.buffer, case.pool.steps, *plan.inner), plan.state_dtype)
    if case.operation.commits:
        plan.add_fresh("changes", (case.pool.buffer, case.pool.steps, case.numbers), torch.float32)
    if case.state_options.track:
        plan.add_fresh("track", (len(case.lens), *plan.inner), torch.float32)
        chunks = torch.tensor(case.state_options.track)
        plan.add("track_chunk", chunks, tuple(chunks.shape), INDEX_DTYPE[case.index_dtype])
    arena, tensors = plan.build(device)
    written = [result for result in results_of(case) if result.lies != RETURNED]
    writable = {result.lies: result.index for result in written}
    if case.operation.commits:  # steps of a draft, of which nobody asks
        rows, steps = [row for _, row, _ in case.kept], [step for _, _, step in case.kept]
        writable["changes"] = (rows, steps)
    far = plan.build_far(device)
    for one in far:
        one.writable = writable.pop(one.region.name, None)
        tensors[one.region.name] = one.view
    arguments = Arguments(
        case,
        layout,
        {**dict.fromkeys(OPTIONAL), **tensors},
        arena,
        plan.regions,
        plan.columns,
        writable,
        far,
    )
    arguments.snapshot()
    return arguments


@dataclass
class _Values:
    """What a tensor holds: (index, values) of its parts. rows: see `far_memory.place`."""

    pieces: list[tuple[Any, Tensor]]
    rows: tuple[int, ...] | None = None


class _Plan:
    """Collects tensors with their places, then makes the one allocation that holds them.

    poison, fresh: the 16-bit patterns of memory that must not be read, and of memory that must be written.
    inner: dimensions of one state in the layout.
    """

    def __init__(self, case: Case, layout: str, zeros: bool) -> None:
        self.case = case
        self.poison, self.fresh = (0, 0) if zeros else (poison.POISON, poison.FRESH)
        self._transposed = layout == "kv"
        self.inner = (case.HV, case.K, case.V) if self._transposed else (case.HV, case.V, case.K)
        self.state_dtype = DTYPE[case.pool.dtype]
        self.lays = {one.tensor: one for one, _, _ in lay.placed(case)}
        self.regions: list[Region] = []
        self.columns: list[Columns] = []
        self._values: list[_Values] = []
        self._far: list[tuple[Region, _Values]] = []
        self._end = GUARD_BYTES  # where the next tensor may start, in bytes

    def turn(self, states: Tensor) -> Tensor:
        """View states [..., V, K] in the layout."""
        return states.mT if self._transposed else states

    def add(
        self,
        name: str,
        values: Tensor | _Values,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        strides: tuple[int, ...] | None = None,
        extent: int = 0,
        pitch: int = 0,
    ) -> None:
        """Give a tensor a region behind those planned so far, or memory of its own if it is large.

        values: as many elements as `shape` has. strides: in elements; None for contiguous. extent: the least
        number of elements that the region takes. A lay that the case has for it takes their place; pitch:
        more of a gap on its first axis then.
        """
        own, most = self.lays.get(name), FAR_BYTES
        if own is not None:
            strides, extent, most = lay.strides(shape, own, pitch), 0, FAR_LAY_BYTES
        strides = strides or contiguous_strides(shape)
        reach = lay.reach(shape, strides)
        extent = max(extent, reach)
        offset = -(-own.offset // dtype.itemsize) * dtype.itemsize if own is not None else 0
        if isinstance(values, Tensor):
            values = _Values([(..., values.view(shape))] if values.numel() else [])
        if extent * dtype.itemsize > most:
            self._far.append((Region(name, offset, reach, dtype, shape, strides), values))
            return
        self.regions.append(Region(name, self._end + offset, extent, dtype, shape, strides))
        self._values.append(values)
        end = self._end + offset + extent * dtype.itemsize + GUARD_BYTES
        self._end = -(-end // ALIGN_BYTES) * ALIGN_BYTES

    def add_fresh(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """Give a tensor that the call must write a region."""
        self.add(name, poison.full(shape, dtype, self.fresh), shape, dtype)

    def build(self, device: torch.device | str) -> tuple[Tensor, dict[str, Tensor]]:
        """Allocate and fill the memory. Returns it, [16-bit words], and the tensors in it by name."""
        arena = aligned(self._end // 2, self.poison)
        for region, values in zip(self.regions, self._values, strict=True):
            if has_zero_gaps(region):
                arena.view(region.dtype)[region.start // region.dtype.itemsize :][: region.extent] = 0
            for index, piece in values.pieces:
                region.view(arena)[index] = piece
        arena = arena.to(device)
        tensors = {region.name: region.view(arena) for region in self.regions}
        return arena, tensors | {part.name: part.view(tensors[part.joint]) for part in self.columns}

    def build_far(self, device: torch.device | str) -> tuple[FarTensor, ...]:
        """Allocate and fill the memory of each tensor that is too large for the arena."""
        return tuple(
            far_memory.place(
                region, values.pieces, device, 0 if has_zero_gaps(region) else self.poison, values.rows
            )
            for region, values in self._far
        )


def has_zero_gaps(region: Region) -> bool:
    """Tell whether zeros lie between the elements of a tensor: in index vectors with a stride, as numbers do
    between those of a table's column. A kernel that reads them is wrong, where poison would end its process.
    """
    return not region.dtype.is_floating_point and len(region.shape) == 1 and region.strides != (1,)


def _plan_tokens(plan: _Plan, data: Data) -> None:
    """Plan q, k and v, or mixed_qkv and out."""
    case = plan.case
    heads: list[Part] = [
        ("q", data["q"], (case.H, case.K)),
        ("k", data["k"], (case.H, case.K)),
        ("v", data["v"], (case.HV, case.V)),
    ]
    if not case.operation.single_token:
        _plan_projection(plan, heads, "qkv")
        return
    mixed = torch.cat([tensor.flatten(1) for _, tensor, _ in heads], dim=1)
    _plan_rows(plan, "mixed_qkv", mixed, mixed.shape[1])
    plan.add_fresh("out", (case.tokens, 1, case.HV, case.V), mixed.dtype)


def _plan_gates(plan: _Plan, data: Data) -> None:
    """Plan g and beta, or a, b, A_log and dt_bias."""
    case = plan.case
    decay, *beta = (name for name in case.decay_and_beta if name in data)
    channels: tuple[int, ...] = (case.HV, case.K) if case.operation.is_kda else (case.HV,)
    if case.operation.raw_gates and case.operation.is_kda:
        channels = (case.HV * case.K,)  # as SGLang's callers pass it
    if case.operation.single_token:
        _plan_rows(plan, decay, data[decay], math.prod(channels))
        _plan_rows(plan, beta[0], data[beta[0]], case.HV)
    else:
        parts = [(decay, data[decay], channels), *((name, data[name], (case.HV,)) for name in beta)]
        _plan_projection(plan, parts, "gates")
    for name in ("A_log", "dt_bias"):
        if name in data:
            plan.add(name, data[name], tuple(data[name].shape), data[name].dtype)


def _plan_rows(plan: _Plan, name: str, values: Tensor, width: int) -> None:
    """Plan a tensor [tokens, width] of a one-token batch, with gaps between its rows if the view has any."""
    gap = {"gapped": ODD_GAP, "packed": EVEN_GAP}.get(plan.case.view, 0)
    plan.add(name, values, (plan.case.tokens, width), values.dtype, (width + gap, 1))


def _plan_projection(plan: _Plan, parts: Sequence[Part], joint: str) -> None:
    """Plan per-token tensors: views of one row-wise projection `joint` (view "packed"), with gaps between
    heads and tokens ("gapped") or contiguous; one with a lay of its own by itself. A projection is in the
    dtype of the first; the others stay out.
    """
    case = plan.case
    # Leading dimensions: (B, T), or (1, tokens).
    rows = (1, case.tokens) if case.packed and not case.batched else (len(case.lens), case.lens[0])
    dtype = parts[0][1].dtype
    for name, tensor, inner in parts:
        if name in plan.lays:
            plan.add(name, tensor, (*rows, *inner), tensor.dtype)
    parts = [part for part in parts if part[0] not in plan.lays]
    if case.view == "packed" and parts:
        dtype = parts[0][1].dtype
        apart = [part for part in parts if part[1].dtype != dtype]
        parts = [part for part in parts if part[1].dtype == dtype]
        values = torch.cat([tensor.flatten(1) for _, tensor, _ in parts], dim=1)
        width, column = values.shape[1], 0
        plan.add(joint, values, (*rows, width), dtype)
        for name, _, inner in parts:
            strides = (rows[1] * width, width, *contiguous_strides(inner))
            plan.columns.append(Columns(name, joint, (*rows, *inner), strides, column))
            column += math.prod(inner)
        parts = apart
    for name, tensor, inner in parts:
        steps, token = list(contiguous_strides(inner)), math.prod(inner)
        if case.view == "gapped":
            if len(inner) > 1:
                steps[-2] += ODD_GAP
            token = steps[0] * inner[0] + ODD_GAP
        plan.add(name, tensor, (*rows, *inner), tensor.dtype, (rows[1] * token, token, *steps))


def _plan_indices(plan: _Plan) -> None:
    """Plan cu_seqlens, slot indices, buffer rows and the tree's parents, as far as the case has them."""
    case, pool = plan.case, plan.case.pool
    index_dtype = INDEX_DTYPE[case.index_dtype]
    if case.packed and not case.operation.single_token:
        starts = torch.tensor(case.starts)
        plan.add("cu_seqlens", starts, (len(case.starts),), INDEX_DTYPE[case.cu_dtype])
    if case.operation.has_pool and case.values.state != "none":
        _plan_slots(plan, index_dtype)
    if case.has_rows and case.state_options.step_rows == "given":
        plan.add("rows", torch.tensor(pool.rows), (len(pool.rows),), index_dtype)
    if case.parents:
        table = torch.zeros(len(case.lens), pool.steps, dtype=index_dtype)
        for n, tree in enumerate(case.parents):
            table[n, : len(tree)] = torch.tensor(tree, dtype=table.dtype)
        plan.add("parents", table, tuple(table.shape), table.dtype, (pool.steps + 1, 1))
    if case.operation.commits:
        _plan_accepted(plan, index_dtype)


def _plan_accepted(plan: _Plan, index_dtype: torch.dtype) -> None:
    """Plan how many steps are accepted, and of trees which; past their number a table holds nothing."""
    paths = plan.case.accepted_paths
    counts = torch.tensor([len(path) for path in paths])
    plan.add("accepted", counts, (len(paths),), index_dtype)
    if plan.case.parents:
        table = torch.full((len(paths), plan.case.pool.steps), -1, dtype=index_dtype)
        for n, path in enumerate(paths):
            table[n, : len(path)] = torch.tensor(path, dtype=table.dtype)
        plan.add("path", table, tuple(table.shape), table.dtype, (plan.case.pool.steps + 1, 1))


def _plan_slots(plan: _Plan, index_dtype: torch.dtype) -> None:
    """Plan the slots of sequences, or of tokens, and what goes with them."""
    case, options = plan.case, plan.case.state_options
    if options.slots:
        table = torch.tensor(options.slots)
        plan.add("indices", table, tuple(table.shape), index_dtype, (table.shape[1] + 1, 1))
        plan.add("accepted", torch.tensor(options.accepted), (len(options.accepted),), index_dtype)
    elif options.indices:
        plan.add("indices", torch.tensor(case.pool.indices), (len(case.pool.indices),), index_dtype)
    if options.initial:
        plan.add("has_initial", torch.tensor(options.initial), (len(options.initial),), torch.bool)


def _plan_state(plan: _Plan, states: Tensor) -> None:
    """Plan initial states [N, HV, V, K]: dense, or in the slots of a pool whose other slots are poison."""
    case, pool, dtype = plan.case, plan.case.pool, plan.state_dtype
    states = plan.turn(states)
    if not case.operation.has_pool:
        plan.add("state", states.contiguous(), (len(case.lens), *plan.inner), dtype)
        return
    shape, stride = (pool.slots, *plan.inner), case.HV * case.V * case.K + pool.pitch
    fresh = poison.full(plan.inner, dtype, plan.fresh)
    pieces = [(slot, fresh) for _, slot, _ in case.kept] if case.state_options.slots else []
    pieces += [(slot, states[n]) for n, slot in enumerate(pool.indices) if slot >= 0]
    named = tuple(sorted({slot for slot, _ in pieces} | {0}))
    strides = (stride, *contiguous_strides(plan.inner))
    plan.add("state", _Values(pieces, named), shape, dtype, strides, pool.slots * stride, pool.pitch)
