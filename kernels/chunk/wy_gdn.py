"""Stage, gdn: the triangular system of one chunk and head.

    L[i, j] = beta_i k_i.k_j exp(g_i - g_j) for j < i,
    X = inv(I + L),
    u = X (beta v),
    w = X (beta exp(g) k)

with g summed from the chunk's start; v_new = u - w S is then the chunk's delta for the state S before it
(Bischof and Van Loan's WY form, as Yang, Wang, Zhang, Shen and Kim 2024 have it for the delta rule and Yang,
Kautz and Hatamizadeh 2024, "Gated Delta Networks", section 3, with gates). The sums of g are stored for the
later stages.
"""

import torch
import triton
import triton.language as tl

from ..device import dot, dot_add, softplus_gate, write_strength
from .chunk_tiles import tile
from .gates import log2_cumsum
from .inverse import invert
from .strides import chunk_and_head, in_units


@triton.jit(
    do_not_specialize=[
        "k_b",
        "k_t",
        "k_h",
        "v_b",
        "v_t",
        "v_h",
        "g_b",
        "g_t",
        "g_h",
        "b_b",
        "b_t",
        "b_h",
        "T",
        "HV",
        "G",
    ]
)
def wy_gdn_kernel(
    p_k, p_v, p_g, p_beta, p_A_log, p_dt_bias, p_gc, p_w, p_u, p_table,
    k_b: tl.int64, k_t: tl.int64, k_h: tl.int64, v_b: tl.int64, v_t: tl.int64, v_h: tl.int64,
    g_b: tl.int64, g_t: tl.int64, g_h: tl.int64, b_b: tl.int64, b_t: tl.int64, b_h: tl.int64, T, HV, G,
    K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    RAW: tl.constexpr, BIAS: tl.constexpr, RAW_BETA: tl.constexpr, NEG_EIGVAL: tl.constexpr,
    UNIT: tl.constexpr,
):  # fmt: skip
    """Store w, u and the sums of g of one chunk and value head: a program each of chunks * HV.

    p_k [B, T, H, K] and p_v [B, T, HV, V], strides in units of UNIT elements; p_g, natural log decays or with
    RAW raw gates, and p_beta [B, T, HV], with RAW_BETA before the sigmoid (NEG_EIGVAL: twice that), strides
    in elements; p_A_log and (BIAS) p_dt_bias [HV] for raw gates. Written: p_gc [tokens, HV], fp32 in log2
    units; p_w [tokens, HV, K] and p_u [tokens, HV, V] in one dtype, that of the products. The system is
    solved in fp32; X is rounded to that dtype for the products. p_table: as tile_table makes it.
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

    b_g = tl.load(p_g + i_b * g_b + (i_t + o_t) * g_t + i_hv * g_h, mask=m_t, other=0).to(tl.float32)
    if RAW:
        if BIAS:
            b_g += tl.load(p_dt_bias + i_hv).to(tl.float32)
        A_log = tl.load(p_A_log + i_hv).to(tl.float32)
        b_g = tl.where(m_t, softplus_gate(b_g, A_log, 1.0, 20.0), 0.0)
    b_g = log2_cumsum(b_g)
    tl.store(p_gc + row + o_t * HV, b_g, mask=m_t)
    b_beta = tl.load(p_beta + i_b * b_b + (i_t + o_t) * b_t + i_hv * b_h, mask=m_t, other=0).to(tl.float32)
    if RAW_BETA:
        b_beta = tl.where(m_t, write_strength(b_beta, NEG_EIGVAL), 0.0)

    p_k += (i_b * k_b + (i_t + o_t) * k_t + i_hv // G * k_h)[:, None] * UNIT + o_k[None, :]  # [BT, BK]
    p_v += (i_b * v_b + (i_t + o_t) * v_t + i_hv * v_h)[:, None] * UNIT + o_v[None, :]  # [BT, BV]
    b_L = tl.full([BT, BT], 0.0, tl.float32)
    for i_k in range(0, K, BK):
        b_k = tl.load(p_k + i_k, mask=m_t[:, None] & (o_k + i_k < K)[None, :], other=0)
        b_L = dot_add(b_k, tl.trans(b_k), b_L)
    below = o_t[:, None] > o_t[None, :]
    # masked before the exponential: above the diagonal the difference is positive and may overflow
    b_decay = tl.exp2(tl.where(below, b_g[:, None] - b_g[None, :], 0.0))
    b_X = invert(tl.where(below, b_L * b_decay * b_beta[:, None], 0.0), BT).to(dtype)

    o_w = row * K + o_t[:, None] * (HV * K) + o_k[None, :]
    b_bg = b_beta * tl.exp2(b_g)
    for i_k in range(0, K, BK):
        m_k = m_t[:, None] & (o_k + i_k < K)[None, :]
        b_k = tl.load(p_k + i_k, mask=m_k, other=0).to(tl.float32) * b_bg[:, None]
        tl.store(p_w + (o_w + i_k), dot(b_X, b_k.to(dtype)).to(dtype), mask=m_k)
    o_u = row * V + o_t[:, None] * (HV * V) + o_v[None, :]
    for i_v in range(0, V, BV):
        m_v = m_t[:, None] & (o_v + i_v < V)[None, :]
        b_v = tl.load(p_v + i_v, mask=m_v, other=0).to(tl.float32) * b_beta[:, None]
        tl.store(p_u + (o_u + i_v), dot(b_X, b_v.to(dtype)).to(dtype), mask=m_v)


def wy_gdn(k, v, g, beta, table, chunk_size, *, dtype, A_log, dt_bias, raw_beta, neg_eigval):
    """Run the stage: return gc [B, T, HV], w [B, T, HV, K] and u [B, T, HV, V].

    gc: sums of g from each chunk's start, fp32 in log2 units. w, u: of this dtype. g is the natural log decay
    or, with A_log [HV], the raw gate; dt_bias [HV] or None. raw_beta: beta is before the sigmoid; neg_eigval:
    and is twice that.
    """
    B, T, HV, V = v.shape
    H, K = k.shape[2:]
    gc = torch.empty(B, T, HV, dtype=torch.float32, device=k.device)
    w = torch.empty(B, T, HV, K, dtype=dtype, device=k.device)
    u = torch.empty(B, T, HV, V, dtype=dtype, device=k.device)
    strides, unit = in_units(k, v)
    wy_gdn_kernel[(table.shape[0] * HV,)](
        k, v, g, beta, A_log, dt_bias, gc, w, u, table, *strides, *g.stride(), *beta.stride(), T, HV, HV // H,
        K=K, V=V, BT=chunk_size, RAW=A_log is not None, BIAS=dt_bias is not None, RAW_BETA=raw_beta,
        NEG_EIGVAL=neg_eigval, UNIT=unit, **tile("wy_gdn", dtype, chunk_size, K, V),
    )  # fmt: skip
    return gc, w, u
