"""The fold: accepted draft steps become part of the states in a pool, from what a verify kept of them.

One program reads BV rows of a state once, applies the changes of its accepted steps in order, and writes it
once: S <- exp(g) S + d k^T. There is no product with the state: d = beta (v - exp(g) S k) was computed by the
verify, from the same fp32 numbers.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from . import tiles
from .current_device import current
from .recurrent_launch import is_aligned, strides
from .recurrent_steps import (
    change_places,
    decayed,
    read,
    read_state,
    row,
    state_offsets,
    write_state,
    written,
)
from .step_changes import rows_of

# As in `recurrent`: nothing that varies freely compiles another kernel, so each is a parameter of its own.
TENSORS = ["h", "h_indices", "changes", "change_indices", "counts", "path"]
SIZES = ["HV", "GROUP", "steps", "path_steps"]
STRIDES = [
    "stride_h_slot", "stride_h_head", "stride_h_row", "stride_h_index", "stride_change_row",
    "stride_change_step", "stride_change_index", "stride_count", "stride_path_seq", "stride_path_step",
]  # fmt: skip


class FoldVariant(NamedTuple):
    """What the fold is compiled for, beside dtypes and whether there is a path; fields as in `Variant`."""

    K: int
    V: int
    BK: int
    BV: int
    WHOLE_ROWS: bool
    WHOLE_COLUMNS: bool
    ALIGNED: bool
    CHANGES_ALIGNED: bool
    PACKED_ROWS: bool
    KV: bool
    KDA: bool


@triton.jit
def read_change(p_step, places, rows, columns, VARIANT: tl.constexpr):
    """Return the change of a step, as `advance` returns it, from its numbers at p_step."""
    b_d = read(row(p_step, places[0], VARIANT.CHANGES_ALIGNED), rows, VARIANT.WHOLE_ROWS)
    b_k = read(row(p_step, places[1], VARIANT.CHANGES_ALIGNED), columns, VARIANT.WHOLE_COLUMNS)
    if VARIANT.KDA:
        b_g = read(row(p_step, places[2], VARIANT.CHANGES_ALIGNED), columns, VARIANT.WHOLE_COLUMNS)
    else:
        b_g = tl.load(p_step + places[2])
    return b_d, b_k, b_g


@triton.jit(do_not_specialize=SIZES + STRIDES, do_not_specialize_on_alignment=TENSORS)
def fold_kernel(
    h,  # the pool, [slots, HV, V, K] (kv: [slots, HV, K, V])
    h_indices,  # [N], slots; negative: padding
    changes,  # [rows, steps, numbers], fp32
    change_indices,  # [N], rows; negative: nothing was kept
    counts,  # [N], how many steps are accepted
    path,  # [N, path_steps], their numbers in order; None: 0, 1, 2, ...
    HV,
    GROUP,  # HV // H
    steps,
    path_steps,
    stride_h_slot: tl.int64,
    stride_h_head: tl.int64,
    stride_h_row: tl.int64,
    stride_h_index: tl.int64,
    stride_change_row: tl.int64,
    stride_change_step: tl.int64,
    stride_change_index: tl.int64,
    stride_count: tl.int64,
    stride_path_seq: tl.int64,
    stride_path_step: tl.int64,
    VARIANT: tl.constexpr,
):
    """Apply the accepted steps of one sequence to BV rows of one head of its slot, in fp32; round once.

    One program each of N sequences * HV heads * cdiv(V, BV) tiles. A slot without accepted steps is not
    touched.
    """
    NV: tl.constexpr = (VARIANT.V + VARIANT.BV - 1) // VARIANT.BV
    pid = tl.program_id(0)
    i_nh = pid // NV
    i_n = (i_nh // HV).to(tl.int64)
    i_hv = (i_nh % HV).to(tl.int64)
    i_v = pid % NV

    # Counts and steps that were not validated are still kept from leading outside of the tables.
    count = tl.load(counts + i_n * stride_count).to(tl.int32)
    count = tl.minimum(count, steps if path is None else path_steps)
    i_slot = tl.load(h_indices + i_n * stride_h_index).to(tl.int64)
    i_row = tl.load(change_indices + i_n * stride_change_index).to(tl.int64)
    if (count <= 0) | (i_slot < 0) | (i_row < 0):
        return

    o_v = i_v * VARIANT.BV + tl.arange(0, VARIANT.BV)
    o_k = tl.arange(0, VARIANT.BK)
    rows = (o_v, o_v < VARIANT.V)
    columns = (o_k, o_k < VARIANT.K)
    p_h = row(h, i_slot * stride_h_slot + i_hv * stride_h_head, VARIANT.ALIGNED)
    offsets = state_offsets(rows, columns, stride_h_row, VARIANT)
    b_h = read_state(p_h, offsets, i_slot, rows, columns, VARIANT)
    places = change_places(i_hv // GROUP, i_hv, i_v, HV, GROUP, VARIANT)
    p_row = changes + i_row * stride_change_row
    for i in range(count):
        if path is None:
            step = i
        else:
            step = tl.load(path + i_n * stride_path_seq + i * stride_path_step).to(tl.int64)
            step = tl.maximum(tl.minimum(step, steps - 1), 0)
        b_d, b_k, b_g = read_change(p_row + step * stride_change_step, places, rows, columns, VARIANT)
        b_h = written(decayed(b_h, b_g, VARIANT), b_d, b_k)
    write_state(p_h, offsets, b_h, rows, columns, VARIANT)


def launch_fold(h, h_indices, changes, change_indices, counts, path, *, H, kda, kv, batch_invariant):
    """Fold accepted steps into the pool h [slots, HV, V, K] (kv: [slots, HV, K, V]), in place.

    H: query heads. The rest as `commit_accepted_steps` has it. Nothing is checked.
    """
    N, (HV, V, K) = h_indices.numel(), h.shape[1:]
    if kv:
        V, K = K, V
    if N == 0:
        return
    tile = tiles.pick(V, kda)
    BK = max(triton.next_power_of_2(K), 16)
    variant = FoldVariant(
        K=K, V=V, BK=BK, BV=tile.BV, WHOLE_ROWS=V % tile.BV == 0, WHOLE_COLUMNS=K == BK,
        ALIGNED=is_aligned(h, batch_invariant),
        CHANGES_ALIGNED=all(is_aligned(x, batch_invariant) for x in rows_of(changes, H, HV, K, V, kda)),
        PACKED_ROWS=h.shape[-2] == 1 or h.stride(-2) == h.shape[-1], KV=kv, KDA=kda,
    )  # fmt: skip
    grid = (N * HV * triton.cdiv(V, tile.BV),)
    with current(h.device):
        fold_kernel[grid](
            h, h_indices, changes, h_indices if change_indices is None else change_indices, counts, path,
            HV, HV // H, changes.shape[1], 0 if path is None else path.shape[1],
            *strides(h, (0, 1, 2)), *strides(h_indices, (0,)), *strides(changes, (0, 1)),
            *strides(h_indices if change_indices is None else change_indices, (0,)), *strides(counts, (0,)),
            *strides(path, (0, 1)),
            VARIANT=variant, num_warps=tile.num_warps, num_stages=tile.num_stages,
        )  # fmt: skip
