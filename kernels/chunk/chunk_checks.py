"""What both public functions ask of the arguments they share."""

import torch

from .. import arguments as check

CHUNK_SIZES = (16, 32, 64)
MOST_TOKENS = 2**31 - max(CHUNK_SIZES)  # a token's number, rounded up to whole chunks, is an int32


def check_shared(
    q,
    v,
    tensors,
    *,
    scale,
    initial_state,
    indices,
    cu_seqlens,
    chunk_size,
    layout,
    flags,
    inplace_update,
    validate,
    has_initial=None,
):
    """Check everything but the dtypes and shapes of q, k, v, gates and beta; return the scale.

    tensors: those that are checked elsewhere, by name, for the check of devices. flags: what must be True or
    False, by name. has_initial: has_initial_state, None for all. Raises ValueError or TypeError, before
    anything is launched.
    """
    B, T, _, K = q.shape
    HV, V = v.shape[2:]
    if B * T > MOST_TOKENS:
        raise check.wrong_value("q", f"at most {MOST_TOKENS} tokens B * T", B * T)
    for name, value in flags.items():
        check.flag(name, value)
    check.flag("inplace_update", inplace_update)
    check.one_of("chunk_size", chunk_size, CHUNK_SIZES)
    check.one_of("layout", layout, ("vk", "kv"))
    scale = check.scale_or_default(scale, K)
    N = B
    if cu_seqlens is not None:
        N = check.sequence_bounds(cu_seqlens)
        if B != 1:
            raise check.wrong_value(
                "q", "batch size B = 1 with cu_seqlens (sequences end to end)", f"B = {B}"
            )
    written = initial_state is not None and inplace_update
    if initial_state is not None:
        check.states(
            "initial_state", initial_state, N if indices is None else None, HV, V, K, layout, written
        )
    if indices is not None:
        check.indices("initial_state_indices", indices, N)
    if has_initial is not None:
        check.tensor("has_initial_state", has_initial, (torch.bool,), ndim=1)
        check.shape("has_initial_state", has_initial, "[N]", (N,))
    check.one_device(
        tensors
        | {
            "initial_state": initial_state,
            "initial_state_indices": indices,
            "has_initial_state": has_initial,
            "cu_seqlens": cu_seqlens,
        }
    )
    if check.values_wanted(validate, q):
        if cu_seqlens is not None:
            check.values_of_cu_seqlens(cu_seqlens, T)
        if initial_state is not None and indices is not None:
            check.values_of_indices(
                "initial_state_indices", indices, initial_state.shape[0], written, "initial_state"
            )
    return scale


def check_track(track, track_chunk, N, HV, V, K, layout):
    """Check track_state [N, HV, V, K], fp32, and track_chunk_idx [N], int32 or int64: both or neither."""
    given = {"track_state": track, "track_chunk_idx": track_chunk}
    for name, other in (("track_state", "track_chunk_idx"), ("track_chunk_idx", "track_state")):
        if given[name] is None and given[other] is not None:
            raise check.wrong_type(name, f"a torch.Tensor, as {other} is given", "None")
    if track is not None:
        check.tensor("track_state", track, (torch.float32,), ndim=4)
        check.states("track_state", track, N, HV, V, K, layout, written=True)
        check.indices("track_chunk_idx", track_chunk, N)
