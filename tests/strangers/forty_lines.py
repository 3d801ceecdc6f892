"""Decode of a Gated DeltaNet layer in forty lines: one program walks one sequence for one value head."""

import torch
import triton
import triton.language as tl
from stranger_promises import COMPACT, COPIED, USUAL

import diffgdn

TAKES = {**USUAL, "strides": (*COMPACT, *COPIED)}


@triton.jit
def decode_kernel(
    q_ptr, k_ptr, v_ptr, a_ptr, b_ptr, A_log_ptr, dt_bias_ptr, o_ptr, pool_ptr, slot_ptr, cu_ptr,
    scale, slot_stride,
    H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    L2NORM: tl.constexpr, UPDATE: tl.constexpr,
):  # fmt: skip
    n, hv = tl.program_id(0), tl.program_id(1)
    h = hv // (HV // H)
    ks, vs = tl.arange(0, BK), tl.arange(0, BV)
    in_k, in_v = ks < K, vs < V
    slot = tl.load(slot_ptr + n).to(tl.int64)
    state_ptr = pool_ptr + slot * slot_stride + hv * V * K + vs[:, None] * K + ks[None, :]
    live = in_v[:, None] & in_k[None, :] & (slot >= 0)
    S = tl.load(state_ptr, mask=live, other=0).to(tl.float32)
    rate = tl.exp(tl.load(A_log_ptr + hv))
    bias = tl.load(dt_bias_ptr + hv).to(tl.float32)
    start, end = tl.load(cu_ptr + n), tl.load(cu_ptr + n + 1)
    for t in range(start, end):
        q = tl.load(q_ptr + (t * H + h) * K + ks, mask=in_k, other=0).to(tl.float32)
        k = tl.load(k_ptr + (t * H + h) * K + ks, mask=in_k, other=0).to(tl.float32)
        v = tl.load(v_ptr + (t * HV + hv) * V + vs, mask=in_v, other=0).to(tl.float32)
        if L2NORM:
            q = q / tl.sqrt(tl.sum(q * q) + 1e-6)
            k = k / tl.sqrt(tl.sum(k * k) + 1e-6)
        x = tl.load(a_ptr + t * HV + hv).to(tl.float32) + bias
        softplus = tl.where(x > 20.0, x, tl.log(1.0 + tl.exp(tl.minimum(x, 20.0))))
        beta = tl.sigmoid(tl.load(b_ptr + t * HV + hv).to(tl.float32))
        S = S * tl.exp(-rate * softplus)
        d = beta * (v - tl.sum(S * k[None, :], axis=1))
        S = S + d[:, None] * k[None, :]
        o = scale * tl.sum(S * q[None, :], axis=1)
        tl.store(o_ptr + (t * HV + hv) * V + vs, o.to(o_ptr.dtype.element_ty), mask=in_v)
    if UPDATE:
        tl.store(state_ptr, S.to(pool_ptr.dtype.element_ty), mask=live & (end > start))


def launch(
    q, k, v, a, b, A_log, dt_bias, initial_state_source, initial_state_indices, scale=None, cu_seqlens=None,
    use_qk_l2norm_in_kernel=False, disable_state_update=False, **_,
):  # fmt: skip
    """q, k [B, T, H, K], v [B, T, HV, V], a and b [B, T, HV]; states [slots, HV, V, K]. Returns o."""
    B, T, H, K = q.shape
    HV, V = v.shape[2:]
    if cu_seqlens is None:
        cu_seqlens = torch.arange(0, B * T + 1, T, device=q.device)
    q, k, v, a, b = (x.contiguous() for x in (q, k, v, a, b))
    o = torch.empty_like(v)
    grid = (len(cu_seqlens) - 1, HV)
    decode_kernel[grid](
        q, k, v, a, b, A_log, dt_bias, o, initial_state_source, initial_state_indices, cu_seqlens,
        K**-0.5 if scale is None else scale, initial_state_source.stride(0),
        H, HV, K, V, triton.next_power_of_2(K), triton.next_power_of_2(V),
        use_qk_l2norm_in_kernel, not disable_state_update,
    )  # fmt: skip
    return o


decode = diffgdn.target("gdn.decode", name="decode", promises=diffgdn.Promises(**TAKES))(launch)
decode_fp32 = diffgdn.target(
    "gdn.decode", name="decode_fp32", promises=diffgdn.Promises(**TAKES, dtype=("float32",))
)(launch)
decode_fp16 = diffgdn.target(
    "gdn.decode", name="decode_fp16", promises=diffgdn.Promises(**TAKES, dtype=("float16",))
)(launch)
decode_bf16 = diffgdn.target(
    "gdn.decode", name="decode_bf16", promises=diffgdn.Promises(**TAKES, dtype=("bfloat16",))
)(launch)
