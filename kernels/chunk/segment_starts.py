"""Stage, gdn in bf16: the states that the segments of a long sequence start from.

What a segment does to a state is linear, S -> M S + B: M [K, K] is the product of exp(g) (I - beta k k^T)
over its tokens, B [K, V] the state after them from zero. Both are found by walking the segment, from the
identity without values and from zero with them, all segments side by side; then one short pass goes over the
segments of a sequence. It is how sequences are spread over devices (Yang, Wang, Zhang, Shen and Kim 2024,
"Parallelizing Linear Transformers with the Delta Rule over Sequence Length", section 3), inside of one.

With keys of unit length and beta from 0 to 2 the norm of M is at most 1. For others it may overflow where the
states do not, so they are not cut.
"""

import torch
import triton
import triton.language as tl

from ..device import dot, dot_add
from .chunk_tiles import tile
from .column_grid import grid_columns, grid_tokens, of_grid
from .split_inverse import whole_dot
from .strides import chunk_and_head


@triton.jit(do_not_specialize=["k_b", "k_t", "k_h", "v_b", "v_t", "v_h", "T", "HV", "G", "SEGMENTS"])
def transition_kernel(
    p_k, p_v, p_rows, p_X, p_moves, p_cu, p_first,
    k_b: tl.int64, k_t: tl.int64, k_h: tl.int64, v_b: tl.int64, v_t: tl.int64, v_h: tl.int64,
    T, HV, G, SEGMENTS,
    K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    UNIT: tl.constexpr,
):  # fmt: skip
    """Store BV rows of B^T or of M^T of one segment of a sequence and value head: a program each.

    Not of a sequence's last segment, which nothing follows. p_k, p_v, p_rows, p_X, p_cu, p_first, SEGMENTS:
    as in walk_kernel. K is BK; K and V are multiples of BV. Written: p_moves [N, SEGMENTS, HV, V + K, K],
    fp32: M^T behind B^T.
    """
    NV: tl.constexpr = (V + K) // BV
    i_p = tl.program_id(0)
    i_seg, i_hv = chunk_and_head(i_p // NV, HV)
    i_n = i_seg // SEGMENTS
    bos = tl.load(p_cu + i_n).to(tl.int64)
    length = (tl.load(p_cu + i_n + 1) - bos).to(tl.int32)
    chunks = (length + BT - 1) // BT
    each = (chunks + SEGMENTS - 1) // SEGMENTS
    i_first = (i_seg % SEGMENTS).to(tl.int32) * each
    i_last = i_first + each
    if i_last >= chunks:
        return

    dtype = p_k.dtype.element_ty
    o_t = tl.arange(0, BT)
    o_k = tl.arange(0, BK)
    o_v = i_p % NV * BV + tl.arange(0, BV)
    b_s = tl.where((o_v[:, None] - V == o_k[None, :]), 1.0, 0.0)  # zeros, and the identity behind them

    heads = HV.to(tl.int64)
    i_b, i_t = bos // T, bos % T + i_first * BT
    k_t = k_t * UNIT
    v_t = v_t * UNIT
    k_c, v_c = k_t * BT, v_t * BT
    p_k += (i_b * k_b + i_hv // G * k_h) * UNIT + i_t * k_t
    p_v += (i_b * v_b + i_hv * v_h) * UNIT + i_t * v_t
    if UNIT > 1:
        k_t, v_t = k_t.to(tl.int32), v_t.to(tl.int32)
    o_kt = o_t[:, None] * k_t + o_k[None, :]  # [BT, BK]
    v_grid = i_p % NV * BV + grid_columns(BV)
    o_vt = grid_tokens(BT) * v_t + v_grid
    o_m = o_t[:, None] * BT + o_t[None, :]  # [BT, BT]
    i_ch = (tl.load(p_first + i_n).to(tl.int64) + i_first) * heads + i_hv
    p_X += i_ch * (BT * BT)
    p_rows += i_ch * (4 * BT)
    for _ in range(each):  # whole chunks: another segment follows
        b_k = tl.load(p_k + o_kt)
        b_v = tl.load(p_v + o_vt, mask=(v_grid < V) & (grid_tokens(BT) < BT), other=0)
        b_X = tl.load(p_X + o_m)
        b_before = tl.load(p_rows + o_t)
        b_after = tl.load(p_rows + 2 * BT + o_t)
        b_decay = tl.load(p_rows + 3 * BT)
        b_d = of_grid(b_v, BT, BV).to(tl.float32) - dot(b_s.to(dtype), tl.trans(b_k)) * b_before[None, :]
        b_n = dot(b_d.to(dtype), tl.trans(b_X)) * b_after[None, :]
        b_s = dot_add(b_n.to(dtype), b_k, b_s * b_decay)
        p_k += k_c
        p_v += v_c
        p_X += heads * (BT * BT)
        p_rows += heads * (4 * BT)
    at = (i_seg * HV + i_hv) * ((V + K) * K)
    tl.store(p_moves + at + (o_v[:, None] * K + o_k[None, :]), b_s)


@triton.jit(do_not_specialize=["s_n", "s_h", "s_r", "i_s", "f_s", "HV", "SEGMENTS"])
def starts_kernel(
    p_moves, p_starts, p_pool, p_indices, p_has_initial, p_cu,
    s_n: tl.int64, s_h: tl.int64, s_r: tl.int64, i_s: tl.int64, f_s: tl.int64, HV, SEGMENTS,
    K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BV: tl.constexpr, KV: tl.constexpr,
    HAS_POOL: tl.constexpr, HAS_INDICES: tl.constexpr, HAS_FLAGS: tl.constexpr,
):  # fmt: skip
    """Store BV rows of S^T where the segments of a sequence and value head start: a program each.

    p_moves: of transition_kernel. The first segment starts from the sequence's state in the pool, or zero:
    p_pool, p_indices, p_has_initial and their strides as in walk_kernel. Written: p_starts [N, SEGMENTS, HV,
    V, K], fp32. Products are as good as in fp32: a state that only decays comes through as one walk has it.
    """
    NV: tl.constexpr = V // BV
    i_p = tl.program_id(0)
    i_n, i_hv = chunk_and_head(i_p // NV, HV)
    length = (tl.load(p_cu + i_n + 1) - tl.load(p_cu + i_n)).to(tl.int32)
    chunks = (length + BT - 1) // BT
    each = (chunks + SEGMENTS - 1) // SEGMENTS
    slot = i_n
    if HAS_INDICES:
        slot = tl.load(p_indices + i_n * i_s).to(tl.int64)
    o_k = tl.arange(0, K)
    o_v = i_p % NV * BV + tl.arange(0, BV)
    o_s = o_v[:, None] * K + o_k[None, :]  # [BV, K]
    o_M = (V + o_k)[:, None] * K + o_k[None, :]  # [K, K]
    b_s = tl.full([BV, K], 0.0, tl.float32)
    if HAS_POOL:
        if KV:
            o_p = o_k.to(tl.int64)[None, :] * s_r + o_v[:, None]
        else:
            o_p = o_k[None, :] + o_v.to(tl.int64)[:, None] * s_r
        starts = slot >= 0
        if HAS_FLAGS:
            starts = starts & (tl.load(p_has_initial + i_n * f_s) != 0)
        if starts:
            b_s += tl.load(p_pool + slot * s_n + i_hv * s_h + o_p).to(tl.float32)
    heads = HV.to(tl.int64)
    i_at = i_n * SEGMENTS * heads + i_hv
    for i_seg in range(SEGMENTS):
        tl.store(p_starts + i_at * (V * K) + o_s, b_s)
        if (i_seg + 1) * each < chunks:
            p_m = p_moves + i_at * ((V + K) * K)
            b_s = whole_dot(b_s, tl.load(p_m + o_M)) + tl.load(p_m + o_s)
        i_at += heads


def segment_states(
    k, v, rows, X, pool, indices, flags, cu_seqlens, first, strides, states, segments, *, kv, unit, chunk_size
):
    """Run the stage: return [N, segments, HV, V, K], fp32, S^T where each segment starts.

    k [B, T, H, K], v [B, T, HV, V]; rows and X: of chunk_matrices. strides: of k and v in units of `unit`
    elements. states: strides of the pool's slots, heads and rows, of indices and of flags, in elements. kv:
    whether states in the pool are [K, V]. The pool is only read.
    """
    _, T, HV, V = v.shape
    K = k.shape[-1]
    N = cu_seqlens.numel() - 1
    moves = torch.empty(N, segments, HV, V + K, K, dtype=torch.float32, device=k.device)
    starts = torch.empty(N, segments, HV, V, K, dtype=torch.float32, device=k.device)
    tiles = tile("transition", k.dtype, chunk_size, K, V)
    transition_kernel[(N * segments * HV * ((V + K) // tiles["BV"]),)](
        k, v, rows, X, moves, cu_seqlens, first, *strides, max(T, 1), HV, HV // k.shape[2], segments,
        K=K, V=V, BT=chunk_size, UNIT=unit, **tiles,
    )  # fmt: skip
    tiles = tile("starts", torch.float32, chunk_size, K, V)
    del tiles["BK"]
    starts_kernel[(N * HV * (V // tiles["BV"]),)](
        moves, starts, pool, indices, flags, cu_seqlens, *states, HV, segments,
        K=K, V=V, BT=chunk_size, KV=kv, HAS_POOL=pool is not None, HAS_INDICES=indices is not None,
        HAS_FLAGS=flags is not None, **tiles,
    )  # fmt: skip
    return starts
