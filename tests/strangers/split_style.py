"""Decode of one token in two kernels: the states, then the outputs with K split over programs."""

import torch
import triton
import triton.language as tl
from stranger_promises import COMPACT, USUAL

import diffgdn

# A token's stride times its number is not widened to 64 bits; the output is copied to, wherever it lies.
STRIDES = (*COMPACT, "gapped tokens", "gapped outputs", "nested outputs", "far outputs")
PROMISES = diffgdn.Promises(**{**USUAL, "strides": STRIDES})

BLOCK_K = 4


@triton.jit
def state_kernel(
    mixed_ptr, a_ptr, b_ptr, A_log_ptr, dt_bias_ptr, pool_ptr, slot_ptr, new_ptr,
    mixed_stride, a_stride, b_stride, slot_stride: tl.int64,
    H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    L2NORM: tl.constexpr,
):  # fmt: skip
    n, hv = tl.program_id(0) // HV, tl.program_id(0) % HV
    h = hv // (HV // H)
    ks, vs = tl.arange(0, BK), tl.arange(0, BV)
    slot = tl.load(slot_ptr + n).to(tl.int64)
    inside = (vs < V)[:, None] & (ks < K)[None, :]
    at = hv * V * K + vs[:, None] * K + ks[None, :]
    S = tl.load(pool_ptr + slot * slot_stride + at, mask=inside & (slot >= 0), other=0).to(tl.float32)
    mixed_ptr += n * mixed_stride
    k = tl.load(mixed_ptr + (H + h) * K + ks, mask=ks < K, other=0).to(tl.float32)
    v = tl.load(mixed_ptr + 2 * H * K + hv * V + vs, mask=vs < V, other=0).to(tl.float32)
    if L2NORM:
        k = k / tl.sqrt(tl.sum(k * k) + 1e-6)
    x = tl.load(a_ptr + n * a_stride + hv).to(tl.float32) + tl.load(dt_bias_ptr + hv).to(tl.float32)
    softplus = tl.where(x > 20.0, x, tl.log(1.0 + tl.exp(tl.minimum(x, 20.0))))
    beta = tl.sigmoid(tl.load(b_ptr + n * b_stride + hv).to(tl.float32))
    S = S * tl.exp(-tl.exp(tl.load(A_log_ptr + hv)) * softplus)
    S += (beta * (v - tl.sum(S * k[None, :], axis=1)))[:, None] * k[None, :]
    S = tl.where(slot >= 0, S, 0.0)
    tl.store(new_ptr + n * HV * V * K + at, S, mask=inside)
    tl.store(pool_ptr + slot * slot_stride + at, S.to(pool_ptr.dtype.element_ty), mask=inside & (slot >= 0))


@triton.autotune([triton.Config({}, num_warps=2)], key=["K", "V"])
@triton.jit
def output_kernel(
    mixed_ptr, new_ptr, part_ptr, mixed_stride,
    H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PARTS: tl.constexpr,
):  # fmt: skip
    n, hv, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    h = hv // (HV // H)
    ks, vs = block * BK + tl.arange(0, BK), tl.arange(0, BV)
    in_k, in_v = ks < K, vs < V
    at = (n * HV + hv) * V * K + vs[:, None] * K + ks[None, :]
    S = tl.load(new_ptr + at, mask=in_v[:, None] & in_k[None, :], other=0)
    q = tl.load(mixed_ptr + n * mixed_stride + h * K + ks, mask=in_k, other=0).to(tl.float32)
    part = tl.sum(S * q[None, :], axis=1)
    p_part = part_ptr + (n * HV + hv) * PARTS * V + vs
    tl.store(p_part + block * V, part, mask=in_v)


@diffgdn.target("gdn.packed_decode", promises=PROMISES)
def split_decode(
    mixed_qkv, a, b, A_log, dt_bias, scale, initial_state, out, ssm_state_indices,
    use_qk_l2norm_in_kernel=False,
):  # fmt: skip
    """mixed_qkv [B, 2HK + HV V], a and b [B, HV], states [slots, HV, V, K]; writes out [B, 1, HV, V]."""
    B = mixed_qkv.shape[0]
    _, HV, V, K = initial_state.shape
    H = (mixed_qkv.shape[1] - HV * V) // (2 * K)
    blocks = triton.cdiv(K, BLOCK_K)
    new = torch.empty(B, HV, V, K, dtype=torch.float32, device=out.device)
    parts = torch.empty(B, HV, blocks, V, dtype=torch.float32, device=out.device)
    BV = triton.next_power_of_2(V)
    state_kernel[(B * HV,)](
        mixed_qkv, a, b, A_log, dt_bias, initial_state, ssm_state_indices, new,
        mixed_qkv.stride(0), a.stride(0), b.stride(0), initial_state.stride(0),
        H, HV, K, V, triton.next_power_of_2(K), BV, use_qk_l2norm_in_kernel,
    )  # fmt: skip
    output_kernel[(B, HV, blocks)](
        mixed_qkv, new, parts, mixed_qkv.stride(0), H, HV, K, V, BLOCK_K, BV, blocks
    )
    q = mixed_qkv[:, : H * K].reshape(B, H, K).float()
    norm = torch.sqrt((q * q).sum(-1) + 1e-6) if use_qk_l2norm_in_kernel else torch.ones_like(q[..., 0])
    factor = (scale / norm).repeat_interleave(HV // H, 1)
    out.copy_((factor[..., None] * parts.sum(2)).unsqueeze(1))
    return out, initial_state
