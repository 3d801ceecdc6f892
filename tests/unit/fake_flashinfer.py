"""A tiny package with the layout and the conventions of FlashInfer, over this project's kernels."""

from __future__ import annotations

PREFILL = """
import torch
from diffgdn import kernels

def chunk_gated_delta_rule(
    q, k, v, g=None, beta=None, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None,
    use_qk_l2norm_in_kernel=False, output=None, output_state=None, state_checkpoints=None,
    checkpoint_cu_starts=None, checkpoint_every_n_tokens=0, use_cp="auto", state_indices=None,
    _cp_chunk_len=None, backend="auto", max_seqlen=None,
):
    N, (T, H, K) = len(cu_seqlens) - 1, q.shape
    assert K == v.shape[-1] == 128 and q.dtype == k.dtype == v.dtype != torch.float32 and output_final_state
    assert all(one.is_contiguous() for one in (q, k, v, g, beta, cu_seqlens))
    assert g.dtype == beta.dtype == torch.float32 and g.shape == beta.shape == v.shape[:2]
    assert bool((g >= 0).all() and (g <= 1).all()), "alpha, not its logarithm"
    assert int(cu_seqlens[-1]) == T
    if state_indices is None:
        assert output_state.shape == (N, v.shape[1], 128, 128) and output_state.is_contiguous()
        assert initial_state is None or initial_state.is_contiguous() and initial_state.shape[0] == N
        first = torch.zeros_like(output_state) if initial_state is None else initial_state
    else:
        assert state_indices.is_contiguous() and len(set(state_indices.tolist())) == N
        assert initial_state is output_state and int(state_indices.min()) >= 0
        first = initial_state[state_indices.long()]
    o, final, _ = kernels.chunk_gated_delta_rule(
        q[None], k[None], v[None], g.log().clamp(min=-200.0)[None], beta[None], scale, first, None,
        cu_seqlens, False, use_qk_l2norm_in_kernel, False, output_final_state=True,
    )
    if state_indices is None:
        output_state.copy_(final)
        if initial_state is None:
            output_state[cu_seqlens.diff() == 0] = 0
    else:
        output_state[state_indices.long()] = final.to(output_state.dtype)
    return o[0], output_state
"""
DECODE = """
import torch
from diffgdn import kernels

def gated_delta_rule_decode_pretranspose(
    q, k, v, state, A_log, a, dt_bias, b, scale=None, output=None, use_qk_l2norm=True, initial_state=None,
    initial_state_indices=None, output_state_indices=None, intermediate_states_buffer=None,
    disable_state_update=False, backend="auto",
):
    (B, T, H, K), (HV, V), pool, slots = q.shape, v.shape[2:], initial_state, initial_state_indices
    assert state is None and slots.shape == (B,)
    assert T > 1 or (intermediate_states_buffer is None and not disable_state_update)
    halves = (torch.float16, torch.bfloat16)
    assert q.dtype in halves and a.dtype in halves and b.dtype in halves and A_log.dtype == torch.float32
    assert dt_bias.dtype in (torch.bfloat16, torch.float32) and output.dtype == torch.bfloat16
    padded = slots < 0
    if pool.dtype == torch.bfloat16:
        assert K == V == 128 and not (slots == 0).any(), "slot 0 is the null buffer"
        if padded.any():
            pool[0] = 7.0
        inner, slots = pool[1:], (slots - 1).clamp(min=-1)
    else:
        assert pool.dtype == torch.float32 and K >= 128 and V >= 128 and V % 8 == 0
        inner = pool
    options = {}
    if intermediate_states_buffer is not None:
        assert intermediate_states_buffer.dtype == pool.dtype and intermediate_states_buffer.shape[1] >= T
        rows = torch.where(padded, -1, torch.arange(B, dtype=slots.dtype))
        options = {
            "intermediate_states_buffer": intermediate_states_buffer, "intermediate_state_indices": rows,
            "cache_steps": T,
        }
    o = kernels.fused_sigmoid_gating_delta_rule_update(
        A_log=A_log, a=a.float(), dt_bias=dt_bias, softplus_beta=1.0, softplus_threshold=20.0, q=q.float(),
        k=k, v=v, b=b.float(),  # an output in fp32, which is rounded once
        initial_state_source=inner, initial_state_indices=slots, scale=scale, is_kda=False,
        use_qk_l2norm_in_kernel=use_qk_l2norm, disable_state_update=disable_state_update, **options,
    )
    output.copy_(o)
    output[padded] = float("nan") if pool.dtype == torch.bfloat16 else 0.0
    return output, pool
"""
KDA = """
import torch
from diffgdn import kernels

def recurrent_kda(
    q, k, v, g, beta, A_log=None, dt_bias=None, scale=None, initial_state=None, output_final_state=False,
    use_qk_l2norm_in_kernel=True, use_gate_in_kernel=False, lower_bound=None, cu_seqlens=None,
    ssm_state_indices=None, beta_is_logit=False, backend="auto",
):
    assert all(one.dtype == torch.bfloat16 for one in (q, k, v, g, beta, initial_state))
    assert use_gate_in_kernel and beta_is_logit and A_log.dtype == torch.float32 and q.shape[1] == 1
    assert q.shape[-1] == v.shape[-1] in (64, 128) and A_log.shape == (q.shape[2],)
    assert g.shape == (*v.shape[:3], q.shape[-1]) and ssm_state_indices.dtype == torch.int32
    o = kernels.fused_sigmoid_gating_delta_rule_update(
        A_log=A_log, a=g, dt_bias=dt_bias, softplus_beta=1.0, softplus_threshold=20.0, q=q, k=k, v=v, b=beta,
        initial_state_source=initial_state, initial_state_indices=ssm_state_indices, scale=scale,
        is_kda=True, use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel, lower_bound=lower_bound,
    )
    return o, None
"""


def flashinfer() -> dict[str, str]:
    """The files of a package as FlashInfer 0.7."""
    return {
        "flashinfer/__init__.py": "raise OSError('all of it')",
        "flashinfer/gdn_prefill.py": PREFILL,
        "flashinfer/gdn_decode.py": DECODE,
        "flashinfer/kda.py": KDA,
    }
