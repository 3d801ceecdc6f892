"""chunk_gated_delta_rule: chunk prefill of the gated delta rule, one decay per head."""

from .. import arguments as check
from .chunk_checks import check_shared
from .pipeline import run


def chunk_gated_delta_rule(
    q, k, v, g, beta, scale=None, initial_state=None, initial_state_indices=None, cu_seqlens=None,
    head_first=False, use_qk_l2norm_in_kernel=False, inplace_update=True, *, A_log=None, dt_bias=None,
    beta_is_raw=False, allow_neg_eigval=False, output_final_state=False, output_boundary_states=True,
    has_initial_state=None, chunk_size=64, layout="vk", batch_invariant=False, validate=None,
):  # fmt: skip
    """Run whole sequences through the gated delta rule (GDN), chunk by chunk.

    S <- exp(g) S; S <- S + beta (v - S k) k^T; o = scale S q (Yang, Kautz and Hatamizadeh 2024, "Gated Delta
    Networks", section 3).

    Shapes: q, k [B, T, H, K], v [B, T, HV, V], HV % H == 0, K and V 1 to 256; with cu_seqlens [N + 1] B is 1
    and T all tokens, without it N = B; at most 2^31 - 64 tokens B T. Any strides, past 2^31 elements too, the
    last dimension contiguous. g [B, T, HV] is the natural log of the decay, zero or
    less; beta [B, T, HV]. scale: None for K^-0.5. Dtypes: q, k, v each one of bf16, fp16, fp32; g and beta
    q's or fp32; initial_state any of the three. Where q, k and v differ, the products run in fp32. With A_log
    (HV elements) g is the raw gate, in fp32 throughout: g = -exp(A_log) * softplus(g + dt_bias), dt_bias HV
    elements or None for zeros, both in any of the three, of any shape and strides. beta_is_raw: beta is
    sigmoid(beta), with allow_neg_eigval 2 sigmoid(beta).

    initial_state: the pool [slots, HV, V, K], a view with any leading strides, where initial_state_indices
    [N] names each sequence's slot; without indices [N, HV, V, K], one row a sequence; None for zero states.
    Unless inplace_update is False, the final state of each sequence is written there. A negative index is
    padding: it starts from a zero state and writes none. An empty sequence's slot stays as it is.
    has_initial_state [N], bool: a sequence whose flag is False starts from a zero state, whatever its slot
    holds, and writes its final state there all the same; None for True.
    use_qk_l2norm_in_kernel: q and k are first divided by sqrt(sum(x^2) + 1e-6) and rounded to their dtype.
    output_boundary_states: also return the state before each chunk of chunk_size (16, 32 or 64) tokens. With
    cu_seqlens on a GPU their number has to be read back: one synchronisation. Without them there is none.
    layout: "kv" for state tensors [.., HV, K, V]. batch_invariant: one tile whatever the batch, and with it
    the same bits for a sequence in any company. validate: check the values of cu_seqlens and
    initial_state_indices (None: on CPU only). head_first must be False.

    Returns (o, final_state, h): o [B, T, HV, V] in q's dtype, zero past cu_seqlens[-1]; final_state [N, HV,
    V, K] in initial_state's dtype (fp32 without one) if output_final_state, else None; h in k's dtype, [1,
    NT, HV, V, K] sequence by sequence and chunk by chunk, [B, cdiv(T, chunk_size), HV, V, K] without
    cu_seqlens, or None. Raises ValueError or TypeError, before anything is written, for arguments that do
    not fit together.
    """
    B, T, _, HV, _, _ = check.qkv(q, k, v)
    A_log, dt_bias, _ = check.gates(
        g, beta, q.dtype, (B, T, HV), None, A_log, dt_bias, None, beta_is_raw, allow_neg_eigval
    )
    check.tensor("beta", beta)  # there is no default here
    check.flag("head_first", head_first)
    if head_first:
        raise check.wrong_value("head_first", "False: tensors are [B, T, H, ...]", head_first)
    scale = check_shared(
        q, v, {"q": q, "k": k, "v": v, "g": g, "beta": beta, "A_log": A_log, "dt_bias": dt_bias}, scale=scale,
        initial_state=initial_state,
        indices=initial_state_indices, cu_seqlens=cu_seqlens, chunk_size=chunk_size, layout=layout,
        flags={
            "use_qk_l2norm_in_kernel": use_qk_l2norm_in_kernel, "output_final_state": output_final_state,
            "output_boundary_states": output_boundary_states, "batch_invariant": batch_invariant,
        },
        inplace_update=inplace_update, validate=validate, has_initial=has_initial_state,
    )  # fmt: skip
    return run(
        q, k, v, g, beta, scale=scale, initial_state=initial_state, indices=initial_state_indices,
        cu_seqlens=cu_seqlens,
        l2norm=use_qk_l2norm_in_kernel, inplace_update=inplace_update, output_final_state=output_final_state,
        boundary_states=output_boundary_states, chunk_size=chunk_size, layout=layout,
        batch_invariant=batch_invariant, raw_beta=beta_is_raw, neg_eigval=allow_neg_eigval, A_log=A_log,
        dt_bias=dt_bias, has_initial=has_initial_state,
    )  # fmt: skip
