"""Launchers with a slip that a plain call does not show: only a graph, a side stream or a second device does.

Child processes load them as `tests/gpu/execution_slips.py:NAME`. Each is gdn.update, or for serving
gdn.decode, and right in a plain call.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

import diffgdn
from diffgdn.kernels import (
    fused_recurrent_gated_delta_rule_update,
    fused_sigmoid_gating_delta_rule_update,
)

Given = Any
OP = "gdn.update"
PACKED = diffgdn.Promises(batch=("packed",))


def update(**given: Given) -> Tensor:
    """Our launcher."""
    o: Tensor = fused_recurrent_gated_delta_rule_update(**given)
    return o


@triton.jit  # type: ignore[untyped-decorator]
def copy_slots(p_from, p_to, p_indices, size, stride_from, stride_to, GATHER: tl.constexpr, B: tl.constexpr):  # type: ignore[no-untyped-def]
    """Copy a slot of p_from to row n of p_to, or with GATHER false back, for each index that is not -1."""
    n = tl.program_id(0)
    slot = tl.load(p_indices + n).to(tl.int64)
    if slot >= 0:
        one, other = (slot, n) if GATHER else (n, slot)
        for i in range(0, size, B):
            o = i + tl.arange(0, B)
            held = tl.load(p_from + one * stride_from + o, mask=o < size)
            tl.store(p_to + other * stride_to + o, held, mask=o < size)


# Slots are copied as a whole, and rows of a buffer cannot be slots' numbers; a poisoned index crashes.
COPIED = replace(PACKED, strides=("compact",), step_rows=("given",), token_slots=(False,))


@diffgdn.target(
    OP, promises=replace(COPIED, execution=("eager", "graph", "graph_stale")), heads_compiled=False
)
def reads_tails(**given: Given) -> Tensor:
    """States are gathered, updated and scattered, those of sequences without tokens too."""
    pool, indices = given["initial_state_source"], given["initial_state_indices"]
    N, size = indices.numel(), pool[0].numel()
    states = torch.empty(N, *pool.shape[1:], dtype=pool.dtype, device=pool.device)
    with torch.cuda.device(pool.device):
        copy_slots[(N,)](pool, states, indices, size, pool.stride(0), size, GATHER=True, B=256)
        rows = torch.arange(N, dtype=indices.dtype, device=indices.device)
        own = torch.where(indices >= 0, rows, -1)
        o = update(**{**given, "initial_state_source": states, "initial_state_indices": own})
        if not given.get("disable_state_update"):
            copy_slots[(N,)](states, pool, indices, size, size, pool.stride(0), GATHER=False, B=256)
    return o


STARTS: list[Tensor] = []


@diffgdn.target(OP, promises=PACKED, heads_compiled=False)
def decides_at_capture(**given: Given) -> Tensor:
    """Where sequences begin is made ready before a capture, and under it is what it was then."""
    if not torch.cuda.is_current_stream_capturing():
        STARTS[:] = [given["cu_seqlens"].clone()]
    return update(**{**given, "cu_seqlens": STARTS[0]})


@diffgdn.target("gdn.decode", promises=PACKED, heads_compiled=False)
def decodes_what_was_captured(**given: Given) -> Tensor:
    """The same of decode."""
    if not torch.cuda.is_current_stream_capturing():
        STARTS[:] = [given["cu_seqlens"].clone()]
    o: Tensor = fused_sigmoid_gating_delta_rule_update(**{**given, "cu_seqlens": STARTS[0]})
    return o


@diffgdn.target(OP, promises=PACKED, heads_compiled=False)
def synchronises(**given: Given) -> Tensor:
    """The number of tokens is read back."""
    o = update(**given)
    return o[:, : int(given["cu_seqlens"][-1])] if given["cu_seqlens"][-1].item() == o.shape[1] else o


WORKSPACES: dict[Any, Tensor] = {}


@diffgdn.target(OP, heads_compiled=False)
def keeps_what_it_allocated(**given: Given) -> Tensor:
    """Under capture the output is allocated once, and taken from there by later calls of that shape."""
    o = update(**given)
    key = (tuple(o.shape), o.dtype)
    if torch.cuda.is_current_stream_capturing():
        WORKSPACES[key] = o
    elif key in WORKSPACES:
        return WORKSPACES.pop(key).copy_(o)
    return o


@diffgdn.target(
    OP, promises=diffgdn.Promises(execution=("eager", "stream")), heads_compiled=False
)  # a graph shows it as well
def on_the_default_stream(**given: Given) -> Tensor:
    """The kernel is launched on the default stream, whatever the current one is."""
    with torch.cuda.stream(torch.cuda.default_stream(given["q"].device)):
        return update(**given)


@diffgdn.target(OP, promises=diffgdn.Promises(execution=("eager", "device")), heads_compiled=False)
def without_a_guard(**given: Given) -> Tensor:
    """A kernel of its own is launched on the current device, wherever the tensors lie."""
    o = update(**given)
    out = torch.empty_like(o)
    indices = torch.zeros(1, dtype=torch.int32, device=o.device)
    if o.numel():
        copy_slots[(1,)](o, out, indices, o.numel(), 0, 0, GATHER=True, B=256)
    return out
