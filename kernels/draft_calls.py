"""Speculative decoding without stored states: verify that keeps changes, and commit of the accepted ones.

A verify that stores the state after each of T draft steps reads a state once and writes it T times, and what
is accepted is then copied into the pool: one more read and write. Here the verify reads the state, and the
commit reads it once more and writes it.
"""

import torch

from . import arguments as check
from .fold import launch_fold
from .pool_calls import check_longest, check_pool, check_raw_gates, launch_raw, values_of_lengths
from .step_changes import change_numbers


def fused_sigmoid_gating_delta_rule_verify(
    A_log, a, dt_bias, softplus_beta, softplus_threshold, q, k, v, b, initial_state_source,
    initial_state_indices, step_changes, step_change_indices=None, scale=None, use_qk_l2norm_in_kernel=False,
    cu_seqlens=None, is_kda=False, lower_bound=None, retrieve_parent_token=None, *, layout="vk",
    batch_invariant=False, validate=None,
):  # fmt: skip
    """Compute the outputs of drafts, chains or trees, and keep what commit_accepted_steps makes states of.

    The outputs are those of fused_sigmoid_gating_delta_rule_update with disable_state_update, which has the
    formulas and the other arguments. The pool is read only, and its slots may be shared.

    step_changes [rows, steps, numbers], fp32, with change_numbers(H, HV, K, V, is_kda) numbers, any strides
    but the last: the change of step t of sequence n goes to [step_change_indices[n], t]: d = beta (v - exp(g)
    S k) [HV, V], k [H, K], of unit length if asked, and g [HV] or [HV, K], end to end. step_change_indices
    [N]: None for the slots' numbers; negative: nothing is kept. Steps past a draft's length are not written.

    Returns o [B, T, HV, V] in q's dtype, zero past cu_seqlens[-1].
    Raises ValueError or TypeError, before anything is written, for arguments that do not fit together.
    """
    gates = check_raw_gates(
        q, k, v, a, b, A_log, dt_bias, is_kda, lower_bound, softplus_beta, softplus_threshold
    )
    B, T, H, HV, K, V = check.qkv(q, k, v)
    _check_changes(step_changes, change_numbers(H, HV, K, V, is_kda), written=True)
    if initial_state_indices is not None:
        check.tensor("initial_state_indices", initial_state_indices, check.INTEGERS, ndim=1)
    elif step_change_indices is None:
        raise check.wrong_type("step_change_indices", "a torch.Tensor, without slots to go by", "None")
    tensors = dict(q=q, k=k, v=v) | {name: gates[name] for name in ("a", "b", "A_log", "dt_bias")}
    tensors |= dict(step_changes=step_changes, step_change_indices=step_change_indices)
    options = check_pool(
        q, v, tensors, scale, initial_state_source, initial_state_indices, cu_seqlens,
        use_qk_l2norm_in_kernel, True, None, None, None, retrieve_parent_token, None, layout,
        batch_invariant, validate,
    )  # fmt: skip
    N = B if cu_seqlens is None else cu_seqlens.numel() - 1
    steps = step_changes.shape[1]
    if cu_seqlens is None and steps < T:
        raise check.wrong_value("step_changes", f"at least {T} steps, one for each token", steps)
    if step_change_indices is not None:
        check.indices("step_change_indices", step_change_indices, N)
    rows = initial_state_indices if step_change_indices is None else step_change_indices
    if check.values_wanted(validate, q):
        lengths = [T] * N if cu_seqlens is None else values_of_lengths(cu_seqlens, B * T)
        check_longest("step_changes", steps, lengths)
        name = "initial_state_indices" if step_change_indices is None else "step_change_indices"
        check.values_of_indices(name, rows, step_changes.shape[0], True, "step_changes")
    options |= dict(cache=step_changes, cache_indices=rows, cache_steps=steps)
    return launch_raw(q, k, v, gates, options)


def commit_accepted_steps(
    initial_state_source, initial_state_indices, step_changes, num_accepted_steps, step_change_indices=None,
    accepted_path=None, is_kda=False, *, layout="vk", batch_invariant=False, validate=None,
):  # fmt: skip
    """Bring slots of a pool, in place, to the state after the accepted steps of each sequence's draft.

    S <- exp(g) S + d k^T for each of them in order, in fp32 and rounded once: what the verify did there, as
    long as the slot holds what it started from.

    initial_state_source [slots, HV, V, K]: the pool, in fp32, bf16 or fp16, a view with any leading strides.
    initial_state_indices [N]: each sequence's slot; negative: padding, which writes nothing. step_changes
    [rows, steps, numbers], fp32, and step_change_indices [N], None for the slots' numbers: what
    fused_sigmoid_gating_delta_rule_verify was given and has filled. num_accepted_steps [N]: how many steps to
    apply; 0 leaves the slot as it is, bit for bit, and so does a negative row. accepted_path [N, P]: of a
    tree, which steps, each the parent of the next; num_accepted_steps[n] of row n are read. None: of a chain,
    the first ones. Indices, counts and paths are int32 or int64, with any strides. is_kda: decays are per
    channel. layout: "kv" for a pool [slots, HV, K, V]. batch_invariant: the bits of a sequence do not depend
    on the batch it is in. validate: check the values of indices, counts and paths too (None: on CPU only).

    Returns initial_state_source.
    Raises ValueError or TypeError, before anything is written, for arguments that do not fit together.
    """
    pool, indices, counts = initial_state_source, initial_state_indices, num_accepted_steps
    check.flag("is_kda", is_kda)
    check.flag("batch_invariant", batch_invariant)
    check.one_of("layout", layout, ("vk", "kv"))
    H = _heads(pool, step_changes, is_kda, layout)
    check.tensor("initial_state_indices", indices, check.INTEGERS, ndim=1)
    N = indices.numel()
    if step_change_indices is not None:
        check.indices("step_change_indices", step_change_indices, N)
    check.indices("num_accepted_steps", counts, N)
    if accepted_path is not None:
        check.tensor("accepted_path", accepted_path, check.INTEGERS, ndim=2)
        check.shape("accepted_path", accepted_path, "[N, P]", (N, accepted_path.shape[1]))
    tensors = dict(
        initial_state_source=pool, initial_state_indices=indices, step_changes=step_changes,
        step_change_indices=step_change_indices, num_accepted_steps=counts, accepted_path=accepted_path,
    )  # fmt: skip
    check.one_device(tensors)
    if check.values_wanted(validate, pool):
        check.values_of_indices("initial_state_indices", indices, pool.shape[0], True, "initial_state_source")
        rows, name = (indices, "initial_state_indices") if step_change_indices is None else (
            step_change_indices, "step_change_indices"
        )  # fmt: skip
        check.values_of_indices(name, rows, step_changes.shape[0], False, "step_changes")
        _values_of_accepted(counts, accepted_path, step_changes.shape[1])
    launch_fold(
        pool, indices, step_changes, step_change_indices, counts, accepted_path, H=H, kda=is_kda,
        kv=layout == "kv", batch_invariant=batch_invariant,
    )  # fmt: skip
    return pool


def fused_sigmoid_gating_delta_rule_verify_commit(
    A_log, a, dt_bias, softplus_beta, softplus_threshold, q, k, v, b, initial_state_source,
    initial_state_indices, step_changes, num_accepted_steps, step_change_indices=None, scale=None,
    use_qk_l2norm_in_kernel=False, cu_seqlens=None, is_kda=False, lower_bound=None,
    retrieve_parent_token=None, accepted_path=None, *, layout="vk", batch_invariant=False, validate=None,
):  # fmt: skip
    """Verify drafts and commit what is accepted of them, one call after the other: where that is known.

    The arguments are those of fused_sigmoid_gating_delta_rule_verify and commit_accepted_steps, of which the
    first writes step_changes and the second the pool.

    Returns o [B, T, HV, V] in q's dtype, zero past cu_seqlens[-1].
    Raises ValueError or TypeError for arguments that do not fit together; those of the commit alone after the
    verify has written step_changes.
    """
    shared = dict(step_change_indices=step_change_indices, is_kda=is_kda, layout=layout)
    shared |= dict(batch_invariant=batch_invariant, validate=validate)
    o = fused_sigmoid_gating_delta_rule_verify(
        A_log, a, dt_bias, softplus_beta, softplus_threshold, q, k, v, b, initial_state_source,
        initial_state_indices, step_changes, scale=scale, use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel,
        cu_seqlens=cu_seqlens, lower_bound=lower_bound, retrieve_parent_token=retrieve_parent_token, **shared,
    )  # fmt: skip
    commit_accepted_steps(
        initial_state_source, initial_state_indices, step_changes, num_accepted_steps,
        accepted_path=accepted_path, **shared,
    )  # fmt: skip
    return o


def _check_changes(changes, numbers, written):
    """Check changes of steps [rows, steps, numbers]; numbers: None for any."""
    check.tensor("step_changes", changes, (torch.float32,), ndim=3)
    if numbers is not None:
        check.shape("step_changes", changes, "[rows, steps, numbers]", (*changes.shape[:2], numbers))
    check.last_dim_contiguous("step_changes", changes)
    if written:
        check.rows_apart("step_changes", changes)


def _heads(pool, changes, kda, layout):
    """Check the pool and the changes against each other; return H, which is not written anywhere."""
    check.tensor("initial_state_source", pool, check.FLOATS, ndim=4)
    HV, V, K = pool.shape[1:]
    if layout == "kv":
        V, K = K, V
    check.states("initial_state_source", pool, None, HV, V, K, layout, written=True)
    for axis, dim in (("V", V), ("K", K)):
        if not 1 <= dim <= check.MAX_HEAD_DIM:
            expected = f"a head dimension {axis} from 1 to {check.MAX_HEAD_DIM}"
            raise check.wrong_value("initial_state_source", expected, f"{axis} = {dim}")
    _check_changes(changes, None, written=False)
    numbers = changes.shape[2]
    H = (numbers - change_numbers(0, HV, K, V, kda)) // K
    if H < 1 or HV < 1 or HV % H or numbers != change_numbers(H, HV, K, V, kda):
        expected = (
            "shape [rows, steps, change_numbers(H, HV, K, V, is_kda)] with HV a multiple of H and HV, K, V, "
            f"is_kda = {(HV, K, V, kda)}"
        )
        raise check.wrong_value("step_changes", expected, tuple(changes.shape))
    return H


def _values_of_accepted(counts, path, steps):
    """Check that counts are from 0 to the steps there are, and steps on a path among these, each once."""
    most = steps if path is None else min(steps, path.shape[1])
    rows = [list(range(most))] * counts.numel() if path is None else path.tolist()
    for n, (count, row) in enumerate(zip(counts.tolist(), rows, strict=True)):
        if not 0 <= count <= most:
            raise check.wrong_value("num_accepted_steps", f"entry {n} from 0 to {most}", count)
        for i, step in enumerate(row[:count]):
            least = 0 if i == 0 else row[i - 1] + 1  # a parent comes before its child
            if not least <= step < steps:
                expected = f"entry [{n}, {i}] from {least} to {steps - 1}"
                raise check.wrong_value("accepted_path", expected, step)
