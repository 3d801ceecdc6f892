"""Whole sequences through the recurrent kernel, states given and returned as dense [N, HV, V, K] tensors."""

import torch

from . import arguments as check
from .recurrent_launch import launch


def fused_recurrent_gated_delta_rule(
    q, k, v, g, beta=None, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None,
    use_qk_l2norm_in_kernel=False, *, A_log=None, dt_bias=None, beta_is_raw=False, allow_neg_eigval=False,
    batch_invariant=False, validate=None,
):  # fmt: skip
    """Run whole sequences through the gated delta rule (GDN), token by token.

    S <- exp(g) S; S <- S + beta (v - S k) k^T; o = scale S q (Yang, Kautz and Hatamizadeh 2024, "Gated Delta
    Networks", section 3).

    Shapes: q, k [B, T, H, K], v [B, T, HV, V], HV % H == 0, K and V 1 to 256; with cu_seqlens [N + 1] B is 1
    and T all tokens. Any strides, past 2^31 elements too, the last dimension contiguous. g [B, T, HV] is the
    natural log of the decay; beta [B, T, HV], or None for ones. scale: None for K^-0.5. initial_state [N, HV,
    V, K] is read only; None starts from zero. Dtypes: q, k, v each one of bf16, fp16, fp32; g and beta q's or
    fp32; initial_state any of the three. With A_log (HV elements) g is the raw gate: g = -exp(A_log) *
    softplus(g + dt_bias), dt_bias HV elements or None for zeros, both in any of the three. beta_is_raw: beta
    is sigmoid(beta), with allow_neg_eigval 2 sigmoid(beta).
    use_qk_l2norm_in_kernel: q and k are first divided by sqrt(sum(x^2) + 1e-6). batch_invariant: the bits of
    a sequence do not depend on the batch it is in. validate: check the values of cu_seqlens (None: on CPU
    only).

    Returns (o [B, T, HV, V] in q's dtype, zero past cu_seqlens[-1]; final state [N, HV, V, K] in fp32, or
    None). Raises ValueError or TypeError, before anything is computed, for arguments that do not fit
    together.
    """
    B, T, H, HV, K, V = check.qkv(q, k, v)
    A_log, dt_bias, _ = check.gates(
        g, beta, q.dtype, (B, T, HV), None, A_log, dt_bias, None, beta_is_raw, allow_neg_eigval
    )
    check.flag("output_final_state", output_final_state)
    N, scale = _check(
        q, v, dict(q=q, k=k, v=v, g=g, beta=beta, A_log=A_log, dt_bias=dt_bias), scale, initial_state,
        cu_seqlens, use_qk_l2norm_in_kernel, batch_invariant, validate,
    )  # fmt: skip
    o = q.new_empty(v.shape)
    final_state = q.new_empty(N, HV, V, K, dtype=torch.float32) if output_final_state else None
    launch(
        q, k, v, g, beta, o, kda=False, h0=initial_state, ht=final_state, cu_seqlens=cu_seqlens, scale=scale,
        l2norm=use_qk_l2norm_in_kernel, raw_beta=beta_is_raw, neg_eigval=allow_neg_eigval, A_log=A_log,
        dt_bias=dt_bias, batch_invariant=batch_invariant,
    )  # fmt: skip
    return o, final_state


def fused_recurrent_kda(
    q, k, v, g, beta=None, scale=None, initial_state=None, inplace_final_state=True,
    use_qk_l2norm_in_kernel=True, cu_seqlens=None, *, A_log=None, dt_bias=None, lower_bound=None,
    beta_is_raw=False, allow_neg_eigval=False, output_final_state=None, batch_invariant=False, validate=None,
):  # fmt: skip
    """Run whole sequences through Kimi delta attention (KDA), token by token: one decay per channel of K.

    S <- S diag(exp(g)), then as GDN (Kimi Team 2025, "Kimi Linear", section 3).

    Shapes, dtypes and the other arguments are those of fused_recurrent_gated_delta_rule, save g [B, T, HV,
    K] and dt_bias, HV * K elements; with lower_bound, g = lower_bound * sigmoid(exp(A_log) * (g + dt_bias)).
    inplace_final_state: the final state is written into initial_state, which is returned; an empty
    sequence's row is left as it is. False: initial_state is read only and the final state returned is new, in
    initial_state's dtype (fp32 without one). output_final_state: None for a final state wherever there is an
    initial one or none is to be overwritten, True for one in any case, False for none that is new.

    Returns (o, final state or None). Raises ValueError or TypeError, before anything is written, for
    arguments that do not fit together.
    """
    B, T, H, HV, K, V = check.qkv(q, k, v)
    A_log, dt_bias, lower_bound = check.gates(
        g, beta, q.dtype, (B, T, HV), K, A_log, dt_bias, lower_bound, beta_is_raw, allow_neg_eigval
    )
    check.flag("inplace_final_state", inplace_final_state)
    if output_final_state is not None:
        check.flag("output_final_state", output_final_state)
    N, scale = _check(
        q, v, dict(q=q, k=k, v=v, g=g, beta=beta, A_log=A_log, dt_bias=dt_bias), scale, initial_state,
        cu_seqlens, use_qk_l2norm_in_kernel, batch_invariant, validate, inplace_final_state,
    )  # fmt: skip
    o = q.new_empty(v.shape)
    if inplace_final_state and initial_state is not None:
        final_state = initial_state
    elif output_final_state or (output_final_state is None and not inplace_final_state):
        dtype = torch.float32 if initial_state is None else initial_state.dtype
        final_state = q.new_empty(N, HV, V, K, dtype=dtype)
    else:
        final_state = None
    launch(
        q, k, v, g, beta, o, kda=True, h0=initial_state, ht=final_state, cu_seqlens=cu_seqlens, scale=scale,
        l2norm=use_qk_l2norm_in_kernel, raw_beta=beta_is_raw, neg_eigval=allow_neg_eigval, A_log=A_log,
        dt_bias=dt_bias, lower_bound=lower_bound, batch_invariant=batch_invariant,
    )  # fmt: skip
    return o, final_state


def _check(q, v, tensors, scale, initial_state, cu_seqlens, l2norm, batch_invariant, validate, written=False):
    """Check what both functions ask of the rest of their arguments; return N and the scale.

    tensors: by name, those that were checked before, for the check of devices. written: initial_state is
    overwritten. Raises ValueError or TypeError.
    """
    B, T, H, K = q.shape
    HV, V = v.shape[2:]
    scale = check.scale_or_default(scale, K)
    check.flag("use_qk_l2norm_in_kernel", l2norm)
    check.flag("batch_invariant", batch_invariant)
    N = B
    if cu_seqlens is not None:
        N = check.sequence_bounds(cu_seqlens)
        if B != 1:
            raise check.wrong_value(
                "q", "batch size B = 1 with cu_seqlens (sequences end to end)", f"B = {B}"
            )
    if initial_state is not None:
        check.states("initial_state", initial_state, N, HV, V, K, "vk", written)
    check.one_device(tensors | dict(initial_state=initial_state, cu_seqlens=cu_seqlens))
    if check.values_wanted(validate, q) and cu_seqlens is not None:
        check.values_of_cu_seqlens(cu_seqlens, T)
    return N, scale
