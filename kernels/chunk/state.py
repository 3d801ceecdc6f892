"""Stage: the state of one sequence and head, chunk after chunk.

    h[c] = S,    v_new = u - w S,    S <- exp(g_end) S + sum_i exp(g_end - g_i) k_i v_new_i^T

with g summed from the chunk's start (Yang, Kautz and Hatamizadeh 2024, "Gated Delta Networks", section 3).

The block of S in registers is [BK, BV], whatever the layout in memory: K whole, V cut into tiles that do
not see each other.
"""

import torch
import triton
import triton.language as tl

from ..device import dot, dot_add
from .chunk_tiles import tile
from .strides import chunk_and_head, in_units

STRIDES = ["k_b", "k_t", "k_h", "s_n", "s_h", "s_r", "i_s", "f_s", "t_n", "t_h", "t_r", "ti_s"]


@triton.jit(do_not_specialize=[*STRIDES, "T", "HV", "G"])
def state_kernel(
    p_k, p_w, p_u, p_gc, p_h, p_v_new, p_pool, p_indices, p_has_initial, p_final, p_track, p_track_chunk,
    p_cu, p_first,
    k_b: tl.int64, k_t: tl.int64, k_h: tl.int64, s_n: tl.int64, s_h: tl.int64, s_r: tl.int64, i_s: tl.int64,
    f_s: tl.int64, t_n: tl.int64, t_h: tl.int64, t_r: tl.int64, ti_s: tl.int64,
    T, HV, G,
    K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    KDA: tl.constexpr, KV: tl.constexpr, HAS_POOL: tl.constexpr, HAS_INDICES: tl.constexpr,
    WRITE_POOL: tl.constexpr, WRITE_FINAL: tl.constexpr, HAS_FLAGS: tl.constexpr, TRACK: tl.constexpr,
    UNIT: tl.constexpr,
):  # fmt: skip
    """Walk BV columns of V of one sequence's and value head's state over its chunks: a program each.

    p_k [B, T, H, K] (KDA: kg [B, T, HV, K]), strides in units of UNIT elements; p_w [tokens, HV, K] and p_u
    [tokens, HV, V]; p_gc [tokens, HV] (KDA: [tokens, HV, K]), fp32 in log2 units; p_pool: states, strides
    s_n, s_h, s_r of slot, head and row in elements; p_indices [N], stride i_s; p_has_initial [N], stride f_s,
    bytes: with HAS_FLAGS a sequence whose flag is 0 starts from zero; p_cu [N + 1]; p_first [N]: each
    sequence's first chunk. Written: p_h, the state before each chunk; p_v_new [tokens, HV, V]; with
    WRITE_POOL the final states to their slots, not those of negative slots and empty sequences; with
    WRITE_FINAL all of them to p_final, [N, HV, V, K]; with TRACK the state before chunk p_track_chunk [N],
    stride ti_s, to p_track [N, HV, V, K], fp32, strides t_n, t_h, t_r, not that of a chunk that a sequence
    does not have. With KV all states are [.., K, V]. S is in fp32,
    products in the dtype of p_w.
    """
    NV: tl.constexpr = (V + BV - 1) // BV
    i_p = tl.program_id(0)
    i_nh = i_p // NV
    i_n, i_hv = chunk_and_head(i_nh, HV)  # a sequence here
    bos = tl.load(p_cu + i_n).to(tl.int64)
    length = (tl.load(p_cu + i_n + 1) - bos).to(tl.int32)
    chunks = (length + BT - 1) // BT
    slot = i_n
    if HAS_INDICES:
        slot = tl.load(p_indices + i_n * i_s).to(tl.int64)

    dtype = p_w.dtype.element_ty
    o_t = tl.arange(0, BT)
    o_k = tl.arange(0, BK)
    o_v = i_p % NV * BV + tl.arange(0, BV)
    m_k = o_k < K
    m_v = o_v < V
    m_kv = m_k[:, None] & m_v[None, :]
    # [BK, BV]: where in memory a state's elements are
    if KV:
        o_h = o_k[:, None] * V + o_v[None, :]
        o_s = o_k.to(tl.int64)[:, None] * s_r + o_v[None, :]
    else:
        o_h = o_k[:, None] + o_v[None, :] * K
        o_s = o_k[:, None] + o_v.to(tl.int64)[None, :] * s_r

    b_s = tl.full([BK, BV], 0.0, tl.float32)
    if HAS_POOL:
        p_s = p_pool + slot * s_n + i_hv * s_h + o_s
        starts = slot >= 0
        if HAS_FLAGS:
            starts = starts & (tl.load(p_has_initial + i_n * f_s) != 0)
        # An empty sequence needs no state, unless its final one is returned: its index may then be stale.
        if starts & ((length > 0) | WRITE_FINAL):
            b_s += tl.load(p_s, mask=m_kv, other=0).to(tl.float32)

    if TRACK:
        i_track = tl.load(p_track_chunk + i_n * ti_s)
        if KV:
            o_track = o_k.to(tl.int64)[:, None] * t_r + o_v[None, :]
        else:
            o_track = o_k[:, None] + o_v.to(tl.int64)[None, :] * t_r

    row = bos * HV + i_hv  # of the stages' own tensors [tokens, HV, ...]
    o_wt = o_t[:, None] * (HV * K) + o_k[None, :]  # [BT, BK]
    o_ut = o_t[:, None] * (HV * V) + o_v[None, :]  # [BT, BV]
    p_k += (bos // T * k_b + bos % T * k_t + i_hv // G * k_h) * UNIT
    k_t = k_t * UNIT
    o_kt = o_k[:, None] + o_t[None, :] * k_t  # [BK, BT]
    p_h += (tl.load(p_first + i_n).to(tl.int64) * HV + i_hv) * (K * V)
    heads = HV.to(tl.int64)
    k_c = k_t * BT
    for i_c in range(chunks):
        b_h = b_s.to(dtype)
        tl.store(p_h + i_c * heads * (K * V) + o_h, b_h, mask=m_kv)
        if TRACK:
            if i_c == i_track:
                tl.store(p_track + i_n * t_n + i_hv * t_h + o_track, b_s, mask=m_kv)

        i_t = i_c * BT
        m_t = o_t < length - i_t
        at = row + i_t * heads
        b_w = tl.load(p_w + at * K + o_wt, mask=m_t[:, None] & m_k[None, :], other=0)
        m_tv = m_t[:, None] & m_v[None, :]
        b_v = tl.load(p_u + at * V + o_ut, mask=m_tv, other=0).to(tl.float32) - dot(b_w, b_h)
        tl.store(p_v_new + at * V + o_ut, b_v.to(dtype), mask=m_tv)

        end = tl.minimum(BT, length - i_t) - 1
        if KDA:  # k comes with its decay to the chunk's end
            b_end = tl.load(p_gc + (at + end * HV) * K + o_k, mask=m_k, other=0)
            b_s *= tl.exp2(b_end)[:, None]
        else:
            b_g = tl.load(p_gc + at + o_t * HV, mask=m_t, other=0)
            b_end = tl.load(p_gc + at + end * HV)
            b_v *= tl.exp2(tl.where(m_t, b_end - b_g, 0.0))[:, None]
            b_s *= tl.exp2(b_end)
        b_k = tl.load(p_k + i_c * k_c + o_kt, mask=m_k[:, None] & m_t[None, :], other=0)
        b_s = dot_add(b_k.to(dtype), b_v.to(dtype), b_s)

    if WRITE_POOL:
        if (slot >= 0) & (length > 0):  # an empty sequence leaves its slot alone
            tl.store(p_s, b_s.to(p_pool.dtype.element_ty), mask=m_kv)
    if WRITE_FINAL:
        p_f = p_final + i_nh.to(tl.int64) * (K * V) + o_h
        tl.store(p_f, b_s.to(p_final.dtype.element_ty), mask=m_kv)


def state_pass(
    k,
    w,
    u,
    gc,
    pool,
    indices,
    final,
    cu_seqlens,
    first,
    chunks,
    *,
    write_pool,
    layout,
    chunk_size,
    batch_invariant,
    has_initial=None,
    track=None,
    track_chunk=None,
):
    """Run the stage, each sequence from its state in the pool or zero; return h [chunks, HV, V, K] and v_new.

    k [B, T, H, K] (kda: kg [B, T, HV, K]); gc as the gate stage made it. final, if given, takes [N, HV, V,
    K]. The pool is written only with write_pool. has_initial [N], bool: False for sequences that start from
    zero all the same. track [N, HV, V, K], fp32, takes the states before chunks track_chunk [N]. With layout
    "kv" all states are [K, V].
    """
    B, T, HV, V = u.shape
    K = k.shape[-1]
    kv = layout == "kv"
    h = torch.empty(chunks, HV, *((K, V) if kv else (V, K)), dtype=w.dtype, device=k.device)
    v_new = torch.empty_like(u)
    strides, unit = in_units(k)
    N = cu_seqlens.numel() - 1
    tiles = tile("state", w.dtype, chunk_size, K, V, 0 if batch_invariant else N * HV)
    state_kernel[(N * HV * triton.cdiv(V, tiles["BV"]),)](
        k, w, u, gc, h, v_new, pool, indices, None if has_initial is None else has_initial.view(torch.uint8),
        final, track, track_chunk, cu_seqlens, first,
        *strides, *(pool.stride()[:3] if pool is not None else (0, 0, 0)),
        0 if indices is None else indices.stride(0), 0 if has_initial is None else has_initial.stride(0),
        *(track.stride()[:3] if track is not None else (0, 0, 0)),
        0 if track is None else track_chunk.stride(0), max(T, 1), HV, HV // k.shape[2],
        K=K, V=V, BT=chunk_size, KDA=gc.ndim == 4, KV=kv, HAS_POOL=pool is not None,
        HAS_INDICES=indices is not None,
        WRITE_POOL=write_pool, WRITE_FINAL=final is not None,
        HAS_FLAGS=has_initial is not None and pool is not None, TRACK=track is not None, UNIT=unit, **tiles,
    )  # fmt: skip
    return h, v_new
