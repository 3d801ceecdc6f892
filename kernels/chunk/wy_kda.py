"""Stage, kda: the triangular system of one chunk and head, with a gate per channel.

    L[i, j] = beta_i sum_c k_ic k_jc exp(g_ic - g_jc) for j < i,
    A_qk[i, j] = sum_c q_ic k_jc exp(g_ic - g_jc) for j <= i

with g summed from the chunk's start; X, u, w as for gdn, and kg = k exp(g_end - g), qg = q exp(g) for the
later stages (Kimi Team 2025, "Kimi Linear", section 3).

The exponential lies inside the sum over channels, so for a matrix product it has to be split between the
two factors. Splitting it at a token m with j <= m <= i makes both exponents, g_i - g_m and g_m - g_j, zero
or less: neither overflows, and a forgotten key stays forgotten. Each block of 2S tokens is split at its
middle, for its lower left quarter, from S = BT / 2 down to S = LEAF. In the LEAF x LEAF blocks that remain
on the diagonal the differences are formed element by element.
"""

import torch
import triton
import triton.language as tl

from ..device import dot, write_strength
from .chunk_tiles import tile
from .inverse import invert
from .strides import chunk_and_head, in_units


@triton.jit(
    do_not_specialize=[
        "q_b",
        "q_t",
        "q_h",
        "k_b",
        "k_t",
        "k_h",
        "v_b",
        "v_t",
        "v_h",
        "b_b",
        "b_t",
        "b_h",
        "T",
        "HV",
        "G",
    ]
)
def wy_kda_kernel(
    p_q, p_k, p_v, p_gc, p_beta, p_w, p_u, p_kg, p_qg, p_A, p_table,
    q_b: tl.int64, q_t: tl.int64, q_h: tl.int64, k_b: tl.int64, k_t: tl.int64, k_h: tl.int64,
    v_b: tl.int64, v_t: tl.int64, v_h: tl.int64, b_b: tl.int64, b_t: tl.int64, b_h: tl.int64, T, HV, G,
    K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, BC: tl.constexpr,
    LOG_BT: tl.constexpr, LOG_LEAF: tl.constexpr, RAW_BETA: tl.constexpr,
    NEG_EIGVAL: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """Store what later stages need of one chunk and value head: a program each of chunks * HV.

    p_q, p_k [B, T, H, K] and p_v [B, T, HV, V], strides in units of UNIT elements; p_gc [tokens, HV, K], fp32
    in log2 units; p_beta [B, T, HV], strides in elements, with RAW_BETA before the sigmoid (NEG_EIGVAL: twice
    that). Written, in one dtype, that of the products: p_w, p_kg, p_qg [tokens, HV, K], p_u [tokens, HV, V],
    p_A [tokens, HV, BT], zeros above the diagonal. LOG_BT, LOG_LEAF: log2 of BT and LEAF. The system is
    solved in fp32. p_table: as tile_table makes it.
    """
    i_c, i_hv = chunk_and_head(tl.program_id(0), HV)
    start = tl.load(p_table + i_c * 2).to(tl.int64)
    rows = tl.load(p_table + i_c * 2 + 1)
    if rows <= 0:
        return
    dtype = p_w.dtype.element_ty
    i_b, i_t = start // T, start % T
    o_t = tl.arange(0, BT)
    o_k = tl.arange(0, BK)
    o_v = tl.arange(0, BV)
    m_t = o_t < rows
    row = start * HV + i_hv  # of the stages' own tensors [tokens, HV, ...]

    p_gc += row * K
    p_q += (i_b * q_b + i_t * q_t + i_hv // G * q_h) * UNIT
    p_k += (i_b * k_b + i_t * k_t + i_hv // G * k_h) * UNIT
    g_t = HV * K
    q_t = q_t * UNIT
    k_t = k_t * UNIT
    o_q = o_t[:, None] * q_t + o_k[None, :]  # [BT, BK]
    o_kk = o_t[:, None] * k_t + o_k[None, :]
    o_g = o_t[:, None] * g_t + o_k[None, :]

    b_L = tl.full([BT, BT], 0.0, tl.float32)
    b_A = tl.full([BT, BT], 0.0, tl.float32)
    if LOG_BT > LOG_LEAF:
        for i_k in range(0, K, BK):
            m_tk = m_t[:, None] & (o_k + i_k < K)[None, :]
            b_q = tl.load(p_q + i_k + o_q, mask=m_tk, other=0).to(tl.float32)
            b_k = tl.load(p_k + i_k + o_kk, mask=m_tk, other=0).to(tl.float32)
            b_g = tl.load(p_gc + i_k + o_g, mask=m_tk, other=0)
            for s in range(LOG_LEAF, LOG_BT):  # S = 1 << s
                o_s = o_t >> s
                late = o_s % 2 == 1  # in the second half of its block of 2S tokens
                middle = tl.minimum((o_s | 1) << s, rows - 1)
                b_m = tl.load(p_gc + i_k + (middle[:, None] * g_t + o_k[None, :]), mask=m_tk, other=0)
                b_e = tl.exp2(tl.where(late[:, None], b_g - b_m, b_m - b_g))  # rows past the end: exp2(0)
                b_ke = (b_k * b_e).to(dtype)
                b_kt = tl.trans(b_ke)
                quarter = late[:, None] & (o_s[:, None] == (o_s + 1)[None, :])
                b_L += tl.where(quarter, dot(b_ke, b_kt), 0.0)
                b_A += tl.where(quarter, dot((b_q * b_e).to(dtype), b_kt), 0.0)

    # The blocks on the diagonal: [N, LEAF, LEAF], BC channels at a time.
    LEAF: tl.constexpr = 1 << LOG_LEAF
    N: tl.constexpr = BT // LEAF
    o_r = tl.arange(0, N)[:, None] * LEAF + tl.arange(0, LEAF)[None, :]  # [N, LEAF] tokens
    o_r3 = o_r[:, :, None]
    m_r3 = o_r3 < rows
    o_c = tl.arange(0, BC)[None, None, :]
    b_Ln = tl.full([N, LEAF, LEAF], 0.0, tl.float32)
    b_An = tl.full([N, LEAF, LEAF], 0.0, tl.float32)
    seen = ((o_r3 >= o_r[:, None, :]) & m_r3)[:, :, :, None]
    for i_k in range(0, K, BC):
        m_c = m_r3 & (o_c + i_k < K)  # [N, LEAF, BC]
        b_q = tl.load(p_q + i_k + (o_r3 * q_t + o_c), mask=m_c, other=0).to(tl.float32)
        b_k = tl.load(p_k + i_k + (o_r3 * k_t + o_c), mask=m_c, other=0).to(tl.float32)
        b_g = tl.load(p_gc + i_k + (o_r3 * g_t + o_c), mask=m_c, other=0)
        # masked before the exponential: later keys, and rows past the end, have positive differences
        b_d = tl.exp2(tl.where(seen, b_g[:, :, None, :] - b_g[:, None, :, :], 0.0)) * b_k[:, None, :, :]
        b_Ln += tl.sum(b_d * b_k[:, :, None, :], axis=3)
        b_An += tl.sum(b_d * b_q[:, :, None, :], axis=3)
    if N == 1:
        b_L = tl.reshape(b_Ln, [BT, BT])
        b_A = tl.reshape(b_An, [BT, BT])
    else:
        leaf = (o_t // LEAF)[:, None] == (o_t // LEAF)[None, :]
        b_L = tl.where(
            leaf, tl.reshape(tl.broadcast_to(b_Ln[:, :, None, :], [N, LEAF, N, LEAF]), [BT, BT]), b_L
        )
        b_A = tl.where(
            leaf, tl.reshape(tl.broadcast_to(b_An[:, :, None, :], [N, LEAF, N, LEAF]), [BT, BT]), b_A
        )
    b_A = tl.where(o_t[:, None] >= o_t[None, :], b_A, 0.0)
    o_A = row * BT + (o_t[:, None] * (HV * BT) + o_t[None, :])
    tl.store(p_A + o_A, b_A.to(dtype), mask=m_t[:, None])

    b_beta = tl.load(p_beta + i_b * b_b + (i_t + o_t) * b_t + i_hv * b_h, mask=m_t, other=0).to(tl.float32)
    if RAW_BETA:
        b_beta = tl.where(m_t, write_strength(b_beta, NEG_EIGVAL), 0.0)
    b_X = invert(tl.where(o_t[:, None] > o_t[None, :], b_L * b_beta[:, None], 0.0), BT).to(dtype)

    row_k = row * K
    for i_k in range(0, K, BK):
        m_k = o_k + i_k < K
        m_tk = m_t[:, None] & m_k[None, :]
        b_q = tl.load(p_q + i_k + o_q, mask=m_tk, other=0).to(tl.float32)
        b_k = tl.load(p_k + i_k + o_kk, mask=m_tk, other=0).to(tl.float32)
        b_g = tl.load(p_gc + i_k + o_g, mask=m_tk, other=0)
        b_end = tl.load(p_gc + i_k + ((rows - 1) * g_t + o_k), mask=m_k, other=0)
        b_e = tl.exp2(b_g)
        at = row_k + i_k + o_g
        tl.store(p_qg + at, (b_q * b_e).to(dtype), mask=m_tk)
        tl.store(p_kg + at, (b_k * tl.exp2(tl.where(m_tk, b_end[None, :] - b_g, 0.0))).to(dtype), mask=m_tk)
        b_w = dot(b_X, (b_k * (b_beta[:, None] * b_e)).to(dtype))
        tl.store(p_w + at, b_w.to(dtype), mask=m_tk)
    p_v += (i_b * v_b + (i_t + o_t) * v_t + i_hv * v_h)[:, None] * UNIT + o_v[None, :]  # [BT, BV]
    o_u = row * V + o_t[:, None] * (HV * V) + o_v[None, :]
    for i_v in range(0, V, BV):
        m_v = m_t[:, None] & (o_v + i_v < V)[None, :]
        b_v = tl.load(p_v + i_v, mask=m_v, other=0).to(tl.float32) * b_beta[:, None]
        tl.store(p_u + (o_u + i_v), dot(b_X, b_v.to(dtype)).to(dtype), mask=m_v)


def wy_kda(q, k, v, gc, beta, table, chunk_size, *, dtype, raw_beta, neg_eigval):
    """Run the stage: return w, kg, qg [B, T, HV, K], u [B, T, HV, V] and A_qk [B, T, HV, BT], of this dtype.

    gc [B, T, HV, K]: as the gate stage makes it, fp32 in log2 units. raw_beta: beta is before the sigmoid;
    neg_eigval: and is twice that.
    """
    B, T, HV, V = v.shape
    H, K = k.shape[2:]
    new = {"dtype": dtype, "device": k.device}
    w, kg, qg = (torch.empty(B, T, HV, K, **new) for _ in range(3))
    u = torch.empty(B, T, HV, V, **new)
    A = torch.empty(B, T, HV, chunk_size, **new)
    strides, unit = in_units(q, k, v)
    tiles = tile("wy_kda", dtype, chunk_size, K, V)
    log_leaf = tiles.pop("LEAF").bit_length() - 1
    wy_kda_kernel[(table.shape[0] * HV,)](
        q, k, v, gc, beta, w, u, kg, qg, A, table, *strides, *beta.stride(), T, HV, HV // H,
        K=K, V=V, BT=chunk_size, LOG_BT=chunk_size.bit_length() - 1, LOG_LEAF=log_leaf, RAW_BETA=raw_beta,
        NEG_EIGVAL=neg_eigval, UNIT=unit,
        **tiles,
    )  # fmt: skip
    return w, kg, qg, u, A
