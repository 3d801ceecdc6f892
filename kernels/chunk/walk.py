"""Stage, gdn in bf16: state and output of one sequence and head together, chunk after chunk.

    v_new = X (v - exp(g) k S),    o = scale (exp(g) q S + A v_new),
    S <- exp(g_end) S + sum_i exp(g_end - g_i) k_i v_new_i^T

with g summed from the chunk's start, and X and A of `chunk_matrices` (Yang, Kautz and Hatamizadeh 2024,
"Gated Delta Networks", section 3). Neither S nor v_new reaches memory, but where the states before chunks are
asked for.

The state is held as S^T, with V along rows: the left operands of all products are then in registers, where
the products before them have left them, and shared memory holds nothing but what is loaded ahead.

A long sequence of few heads leaves most of a GPU idle. It is cut into segments then, whose first states
`segment_starts` finds, and the segments are walked side by side.
"""

import torch
import triton
import triton.language as tl

from ..device import dot, dot_add
from .chunk_tiles import tile
from .column_grid import grid_columns, grid_tokens, of_grid, to_grid
from .segment_starts import segment_states
from .strides import chunk_and_head, in_units

STRIDES = ["q_b", "q_t", "q_h", "k_b", "k_t", "k_h", "v_b", "v_t", "v_h", "s_n", "s_h", "s_r", "i_s", "f_s"]


@triton.jit(do_not_specialize=[*STRIDES, "scale", "T", "HV", "G", "SEGMENTS"])
def walk_kernel(
    p_q, p_k, p_v, p_rows, p_X, p_A, p_o, p_h, p_pool, p_indices, p_has_initial, p_final, p_starts, p_cu,
    p_first,
    q_b: tl.int64, q_t: tl.int64, q_h: tl.int64, k_b: tl.int64, k_t: tl.int64, k_h: tl.int64,
    v_b: tl.int64, v_t: tl.int64, v_h: tl.int64, s_n: tl.int64, s_h: tl.int64, s_r: tl.int64, i_s: tl.int64,
    f_s: tl.int64, scale, T, HV, G, SEGMENTS,
    K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    KV: tl.constexpr, HAS_POOL: tl.constexpr, HAS_INDICES: tl.constexpr, WRITE_POOL: tl.constexpr,
    WRITE_FINAL: tl.constexpr, WRITE_H: tl.constexpr, HAS_FLAGS: tl.constexpr, SPLIT: tl.constexpr,
    UNIT: tl.constexpr,
):  # fmt: skip
    """Walk BV columns of V over the chunks of one segment of a sequence and value head: a program each.

    p_q, p_k [B, T, H, K], p_v [B, T, HV, V], strides in units of UNIT elements; K is BK, V a multiple of BV;
    p_rows, p_X, p_A: as chunk_matrices makes them. p_pool: states, strides s_n, s_h, s_r of slot, head and
    row in elements; p_indices [N], stride i_s; p_has_initial [N], stride f_s, bytes: with HAS_FLAGS a
    sequence whose flag is 0 starts from zero; p_cu [N + 1]; p_first [N]: each sequence's first chunk. With
    SPLIT a sequence has SEGMENTS segments of as many chunks each, the last ones maybe of none, which start
    from p_starts [N, SEGMENTS, HV, V, K], fp32; without, one that starts from the pool or from zero. Written:
    p_o [tokens, HV, V]; with WRITE_H p_h, the state before each chunk; with WRITE_POOL the final states to
    their slots, not those of negative slots and empty sequences; with WRITE_FINAL all of them to p_final, [N,
    HV, V, K]. With KV all states but p_starts are [.., K, V]. S is in fp32, products in the dtype of q.
    """
    NV: tl.constexpr = V // BV
    i_p = tl.program_id(0)
    i_seg, i_hv = chunk_and_head(i_p // NV, HV)
    i_n = i_seg // SEGMENTS
    bos = tl.load(p_cu + i_n).to(tl.int64)
    length = (tl.load(p_cu + i_n + 1) - bos).to(tl.int32)
    chunks = (length + BT - 1) // BT
    slot = i_n
    if HAS_INDICES:
        slot = tl.load(p_indices + i_n * i_s).to(tl.int64)

    dtype = p_q.dtype.element_ty
    o_t = tl.arange(0, BT)
    o_k = tl.arange(0, BK)
    o_v = i_p % NV * BV + tl.arange(0, BV)
    # [BV, BK]: where in memory a state's elements are
    if KV:
        o_h = o_k[None, :] * V + o_v[:, None]
        o_s = o_k.to(tl.int64)[None, :] * s_r + o_v[:, None]
    else:
        o_h = o_k[None, :] + o_v[:, None] * K
        o_s = o_k[None, :] + o_v.to(tl.int64)[:, None] * s_r

    b_s = tl.full([BV, BK], 0.0, tl.float32)
    if HAS_POOL:
        p_s = p_pool + slot * s_n + i_hv * s_h + o_s
    i_first = 0
    i_last = chunks
    if SPLIT:
        each = (chunks + SEGMENTS - 1) // SEGMENTS
        i_first = (i_seg % SEGMENTS).to(tl.int32) * each
        i_last = tl.minimum(i_first + each, chunks)
        if (i_first >= chunks) & (i_first > 0):
            return
        b_s += tl.load(p_starts + (i_seg * HV + i_hv) * (K * V) + (o_v[:, None] * K + o_k[None, :]))
    elif HAS_POOL:
        starts = slot >= 0
        if HAS_FLAGS:
            starts = starts & (tl.load(p_has_initial + i_n * f_s) != 0)
        # An empty sequence needs no state, unless its final one is returned: its index may then be stale.
        if starts & ((length > 0) | WRITE_FINAL):
            b_s += tl.load(p_s).to(tl.float32)

    heads = HV.to(tl.int64)
    i_b, i_t = bos // T, bos % T
    q_t = q_t * UNIT
    k_t = k_t * UNIT
    v_t = v_t * UNIT
    q_c, k_c, v_c = q_t * BT, k_t * BT, v_t * BT
    if UNIT > 1:
        q_t, k_t, v_t = q_t.to(tl.int32), k_t.to(tl.int32), v_t.to(tl.int32)
    p_q += (i_b * q_b + i_hv // G * q_h) * UNIT + (i_t + i_first * BT) * q_t
    p_k += (i_b * k_b + i_hv // G * k_h) * UNIT + (i_t + i_first * BT) * k_t
    p_v += (i_b * v_b + i_hv * v_h) * UNIT + (i_t + i_first * BT) * v_t
    t_grid = grid_tokens(BT)
    v_grid = i_p % NV * BV + grid_columns(BV)
    o_qt = o_t[:, None] * q_t + o_k[None, :]  # [BT, BK]
    o_kt = o_t[:, None] * k_t + o_k[None, :]  # [BT, BK]
    o_vt = t_grid * v_t + v_grid
    o_ot = t_grid * (HV * V) + v_grid
    o_m = o_t[:, None] * BT + o_t[None, :]  # [BT, BT]
    p_o += ((bos + i_first * BT) * heads + i_hv) * V
    i_ch = (tl.load(p_first + i_n).to(tl.int64) + i_first) * heads + i_hv
    p_X += i_ch * (BT * BT)
    p_A += i_ch * (BT * BT)
    p_rows += i_ch * (4 * BT)
    if WRITE_H:
        p_h += i_ch * (K * V)
    left = length - i_first * BT
    for _ in range(i_first, i_last):
        m_t = o_t < left
        b_k = tl.load(p_k + o_kt, mask=m_t[:, None], other=0)
        b_q = tl.load(p_q + o_qt, mask=m_t[:, None], other=0)
        b_v = tl.load(p_v + o_vt, mask=t_grid < left, other=0)
        b_X = tl.load(p_X + o_m)
        b_A = tl.load(p_A + o_m)
        b_before = tl.load(p_rows + o_t)
        b_seen = tl.load(p_rows + BT + o_t)
        b_after = tl.load(p_rows + 2 * BT + o_t)
        b_decay = tl.load(p_rows + 3 * BT)

        b_h = b_s.to(dtype)
        if WRITE_H:
            tl.store(p_h + o_h, b_h)
            p_h += heads * (K * V)
        b_d = of_grid(b_v, BT, BV).to(tl.float32) - dot(b_h, tl.trans(b_k)) * b_before[None, :]
        b_n = dot(b_d.to(dtype), tl.trans(b_X))
        b_o = dot(b_h, tl.trans(b_q)) * b_seen[None, :]
        b_o = dot_add(b_n.to(dtype), tl.trans(b_A), b_o) * scale
        tl.store(p_o + o_ot, to_grid(b_o.to(p_o.dtype.element_ty), BT, BV), mask=t_grid < left)
        b_n *= b_after[None, :]
        b_s = dot_add(b_n.to(dtype), b_k, b_s * b_decay)
        p_k += k_c
        p_q += q_c
        p_v += v_c
        p_o += heads * (BT * V)
        p_X += heads * (BT * BT)
        p_A += heads * (BT * BT)
        p_rows += heads * (4 * BT)
        left -= BT

    if (i_last == chunks) | (chunks == 0):
        if WRITE_POOL:
            if (slot >= 0) & (length > 0):  # an empty sequence leaves its slot alone
                tl.store(p_s, b_s.to(p_pool.dtype.element_ty))
        if WRITE_FINAL:
            p_f = p_final + (i_n * HV + i_hv) * (K * V) + o_h
            tl.store(p_f, b_s.to(p_final.dtype.element_ty))


def walk(
    q, k, v, rows, X, A, o, pool, indices, final, cu_seqlens, first, chunks, scale, *, write_pool, layout,
    chunk_size, boundary_states, segments, has_initial=None,
):  # fmt: skip
    """Run the stage: fill o [B, T, HV, V] but for padding tokens; return h [chunks, HV, V, K] or None.

    q, k [B, T, H, K], v [B, T, HV, V]; rows, X, A: of chunk_matrices. Each sequence starts from its state in
    the pool, or zero; has_initial [N], bool: False for sequences that start from zero all the same. final, if
    given, takes [N, HV, V, K]. The pool is written only with write_pool. segments: into how many a sequence
    is cut. With layout "kv" all states are [K, V].
    """
    B, T, HV, V = v.shape
    K = k.shape[-1]
    kv = layout == "kv"
    N = cu_seqlens.numel() - 1
    h = None
    if boundary_states:
        h = torch.empty(chunks, HV, *((K, V) if kv else (V, K)), dtype=q.dtype, device=k.device)
    flags = None if has_initial is None or pool is None else has_initial.view(torch.uint8)
    strides, unit = in_units(q, k, v)
    states = pool.stride()[:3] if pool is not None else (0, 0, 0)
    states += (0 if indices is None else indices.stride(0), 0 if flags is None else flags.stride(0))
    starts = None
    if segments > 1:
        starts = segment_states(
            k, v, rows, X, pool, indices, flags, cu_seqlens, first, strides[3:], states, segments,
            kv=kv, unit=unit, chunk_size=chunk_size,
        )  # fmt: skip
    tiles = tile("walk", q.dtype, chunk_size, K, V, N * HV * segments)
    walk_kernel[(N * segments * HV * (V // tiles["BV"]),)](
        q, k, v, rows, X, A, o, h, pool, indices, flags, final, starts, cu_seqlens, first,
        *strides, *states, scale, max(T, 1), HV, HV // k.shape[2], segments,
        K=K, V=V, BT=chunk_size, KV=kv, HAS_POOL=pool is not None, HAS_INDICES=indices is not None,
        WRITE_POOL=write_pool, WRITE_FINAL=final is not None, WRITE_H=boundary_states,
        HAS_FLAGS=flags is not None, SPLIT=segments > 1, UNIT=unit, **tiles,
    )  # fmt: skip
    return h
