"""Launches the recurrent kernel: arguments already checked, views made, strides counted, tile picked."""

import triton

from . import tiles
from .current_device import current
from .recurrent import recurrent_kernel
from .recurrent_steps import BOUNDED, GIVEN, SOFTPLUS, Variant
from .step_changes import rows_of


def packed_tokens(x, cu_seqlens):
    """Return x [B, T, ...] as [1, B*T, ...] if cu_seqlens cuts the sequences: a view, save for odd strides.

    x itself if it is None, or dense, or one batch row already.
    """
    return x if cu_seqlens is None or x is None or x.shape[0] == 1 else x.flatten(0, 1).unsqueeze(0)


def launch(
    q, k, v, g, beta, o, *, kda, h0=None, ht=None, h_indices=None, accepted=None, cu_seqlens=None, cache=None,
    cache_indices=None, cache_steps=0, parents=None, scale, l2norm=False, raw_beta=False, neg_eigval=False,
    A_log=None, dt_bias=None, lower_bound=None, softplus_beta=1.0, softplus_threshold=20.0, kv=False,
    zero_padded=False, batch_invariant=False,
):  # fmt: skip
    """Run all sequences of q, k [B, T, H, K], v, o [B, T, HV, V], g, beta [B, T, HV] (kda: g [B, T, HV, K]).

    g: natural log decay, or with A_log the raw gate; beta, None for ones. Written: o (None: not wanted), ht
    (h0 itself, or a tensor apart), cache [rows, steps, HV, V, K] or, for the changes, [rows, steps, numbers],
    its first cache_steps steps, and, if h_indices has two dimensions, the slots of h0 that it names. The rest
    as the public functions have it. Nothing is checked, and nothing is copied but by packed_tokens, and
    cu_seqlens where it has a stride.
    """
    q, k, v, g, beta, flat_o = (packed_tokens(x, cu_seqlens) for x in (q, k, v, g, beta, o))
    B, T, H, K = k.shape
    HV, V = v.shape[2:]
    if cu_seqlens is not None:
        cu_seqlens = cu_seqlens.contiguous()
    N = B if cu_seqlens is None else cu_seqlens.numel() - 1
    final_apart = ht is not None and ht is not h0
    if N == 0 or (T == 0 and not final_apart):
        if o is not None:
            o.zero_()
        return

    changes = cache is not None and cache.ndim == 3
    states = [x for x in (h0, ht, None if changes else cache) if x is not None]
    rows_read = [q, k, v, *states] if o is None else [q, k, v, flat_o, *states]
    if kda:
        rows_read += [g] if dt_bias is None else [g, dt_bias.view(HV, K)]
    token_slots = h_indices is not None and h_indices.ndim == 2
    row = V if kv else K
    # A dense sequence starts so many rows into the batch, a packed one so many tokens.
    sequence = (0, 1, 2) if cu_seqlens is None else (1, 1, 2)

    tile = tiles.pick(V, kda)
    BK = max(triton.next_power_of_2(K), 16)
    variant = Variant(
        K=K, V=V, BK=BK, BV=tile.BV, WHOLE_ROWS=V % tile.BV == 0, WHOLE_COLUMNS=K == BK,
        ALIGNED=all(is_aligned(x, batch_invariant) for x in rows_read),
        PACKED_ROWS=all(x.shape[-2] == 1 or x.stride(-2) == row for x in states),
        KV=kv, KDA=kda, L2NORM=l2norm, RAW_BETA=raw_beta, NEG_EIGVAL=neg_eigval,
        GATE=GIVEN.value if A_log is None else SOFTPLUS.value if lower_bound is None else BOUNDED.value,
        ONE_TOKEN=cu_seqlens is None and T == 1, FINAL_APART=final_apart, TOKEN_SLOTS=token_slots,
        KEEPS_CHANGES=changes,
        CHANGES_ALIGNED=changes
        and all(is_aligned(x, batch_invariant) for x in rows_of(cache, H, HV, K, V, kda)),
        ZERO_PADDED=zero_padded,
    )  # fmt: skip
    grid = (N * HV * triton.cdiv(V, tile.BV),)
    with current(k.device):
        recurrent_kernel[grid](
            q, k, v, g, beta, A_log, dt_bias, flat_o, h0, ht, h_indices, cu_seqlens, cache, cache_indices,
            parents, accepted, scale,
            (0.0 if lower_bound is None else lower_bound, softplus_beta, softplus_threshold),
            N, T, B * T, HV, HV // H, cache_steps, 0 if parents is None else parents.shape[1],
            h_indices.shape[1] if token_slots else 0,
            *strides(q, sequence), *strides(k, sequence), *strides(v, sequence),
            *strides(g, sequence), *strides(beta, sequence), *strides(flat_o, sequence),
            *strides(h0, (0, 1, 2)), *strides(ht, (0, 1, 2)),
            *((*strides(cache, (0, 1)), 0, 0) if changes else strides(cache, (0, 1, 2, 3))),
            *(strides(h_indices, (0, 1)) if token_slots else (*strides(h_indices, (0,)), 0)),
            *strides(accepted, (0,)), *strides(cache_indices, (0,)), *strides(parents, (0, 1)),
            VARIANT=variant, num_warps=tile.num_warps, num_stages=tile.num_stages,
        )  # fmt: skip


def is_aligned(x, whatever_the_sizes):
    """Return whether the rows of x, its last dimension, all start on 16-byte boundaries.

    The answer picks a variant of the kernel, and with it maybe the order of a sum: where the bits must not
    depend on the batch, the stride of a batch of one counts too.
    """
    boundary = 16 // x.element_size()
    return x.data_ptr() % 16 == 0 and all(
        stride % boundary == 0
        for size, stride in zip(x.shape[:-1], x.stride()[:-1], strict=True)
        if size > 1 or whatever_the_sizes
    )


def strides(x, dims):
    """Return the strides of these dimensions, in elements; zeros if x is None.

    That of a dimension of one element may say anything and is never stepped: zero too.
    """
    return [0 if x is None or x.shape[dim] == 1 else x.stride(dim) for dim in dims]
