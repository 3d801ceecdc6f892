"""A tiny package with the layout and the conventions of vLLM, over this project's kernels.

Slot 0 is the null block: an index of 0 or below is padding, whose output is left as it was found, or, of KDA,
zero for its first token. Asserts are those of vLLM's own functions.
"""

from __future__ import annotations

OPS = "vllm/third_party/flash_linear_attention/ops"
KDA = "vllm/models/kimi_k3/nvidia/ops/third_party/kda"
BEFORE = "vllm/model_executor/layers/fla/ops"
SLOTS = """
import torch

def lengths(q, cu_seqlens):
    return [q.shape[1]] * q.shape[0] if cu_seqlens is None else cu_seqlens.diff().tolist()

def over(function, pool, slots, accepted, unwritten, **given):
    q, bounds = given["q"], given["cu_seqlens"]
    count = lengths(q, bounds)
    assert bounds is None or q.shape[0] == 1
    assert slots.ndim == 2 or max(count) <= 1, "the state after each token goes to the index behind"
    assert slots.ndim == 1 or slots.shape[1] >= max(count)
    given["initial_state_indices"] = (slots - 1).clamp(min=-1)
    if accepted is not None:
        given["num_accepted_tokens"] = accepted
    elif slots.ndim == 2:
        assert (slots == slots[:, :1]).all(), "one slot a sequence"
        given["initial_state_indices"] = (slots[:, 0] - 1).clamp(min=-1)
    o = function(**given, initial_state_source=pool[1:], disable_state_update=False)
    padded = (slots.reshape(len(slots), -1) <= 0).all(1).tolist()
    tokens, at = o.view(-1, *o.shape[2:]), 0
    for length, is_padded in zip(count, padded):
        if is_padded:
            tokens[at : at + length] = unwritten(length)[:, None, None]
        at += length
    return o, pool
"""
RECURRENT = '''
import torch
from diffgdn import kernels
from vllm.platforms import current_platform
from .slots import over

def fused_recurrent_gated_delta_rule(
    q, k, v, g, beta=None, scale=None, initial_state=None, inplace_final_state=True, cu_seqlens=None,
    ssm_state_indices=None, num_accepted_tokens=None, use_qk_l2norm_in_kernel=False,
):
    """initial_state: `[N, HV, V, K]`."""
    assert inplace_final_state and not current_platform.is_rocm()
    assert scale is None or scale > 0, "scale must be positive"
    return over(
        kernels.fused_recurrent_gated_delta_rule_update, initial_state, ssm_state_indices,
        num_accepted_tokens, lambda n: torch.full((n,), torch.nan), q=q, k=k, v=v, g=g, beta=beta,
        scale=scale, cu_seqlens=cu_seqlens, use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel,
    )

def fused_recurrent_gated_delta_rule_packed_decode(
    mixed_qkv, a, b, A_log, dt_bias: "torch.Tensor", scale, initial_state, out, ssm_state_indices,
    use_qk_l2norm_in_kernel=False,
):
    assert A_log.stride(0) == dt_bias.stride(0) == 1 and out.is_contiguous()
    assert initial_state.stride(-1) == mixed_qkv.stride(-1) == a.stride(-1) == b.stride(-1) == 1
    kernels.fused_recurrent_gated_delta_rule_packed_decode(
        mixed_qkv, a, b, A_log, dt_bias, scale, initial_state[1:], out, (ssm_state_indices - 1).clamp(min=-1),
        use_qk_l2norm_in_kernel,
    )
    return out, initial_state
'''
SIGMOID = """
import torch
from diffgdn import kernels
from .slots import over

def fused_sigmoid_gating_delta_rule_update(
    A_log, a, b, dt_bias: "torch.Tensor", q, k, v, beta=1.0, threshold=20.0, scale=None, initial_state=None,
    inplace_final_state=True, cu_seqlens=None, ssm_state_indices=None, num_accepted_tokens=None,
    use_qk_l2norm_in_kernel=False, is_kda=False,
):
    assert inplace_final_state and not is_kda
    assert scale is None or scale > 0, "scale must be positive"
    return over(
        kernels.fused_sigmoid_gating_delta_rule_update, initial_state, ssm_state_indices,
        num_accepted_tokens, lambda n: torch.full((n,), torch.nan), A_log=A_log, a=a, b=b, dt_bias=dt_bias,
        q=q, k=k, v=v, softplus_beta=beta, softplus_threshold=threshold, scale=scale, cu_seqlens=cu_seqlens,
        use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel, is_kda=False,
    )
"""
CHUNK = """
import torch
from diffgdn import kernels

def chunk_gated_delta_rule(
    q, k, v, g, beta, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None,
    chunk_indices=None, chunk_offsets=None, use_qk_l2norm_in_kernel=False, core_attn_out=None,
):
    assert q.dtype == k.dtype == v.dtype != torch.float32
    assert cu_seqlens is None or (cu_seqlens[-1] == q.shape[1] and q.shape[0] == 1)
    assert initial_state is None or initial_state.shape[0] == (
        q.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
    )
    o, final, _ = kernels.chunk_gated_delta_rule(
        q, k, v, g, beta, scale, initial_state, None, cu_seqlens, False, use_qk_l2norm_in_kernel, False,
        output_final_state=True,
    )
    return o, final if output_final_state else None
"""
KDA_CHUNK = """
from diffgdn import kernels

def chunk_kda_with_fused_gate(
    q, k, v, raw_g, raw_beta, A_log, g_bias, scale=None, initial_state=None, output_final_state=False,
    lower_bound=None, use_qk_l2norm_in_kernel=False, cu_seqlens=None, out=None, **kwargs,
):
    assert not kwargs and q.shape[2] == v.shape[2] and cu_seqlens is None or cu_seqlens[-1] == q.shape[1]
    o, *final = kernels.chunk_kda(
        q, k, v, raw_g, raw_beta, scale, initial_state, None, use_qk_l2norm_in_kernel, cu_seqlens,
        A_log=A_log, dt_bias=g_bias, lower_bound=lower_bound, beta_is_raw=True, inplace_update=False,
        output_final_state=True,
    )
    return (v if out is None else out).copy_(o), final[0] if output_final_state else None
"""
KDA_RECURRENT = """
import torch
from diffgdn import kernels
from vllm.third_party.flash_linear_attention.ops.slots import lengths, over

def first_zero(n):
    return torch.full((n,), torch.nan).index_fill(0, torch.arange(min(n, 1)), 0)

def check(q, k, v, g, beta, state, cu_seqlens, slots, accepted):
    (B, T, H, K), V = q.shape, v.shape[-1]
    assert B == 1 and k.shape == q.shape and v.shape == (B, T, H, V)
    assert g.shape == (B, T, H, K) and beta.shape == (B, T, H)
    assert cu_seqlens.is_contiguous() and state.shape[1:] == (H, V, K)
    assert q.stride()[2:] == k.stride()[2:] == g.stride()[2:] == (K, 1) and v.stride()[2:] == (V, 1)
    assert q.stride(1) == k.stride(1) == v.stride(1) and beta.stride(2) == 1
    assert state.stride()[1:] == (V * K, K, 1)
    if slots.ndim == 1:
        assert T == cu_seqlens.numel() - 1 and accepted is None
    else:
        assert slots.stride(1) == 1

def fused_recurrent_kda_fwd(
    q, k, v, g, beta, scale=None, initial_state=None, inplace_final_state=True, cu_seqlens=None,
    ssm_state_indices=None, num_accepted_tokens=None, use_qk_l2norm_in_kernel=True,
):
    assert inplace_final_state
    check(q, k, v, g, beta, initial_state, cu_seqlens, ssm_state_indices, num_accepted_tokens)
    return over(
        kernels.fused_recurrent_gated_delta_rule_update, initial_state, ssm_state_indices,
        num_accepted_tokens, first_zero, q=q, k=k, v=v, g=g, beta=beta, scale=scale, cu_seqlens=cu_seqlens,
        use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel,
    )

def fused_recurrent_kda(
    q, k, v, raw_g, raw_beta, A_log, dt_bias: "torch.Tensor | None", lower_bound, initial_state, cu_seqlens,
    ssm_state_indices, num_accepted_tokens=None, out=None, fuse_gate=None,
):
    check(q, k, v, raw_g, raw_beta, initial_state, cu_seqlens, ssm_state_indices, num_accepted_tokens)
    assert A_log.is_contiguous() and (dt_bias is None or dt_bias.is_contiguous())
    return over(
        kernels.fused_sigmoid_gating_delta_rule_update, initial_state, ssm_state_indices,
        num_accepted_tokens, first_zero, A_log=A_log, a=raw_g, b=raw_beta, dt_bias=dt_bias, q=q, k=k, v=v,
        softplus_beta=1.0, softplus_threshold=20.0, scale=None, cu_seqlens=cu_seqlens, is_kda=True,
        use_qk_l2norm_in_kernel=True, lower_bound=lower_bound,
    )

def fused_recurrent_kda_packed_decode(
    mixed_qkv, raw_g, raw_beta, A_log, dt_bias: "torch.Tensor", lower_bound, initial_state, state_indices,
    scale=None, out=None,
):
    _, H, V, K = initial_state.shape
    assert raw_g.shape == (1, len(mixed_qkv), H, K) and raw_g.stride()[2:] == (K, 1)
    assert raw_beta.shape == (1, len(mixed_qkv), H) and raw_beta.stride(2) == 1
    assert initial_state.stride()[1:] == (V * K, K, 1) and out.shape == (1, len(mixed_qkv), H, V)
    assert A_log.is_contiguous() and dt_bias.is_contiguous() and mixed_qkv.shape[1] == 2 * H * K + H * V
    kernels.fused_recurrent_kda_packed_decode(
        mixed_qkv, raw_g[0].flatten(1), raw_beta[0], A_log, dt_bias, scale, initial_state[1:],
        out.transpose(0, 1), (state_indices - 1).clamp(min=-1), True, lower_bound,
    )
    return out, initial_state
"""


def vllm() -> dict[str, str]:
    """The files of a package as vLLM 0.33."""
    return {
        "vllm/__init__.py": "raise OSError('no server here')",
        "vllm/third_party/flash_linear_attention/__init__.py": "raise OSError('all of it')",
        f"{OPS}/__init__.py": "raise OSError('all of it')",
        f"{OPS}/slots.py": SLOTS,
        f"{OPS}/chunk.py": CHUNK,
        f"{OPS}/fused_recurrent.py": RECURRENT,
        f"{OPS}/fused_sigmoid_gating.py": SIGMOID,
        f"{KDA}/__init__.py": "raise OSError('all of it')",
        f"{KDA}/chunk.py": KDA_CHUNK,
        f"{KDA}/fused_recurrent.py": KDA_RECURRENT,
    }


def older_vllm() -> dict[str, str]:
    """The files of a package as vLLM 0.24: another place, no KDA but that of prefill, which is given beta."""
    files = {path.replace(OPS, BEFORE): text for path, text in vllm().items() if path.startswith(OPS)}
    kda = KDA_CHUNK
    for new, old in (
        ("raw_g, raw_beta, A_log", "raw_g, beta, A_log"),
        ("    lower_bound=None, use", "    use"),
        ("cu_seqlens=None, out=None, **", "cu_seqlens=None, **"),
        ("q, k, v, raw_g, raw_beta, scale", "q, k, v, raw_g, beta, scale"),
        ("lower_bound=lower_bound, beta_is_raw=True, ", ""),
        ("(v if out is None else out).copy_(o)", "o"),
        ("assert not kwargs", "assert kwargs == {'lower_bound': None}"),
    ):
        assert new in kda
        kda = kda.replace(new, old)
    return {**files, f"{BEFORE}/kda.py": kda}
