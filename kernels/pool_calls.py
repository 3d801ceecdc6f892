"""Updates of a pool of states through the recurrent kernel, gates given or raw (decode); verify too."""

from itertools import pairwise

import torch

from . import arguments as check
from .recurrent_launch import launch
from .token_slots import check_accepted, check_token_slots, values_of_token_slots

# A tree's paths are kept as the bits of one int64.
MAX_TREE_STEPS = 64


def fused_recurrent_gated_delta_rule_update(
    q, k, v, g, beta=None, scale=None, initial_state_source=None, initial_state_indices=None, cu_seqlens=None,
    use_qk_l2norm_in_kernel=False, disable_state_update=False, disable_output_calculation=False,
    intermediate_states_buffer=None, intermediate_state_indices=None, cache_steps=None,
    retrieve_parent_token=None, *, num_accepted_tokens=None, layout="vk", batch_invariant=False,
    validate=None,
):  # fmt: skip
    """Run sequences through the gated delta rule from and to states that live in a pool, with gates given.

    S <- exp(g) S; S <- S + beta (v - S k) k^T; o = scale S q (Yang, Kautz and Hatamizadeh 2024, "Gated Delta
    Networks", section 3; with a decay per channel, Kimi Team 2025, "Kimi Linear", section 3).

    Shapes: q, k [B, T, H, K], v [B, T, HV, V], HV % H == 0, K and V 1 to 256; cu_seqlens [N + 1] cuts the B*T
    tokens into N sequences, without it N = B. Any strides, past 2^31 elements too, the last dimension
    contiguous. g is the natural log of the decay: [B, T, HV] for GDN, [B, T,
    HV, K] for KDA; beta [B, T, HV], None for ones. scale: None for K^-0.5. initial_state_source [slots, HV,
    V, K] is the pool, a view with any leading strides; initial_state_indices [N] names each sequence's slot.
    The slot is updated in place unless disable_state_update. A negative index is padding: it starts from a
    zero state and writes no state. The slots of empty sequences stay as they are. No pool: zero states,
    written nowhere. layout: "kv" for state tensors [.., HV, K, V].

    Verify. intermediate_states_buffer [rows, steps, HV, V, K] takes the state after each step of sequence n
    at row intermediate_state_indices[n] (None: its slot's number; negative: not at all). cache_steps: how
    many steps of it to use (None: all). retrieve_parent_token [N, steps <= 64]: token i > 0 continues from
    token retrieve_parent_token[n, i], which is from 0 to i - 1; entry 0 is not read. A branch is recomputed
    from the initial state in fp32, never read back from the buffer.

    Slots for each token, as vLLM verifies: initial_state_indices [N, steps] names the slots that take the
    state after each step of a sequence, num_accepted_tokens [N] from 1 to steps (None: ones) how many steps
    of the call before were right: the state is read from the slot of the last of them. A negative slot takes
    none; a sequence that would start in one is padding. There is no buffer then, no tree, and no other
    update of the state.

    Dtypes: q, k, v each one of bf16, fp16, fp32; g and beta q's or fp32; states any of the three, rounded
    once, when stored. disable_output_calculation: o is then a zero of shape [1, 1, 1, 1]. batch_invariant:
    the bits of a sequence do not depend on the batch it is in. validate: check the values of cu_seqlens,
    indices and parents too (None: on CPU only).

    Returns o [B, T, HV, V] in q's dtype, zero past cu_seqlens[-1].
    Raises ValueError or TypeError, before anything is written, for arguments that do not fit together.
    """
    B, T, H, HV, K, V = check.qkv(q, k, v)
    check.tensor("g", g, (torch.float32, q.dtype), ndim=(3, 4))
    kda = g.ndim == 4
    if kda:
        check.per_token("g", g, "[B, T, HV, K]", (B, T, HV, K), (torch.float32, q.dtype))
    else:
        check.per_token("g", g, "[B, T, HV]", (B, T, HV), (torch.float32, q.dtype))
    if beta is not None:
        check.per_token("beta", beta, "[B, T, HV]", (B, T, HV), (torch.float32, q.dtype))
    check.flag("disable_output_calculation", disable_output_calculation)
    options = check_pool(
        q, v, dict(q=q, k=k, v=v, g=g, beta=beta), scale, initial_state_source, initial_state_indices,
        cu_seqlens, use_qk_l2norm_in_kernel, disable_state_update, intermediate_states_buffer,
        intermediate_state_indices, cache_steps, retrieve_parent_token, num_accepted_tokens, layout,
        batch_invariant, validate,
    )  # fmt: skip
    o = None if disable_output_calculation else q.new_empty(v.shape)
    launch(q, k, v, g, beta, o, kda=kda, **options)
    return q.new_zeros(1, 1, 1, 1) if o is None else o


def fused_sigmoid_gating_delta_rule_update(
    A_log, a, dt_bias, softplus_beta, softplus_threshold, q, k, v, b, initial_state_source,
    initial_state_indices, scale=None, use_qk_l2norm_in_kernel=False, cu_seqlens=None, is_kda=False,
    lower_bound=None, disable_state_update=False, intermediate_states_buffer=None,
    intermediate_state_indices=None, cache_steps=None, retrieve_parent_token=None, *,
    num_accepted_tokens=None, layout="vk", batch_invariant=False, validate=None,
):  # fmt: skip
    """Decode or verify: fused_recurrent_gated_delta_rule_update with the gates computed from raw a and b.

    g = -exp(A_log) * softplus(a + dt_bias), with lower_bound (KDA) g = lower_bound * sigmoid(exp(A_log) * (a
    + dt_bias)); beta = sigmoid(b). softplus(x) = log(1 + exp(softplus_beta x)) / softplus_beta, and x where
    softplus_beta x is past softplus_threshold. All of it in fp32.

    A_log: HV elements. dt_bias: HV elements, for is_kda HV * K, or None for zeros. Both in fp32, bf16 or
    fp16, with any strides. a: [tokens, HV]
    or [B, T, HV]; for is_kda [tokens, HV * K], [tokens, HV, K], [B, T, HV * K] or [B, T, HV, K]. b: [tokens,
    HV] or [B, T, HV]. a and b in fp32 or q's dtype. Everything else as in
    fused_recurrent_gated_delta_rule_update.
    """
    gates = check_raw_gates(
        q, k, v, a, b, A_log, dt_bias, is_kda, lower_bound, softplus_beta, softplus_threshold
    )
    tensors = dict(q=q, k=k, v=v) | {name: gates[name] for name in ("a", "b", "A_log", "dt_bias")}
    options = check_pool(
        q, v, tensors, scale, initial_state_source,
        initial_state_indices, cu_seqlens, use_qk_l2norm_in_kernel, disable_state_update,
        intermediate_states_buffer, intermediate_state_indices, cache_steps, retrieve_parent_token,
        num_accepted_tokens, layout, batch_invariant, validate,
    )  # fmt: skip
    return launch_raw(q, k, v, gates, options)


def launch_raw(q, k, v, gates, options):
    """Launch with raw gates, what check_raw_gates returns, and the options of check_pool; return o."""
    o = q.new_empty(v.shape)
    launch(q, k, v, gates.pop("a"), gates.pop("b"), o, raw_beta=True, **gates, **options)
    return o


def check_raw_gates(
    q, k, v, a, b, A_log, dt_bias, is_kda, lower_bound, softplus_beta, softplus_threshold
):  # fmt: skip
    """Check q, k, v and raw gates; return by name a, b [B, T, HV] (is_kda: a [.., K]) and the gates' options.

    The names are those of launch, and a and b. Raises ValueError or TypeError.
    """
    B, T, _, HV, K, _ = check.qkv(q, k, v)
    check.flag("is_kda", is_kda)
    A_log, dt_bias = check.gate_weights(A_log, dt_bias, HV, K if is_kda else None)
    a = _raw("a", a, B, T, HV, K if is_kda else None, q.dtype)
    b = _raw("b", b, B, T, HV, None, q.dtype)
    if lower_bound is not None:
        lower_bound = check.number("lower_bound", lower_bound)
        if not is_kda:
            raise check.wrong_value("lower_bound", "None unless is_kda", lower_bound)
    softplus_beta = check.number("softplus_beta", softplus_beta)
    if softplus_beta <= 0:
        raise check.wrong_value("softplus_beta", "a number above 0", softplus_beta)
    softplus_threshold = check.number("softplus_threshold", softplus_threshold)
    return dict(
        a=a, b=b, A_log=A_log, dt_bias=dt_bias, kda=is_kda, lower_bound=lower_bound,
        softplus_beta=softplus_beta, softplus_threshold=softplus_threshold,
    )  # fmt: skip


def _raw(name, x, B, T, HV, K, dtype):
    """Return a or b as a view [B, T, HV] or, with K, [B, T, HV, K]; callers leave out and merge axes.

    dtype: that of q; fp32 goes too. Raises ValueError or TypeError for other shapes and dtypes.
    """
    check.tensor(name, x, (torch.float32, dtype))
    tail = (HV,) if K is None else (HV, K)
    shapes = [(B * T, *tail), (B, T, *tail)]
    if K is not None:
        shapes += [(B * T, HV * K), (B, T, HV * K)]
    if tuple(x.shape) not in shapes:
        raise check.wrong_value(name, f"shape {' or '.join(map(str, dict.fromkeys(shapes)))}", tuple(x.shape))
    check.last_dim_contiguous(name, x)
    if tuple(x.shape) not in shapes[:2]:
        x = x.unflatten(-1, (HV, K))
    return x if x.ndim == 2 + len(tail) else x.unflatten(0, (B, T))


def check_pool(
    q, v, tensors, scale, pool, indices, cu_seqlens, l2norm, disable_state_update, buffer, buffer_indices,
    cache_steps, parents, accepted, layout, batch_invariant, validate,
):  # fmt: skip
    """Check what update and decode ask of the rest of their arguments; return the options of the launch.

    tensors: by name, those that were checked before, for the check of devices. Raises ValueError or
    TypeError.
    """
    B, T, H, K = q.shape
    HV, V = v.shape[2:]
    scale = check.scale_or_default(scale, K)
    check.flag("use_qk_l2norm_in_kernel", l2norm)
    check.flag("disable_state_update", disable_state_update)
    check.flag("batch_invariant", batch_invariant)
    check.one_of("layout", layout, ("vk", "kv"))
    N = B if cu_seqlens is None else check.sequence_bounds(cu_seqlens)
    needed = T if cu_seqlens is None else 1  # steps of a sequence, as far as shapes tell
    if pool is not None:
        check.states("initial_state_source", pool, None, HV, V, K, layout, written=not disable_state_update)
    token_slots = isinstance(indices, torch.Tensor) and indices.ndim == 2
    if token_slots:
        token_slots_given = dict(
            initial_state_source=pool is not None, intermediate_states_buffer=buffer is None,
            retrieve_parent_token=parents is None, disable_state_update=not disable_state_update,
        )  # fmt: skip
        check_token_slots(indices, N, needed, token_slots_given)
    elif pool is not None or indices is not None:
        check.indices("initial_state_indices", indices, N)
    if accepted is not None:
        check_accepted(accepted, N, token_slots)
    steps = 0
    if buffer is not None:
        steps = _check_buffer(buffer, cache_steps, needed, HV, V, K, layout)
        _check_buffer_indices(buffer_indices, indices, N)
    if parents is not None:
        _check_tree(parents, N, needed)
    check.one_device(
        tensors
        | dict(
            initial_state_source=pool,
            initial_state_indices=indices,
            num_accepted_tokens=accepted,
            cu_seqlens=cu_seqlens,
            intermediate_states_buffer=buffer,
            intermediate_state_indices=buffer_indices,
            retrieve_parent_token=parents,
        )
    )
    if check.values_wanted(validate, q):
        lengths = [T] * N if cu_seqlens is None else values_of_lengths(cu_seqlens, B * T)
        if token_slots:
            check_longest("initial_state_indices", indices.shape[1], lengths)
            values_of_token_slots(indices, accepted, lengths, pool.shape[0])
        elif pool is not None:
            check.values_of_indices(
                "initial_state_indices",
                indices,
                pool.shape[0],
                not disable_state_update,
                "initial_state_source",
            )
        if buffer is not None:
            _values_of_buffer_indices(buffer, buffer_indices, indices)
            check_longest("intermediate_states_buffer", steps, lengths)
        if parents is not None:
            check_longest("retrieve_parent_token", parents.shape[1], lengths)
            _values_of_parents(parents, lengths)
    return dict(
        h0=pool, ht=None if disable_state_update or token_slots else pool, h_indices=indices,
        accepted=accepted, cu_seqlens=cu_seqlens, cache=buffer,
        cache_indices=indices if buffer_indices is None else buffer_indices, cache_steps=steps,
        parents=parents, scale=scale, l2norm=l2norm, kv=layout == "kv", batch_invariant=batch_invariant,
    )  # fmt: skip


def _check_buffer(buffer, cache_steps, needed, HV, V, K, layout):
    """Check verify's buffer [rows, steps, HV, V, K]; return how many of its steps to use.

    cache_steps: how many the caller asks for, None for all. Raises unless that is `needed` or more.
    """
    name = "intermediate_states_buffer"
    check.tensor(name, buffer, check.FLOATS, ndim=5)
    tail = (HV, K, V) if layout == "kv" else (HV, V, K)
    check.shape(
        name, buffer, f"[rows, steps, HV, {'K, V' if layout == 'kv' else 'V, K'}]", (*buffer.shape[:2], *tail)
    )
    check.last_dim_contiguous(name, buffer)
    check.rows_apart(name, buffer)
    steps = buffer.shape[1]
    if cache_steps is not None:
        if isinstance(cache_steps, bool) or not isinstance(cache_steps, int):
            raise check.wrong_type("cache_steps", "an int or None", type(cache_steps).__name__)
        if not 1 <= cache_steps <= steps:
            raise check.wrong_value("cache_steps", f"1 to {steps}, the steps of {name}", cache_steps)
        steps = cache_steps
    if steps < needed:
        raise check.wrong_value(name, f"at least {needed} steps, one for each token", steps)
    return steps


def _check_buffer_indices(buffer_indices, indices, N):
    """Check the rows of verify's buffer [N]; without them it goes by the slots of the pool."""
    if buffer_indices is not None:
        check.indices("intermediate_state_indices", buffer_indices, N)
    elif indices is None:
        raise check.wrong_type(
            "intermediate_state_indices", "a torch.Tensor, without initial_state_indices to go by", "None"
        )


def _check_tree(parents, N, needed):
    """Check the shape and dtype of verify's trees [N, steps], of `needed` to MAX_TREE_STEPS steps."""
    check.tensor("retrieve_parent_token", parents, check.INTEGERS, ndim=2)
    if parents.shape[0] != N or not needed <= parents.shape[1] <= MAX_TREE_STEPS:
        expected = f"shape [N, steps] with N = {N} and steps from {needed} to {MAX_TREE_STEPS}"
        raise check.wrong_value("retrieve_parent_token", expected, tuple(parents.shape))


def values_of_lengths(cu_seqlens, tokens):
    """Check the values of cu_seqlens, which cut `tokens` tokens; return each sequence's length."""
    return [end - start for start, end in pairwise(check.values_of_cu_seqlens(cu_seqlens, tokens))]


def _values_of_buffer_indices(buffer, buffer_indices, indices):
    """Check the values of the indices that name the buffer's rows: distinct, since they are written."""
    name, rows = "intermediate_state_indices", buffer_indices
    if rows is None:
        name, rows = "initial_state_indices", indices
    check.values_of_indices(name, rows, buffer.shape[0], True, "intermediate_states_buffer")


def check_longest(name, steps, lengths):
    """Raise ValueError if a sequence is longer than `steps`, what the argument `name` has room for."""
    if max(lengths, default=0) > steps:
        raise check.wrong_value(
            name, f"at least {max(lengths)} steps, the length of the longest sequence", steps
        )


def _values_of_parents(parents, lengths):
    """Check that the parent of each token but the first is a token before it; padding steps are not read."""
    for n, (row, length) in enumerate(zip(parents.tolist(), lengths, strict=True)):
        for i in range(1, length):
            if not 0 <= row[i] < i:
                raise check.wrong_value(
                    "retrieve_parent_token", f"entry [{n}, {i}] from 0 to {i - 1}", row[i]
                )
