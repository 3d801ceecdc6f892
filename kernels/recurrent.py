"""The recurrent kernel: one program walks one sequence for one value head and BV rows of its state.

It serves whole sequences, updates of a state pool, decode, packed decode and verify, for GDN and KDA. Rows of
the state do not depend on each other, so a program needs nothing from its neighbours: it reads its rows once,
keeps them in fp32 registers, and writes them once.
"""

import triton
import triton.language as tl

from .device import bounded_gate, l2norm, sigmoid, softplus_gate

# How the log decay and beta arrive.
GIVEN = tl.constexpr(0)  # as they are used
SOFTPLUS = tl.constexpr(1)  # raw gate a: -exp(A_log) * softplus(a + dt_bias)
BOUNDED = tl.constexpr(2)  # raw gate a: lower_bound * sigmoid(exp(A_log) * (a + dt_bias))


@triton.jit
def advance(
    b_h, p_k, p_v, p_g, p_beta, o_k, o_v, mask_k, mask_v, pad_k, pad_v,
    b_A_log, b_dt_bias, lower_bound, softplus_beta, softplus_threshold,
    KDA: tl.constexpr, GATE: tl.constexpr, RAW_BETA: tl.constexpr, L2NORM: tl.constexpr,
):  # fmt: skip
    """The state b_h [BV, BK] after one more token."""
    b_k = tl.load(p_k + o_k, mask=mask_k, other=pad_k).to(tl.float32)  # [BK]
    b_v = tl.load(p_v + o_v, mask=mask_v, other=pad_v).to(tl.float32)  # [BV]
    if KDA:
        b_g = tl.load(p_g + o_k, mask=mask_k, other=pad_k).to(tl.float32)  # [BK]
    else:
        b_g = tl.load(p_g).to(tl.float32)
    if GATE == SOFTPLUS:
        b_g = softplus_gate(b_g + b_dt_bias, b_A_log, softplus_beta, softplus_threshold)
    elif GATE == BOUNDED:
        b_g = bounded_gate(b_g + b_dt_bias, b_A_log, lower_bound)
    if L2NORM:
        b_k = l2norm(b_k, 0)
    b_a = tl.exp(b_g)
    if KDA:
        b_a = b_a[None, :]
    b_h = b_h * b_a
    b_d = b_v - tl.sum(b_h * b_k[None, :], 1)  # [BV]
    if p_beta is not None:
        b_beta = tl.load(p_beta).to(tl.float32)
        if RAW_BETA:
            b_beta = sigmoid(b_beta)
        b_d = b_d * b_beta
    # One rounding order in every copy of the state that the compiler keeps (two for BK = 16, BV = 1):
    # contracted each in its own way they drift apart, and d, taken from one, no longer corrects the other.
    return tl.fma(b_d[:, None], b_k[None, :], b_h)


@triton.jit
def ancestors(p_parents, stride_parent, token):
    """Bit s says whether step s (below 64) is `token` or one of its ancestors. Below 0 is the start."""
    step = tl.maximum(token, 0)
    bits = tl.full((), 1, tl.int64) << step
    while step > 0:
        # A parent comes before its child; held to that, a bad table cannot make this loop endless.
        parent = tl.load(p_parents + step * stride_parent).to(tl.int64)
        step = tl.maximum(tl.minimum(parent, step - 1), 0)
        bits = bits | (tl.full((), 1, tl.int64) << step)
    return bits


@triton.jit(
    do_not_specialize=["N", "T", "tokens", "HV", "GROUP", "cache_steps", "parent_steps"]
    + [f"stride_{x}_{d}" for x in ("q", "k", "v", "g", "beta", "o") for d in ("seq", "tok", "head")]
    + [f"stride_{x}_{d}" for x in ("h0", "ht") for d in ("slot", "head", "row")]
    + [f"stride_cache_{d}" for d in ("slot", "step", "head", "row")]
    + ["stride_h_index", "stride_cache_index", "stride_parent_seq", "stride_parent_step"],
    do_not_specialize_on_alignment=[
        "q",
        "k",
        "v",
        "g",
        "beta",
        "A_log",
        "dt_bias",
        "o",
        "h0",
        "ht",
        "h_indices",
    ]
    + ["cu_seqlens", "cache", "cache_indices", "parents"],
)
def recurrent_kernel(
    q,  # [N, T, H, K] or, packed, [tokens, H, K]
    k,
    v,  # [.., HV, V]
    g,  # [.., HV], kda [.., HV, K]: log decay, or the raw gate
    beta,  # [.., HV], raw or not; None: ones
    A_log,  # [HV] and
    dt_bias,  # [HV], kda [HV, K], or None: for raw gates
    o,  # [.., HV, V]; None: no output wanted
    h0,  # states to start from, [slots, HV, V, K] (kv: [slots, HV, K, V]); None: zeros
    ht,  # where final states go, h0 itself or a tensor apart; None: nowhere
    h_indices,  # [N], row of h0 and ht, negative: padding; None: row n is sequence n
    cu_seqlens,  # [N + 1]; None: dense
    cache,  # states after every step, [slots, steps, HV, V, K]; None: not kept
    cache_indices,  # [N]
    parents,  # [N, steps]: the tree; None: a chain
    scale,
    lower_bound,
    softplus_beta,
    softplus_threshold,
    N,
    T,  # tokens of a dense sequence
    tokens,  # rows of a packed batch
    HV,
    GROUP,  # HV // H
    cache_steps,
    parent_steps,
    # Strides of one sequence to the next: of one row of the batch, or, packed, of one token.
    stride_q_seq: tl.int64,
    stride_q_tok: tl.int64,
    stride_q_head: tl.int64,
    stride_k_seq: tl.int64,
    stride_k_tok: tl.int64,
    stride_k_head: tl.int64,
    stride_v_seq: tl.int64,
    stride_v_tok: tl.int64,
    stride_v_head: tl.int64,
    stride_g_seq: tl.int64,
    stride_g_tok: tl.int64,
    stride_g_head: tl.int64,
    stride_beta_seq: tl.int64,
    stride_beta_tok: tl.int64,
    stride_beta_head: tl.int64,
    stride_o_seq: tl.int64,
    stride_o_tok: tl.int64,
    stride_o_head: tl.int64,
    stride_h0_slot: tl.int64,
    stride_h0_head: tl.int64,
    stride_h0_row: tl.int64,
    stride_ht_slot: tl.int64,
    stride_ht_head: tl.int64,
    stride_ht_row: tl.int64,
    stride_cache_slot: tl.int64,
    stride_cache_step: tl.int64,
    stride_cache_head: tl.int64,
    stride_cache_row: tl.int64,
    stride_h_index: tl.int64,
    stride_cache_index: tl.int64,
    stride_parent_seq: tl.int64,
    stride_parent_step: tl.int64,
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,  # K rounded up to a power of two
    BV: tl.constexpr,
    ALIGNED: tl.constexpr,  # every row of K or V elements starts on a 16-byte boundary: wide loads are legal
    PACKED_ROWS: tl.constexpr,  # rows of every state tensor lie end to end: their addresses are constants
    KV: tl.constexpr,  # state tensors are [.., K, V]
    KDA: tl.constexpr,
    GATE: tl.constexpr,
    RAW_BETA: tl.constexpr,
    L2NORM: tl.constexpr,
    ONE_TOKEN: tl.constexpr,  # dense with T = 1
    FINAL_APART: tl.constexpr,  # ht is not h0: every row of it is written, those of empty sequences too
    ZERO_PADDED: tl.constexpr,  # the output of padding is zero, not what a zero state gives
):
    # Value tiles, then heads, then sequences along one axis: only the first grid axis goes beyond 65535.
    NV: tl.constexpr = (V + BV - 1) // BV
    pid = tl.program_id(0)
    i_nh = pid // NV
    i_n = (i_nh // HV).to(tl.int64)
    i_hv = (i_nh % HV).to(tl.int64)
    i_h = i_hv // GROUP

    o_k = tl.arange(0, BK)
    o_v = (pid % NV) * BV + tl.arange(0, BV)
    # Masks that would be all true are left out, so that nothing stands between the compiler and wide loads.
    mask_k = None
    pad_k = None
    if K < BK:
        mask_k = o_k < K
        pad_k = 0.0
    mask_v = None
    pad_v = None
    if V % BV != 0:
        mask_v = o_v < V
        pad_v = 0.0
    mask_h = None
    pad_h = None
    if K < BK or V % BV != 0:
        mask_h = (o_v < V)[:, None] & (o_k < K)[None, :]  # [BV, BK]
        pad_h = 0.0

    i_slot = i_n
    if h_indices is not None:
        i_slot = tl.load(h_indices + i_n * stride_h_index).to(tl.int64)

    if cu_seqlens is not None:
        bos = tl.load(cu_seqlens + i_n).to(tl.int64)
        eos = tl.load(cu_seqlens + i_n + 1).to(tl.int64)
        length = (eos - bos).to(tl.int32)
        if o is not None:
            if i_n == N - 1:
                b_zero = tl.zeros([BV], o.dtype.element_ty)
                for i_t in range(eos, tokens):
                    tl.store(o + i_t * stride_o_tok + i_hv * stride_o_head + o_v, b_zero, mask=mask_v)
        if not FINAL_APART:
            if length <= 0:
                return
        start = bos
    else:
        length = 1 if ONE_TOKEN else T
        start = i_n

    p_k = k + start * stride_k_seq + i_h * stride_k_head
    p_v = v + start * stride_v_seq + i_hv * stride_v_head
    p_g = g + start * stride_g_seq + i_hv * stride_g_head
    p_beta = None
    if beta is not None:
        p_beta = beta + start * stride_beta_seq + i_hv * stride_beta_head
    if o is not None:
        p_q = q + start * stride_q_seq + i_h * stride_q_head
        p_o = o + start * stride_o_seq + i_hv * stride_o_head
    # The hints have to stand where an address is made: they do not reach through a function's arguments.
    if ALIGNED:
        p_k = tl.multiple_of(p_k, 16)
        p_v = tl.multiple_of(p_v, 16)
        if KDA:
            p_g = tl.multiple_of(p_g, 16)
        if o is not None:
            p_q = tl.multiple_of(p_q, 16)
            p_o = tl.multiple_of(p_o, 16)

    if ZERO_PADDED:
        if i_slot < 0:
            tl.store(p_o + o_v, tl.zeros([BV], o.dtype.element_ty), mask=mask_v)
            return

    # Where the rows lie within one head's state, [BV, BK].
    if PACKED_ROWS:
        if KV:
            at_h0 = o_v[:, None] + o_k[None, :] * V
        else:
            at_h0 = o_v[:, None] * K + o_k[None, :]
        at_ht = at_h0
        at_cache = at_h0
    else:
        o_v64 = o_v.to(tl.int64)[:, None]
        o_k64 = o_k.to(tl.int64)[None, :]
        if KV:
            at_h0 = o_v64 + o_k64 * stride_h0_row
            at_ht = o_v64 + o_k64 * stride_ht_row
            at_cache = o_v64 + o_k64 * stride_cache_row
        else:
            at_h0 = o_v64 * stride_h0_row + o_k64
            at_ht = o_v64 * stride_ht_row + o_k64
            at_cache = o_v64 * stride_cache_row + o_k64

    if h0 is not None:
        p_h0 = h0 + i_slot * stride_h0_slot + i_hv * stride_h0_head
        if ALIGNED:
            p_h0 = tl.multiple_of(p_h0, 16)
        b_h0 = tl.zeros([BV, BK], h0.dtype.element_ty)
        if i_slot >= 0:
            b_h0 = tl.load(p_h0 + at_h0, mask=mask_h, other=pad_h)
        b_h = b_h0.to(tl.float32)
    else:
        b_h = tl.zeros([BV, BK], tl.float32)

    b_A_log = None
    b_dt_bias = 0.0
    if GATE != GIVEN:
        b_A_log = tl.load(A_log + i_hv).to(tl.float32)
        if dt_bias is not None:
            if KDA:
                p_dt_bias = dt_bias + i_hv * K
                if ALIGNED:
                    p_dt_bias = tl.multiple_of(p_dt_bias, 16)
                b_dt_bias = tl.load(p_dt_bias + o_k, mask=mask_k, other=pad_k).to(tl.float32)
            else:
                b_dt_bias = tl.load(dt_bias + i_hv).to(tl.float32)

    if cache is not None:
        i_cache = tl.load(cache_indices + i_n * stride_cache_index).to(tl.int64)
        p_cache = cache + i_cache * stride_cache_slot + i_hv * stride_cache_head
        if ALIGNED:
            p_cache = tl.multiple_of(p_cache, 16)
        kept = tl.where(i_cache >= 0, cache_steps, 0)
    if parents is not None:
        p_parents = parents + i_n * stride_parent_seq
        # The tree's replays start over from the first token.
        p_k0 = p_k
        p_v0 = p_v
        p_g0 = p_g
        p_beta0 = p_beta

    for i_t in range(length):
        if parents is not None:
            # Tables that were not validated are still kept from leading outside: a parent not before its
            # child becomes the token before it, a negative one the start.
            parent = tl.load(
                p_parents + i_t * stride_parent_step, mask=(i_t > 0) & (i_t < parent_steps), other=i_t - 1
            )
            parent = tl.maximum(tl.minimum(parent.to(tl.int32), i_t - 1), -1)
            if parent != i_t - 1:
                # Another branch: its states are gone, so take its path again from the start, in fp32.
                bits = ancestors(p_parents, stride_parent_step, parent.to(tl.int64))
                b_h = tl.zeros([BV, BK], tl.float32)
                if h0 is not None:
                    if i_slot >= 0:
                        b_h = tl.load(p_h0 + at_h0, mask=mask_h, other=pad_h).to(tl.float32)
                for i_s in range(parent + 1):
                    if ((bits >> i_s) & 1) != 0:
                        p_k_s = p_k0 + i_s * stride_k_tok
                        p_v_s = p_v0 + i_s * stride_v_tok
                        p_g_s = p_g0 + i_s * stride_g_tok
                        p_beta_s = None
                        if beta is not None:
                            p_beta_s = p_beta0 + i_s * stride_beta_tok
                        if ALIGNED:
                            p_k_s = tl.multiple_of(p_k_s, 16)
                            p_v_s = tl.multiple_of(p_v_s, 16)
                            if KDA:
                                p_g_s = tl.multiple_of(p_g_s, 16)
                        b_h = advance(
                            b_h, p_k_s, p_v_s, p_g_s, p_beta_s, o_k, o_v, mask_k, mask_v, pad_k, pad_v,
                            b_A_log, b_dt_bias, lower_bound, softplus_beta, softplus_threshold, KDA, GATE,
                            RAW_BETA, L2NORM,
                        )  # fmt: skip

        if o is not None:
            b_q = tl.load(p_q + o_k, mask=mask_k, other=pad_k).to(tl.float32)  # [BK]
            if L2NORM:
                b_q = l2norm(b_q, 0)
            b_q = b_q * scale
        b_h = advance(
            b_h, p_k, p_v, p_g, p_beta, o_k, o_v, mask_k, mask_v, pad_k, pad_v,
            b_A_log, b_dt_bias, lower_bound, softplus_beta, softplus_threshold, KDA, GATE, RAW_BETA, L2NORM,
        )  # fmt: skip
        if o is not None:
            b_o = tl.sum(b_h * b_q[None, :], 1)  # [BV]
            tl.store(p_o + o_v, b_o.to(o.dtype.element_ty), mask=mask_v)
        if cache is not None:
            if i_t < kept:
                tl.store(p_cache + at_cache, b_h.to(cache.dtype.element_ty), mask=mask_h)

        if not ONE_TOKEN:
            p_k += stride_k_tok
            p_v += stride_v_tok
            p_g += stride_g_tok
            if beta is not None:
                p_beta += stride_beta_tok
            if o is not None:
                p_q += stride_q_tok
                p_o += stride_o_tok
            if cache is not None:
                p_cache += stride_cache_step
            if ALIGNED:
                p_k = tl.multiple_of(p_k, 16)
                p_v = tl.multiple_of(p_v, 16)
                if KDA:
                    p_g = tl.multiple_of(p_g, 16)
                if o is not None:
                    p_q = tl.multiple_of(p_q, 16)
                    p_o = tl.multiple_of(p_o, 16)
                if cache is not None:
                    p_cache = tl.multiple_of(p_cache, 16)

    if ht is not None:
        if i_slot >= 0:
            if FINAL_APART:
                p_ht = ht + i_slot * stride_ht_slot + i_hv * stride_ht_head
                if ALIGNED:
                    p_ht = tl.multiple_of(p_ht, 16)
            else:
                p_ht = p_h0
            tl.store(p_ht + at_ht, b_h.to(ht.dtype.element_ty), mask=mask_h)
