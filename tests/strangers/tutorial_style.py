"""Gated DeltaNet prefill in chunks, as a tutorial would have it: three kernels, a row of products each.

Within a chunk, with G the running sum of log decays, D[i, j] = exp(G_i - G_j) for i >= j:

    A = (I + tril(beta K K^T * D, -1))^-1      w = A (beta exp(G) K)      u = A (beta V)

from chunk to chunk, S [V, K] the state:

    V' = u - w S^T      S <- exp(G_last) S + (exp(G_last - G) V')^T K

and the output:

    O = scale (exp(G) Q S^T + tril(Q K^T * D) V')
"""

from itertools import pairwise

import torch
import triton
import triton.language as tl
from stranger_promises import COMPACT, COPIED, USUAL

import diffgdn

TAKES = {
    **USUAL,
    "strides": (*COMPACT, *COPIED),
    "indices": (True,),
    "execution": ("eager", "stream"),  # it reads cu_seqlens back, for its table of chunks
}


@triton.jit
def l2norm_kernel(x_ptr, y_ptr, rows, K: tl.constexpr, BK: tl.constexpr, BM: tl.constexpr):
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    col = tl.arange(0, BK)
    mask = (row < rows)[:, None] & (col < K)[None, :]
    at = row[:, None] * K + col[None, :]
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    norm = tl.sqrt(tl.sum(x * x, axis=1, keep_dims=True) + 1e-6)
    tl.store(y_ptr + at, (x / norm).to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def chunk_rows(table_ptr, cu_ptr, i_c, BT: tl.constexpr):
    """The tokens of chunk i_c [BT], and which of them exist."""
    n = tl.load(table_ptr + 2 * i_c)
    c = tl.load(table_ptr + 2 * i_c + 1)
    end = tl.load(cu_ptr + n + 1)
    t = tl.load(cu_ptr + n) + c * BT + tl.arange(0, BT)
    return t, t < end


@triton.jit
def wy_kernel(
    k_ptr, v_ptr, g_ptr, beta_ptr, w_ptr, u_ptr, G_ptr, table_ptr, cu_ptr,
    H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    BT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    i_c, i_hv = tl.program_id(0), tl.program_id(1)
    i_h = i_hv // (HV // H)
    t, exists = chunk_rows(table_ptr, cu_ptr, i_c, BT)
    i = tl.arange(0, BT)

    g = tl.load(g_ptr + t * HV + i_hv, mask=exists, other=0.0).to(tl.float32)
    beta = tl.load(beta_ptr + t * HV + i_hv, mask=exists, other=0.0).to(tl.float32)
    G = tl.cumsum(g, axis=0)
    tl.store(G_ptr + t * HV + i_hv, G, mask=exists)

    # beta K K^T * D below the diagonal, K in blocks
    kk = tl.zeros([BT, BT], dtype=tl.float32)
    for k0 in range(0, K, BK):
        ks = k0 + tl.arange(0, BK)
        at = (t[:, None] * H + i_h) * K + ks[None, :]
        b_k = tl.load(k_ptr + at, mask=exists[:, None] & (ks < K)[None, :], other=0.0)
        kk += tl.dot(b_k, tl.trans(b_k), input_precision=PRECISION)
    below = i[:, None] > i[None, :]
    decay = tl.exp(tl.where(below, G[:, None] - G[None, :], 0.0))
    L = tl.where(below, kk * decay * beta[:, None], 0.0)

    # forward substitution, row after row
    A = -L
    for r in range(1, BT):
        is_r = i == r
        row = tl.sum(tl.where(is_r[:, None], A, 0.0), axis=0)
        row += tl.sum(row[:, None] * A, axis=0)
        A = tl.where(is_r[:, None], row[None, :], A)
    A += tl.where(i[:, None] == i[None, :], 1.0, 0.0)
    A = A.to(k_ptr.dtype.element_ty)

    for k0 in range(0, K, BK):
        ks = k0 + tl.arange(0, BK)
        at = (t[:, None] * H + i_h) * K + ks[None, :]
        b_k = tl.load(k_ptr + at, mask=exists[:, None] & (ks < K)[None, :], other=0.0)
        b_k = (b_k * (beta * tl.exp(G))[:, None]).to(A.dtype)
        b_w = tl.dot(A, b_k, input_precision=PRECISION)
        at = (t[:, None] * HV + i_hv) * K + ks[None, :]
        tl.store(w_ptr + at, b_w.to(w_ptr.dtype.element_ty), mask=exists[:, None] & (ks < K)[None, :])
    for v0 in range(0, V, BV):
        vs = v0 + tl.arange(0, BV)
        at = (t[:, None] * HV + i_hv) * V + vs[None, :]
        b_v = tl.load(v_ptr + at, mask=exists[:, None] & (vs < V)[None, :], other=0.0)
        b_v = (b_v * beta[:, None]).to(A.dtype)
        b_u = tl.dot(A, b_v, input_precision=PRECISION)
        tl.store(u_ptr + at, b_u.to(u_ptr.dtype.element_ty), mask=exists[:, None] & (vs < V)[None, :])


@triton.jit
def state_kernel(
    k_ptr, w_ptr, u_ptr, G_ptr, new_ptr, h_ptr, pool_ptr, slot_ptr, final_ptr, cu_ptr, first_ptr, slot_stride,
    H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    BT: tl.constexpr, PRECISION: tl.constexpr, GIVEN: tl.constexpr, UPDATE: tl.constexpr,
):  # fmt: skip
    i_n, i_hv, i_v = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    i_h = i_hv // (HV // H)
    start, end = tl.load(cu_ptr + i_n), tl.load(cu_ptr + i_n + 1)
    chunk = tl.load(first_ptr + i_n)
    ks, vs = tl.arange(0, BK), i_v * BV + tl.arange(0, BV)
    in_k, in_v = ks < K, vs < V
    in_state = in_v[:, None] & in_k[None, :]
    at_state = i_hv * V * K + vs[:, None] * K + ks[None, :]

    S = tl.zeros([BV, BK], dtype=tl.float32)
    live = False
    if GIVEN:
        slot = tl.load(slot_ptr + i_n).to(tl.int64)
        live = slot >= 0
        p_state = pool_ptr + slot * slot_stride + at_state
        S += tl.load(p_state, mask=in_state & live, other=0.0).to(tl.float32)

    for t0 in range(start, end, BT):
        t = t0 + tl.arange(0, BT)
        exists = t < end
        b_h = S.to(h_ptr.dtype.element_ty)
        tl.store(h_ptr + chunk.to(tl.int64) * HV * V * K + at_state, b_h, mask=in_state)
        at_k = (t[:, None] * H + i_h) * K + ks[None, :]
        b_k = tl.load(k_ptr + at_k, mask=exists[:, None] & in_k[None, :], other=0.0)
        at_w = (t[:, None] * HV + i_hv) * K + ks[None, :]
        b_w = tl.load(w_ptr + at_w, mask=exists[:, None] & in_k[None, :], other=0.0)
        at_v = (t[:, None] * HV + i_hv) * V + vs[None, :]
        b_u = tl.load(u_ptr + at_v, mask=exists[:, None] & in_v[None, :], other=0.0).to(tl.float32)
        b_new = b_u - tl.dot(b_w, tl.trans(b_h), input_precision=PRECISION)
        tl.store(new_ptr + at_v, b_new.to(new_ptr.dtype.element_ty), mask=exists[:, None] & in_v[None, :])

        last = tl.minimum(t0 + BT, end) - 1
        G_last = tl.load(G_ptr + last * HV + i_hv)
        G = tl.load(G_ptr + t * HV + i_hv, mask=exists, other=0.0)
        rest = tl.where(exists, tl.exp(tl.where(exists, G_last - G, 0.0)), 0.0)
        b_new = (b_new * rest[:, None]).to(b_k.dtype)
        S *= tl.exp(G_last)
        S += tl.dot(tl.trans(b_new), b_k, input_precision=PRECISION)
        chunk += 1

    if UPDATE:
        tl.store(p_state, S.to(pool_ptr.dtype.element_ty), mask=in_state & live & (end > start))
    at_final = i_n.to(tl.int64) * HV * V * K + at_state
    tl.store(final_ptr + at_final, S.to(final_ptr.dtype.element_ty), mask=in_state)


@triton.jit
def output_kernel(
    q_ptr, k_ptr, new_ptr, G_ptr, h_ptr, o_ptr, table_ptr, cu_ptr, scale,
    H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    BT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    i_c, i_hv, i_v = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    i_h = i_hv // (HV // H)
    t, exists = chunk_rows(table_ptr, cu_ptr, i_c, BT)
    i = tl.arange(0, BT)
    vs = i_v * BV + tl.arange(0, BV)
    in_v = vs < V
    h_ptr += (i_c.to(tl.int64) * HV + i_hv) * V * K

    qk = tl.zeros([BT, BT], dtype=tl.float32)
    o = tl.zeros([BT, BV], dtype=tl.float32)
    for k0 in range(0, K, BK):
        ks = k0 + tl.arange(0, BK)
        in_k = ks < K
        at = (t[:, None] * H + i_h) * K + ks[None, :]
        b_q = tl.load(q_ptr + at, mask=exists[:, None] & in_k[None, :], other=0.0)
        b_k = tl.load(k_ptr + at, mask=exists[:, None] & in_k[None, :], other=0.0)
        b_h = tl.load(h_ptr + vs[:, None] * K + ks[None, :], mask=in_v[:, None] & in_k[None, :], other=0.0)
        o = tl.dot(b_q, tl.trans(b_h), o, input_precision=PRECISION)
        qk = tl.dot(b_q, tl.trans(b_k), acc=qk, input_precision=PRECISION)

    G = tl.load(G_ptr + t * HV + i_hv, mask=exists, other=0.0)
    upto = (i[:, None] >= i[None, :]) & exists[:, None]
    qk *= tl.where(upto, tl.exp(tl.where(upto, G[:, None] - G[None, :], 0.0)), 0.0)
    at = (t[:, None] * HV + i_hv) * V + vs[None, :]
    b_new = tl.load(new_ptr + at, mask=exists[:, None] & in_v[None, :], other=0.0)
    o = o * tl.exp(G)[:, None] + tl.dot(qk.to(b_new.dtype), b_new, input_precision=PRECISION)
    tl.store(o_ptr + at, (scale * o).to(o_ptr.dtype.element_ty), mask=exists[:, None] & in_v[None, :])


def l2norm(x):
    K = x.shape[-1]
    y = torch.empty_like(x)
    rows = x.numel() // K
    l2norm_kernel[(triton.cdiv(rows, 16),)](x, y, rows, K, triton.next_power_of_2(K), 16)
    return y


def chunk_table(cu_seqlens, BT):
    """(sequence, chunk within it) of every chunk, and each sequence's first chunk."""
    bounds = cu_seqlens.tolist()
    counts = [triton.cdiv(end - start, BT) for start, end in pairwise(bounds)]
    table = [(n, c) for n, count in enumerate(counts) for c in range(count)]
    first = [sum(counts[:n]) for n in range(len(counts))]
    make = lambda values: torch.tensor(values, dtype=torch.int32, device=cu_seqlens.device)
    return len(table), make(table), make(first)


@diffgdn.target("gdn.extend", promises=diffgdn.Promises(**TAKES))
def extend(
    q, k, v, g, beta, scale=None, initial_state=None, initial_state_indices=None, cu_seqlens=None,
    use_qk_l2norm_in_kernel=False, inplace_update=True, chunk_size=64,
):  # fmt: skip
    """q, k [B, T, H, K], v [B, T, HV, V], g and beta [B, T, HV], states [slots, HV, V, K]. Returns o, the
    final states [N, HV, V, K] in the states' dtype, and the state before every chunk [1, NT, HV, V, K]."""
    B, T, H, K = q.shape
    HV, V = v.shape[2:]
    BT = chunk_size
    if cu_seqlens is None:
        cu_seqlens = torch.arange(0, B * T + 1, T, device=q.device)
    N = len(cu_seqlens) - 1
    q, k, v, g, beta = (x.contiguous() for x in (q, k, v, g, beta))
    if use_qk_l2norm_in_kernel:
        q, k = l2norm(q), l2norm(k)
    NT, table, first = chunk_table(cu_seqlens, BT)
    state_dtype = torch.float32 if initial_state is None else initial_state.dtype
    w, u, new, o = k.new_empty(B, T, HV, K), torch.empty_like(v), torch.empty_like(v), torch.empty_like(v)
    G = torch.empty(B, T, HV, dtype=torch.float32, device=q.device)
    h = k.new_empty(1, NT, HV, V, K)
    final = torch.empty(N, HV, V, K, dtype=state_dtype, device=q.device)
    given = initial_state is not None
    PRECISION = "ieee" if q.dtype == torch.float32 else "tf32"  # tf32 is the default, and is for fp32 alone
    # Two warps, not four: ptxas 12.8 mistakes operands of wgmma (README, "Known compiler trouble").
    options = dict(H=H, HV=HV, K=K, V=V, BT=BT, PRECISION=PRECISION, num_warps=2, num_stages=1)
    BK, BV = max(16, min(64, triton.next_power_of_2(K))), max(16, min(32, triton.next_power_of_2(V)))
    NV = triton.cdiv(V, BV)
    if NT:
        wy_kernel[(NT, HV)](k, v, g, beta, w, u, G, table, cu_seqlens, BK=BK, BV=BV, **options)
    state_kernel[(N, HV, NV)](
        k, w, u, G, new, h, initial_state, initial_state_indices, final, cu_seqlens, first,
        initial_state.stride(0) if given else 0,
        BK=max(16, triton.next_power_of_2(K)), BV=BV, GIVEN=given, UPDATE=given and inplace_update, **options,
    )  # fmt: skip
    if NT:
        output_kernel[(NT, HV, NV)](
            q, k, new, G, h, o, table, cu_seqlens, K**-0.5 if scale is None else scale,
            BK=BK, BV=BV, **options,
        )  # fmt: skip
    return o, final, h
