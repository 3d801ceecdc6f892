"""Stage, gdn in bf16: the two matrices of one chunk and head that do not depend on the state.

    L[i, j] = beta_i k_i.k_j exp(g_i - g_j) for j < i,
    X = inv(I + L) diag(beta),
    A[i, j] = q_i.k_j exp(g_i - g_j) for j <= i

with g summed from the chunk's start and q, k normalised where asked. X takes the place of w and u: the
chunk's deltas for the state S before it are X (v - exp(g) k S), as u - w S = inv(I + L) (beta v - beta exp(g)
k S) (Yang, Kautz and Hatamizadeh 2024, "Gated Delta Networks", section 3). So neither reaches memory.
"""

import torch
import triton
import triton.language as tl

from ..device import L2NORM_EPS, dot, dot_add, softplus_gate, write_strength
from .chunk_tiles import tile
from .gates import log2_cumsum
from .split_inverse import invert_split
from .strides import chunk_and_head, in_units

STRIDES = ["q_b", "q_t", "q_h", "k_b", "k_t", "k_h", "g_b", "g_t", "g_h", "b_b", "b_t", "b_h"]


@triton.jit(do_not_specialize=[*STRIDES, "T", "HV", "G"])
def chunk_matrices_kernel(
    p_q, p_k, p_g, p_beta, p_A_log, p_dt_bias, p_rows, p_X, p_A, p_o, p_table,
    q_b: tl.int64, q_t: tl.int64, q_h: tl.int64, k_b: tl.int64, k_t: tl.int64, k_h: tl.int64,
    g_b: tl.int64, g_t: tl.int64, g_h: tl.int64, b_b: tl.int64, b_t: tl.int64, b_h: tl.int64, T, HV, G,
    K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    L2NORM: tl.constexpr, RAW: tl.constexpr, BIAS: tl.constexpr, RAW_BETA: tl.constexpr,
    NEG_EIGVAL: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """Store X, A and factors of rows, of one chunk and value head: a program each of chunks * HV.

    p_q, p_k [B, T, H, K], strides in units of UNIT elements, K a multiple of BK; p_g, natural log decays or
    with RAW raw gates, and p_beta [B, T, HV], with RAW_BETA before the sigmoid (NEG_EIGVAL: twice that),
    strides in elements; p_A_log and (BIAS) p_dt_bias [HV] for raw gates. Written: p_X and p_A [chunks, HV,
    BT, BT], in the dtype of q, zero beyond the chunk's rows; p_rows [chunks, HV, 4, BT], fp32, with g summed
    and r the factors of l2norm (L2NORM: 1 / sqrt(sum(x^2) + 1e-6), else 1): exp(g) r_k, exp(g) r_q,
    exp(g_end - g) r_k, and of the fourth row the first number alone, exp(g_end). p_table: as tile_table makes
    it; p_o [tokens, HV, V]: padding tokens are written with zeros, V a multiple of BV.
    """
    i_ch = tl.program_id(0).to(tl.int64)
    i_c, i_hv = chunk_and_head(i_ch, HV)
    start = tl.load(p_table + i_c * 2).to(tl.int64)
    rows = tl.load(p_table + i_c * 2 + 1)
    o_t = tl.arange(0, BT)
    if rows <= 0:  # padding tokens
        for i_v in range(0, V, BV):
            o_o = (start * HV + i_hv) * V + (o_t[:, None] * (HV * V) + (i_v + tl.arange(0, BV))[None, :])
            zeros = tl.full([BT, BV], 0.0, p_o.dtype.element_ty)
            tl.store(p_o + o_o, zeros, mask=(o_t < -rows)[:, None])
        return
    dtype = p_X.dtype.element_ty
    i_b, i_t = start // T, start % T
    o_k = tl.arange(0, BK)
    m_t = o_t < rows

    # all that is read is asked for first: sums over rows wait for other warps
    p_q += (i_b * q_b + i_t * q_t + i_hv // G * q_h) * UNIT
    p_k += (i_b * k_b + i_t * k_t + i_hv // G * k_h) * UNIT
    if UNIT > 1:  # within a chunk, 32 bits do
        q_t, k_t = q_t.to(tl.int32), k_t.to(tl.int32)
    o_q = (o_t * q_t)[:, None] * UNIT + o_k[None, :]  # [BT, BK]
    o_kt = (o_t * k_t)[:, None] * UNIT + o_k[None, :]  # [BT, BK]
    b_k = tl.load(p_k + o_kt, mask=m_t[:, None], other=0)
    b_q = tl.load(p_q + o_q, mask=m_t[:, None], other=0)
    p_g += i_b * g_b + i_t * g_t + i_hv * g_h
    p_beta += i_b * b_b + i_t * b_t + i_hv * b_h
    b_g = tl.load(p_g + o_t * g_t, mask=m_t, other=0).to(tl.float32)
    b_beta = tl.load(p_beta + o_t * b_t, mask=m_t, other=0).to(tl.float32)
    b_L = dot(b_k, tl.trans(b_k))
    b_A = dot(b_q, tl.trans(b_k))
    if L2NORM:
        b_Q = dot(b_q, tl.trans(b_q))
    for i_k in tl.static_range(BK, K, BK):
        b_k = tl.load(p_k + i_k + o_kt, mask=m_t[:, None], other=0)
        b_q = tl.load(p_q + i_k + o_q, mask=m_t[:, None], other=0)
        b_L = dot_add(b_k, tl.trans(b_k), b_L)
        b_A = dot_add(b_q, tl.trans(b_k), b_A)
        if L2NORM:
            b_Q = dot_add(b_q, tl.trans(b_q), b_Q)

    if RAW:
        if BIAS:
            b_g += tl.load(p_dt_bias + i_hv).to(tl.float32)
        A_log = tl.load(p_A_log + i_hv).to(tl.float32)
        b_g = tl.where(m_t, softplus_gate(b_g, A_log, 1.0, 20.0), 0.0)
    b_g = log2_cumsum(b_g)
    if RAW_BETA:
        b_beta = tl.where(m_t, write_strength(b_beta, NEG_EIGVAL), 0.0)
    b_rq = tl.full([BT], 1.0, tl.float32)
    b_rk = tl.full([BT], 1.0, tl.float32)
    if L2NORM:  # squares of lengths are on the diagonals
        on = o_t[:, None] == o_t[None, :]
        b_rq = 1.0 / tl.sqrt(tl.sum(tl.where(on, b_Q, 0.0), axis=1) + L2NORM_EPS)
        b_rk = 1.0 / tl.sqrt(tl.sum(tl.where(on, b_L, 0.0), axis=1) + L2NORM_EPS)
    b_end = tl.sum(tl.where(o_t == BT - 1, b_g, 0.0), axis=0)  # g of rows past the end is 0
    p_rows += i_ch * (4 * BT)
    tl.store(p_rows + o_t, tl.exp2(b_g) * b_rk)
    tl.store(p_rows + BT + o_t, tl.exp2(b_g) * b_rq)
    tl.store(p_rows + 2 * BT + o_t, tl.exp2(b_end - b_g) * b_rk)
    tl.store(p_rows + 3 * BT, tl.exp2(b_end))

    seen = (o_t[:, None] >= o_t[None, :]) & m_t[:, None]
    # masked before the exponential: above the diagonal, and past the end, the difference may be positive
    b_decay = tl.exp2(tl.where(seen, b_g[:, None] - b_g[None, :], 0.0)) * b_rk[None, :]
    o_m = o_t[:, None] * BT + o_t[None, :]
    p_A += i_ch * (BT * BT)
    p_X += i_ch * (BT * BT)
    tl.store(p_A + o_m, tl.where(seen, b_A * b_decay * b_rq[:, None], 0.0).to(dtype))
    b_L *= b_decay * (b_rk * b_beta)[:, None]
    b_X = invert_split(tl.where(seen & (o_t[:, None] > o_t[None, :]), b_L, 0.0), BT) * b_beta[None, :]
    tl.store(p_X + o_m, b_X.to(dtype))


def chunk_matrices(q, k, g, beta, o, table, chunk_size, *, l2norm, A_log, dt_bias, raw_beta, neg_eigval):
    """Run the stage: return rows [chunks, HV, 4, BT] fp32, X and A [chunks, HV, BT, BT] in the dtype of q.

    chunks: as many as the table has entries; those without rows are not written. g is the natural log decay
    or, with A_log [HV], the raw gate; dt_bias [HV] or None. raw_beta: beta is before the sigmoid;
    neg_eigval: and is twice that. Rows of o [B, T, HV, V] of padding tokens become zero.
    """
    B, T, HV = g.shape
    V = o.shape[3]
    H, K = k.shape[2:]
    chunks = table.shape[0]
    rows = torch.empty(chunks, HV, 4, chunk_size, dtype=torch.float32, device=k.device)
    X, A = (torch.empty(chunks, HV, chunk_size, chunk_size, dtype=q.dtype, device=k.device) for _ in range(2))
    strides, unit = in_units(q, k)
    chunk_matrices_kernel[(chunks * HV,)](
        q, k, g, beta, A_log, dt_bias, rows, X, A, o, table, *strides, *g.stride(), *beta.stride(), T, HV,
        HV // H, K=K, V=V, BT=chunk_size, L2NORM=l2norm, RAW=A_log is not None, BIAS=dt_bias is not None,
        RAW_BETA=raw_beta, NEG_EIGVAL=neg_eigval, UNIT=unit,
        **tile("chunk_matrices", q.dtype, chunk_size, K, V),
    )  # fmt: skip
    return rows, X, A
