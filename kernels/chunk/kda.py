"""chunk_kda: chunk prefill of Kimi delta attention, one decay per channel of K."""

import torch

from .. import arguments as check
from .chunk_checks import check_shared, check_track
from .pipeline import run


def chunk_kda(
    q, k, v, g, beta, scale=None, initial_state=None, initial_state_indices=None,
    use_qk_l2norm_in_kernel=False, cu_seqlens=None, A_log=None, dt_bias=None, lower_bound=None,
    output_intermediate_states=False, track_state=None, track_chunk_idx=None, beta_is_raw=False,
    chunk_indices=None, chunk_offsets=None, *, inplace_update=True, output_final_state=False,
    has_initial_state=None, chunk_size=64, layout="vk", allow_neg_eigval=False, batch_invariant=False,
    validate=None,
):  # fmt: skip
    """Run whole sequences through Kimi delta attention (KDA): chunk_gated_delta_rule with g [B, T, HV, K].

    S <- S diag(exp(g)), then as there (Kimi Team 2025, "Kimi Linear", section 3).

    Shapes, dtypes, the pool and the other arguments are those of chunk_gated_delta_rule, save: g [B, T, HV,
    K] is the natural log of the decay, or with A_log the raw gate; dt_bias has HV * K elements; with
    lower_bound, g = lower_bound * sigmoid(exp(A_log) * (g + dt_bias)). output_intermediate_states: also
    return the state before each chunk. chunk_indices, chunk_offsets: accepted and not used, the chunk table
    is made from cu_seqlens on the device. track_state [N, HV, V, K], fp32, with any leading strides, takes
    the state before chunk track_chunk_idx[n] of each sequence n, not rounded; its row stays as it is if the
    sequence has no such chunk, as for a negative number.

    Returns o [B, T, HV, V], zero past cu_seqlens[-1]; (o, h) with output_intermediate_states; the final state
    [N, HV, V, K] comes last of the tuple with output_final_state. Raises ValueError or TypeError, before
    anything is written, for arguments that do not fit together.
    """
    B, T, _, HV, K, V = check.qkv(q, k, v)
    A_log, dt_bias, lower_bound = check.gates(
        g, beta, q.dtype, (B, T, HV), K, A_log, dt_bias, lower_bound, beta_is_raw, allow_neg_eigval
    )
    check.tensor("beta", beta)  # there is no default here
    N = B if not isinstance(cu_seqlens, torch.Tensor) else cu_seqlens.numel() - 1
    check_track(track_state, track_chunk_idx, N, HV, V, K, layout)
    scale = check_shared(
        q, v,
        {
            "q": q, "k": k, "v": v, "g": g, "beta": beta, "A_log": A_log, "dt_bias": dt_bias,
            "track_state": track_state, "track_chunk_idx": track_chunk_idx,
        },
        scale=scale, initial_state=initial_state, indices=initial_state_indices, cu_seqlens=cu_seqlens,
        chunk_size=chunk_size,
        layout=layout,
        flags={
            "use_qk_l2norm_in_kernel": use_qk_l2norm_in_kernel, "output_final_state": output_final_state,
            "output_intermediate_states": output_intermediate_states, "batch_invariant": batch_invariant,
        },
        inplace_update=inplace_update, validate=validate, has_initial=has_initial_state,
    )  # fmt: skip
    o, final_state, h = run(
        q, k, v, g, beta, scale=scale, initial_state=initial_state, indices=initial_state_indices,
        cu_seqlens=cu_seqlens,
        l2norm=use_qk_l2norm_in_kernel, inplace_update=inplace_update, output_final_state=output_final_state,
        boundary_states=output_intermediate_states, chunk_size=chunk_size, layout=layout,
        batch_invariant=batch_invariant, raw_beta=beta_is_raw, neg_eigval=allow_neg_eigval, A_log=A_log,
        dt_bias=dt_bias, lower_bound=lower_bound, has_initial=has_initial_state, track=track_state,
        track_chunk=track_chunk_idx,
    )  # fmt: skip
    results = (
        o,
        *([h] if output_intermediate_states else []),
        *([final_state] if output_final_state else []),
    )
    return results if len(results) > 1 else o
