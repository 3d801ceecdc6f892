"""Decode of one token a sequence from a packed projection, into the caller's output and pool."""

import torch

from . import arguments as check
from .recurrent_launch import launch


def fused_recurrent_gated_delta_rule_packed_decode(
    mixed_qkv, a, b, A_log, dt_bias, scale, initial_state, out, ssm_state_indices,
    use_qk_l2norm_in_kernel=False, *, batch_invariant=False, validate=None,
):  # fmt: skip
    """Decode one GDN token for each of B sequences.

    g = -exp(A_log) * softplus(a + dt_bias), beta = sigmoid(b), then S <- exp(g) S; S <- S + beta (v - S k)
    k^T; out = scale S q.

    mixed_qkv [B, 2 H K + HV V]: q, k and v of a token side by side. a, b [B, HV]. A_log and dt_bias: HV
    elements; dt_bias None for zeros. scale: None for K^-0.5. initial_state [slots, HV, V, K]: the pool, whose
    shape says what HV, V and K are; slot ssm_state_indices[n] is updated in place. out [B, 1, HV, V] is
    written. A negative index is padding: its row of out is zero, no state is written. Dtypes: mixed_qkv and
    out the same of bf16, fp16, fp32; a and b that or fp32; A_log, dt_bias and the pool any of the three. Any
    strides, past 2^31 elements too, save in the last dimension of mixed_qkv, a, b, out and the pool.
    batch_invariant: the bits of a sequence do not depend on the batch it is in. validate: check the values of
    the indices too (None: on CPU only).

    Returns (out, initial_state). Raises ValueError or TypeError before anything is written.
    """
    return _packed_decode(
        mixed_qkv, a, b, A_log, dt_bias, scale, initial_state, out, ssm_state_indices,
        use_qk_l2norm_in_kernel, False, None, batch_invariant, validate,
    )  # fmt: skip


def fused_recurrent_kda_packed_decode(
    mixed_qkv, a, b, A_log, dt_bias, scale, initial_state, out, ssm_state_indices,
    use_qk_l2norm_in_kernel=False, lower_bound=None, *, batch_invariant=False, validate=None,
):  # fmt: skip
    """Decode one KDA token for each of B sequences: the packed decode of GDN, with gates per channel of K.

    a [B, HV * K] (or [B, HV, K]), dt_bias HV * K elements. With lower_bound, g = lower_bound *
    sigmoid(exp(A_log) * (a + dt_bias)). Writes, returns and raises what that one does.
    """
    return _packed_decode(
        mixed_qkv, a, b, A_log, dt_bias, scale, initial_state, out, ssm_state_indices,
        use_qk_l2norm_in_kernel, True, lower_bound, batch_invariant, validate,
    )  # fmt: skip


def _packed_decode(
    mixed_qkv, a, b, A_log, dt_bias, scale, pool, out, indices, l2norm, kda, lower_bound, batch_invariant,
    validate,
):  # fmt: skip
    """Check the arguments of both functions and launch; kda: gates per channel. Returns (out, pool)."""
    check.tensor("mixed_qkv", mixed_qkv, check.FLOATS, ndim=2)
    check.last_dim_contiguous("mixed_qkv", mixed_qkv)
    check.tensor("initial_state", pool, check.FLOATS, ndim=4)
    B, packed = mixed_qkv.shape
    slots, HV, V, K = pool.shape
    check.states("initial_state", pool, None, HV, V, K, "vk", written=True)
    for axis, dim in (("V", V), ("K", K)):
        if not 1 <= dim <= check.MAX_HEAD_DIM:
            raise check.wrong_value(
                "initial_state", f"a head dimension {axis} from 1 to {check.MAX_HEAD_DIM}", f"{axis} = {dim}"
            )
    H = (packed - HV * V) // (2 * K)
    if H < 1 or HV < 1 or HV % H or packed != 2 * H * K + HV * V:
        expected = (
            f"shape [B, 2 H K + HV V] with HV, V, K = {(HV, V, K)} of initial_state and HV a multiple of H"
        )
        raise check.wrong_value("mixed_qkv", expected, tuple(mixed_qkv.shape))

    floats = (torch.float32, mixed_qkv.dtype)
    check.tensor("a", a, floats, ndim=(2, 3) if kda else 2)
    if kda and a.ndim == 3:
        check.shape("a", a, "[B, HV, K]", (B, HV, K))
    else:
        check.shape("a", a, "[B, HV * K]" if kda else "[B, HV]", (B, HV * K if kda else HV))
    check.last_dim_contiguous("a", a)
    if kda and a.ndim == 2:
        a = a.unflatten(-1, (HV, K))
    check.per_token("b", b, "[B, HV]", (B, HV), floats)
    A_log, dt_bias = check.gate_weights(A_log, dt_bias, HV, K if kda else None)
    scale = check.scale_or_default(scale, K)
    check.tensor("out", out, (mixed_qkv.dtype,), ndim=4)
    check.shape("out", out, "[B, 1, HV, V]", (B, 1, HV, V))
    check.last_dim_contiguous("out", out)
    check.rows_apart("out", out)
    check.indices("ssm_state_indices", indices, B)
    check.flag("use_qk_l2norm_in_kernel", l2norm)
    check.flag("batch_invariant", batch_invariant)
    if lower_bound is not None:
        lower_bound = check.number("lower_bound", lower_bound)
    check.one_device(
        dict(
            mixed_qkv=mixed_qkv,
            a=a,
            b=b,
            A_log=A_log,
            dt_bias=dt_bias,
            initial_state=pool,
            out=out,
            ssm_state_indices=indices,
        )
    )
    if check.values_wanted(validate, mixed_qkv):
        check.values_of_indices("ssm_state_indices", indices, slots, True, "initial_state")

    q, k, v = (
        x.unflatten(-1, (-1, dim)).unsqueeze(1)
        for x, dim in zip(mixed_qkv.split([H * K, H * K, HV * V], 1), (K, K, V), strict=True)
    )
    launch(
        q, k, v, a.unsqueeze(1), b.unsqueeze(1), out, kda=kda, h0=pool, ht=pool, h_indices=indices,
        scale=scale, l2norm=l2norm, raw_beta=True, A_log=A_log, dt_bias=dt_bias, lower_bound=lower_bound,
        zero_padded=True, batch_invariant=batch_invariant,
    )  # fmt: skip
    return out, pool
