"""What a program of the recurrent kernel does: reads and writes rows and states, walks over the tokens."""

from typing import NamedTuple

import triton
import triton.language as tl

from .device import bounded_gate, l2norm, softplus_gate, write_strength

# How the log decay and beta arrive.
GIVEN = tl.constexpr(0)  # as they are used
SOFTPLUS = tl.constexpr(1)  # raw gate a: -exp(A_log) * softplus(a + dt_bias)
BOUNDED = tl.constexpr(2)  # raw gate a: lower_bound * sigmoid(exp(A_log) * (a + dt_bias))


class Variant(NamedTuple):
    """What the kernel is compiled for, beside dtypes and which tensors there are: one constexpr argument."""

    K: int
    V: int
    BK: int  # K rounded up to a power of two
    BV: int
    WHOLE_ROWS: bool  # V is a multiple of BV. If not, rows of the state are masked
    WHOLE_COLUMNS: bool  # K is BK. If not, columns of the state are masked
    ALIGNED: bool  # every row of K or V elements starts on a 16-byte boundary: wide loads are legal
    PACKED_ROWS: bool  # rows of every state tensor lie end to end: their addresses are constants
    KV: bool  # state tensors are [.., K, V]
    KDA: bool
    GATE: int  # GIVEN, SOFTPLUS or BOUNDED
    RAW_BETA: bool
    NEG_EIGVAL: bool  # a raw beta is 2 sigmoid(b)
    L2NORM: bool
    ONE_TOKEN: bool  # dense with T = 1
    FINAL_APART: bool  # ht is not h0: every row of it is written, those of empty sequences too
    TOKEN_SLOTS: bool  # the state after each token goes to a slot of its own, of h0; no tree, no ht
    KEEPS_CHANGES: bool  # cache takes what each token changes of the state, not the state after it
    CHANGES_ALIGNED: bool  # as ALIGNED, of the rows of d, k and g in it
    ZERO_PADDED: bool  # the output of padding is zero, not what a zero state gives


@triton.jit
def row(p, offset, ALIGNED: tl.constexpr):
    """Return the address p + offset of a row. ALIGNED: the compiler is told that it divides by 16 bytes."""
    p += offset
    # The hint has to stand where an address is made: it does not reach through a function's arguments.
    if ALIGNED:
        p = tl.multiple_of(p, 16)
    return p


# Below, `rows` and `columns` are a program's part of the state: (numbers, mask) of BV rows, of BK columns. A
# mask that would be all true is not used, so that nothing stands between the compiler and wide loads.


@triton.jit
def read(p, elements, WHOLE: tl.constexpr):
    """Return elements of the vector at p in fp32, zeros past its end.

    elements: rows or columns. WHOLE: none of them are past the end.
    """
    if WHOLE:
        b_x = tl.load(p + elements[0])
    else:
        b_x = tl.load(p + elements[0], mask=elements[1], other=0.0)
    return b_x.to(tl.float32)


@triton.jit
def write(p, elements, b_x, WHOLE: tl.constexpr):
    """Store b_x, rounded to p's dtype, as elements of the vector at p. elements, WHOLE: as read has them."""
    if WHOLE:
        tl.store(p + elements[0], b_x.to(p.dtype.element_ty))
    else:
        tl.store(p + elements[0], b_x.to(p.dtype.element_ty), mask=elements[1])


@triton.jit
def state_offsets(rows, columns, stride_row, VARIANT: tl.constexpr):
    """Return where the elements [BV, BK] of these rows and columns lie within one head's state.

    stride_row: from one row in memory to the next, of K elements or (KV) of V. In 64 bits unless rows lie
    end to end.
    """
    o_v = rows[0]
    o_k = columns[0]
    if VARIANT.PACKED_ROWS:
        if VARIANT.KV:
            offsets = o_v[:, None] + o_k[None, :] * VARIANT.V
        else:
            offsets = o_v[:, None] * VARIANT.K + o_k[None, :]
    else:
        o_v64 = o_v.to(tl.int64)[:, None]
        o_k64 = o_k.to(tl.int64)[None, :]
        if VARIANT.KV:
            offsets = o_v64 + o_k64 * stride_row
        else:
            offsets = o_v64 * stride_row + o_k64
    return offsets


@triton.jit
def read_state(p_h, offsets, i_slot, rows, columns, VARIANT: tl.constexpr):
    """Return the state [BV, BK] at p_h in fp32; zeros where i_slot is negative."""
    b_h = tl.full([VARIANT.BV, VARIANT.BK], 0.0, p_h.dtype.element_ty)
    if i_slot >= 0:
        if VARIANT.WHOLE_ROWS and VARIANT.WHOLE_COLUMNS:
            b_h = tl.load(p_h + offsets)
        else:
            mask = rows[1][:, None] & columns[1][None, :]
            b_h = tl.load(p_h + offsets, mask=mask, other=0.0)
    return b_h.to(tl.float32)


@triton.jit
def write_state(p_h, offsets, b_h, rows, columns, VARIANT: tl.constexpr):
    """Store the fp32 state b_h [BV, BK] at p_h, rounded to its dtype."""
    if VARIANT.WHOLE_ROWS and VARIANT.WHOLE_COLUMNS:
        tl.store(p_h + offsets, b_h.to(p_h.dtype.element_ty))
    else:
        mask = rows[1][:, None] & columns[1][None, :]
        tl.store(p_h + offsets, b_h.to(p_h.dtype.element_ty), mask=mask)


@triton.jit
def gate_weights(A_log, dt_bias, i_hv, columns, VARIANT: tl.constexpr):
    """Return A_log of head i_hv and its dt_bias (KDA: [BK]), in fp32; no dt_bias is zero."""
    b_A_log = tl.load(A_log + i_hv).to(tl.float32)
    b_dt_bias = 0.0
    if dt_bias is not None:
        if VARIANT.KDA:
            p_dt_bias = row(dt_bias, i_hv * VARIANT.K, VARIANT.ALIGNED)
            b_dt_bias = read(p_dt_bias, columns, VARIANT.WHOLE_COLUMNS)
        else:
            b_dt_bias = tl.load(dt_bias + i_hv).to(tl.float32)
    return b_A_log, b_dt_bias


@triton.jit
def log_decay(b_g, gate, gate_numbers, GATE: tl.constexpr):
    """Return the natural log decay of b_g: itself where GIVEN, else what raw gates b_g give.

    gate: what gate_weights returns. gate_numbers: lower_bound, softplus_beta, softplus_threshold.
    """
    if GATE == SOFTPLUS:
        b_g = softplus_gate(b_g + gate[1], gate[0], gate_numbers[1], gate_numbers[2])
    elif GATE == BOUNDED:
        b_g = bounded_gate(b_g + gate[1], gate[0], gate_numbers[0])
    return b_g


@triton.jit
def decayed(b_h, b_g, VARIANT: tl.constexpr):
    """Return exp(g) S for the state b_h [BV, BK]; b_g: the natural log decay, for KDA [BK]."""
    b_a = tl.exp(b_g)
    if VARIANT.KDA:
        b_a = b_a[None, :]
    return b_h * b_a


@triton.jit
def written(b_h, b_d, b_k):
    """Return S + d k^T for the state b_h [BV, BK], b_d [BV] and b_k [BK]."""
    # One rounding order in every copy of the state that the compiler keeps (two for BK = 16, BV = 1):
    # contracted each in its own way they drift apart, and d, taken from one, no longer corrects the other.
    return tl.fma(b_d[:, None], b_k[None, :], b_h)


@triton.jit
def advance(b_h, token, p_beta, gate, gate_numbers, rows, columns, VARIANT: tl.constexpr):
    """Return the state b_h [BV, BK] after one more token, S as in `recurrent` without o, and its change.

    token: addresses of its k, v and g. p_beta: of its beta, None for one. gate, gate_numbers: as log_decay
    has them. All arithmetic is in fp32. The change (b_d [BV], b_k [BK], b_g) is what `fold` makes the same
    state of: S <- exp(g) S + d k^T, with d = beta (v - exp(g) S k).
    """
    p_k, p_v, p_g = token
    b_k = read(p_k, columns, VARIANT.WHOLE_COLUMNS)
    b_v = read(p_v, rows, VARIANT.WHOLE_ROWS)
    if VARIANT.KDA:
        b_g = read(p_g, columns, VARIANT.WHOLE_COLUMNS)
    else:
        b_g = tl.load(p_g).to(tl.float32)
    b_g = log_decay(b_g, gate, gate_numbers, VARIANT.GATE)
    if VARIANT.L2NORM:
        b_k = l2norm(b_k, 0)
    b_h = decayed(b_h, b_g, VARIANT)
    b_d = b_v - tl.sum(b_h * b_k[None, :], 1)  # [BV]
    if p_beta is not None:
        b_beta = tl.load(p_beta).to(tl.float32)
        if VARIANT.RAW_BETA:
            b_beta = write_strength(b_beta, VARIANT.NEG_EIGVAL)
        b_d = b_d * b_beta
    return written(b_h, b_d, b_k), (b_d, b_k, b_g)


@triton.jit
def change_places(i_h, i_hv, i_v, HV, GROUP, VARIANT: tl.constexpr):
    """Return where d, k and g of a value head lie in the numbers of a step, and who writes k, and g.

    The numbers are d [HV, V], k [H, K] and g [HV] or (KDA) [HV, K], end to end; i_h: the query head. Of the
    programs that all have the same k or g, one writes it: that of the first rows (i_v), and the first head.
    """
    k_start = HV * VARIANT.V
    g_start = k_start + HV // GROUP * VARIANT.K
    g_width: tl.constexpr = VARIANT.K if VARIANT.KDA else 1
    first = i_v == 0
    return (
        i_hv * VARIANT.V,
        k_start + i_h * VARIANT.K,
        g_start + i_hv * g_width,
        first & (i_hv % GROUP == 0),
        first,
    )


@triton.jit
def write_change(p_step, places, change, rows, columns, VARIANT: tl.constexpr):
    """Store the change of a token, as advance returns it, among the fp32 numbers of its step at p_step.

    places: what change_places returns.
    """
    write(row(p_step, places[0], VARIANT.CHANGES_ALIGNED), rows, change[0], VARIANT.WHOLE_ROWS)
    if places[3]:
        write(row(p_step, places[1], VARIANT.CHANGES_ALIGNED), columns, change[1], VARIANT.WHOLE_COLUMNS)
    if places[4]:
        if VARIANT.KDA:
            write(row(p_step, places[2], VARIANT.CHANGES_ALIGNED), columns, change[2], VARIANT.WHOLE_COLUMNS)
        else:
            tl.store(p_step + places[2], change[2])


@triton.jit
def ancestors(p_parents, stride_parent, token):
    """Return an int64 whose bit s says that step s (below 64) is `token` or one of its ancestors.

    Below 0 is the start, which has none.
    """
    step = tl.maximum(token, 0)
    bits = tl.full((), 1, tl.int64) << step
    while step > 0:
        # A parent comes before its child; held to that, a bad table cannot make this loop endless.
        parent = tl.load(p_parents + step * stride_parent).to(tl.int64)
        step = tl.maximum(tl.minimum(parent, step - 1), 0)
        bits = bits | (tl.full((), 1, tl.int64) << step)
    return bits


@triton.jit
def replay(b_h, bits, last, token, p_beta, steps, gate, gate_numbers, rows, columns, VARIANT: tl.constexpr):
    """Return the state after those of steps 0 to `last` whose bit is set, from the state b_h on.

    token, p_beta: addresses of the first token's k, v and g, and of its beta. steps: strides of k, v, g and
    beta from token to token.
    """
    p_k, p_v, p_g = token
    for i_s in range(last + 1):
        if ((bits >> i_s) & 1) != 0:
            p_beta_s = None
            if p_beta is not None:
                p_beta_s = p_beta + i_s * steps[3]
            one = (
                row(p_k, i_s * steps[0], VARIANT.ALIGNED),
                row(p_v, i_s * steps[1], VARIANT.ALIGNED),
                row(p_g, i_s * steps[2], VARIANT.ALIGNED and VARIANT.KDA),
            )
            b_h, _ = advance(b_h, one, p_beta_s, gate, gate_numbers, rows, columns, VARIANT)
    return b_h


@triton.jit
def query(p_q, columns, scale, VARIANT: tl.constexpr):
    """Return scale * q [BK] in fp32, q of unit length if asked."""
    b_q = read(p_q, columns, VARIANT.WHOLE_COLUMNS)
    if VARIANT.L2NORM:
        b_q = l2norm(b_q, 0)
    return b_q * scale


@triton.jit
def zero_rows(p_o, stride, first, end, rows, VARIANT: tl.constexpr):
    """Store zeros in rows first to end - 1 of an output whose row 0 is at p_o."""
    b_zero = tl.full([VARIANT.BV], 0.0, tl.float32)
    for i_t in range(first, end):
        write(p_o + i_t * stride, rows, b_zero, VARIANT.WHOLE_ROWS)


@triton.jit
def walk(
    b_h, length, token, p_beta, steps, gate, gate_numbers, scale, out, cache, slots, tree, start, rows,
    columns, VARIANT: tl.constexpr,
):  # fmt: skip
    """Return the state after `length` tokens from the state b_h on, and write what is wanted on the way.

    token, p_beta, steps: as replay has them. gate, gate_numbers: as log_decay has them. out: addresses of q
    and o of the first token, and their strides. cache: address of the state after it, the stride from step to
    step, the offsets within a state, and how many steps are kept; with KEEPS_CHANGES address of its change,
    and what change_places returns in place of the offsets. slots: address of slot 0 of the pool, the
    stride from slot to slot, those offsets, address and stride of the numbers of the slots that the steps go
    to, and how many there are. tree: address, stride and length of this sequence's parents. start: what
    read_state needs to read the initial state once more. out, cache, slots, tree and start are None if no
    output is wanted, no step is kept, there or in slots, tokens are a chain, the state starts at zero.
    """
    p_k, p_v, p_g = token
    p_beta_0 = p_beta
    if out is not None:
        p_q, p_o, step_q, step_o = out
    if cache is not None:
        p_cache, step_cache, cache_offsets, kept = cache
    if slots is not None:
        p_pool, stride_slot, slot_offsets, p_slots, step_slots, kept_slots = slots
    for i_t in range(length):
        if tree is not None:
            # Tables that were not validated are still kept from leading outside: a parent not before its
            # child becomes the token before it, a negative one the start.
            p_parents, step_parent, parent_steps = tree
            parent = tl.load(
                p_parents + i_t * step_parent, mask=(i_t > 0) & (i_t < parent_steps), other=i_t - 1
            )
            parent = tl.maximum(tl.minimum(parent.to(tl.int32), i_t - 1), -1)
            if parent != i_t - 1:
                # Another branch: its states are gone, so take its path again from the start, in fp32.
                bits = ancestors(p_parents, step_parent, parent.to(tl.int64))
                b_h = tl.full([VARIANT.BV, VARIANT.BK], 0.0, tl.float32)
                if start is not None:
                    b_h = read_state(start[0], start[1], start[2], rows, columns, VARIANT)
                b_h = replay(
                    b_h, bits, parent, token, p_beta_0, steps, gate, gate_numbers, rows, columns, VARIANT
                )  # fmt: skip

        if out is not None:
            b_q = query(p_q, columns, scale, VARIANT)
        b_h, change = advance(b_h, (p_k, p_v, p_g), p_beta, gate, gate_numbers, rows, columns, VARIANT)
        if out is not None:
            write(p_o, rows, tl.sum(b_h * b_q[None, :], 1), VARIANT.WHOLE_ROWS)
            if not VARIANT.ONE_TOKEN:
                p_q = row(p_q, step_q, VARIANT.ALIGNED)
                p_o = row(p_o, step_o, VARIANT.ALIGNED)
        if cache is not None:
            if i_t < kept:
                if VARIANT.KEEPS_CHANGES:
                    write_change(p_cache, cache_offsets, change, rows, columns, VARIANT)
                else:
                    write_state(p_cache, cache_offsets, b_h, rows, columns, VARIANT)
            if not VARIANT.ONE_TOKEN:
                p_cache = row(p_cache, step_cache, VARIANT.ALIGNED and not VARIANT.KEEPS_CHANGES)
        if slots is not None:
            if i_t < kept_slots:
                i_slot = tl.load(p_slots + i_t * step_slots).to(tl.int64)
                if i_slot >= 0:
                    p_slot = row(p_pool, i_slot * stride_slot, VARIANT.ALIGNED)
                    write_state(p_slot, slot_offsets, b_h, rows, columns, VARIANT)
        if not VARIANT.ONE_TOKEN:
            p_k = row(p_k, steps[0], VARIANT.ALIGNED)
            p_v = row(p_v, steps[1], VARIANT.ALIGNED)
            p_g = row(p_g, steps[2], VARIANT.ALIGNED and VARIANT.KDA)
            if p_beta is not None:
                p_beta += steps[3]
    return b_h
