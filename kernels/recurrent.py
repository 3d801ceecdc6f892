"""The recurrent kernel: one program walks one sequence for one value head and BV rows of its state.

It serves whole sequences, updates of a state pool, decode, packed decode and verify, for GDN and KDA. Rows of
the state do not depend on each other, so a program needs nothing from its neighbours: it reads its rows once,
keeps them in fp32 registers, and writes them once.

Each token does, for a state S [V, K], with g its log decay (natural log; one number, for KDA one per channel
of K) and beta how much of the error it writes:

    S <- S diag(exp(g));    S <- S + beta (v - S k) k^T;    o = scale S q

The second step is the delta rule for fast weights (Schlag, Irie and Schmidhuber 2021, "Linear Transformers
Are Secretly Fast Weight Programmers", section 4.2); with one decay per head before it, it is the gated delta
rule (Yang, Kautz and Hatamizadeh 2024, "Gated Delta Networks: Improving Mamba2 with Delta Rule", section 3);
with one per channel, Kimi delta attention (Kimi Team 2025, "Kimi Linear: An Expressive, Efficient Attention
Architecture", section 3).
"""

import triton
import triton.language as tl

from .recurrent_steps import (
    GIVEN,
    change_places,
    gate_weights,
    read_state,
    row,
    state_offsets,
    walk,
    write,
    write_state,
    zero_rows,
)  # fmt: skip

# Strides and sizes vary freely, and tensors lie anywhere: nothing of that may compile another kernel, so each
# is a parameter of its own. Of what is passed in a tuple, Triton (3.6 to 3.9 at least) specialises on every
# integer that is 1, a multiple of 16, or past 2^31, and on every aligned pointer, whatever these lists say.
# Only floats, whose values it never looks at, and constants can be put together.
TENSORS = [
    "q", "k", "v", "g", "beta", "A_log", "dt_bias", "o", "h0", "ht", "h_indices", "cu_seqlens", "cache",
    "cache_indices", "parents", "accepted",
]  # fmt: skip
SIZES = ["N", "T", "tokens", "HV", "GROUP", "cache_steps", "parent_steps", "slot_steps"]
STRIDES = [
    *(f"stride_{x}_{axis}" for x in ("q", "k", "v", "g", "beta", "o") for axis in ("seq", "tok", "head")),
    *(f"stride_{x}_{axis}" for x in ("h0", "ht") for axis in ("slot", "head", "row")),
    *(f"stride_cache_{axis}" for axis in ("slot", "step", "head", "row")),
    *("stride_h_index", "stride_h_step", "stride_accepted"),
    *("stride_cache_index", "stride_parent_seq", "stride_parent_step"),
]


@triton.jit(do_not_specialize=SIZES + STRIDES, do_not_specialize_on_alignment=TENSORS)
def recurrent_kernel(
    q,  # [N, T, H, K] or, packed, [tokens, H, K]
    k,
    v,  # [.., HV, V]
    g,  # [.., HV], kda [.., HV, K]: log decay (natural log), or the raw gate
    beta,  # [.., HV], raw or not; None: ones
    A_log,  # [HV] and
    dt_bias,  # [HV], kda [HV, K], or None: for raw gates
    o,  # [.., HV, V]; None: no output wanted
    h0,  # states to start from, [slots, HV, V, K] (kv: [slots, HV, K, V]); None: zeros
    ht,  # where final states go, h0 itself or a tensor apart; None: nowhere
    h_indices,  # [N] (TOKEN_SLOTS: [N, slot_steps]), row of h0; negative: padding; None: its number
    cu_seqlens,  # [N + 1]; None: dense
    cache,  # [slots, steps, HV, V, K]: states after every step; KEEPS_CHANGES: [slots, steps, numbers], what
    # each step changes, fp32; None: not kept
    cache_indices,  # [N]
    parents,  # [N, steps]: the tree; None: a chain
    accepted,  # [N], TOKEN_SLOTS: the start is the slot of step accepted - 1; None: of step 0
    scale,
    gate_numbers,  # (lower_bound, softplus_beta, softplus_threshold)
    N,
    T,  # tokens of a dense sequence
    tokens,  # rows of a packed batch
    HV,
    GROUP,  # HV // H
    cache_steps,
    parent_steps,
    slot_steps,
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
    stride_h_step: tl.int64,
    stride_accepted: tl.int64,
    stride_cache_index: tl.int64,
    stride_parent_seq: tl.int64,
    stride_parent_step: tl.int64,
    VARIANT: tl.constexpr,
):
    """Walk BV rows of the state of one sequence and value head, token by token, and write what is wanted.

    One program each of N sequences * HV heads * cdiv(V, BV) tiles. Written: o, rows past the last sequence
    with zeros; ht, the final states, not those of negative slots; cache, the states after the first
    cache_steps tokens or what these change, not where the index is negative; with TOKEN_SLOTS the states
    after each token, to the slots of h0 that h_indices has for it. All else is read only. Loads are of any
    dtype, arithmetic is in fp32, and what is stored is rounded once.
    """
    # Value tiles, then heads, then sequences along one axis: only the first grid axis goes beyond 65535.
    NV: tl.constexpr = (VARIANT.V + VARIANT.BV - 1) // VARIANT.BV
    pid = tl.program_id(0)
    i_nh = pid // NV
    i_n = (i_nh // HV).to(tl.int64)
    i_hv = (i_nh % HV).to(tl.int64)
    i_h = i_hv // GROUP
    o_v = (pid % NV) * VARIANT.BV + tl.arange(0, VARIANT.BV)
    o_k = tl.arange(0, VARIANT.BK)
    rows = (o_v, o_v < VARIANT.V)
    columns = (o_k, o_k < VARIANT.K)

    i_slot = i_n
    if h_indices is not None:
        p_slots = h_indices + i_n * stride_h_index
        if VARIANT.TOKEN_SLOTS:
            if accepted is not None:
                # Counts that were not validated are still kept from leading outside of the table.
                step = tl.load(accepted + i_n * stride_accepted).to(tl.int64) - 1
                i_slot = tl.load(p_slots + tl.maximum(tl.minimum(step, slot_steps - 1), 0) * stride_h_step)
            else:
                i_slot = tl.load(p_slots)
            i_slot = i_slot.to(tl.int64)
        else:
            i_slot = tl.load(p_slots).to(tl.int64)

    if cu_seqlens is not None:
        first = tl.load(cu_seqlens + i_n).to(tl.int64)
        end = tl.load(cu_seqlens + i_n + 1).to(tl.int64)
        length = (end - first).to(tl.int32)
        if o is not None:
            if i_n == N - 1:
                zero_rows(o + i_hv * stride_o_head, stride_o_tok, end, tokens, rows, VARIANT)
        if not VARIANT.FINAL_APART:
            if length <= 0:
                return
    else:
        length = 1 if VARIANT.ONE_TOKEN else T
        first = i_n

    out = None
    if o is not None:
        p_q = row(q, first * stride_q_seq + i_h * stride_q_head, VARIANT.ALIGNED)
        p_o = row(o, first * stride_o_seq + i_hv * stride_o_head, VARIANT.ALIGNED)
        out = (p_q, p_o, stride_q_tok, stride_o_tok)
        if VARIANT.ZERO_PADDED:
            if i_slot < 0:
                write(p_o, rows, tl.full([VARIANT.BV], 0.0, tl.float32), VARIANT.WHOLE_ROWS)
                return
    p_beta = None
    if beta is not None:
        p_beta = beta + first * stride_beta_seq + i_hv * stride_beta_head
    token = (
        row(k, first * stride_k_seq + i_h * stride_k_head, VARIANT.ALIGNED),
        row(v, first * stride_v_seq + i_hv * stride_v_head, VARIANT.ALIGNED),
        row(g, first * stride_g_seq + i_hv * stride_g_head, VARIANT.ALIGNED and VARIANT.KDA),
    )
    steps = (stride_k_tok, stride_v_tok, stride_g_tok, stride_beta_tok)

    start = None
    b_h = tl.full([VARIANT.BV, VARIANT.BK], 0.0, tl.float32)
    if h0 is not None:
        p_h0 = row(h0, i_slot * stride_h0_slot + i_hv * stride_h0_head, VARIANT.ALIGNED)
        h0_offsets = state_offsets(rows, columns, stride_h0_row, VARIANT)
        start = (p_h0, h0_offsets, i_slot)
        b_h = read_state(p_h0, h0_offsets, i_slot, rows, columns, VARIANT)
    gate = None
    if VARIANT.GATE != GIVEN:
        gate = gate_weights(A_log, dt_bias, i_hv, columns, VARIANT)
    kept_states = None
    if cache is not None:
        i_cache = tl.load(cache_indices + i_n * stride_cache_index).to(tl.int64)
        p_cache = cache + i_cache * stride_cache_slot
        kept = tl.where(i_cache >= 0, cache_steps, 0)
        if VARIANT.KEEPS_CHANGES:
            cache_offsets = change_places(i_h, i_hv, pid % NV, HV, GROUP, VARIANT)
        else:
            p_cache = row(p_cache, i_hv * stride_cache_head, VARIANT.ALIGNED)
            cache_offsets = state_offsets(rows, columns, stride_cache_row, VARIANT)
        kept_states = (p_cache, stride_cache_step, cache_offsets, kept)
    token_slots = None
    if VARIANT.TOKEN_SLOTS:
        base = h0 + i_hv * stride_h0_head
        kept = tl.where(i_slot >= 0, slot_steps, 0)  # padding keeps nothing
        token_slots = (base, stride_h0_slot, h0_offsets, p_slots, stride_h_step, kept)
    tree = None
    if parents is not None:
        tree = (parents + i_n * stride_parent_seq, stride_parent_step, parent_steps)

    b_h = walk(
        b_h, length, token, p_beta, steps, gate, gate_numbers, scale, out, kept_states, token_slots, tree,
        start, rows, columns, VARIANT,
    )  # fmt: skip

    if ht is not None:
        if i_slot >= 0:
            if VARIANT.FINAL_APART:
                p_ht = row(ht, i_slot * stride_ht_slot + i_hv * stride_ht_head, VARIANT.ALIGNED)
                ht_offsets = state_offsets(rows, columns, stride_ht_row, VARIANT)
                write_state(p_ht, ht_offsets, b_h, rows, columns, VARIANT)
            else:
                write_state(p_h0, h0_offsets, b_h, rows, columns, VARIANT)
