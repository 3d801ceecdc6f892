"""The stages in order, for both operations."""

from collections.abc import Callable
from contextlib import contextmanager

import torch
import triton

from ..current_device import current
from .chunk_matrices import chunk_matrices
from .chunk_tiles import is_walked, walk_segments
from .gates import kda_gates
from .normalise import normalise
from .output import output
from .state import state_pass
from .tile_table import chunk_count, chunk_table
from .walk import walk
from .wy_gdn import wy_gdn
from .wy_kda import wy_kda

_observers: list[Callable[[dict[str, object]], None]] = []


@contextmanager
def observed(observer):
    """While active, have each run hand over its arguments and what every stage left, behind the last stage.

    observer: called with them by the names that they have in `run`. The tensors are no copies.
    """
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


def run(
    q, k, v, g, beta, *, scale, initial_state, indices, cu_seqlens, l2norm, inplace_update,
    output_final_state,
    boundary_states, chunk_size, layout, batch_invariant, raw_beta=False, neg_eigval=False, A_log=None,
    dt_bias=None, lower_bound=None, has_initial=None, track=None, track_chunk=None,
):  # fmt: skip
    """Run all stages on checked arguments; return (o, final state or None, boundary states or None).

    g [B, T, HV] for gdn, [B, T, HV, K] for kda. What is returned, and what is written to initial_state, is as
    the public functions say. indices: initial_state_indices. has_initial: has_initial_state. track,
    track_chunk: track_state and track_chunk_idx.
    """
    B, T, HV, V = v.shape
    K = k.shape[3]
    tokens = B * T
    N = B if cu_seqlens is None else cu_seqlens.numel() - 1
    matrix = (K, V) if layout == "kv" else (V, K)
    # Of products and of what stands between stages. No two of the formats hold each other's numbers but fp32.
    dtype = q.dtype if q.dtype == k.dtype == v.dtype else torch.float32
    final = None
    if output_final_state:
        kept = torch.float32 if initial_state is None else initial_state.dtype
        final = torch.empty(N, HV, *matrix, dtype=kept, device=v.device)
    dense = cu_seqlens is None
    if dense:
        cu_seqlens = torch.arange(N + 1, dtype=torch.int32, device=v.device) * T
        chunks = B * triton.cdiv(T, chunk_size)
    else:
        cu_seqlens = cu_seqlens.contiguous()  # a column of a table is copied
        if boundary_states:
            chunks = chunk_count(cu_seqlens, chunk_size)  # the shape of a result: has to be known here
    with current(v.device):
        table, first = chunk_table(cu_seqlens, tokens, chunk_size)
        if not dense and not boundary_states:
            chunks = table.shape[0]  # at least as many as there are

        rest = initial_state, indices, final, cu_seqlens, first, chunks
        shared = {
            "write_pool": inplace_update and initial_state is not None,
            "layout": layout,
            "chunk_size": chunk_size,
            "has_initial": has_initial,
        }
        raw = {"A_log": A_log, "dt_bias": dt_bias, "raw_beta": raw_beta, "neg_eigval": neg_eigval}
        if g.ndim == 3 and is_walked(dtype, chunk_size, K, V) and not _observers:
            o = torch.empty(B, T, HV, V, dtype=q.dtype, device=v.device)
            matrices = chunk_matrices(q, k, g, beta, o, table, chunk_size, l2norm=l2norm, **raw)
            segments = 1 if batch_invariant or not l2norm else walk_segments(N, HV, V, chunks)
            h = walk(
                q, k, v, *matrices, o, *rest, scale, boundary_states=boundary_states, segments=segments,
                **shared,
            )  # fmt: skip
        else:
            if l2norm:
                q, k = normalise(q), normalise(k)
            pool = shared | {
                "batch_invariant": batch_invariant, "track": track, "track_chunk": track_chunk,
            }  # fmt: skip
            if g.ndim == 3:
                gc, w, u = wy_gdn(
                    k, v, g, beta, table, chunk_size, dtype=dtype, A_log=A_log, dt_bias=dt_bias,
                    raw_beta=raw_beta, neg_eigval=neg_eigval,
                )  # fmt: skip
                h, v_new = state_pass(k, w, u, gc, *rest, **pool)
                stages = q, k, v_new, gc, None
            else:
                gc = kda_gates(g, A_log, dt_bias, lower_bound, table, chunk_size)
                w, kg, qg, u, A = wy_kda(
                    q, k, v, gc, beta, table, chunk_size, dtype=dtype, raw_beta=raw_beta,
                    neg_eigval=neg_eigval,
                )  # fmt: skip
                h, v_new = state_pass(kg, w, u, gc, *rest, **pool)
                stages = qg, None, v_new, None, A
            o = output(*stages, h, scale, table, dtype=q.dtype, layout=layout, chunk_size=chunk_size)
            for observer in _observers:
                observer(locals())
    if not boundary_states:
        return o, final, None
    h = h.to(k.dtype)
    return o, final, h.view(B, triton.cdiv(T, chunk_size), HV, *matrix) if dense else h.unsqueeze(0)
