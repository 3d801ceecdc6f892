"""Sigmoid gating and the delta rule over a pool of states in one kernel; decode, and verify of a chain."""

import triton
import triton.language as tl
from stranger_ops import exp, l2norm, log_decay
from stranger_promises import COMPACT, USUAL

import diffgdn

TAKES = {
    **USUAL,
    # Strides of tokens and heads are passed; a head times its stride is not widened to 64 bits.
    "strides": (*COMPACT, "gapped tokens", "wide tokens", "nested tokens"),
    "A_log": ("float32", "float16", "bfloat16"),
    "softplus": True,
    "mixed_qkv": True,
    # It verifies chains, with rows that are passed, and takes `cache_steps` for the buffer's.
    "tree": (False,),
    "step_rows": ("given",),
    "cache_steps": ("buffer",),
}


@triton.jit(do_not_specialize=["T"])
def fused_sigmoid_gating_kernel(
    A_log, a, dt_bias, softplus_beta, softplus_threshold, lower_bound, q, k, v, b, o, h0_source, h0_indices,
    cu_seqlens, steps, step_indices, scale, T, num_steps,
    stride_a, stride_b, stride_q, stride_k, stride_v, stride_qh, stride_kh, stride_vh, stride_slot,
    H: tl.constexpr,
    HV: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    USE_QK_L2NORM_IN_KERNEL: tl.constexpr,
    IS_VARLEN: tl.constexpr,
    IS_KDA: tl.constexpr,
    BOUNDED: tl.constexpr,
    DISABLE_STATE_UPDATE: tl.constexpr,
    CACHE_STEPS: tl.constexpr,
):  # fmt: skip
    i_v, i_nh = tl.program_id(1), tl.program_id(2)
    i_n, i_hv = i_nh // HV, i_nh % HV
    i_h = i_hv // (HV // H)
    if IS_VARLEN:
        bos = tl.load(cu_seqlens + i_n).to(tl.int64)
        eos = tl.load(cu_seqlens + i_n + 1).to(tl.int64)
        T = eos - bos
        if T == 0:
            return
    else:
        bos = i_n.to(tl.int64) * T

    o_k = tl.arange(0, BK)
    o_v = i_v * BV + tl.arange(0, BV)
    p_q = q + bos * stride_q + i_h * stride_qh + o_k
    p_k = k + bos * stride_k + i_h * stride_kh + o_k
    p_v = v + bos * stride_v + i_hv * stride_vh + o_v
    p_b = b + bos * stride_b + i_hv
    p_o = o + (bos * HV + i_hv) * V + o_v
    if IS_KDA:
        p_a = a + bos * stride_a + i_hv * K + o_k
        p_dt_bias = dt_bias + i_hv * K + o_k
    else:
        p_a = a + bos * stride_a + i_hv
        p_dt_bias = dt_bias + i_hv

    mask_k = o_k < K
    mask_v = o_v < V
    mask_h = mask_k[None, :] & mask_v[:, None]

    b_h = tl.zeros([BV, BK], dtype=tl.float32)
    idx = tl.load(h0_indices + i_n).to(tl.int64)
    p_h0 = h0_source + idx * stride_slot + i_hv * V * K + o_v[:, None] * K + o_k[None, :]
    if idx >= 0:
        b_h += tl.load(p_h0, mask=mask_h, other=0).to(tl.float32)
    if CACHE_STEPS:
        cache_idx = tl.load(step_indices + i_n).to(tl.int64)
        p_step = steps + (cache_idx * num_steps * HV + i_hv) * V * K + o_v[:, None] * K + o_k[None, :]

    b_A_log = tl.load(A_log + i_hv).to(tl.float32)
    if IS_KDA:
        b_dt_bias = tl.load(p_dt_bias, mask=mask_k, other=0).to(tl.float32)
    else:
        b_dt_bias = tl.load(p_dt_bias).to(tl.float32)
    for _ in range(0, T):
        b_q = tl.load(p_q, mask=mask_k, other=0).to(tl.float32)
        b_k = tl.load(p_k, mask=mask_k, other=0).to(tl.float32)
        b_v = tl.load(p_v, mask=mask_v, other=0).to(tl.float32)
        b_b = tl.load(p_b).to(tl.float32)
        if IS_KDA:
            b_a = tl.load(p_a, mask=mask_k, other=0).to(tl.float32)
        else:
            b_a = tl.load(p_a).to(tl.float32)
        b_g = log_decay(b_a + b_dt_bias, b_A_log, softplus_beta, softplus_threshold, lower_bound, BOUNDED)
        b_beta = 1.0 / (1.0 + exp(-b_b))
        if USE_QK_L2NORM_IN_KERNEL:
            b_q = l2norm(b_q)
            b_k = l2norm(b_k)
        b_q = b_q * scale
        if IS_KDA:
            b_h *= exp(b_g[None, :])
        else:
            b_h *= exp(b_g)
        b_v -= tl.sum(b_h * b_k[None, :], 1)
        b_v *= b_beta
        b_h += b_k[None, :] * b_v[:, None]
        b_o = tl.sum(b_h * b_q[None, :], 1)
        tl.store(p_o, b_o.to(p_o.dtype.element_ty), mask=mask_v)
        if CACHE_STEPS:
            if cache_idx >= 0:
                tl.store(p_step, b_h.to(p_step.dtype.element_ty), mask=mask_h)
            p_step += HV * V * K
        p_q += stride_q
        p_k += stride_k
        p_v += stride_v
        p_a += stride_a
        p_b += stride_b
        p_o += HV * V

    if not DISABLE_STATE_UPDATE:
        if idx >= 0:
            tl.store(p_h0, b_h.to(p_h0.dtype.element_ty), mask=mask_h)


def token_rows(x):
    """[B, T, ...] as [B * T, ...]: a view where the batch allows it."""
    return x.reshape(-1, *x.shape[2:])


def fused_sigmoid_gating_update(
    A_log, a, dt_bias, softplus_beta, softplus_threshold, q, k, v, b, initial_state_source,
    initial_state_indices, scale=None, use_qk_l2norm_in_kernel=False, cu_seqlens=None, is_kda=False,
    lower_bound=None, disable_state_update=False, intermediate_states_buffer=None,
    intermediate_state_indices=None, cache_steps=None, retrieve_parent_token=None,
):  # fmt: skip
    """SGLang's keyword arguments; views whose last dimension is contiguous. Returns o."""
    assert retrieve_parent_token is None, "chains only"
    B, T, H, K = q.shape
    HV, V = v.shape[2:]
    N = B if cu_seqlens is None else len(cu_seqlens) - 1
    o = q.new_empty(B, T, HV, V)
    q, k, v, a, b = (token_rows(x) for x in (q, k, v, a, b))
    if is_kda and a.dim() == 3:
        a = a.reshape(-1, HV * K)
    BK, BV = triton.next_power_of_2(K), min(triton.next_power_of_2(V), 16)
    grid = (1, triton.cdiv(V, BV), N * HV)
    fused_sigmoid_gating_kernel[grid](
        A_log, a, dt_bias, softplus_beta, softplus_threshold, 0.0 if lower_bound is None else lower_bound,
        q, k, v, b, o, initial_state_source, initial_state_indices, cu_seqlens,
        intermediate_states_buffer, intermediate_state_indices, K**-0.5 if scale is None else scale, T,
        0 if cache_steps is None else cache_steps,
        a.stride(0), b.stride(0), q.stride(0), k.stride(0), v.stride(0),
        q.stride(1), k.stride(1), v.stride(1), initial_state_source.stride(0),
        H=H, HV=HV, K=K, V=V, BK=BK, BV=BV,
        USE_QK_L2NORM_IN_KERNEL=use_qk_l2norm_in_kernel,
        IS_VARLEN=cu_seqlens is not None,
        IS_KDA=is_kda,
        BOUNDED=lower_bound is not None,
        DISABLE_STATE_UPDATE=disable_state_update,
        CACHE_STEPS=intermediate_states_buffer is not None,
        num_warps=1,
        num_stages=3,
    )  # fmt: skip
    return o


sigmoid_gating = diffgdn.target(
    "gdn.decode",
    "kda.decode",
    "gdn.verify",
    "kda.verify",
    name="sigmoid_gating",
    promises=diffgdn.Promises(**TAKES),
)(fused_sigmoid_gating_update)
