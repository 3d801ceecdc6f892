"""Stage: the output of one chunk and head.

    o_i = scale * (exp(g_i) q_i . h + sum_{j <= i} A_qk[i, j] v_new_j),    A_qk[i, j] = q_i.k_j exp(g_i - g_j)

It is the chunkwise output of Yang, Kautz and Hatamizadeh (2024, "Gated Delta Networks", section 3), with g
summed from the chunk's start. kda has per-channel gates: its q arrives with exp(g) in it, and A_qk from the
stage that made the triangular system.
"""

import torch
import triton
import triton.language as tl

from ..device import dot_add
from .chunk_tiles import tile
from .strides import chunk_and_head, in_units


@triton.jit(do_not_specialize=["q_b", "q_t", "q_h", "k_b", "k_t", "k_h", "scale", "T", "HV", "G"])
def output_kernel(
    p_q, p_k, p_v_new, p_gc, p_A, p_h, p_o, p_table,
    q_b: tl.int64, q_t: tl.int64, q_h: tl.int64, k_b: tl.int64, k_t: tl.int64, k_h: tl.int64,
    scale, T, HV, G,
    K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    KDA: tl.constexpr, KV: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """Store the output of one chunk, value head and BV columns of V: a program each.

    p_q [B, T, H, K] (KDA: qg [B, T, HV, K]), p_k [B, T, H, K], strides in units of UNIT elements; p_gc
    [tokens, HV], fp32 in log2 units; p_A [tokens, HV, BT]; p_h [chunks, HV, V, K] (KV: [chunks, HV, K, V]);
    p_v_new [tokens, HV, V]. p_k and p_gc are for GDN alone, p_A for KDA. Written: p_o [tokens, HV, V],
    padding tokens with zeros. p_table: as tile_table makes it.
    """
    NV: tl.constexpr = (V + BV - 1) // BV
    i_p = tl.program_id(0)
    i_ch = i_p // NV
    i_c, i_hv = chunk_and_head(i_ch, HV)
    start = tl.load(p_table + i_c * 2).to(tl.int64)
    rows = tl.load(p_table + i_c * 2 + 1)
    if rows == 0:
        return
    row = start * HV + i_hv
    o_t = tl.arange(0, BT)
    o_k = tl.arange(0, BK)
    o_v = i_p % NV * BV + tl.arange(0, BV)
    m_v = o_v < V
    p_o += row * V + o_t[:, None] * (HV * V) + o_v[None, :]  # [BT, BV]
    if rows < 0:  # padding tokens
        tl.store(
            p_o, tl.full([BT, BV], 0.0, p_o.dtype.element_ty), mask=(o_t < -rows)[:, None] & m_v[None, :]
        )
        return
    dtype = p_v_new.dtype.element_ty
    i_b, i_t = start // T, start % T
    m_t = o_t < rows
    p_q += (i_b * q_b + (i_t + o_t) * q_t + i_hv // G * q_h)[:, None] * UNIT + o_k[None, :]  # [BT, BK]
    if not KDA:
        p_k += (i_b * k_b + (i_t + o_t) * k_t + i_hv // G * k_h)[None, :] * UNIT + o_k[:, None]  # [BK, BT]
        b_A = tl.full([BT, BT], 0.0, tl.float32)
    # [BK, BV]
    p_h += i_ch.to(tl.int64) * (K * V)
    if KV:
        p_h += o_k[:, None] * V + o_v[None, :]
    else:
        p_h += o_k[:, None] + o_v[None, :] * K
    b_o = tl.full([BT, BV], 0.0, tl.float32)
    for i_k in range(0, K, BK):
        m_k = o_k + i_k < K
        b_q = tl.load(p_q + i_k, mask=m_t[:, None] & m_k[None, :], other=0)
        b_h = tl.load(p_h + i_k * (V if KV else 1), mask=m_k[:, None] & m_v[None, :], other=0)
        b_q = b_q.to(dtype)
        b_o = dot_add(b_q, b_h, b_o)
        if not KDA:
            b_k = tl.load(p_k + i_k, mask=m_k[:, None] & m_t[None, :], other=0)
            b_A = dot_add(b_q, b_k.to(dtype), b_A)
    if KDA:
        b_A = tl.load(p_A + row * BT + (o_t[:, None] * (HV * BT) + o_t[None, :]), mask=m_t[:, None], other=0)
    else:
        b_g = tl.load(p_gc + row + o_t * HV, mask=m_t, other=0)
        b_o *= tl.exp2(b_g)[:, None]
        seen = (o_t[:, None] >= o_t[None, :]) & m_t[:, None]
        # masked before the exponential: a key that comes later, or a row past the end, has a positive
        # difference
        b_A = tl.where(seen, b_A * tl.exp2(tl.where(seen, b_g[:, None] - b_g[None, :], 0.0)), 0.0).to(dtype)
    m_tv = m_t[:, None] & m_v[None, :]
    b_v = tl.load(p_v_new + row * V + (o_t[:, None] * (HV * V) + o_v[None, :]), mask=m_tv, other=0)
    b_o = dot_add(b_A, b_v, b_o) * scale
    tl.store(p_o, b_o.to(p_o.dtype.element_ty), mask=m_tv)


def output(q, k, v_new, gc, A, h, scale, table, *, dtype, layout, chunk_size):
    """Run the stage: return o [B, T, HV, V] of a dtype, with zero rows for padding tokens.

    gdn: q, k [B, T, H, K], gc [B, T, HV], A None. kda: q as qg [B, T, HV, K], A [B, T, HV, BT]; k and gc
    None.
    """
    B, T, HV, V = v_new.shape
    H, K = q.shape[2:]
    kda = A is not None
    o = torch.empty(B, T, HV, V, dtype=dtype, device=q.device)
    tiles = tile("output", v_new.dtype, chunk_size, K, V)
    strides, unit = in_units(q, q if kda else k)
    output_kernel[(table.shape[0] * HV * triton.cdiv(V, tiles["BV"]),)](
        q, k, v_new, gc, A, h, o, table, *strides, scale, T, HV, HV // H,
        K=K, V=V, BT=chunk_size, KDA=kda, KV=layout == "kv", UNIT=unit, **tiles,
    )  # fmt: skip
    return o
