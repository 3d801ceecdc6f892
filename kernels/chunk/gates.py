"""Gates of a chunk: the natural log decay, scaled to log2 and summed from the chunk's start.

After this everything is in log2 units: exp2 is the one exponential of the chunk kernels.
"""

import torch
import triton
import triton.language as tl

from ..device import bounded_gate, softplus_gate
from .strides import chunk_and_head, in_units

LOG2E = tl.constexpr(1.4426950408889634)

# exp(-150) is zero in fp32 and leaves nothing of any fp32 state. A stronger gate means the same and would
# only cost the running sum its digits (or, at -inf, turn differences of sums into NaN).
STRONGEST = tl.constexpr(-150.0)


@triton.jit
def log2_cumsum(b_g):
    """Return the running sum over axis 0 of natural log decays b_g in log2 units.

    b_g: fp32, 0 past the chunk's end.
    """
    return tl.cumsum(tl.where(b_g < STRONGEST, STRONGEST, b_g) * LOG2E, axis=0)


@triton.jit(do_not_specialize=["g_b", "g_t", "g_h", "T", "HV", "lower_bound"])
def kda_gate_kernel(
    p_g, p_A_log, p_dt_bias, p_gc, p_table,
    g_b: tl.int64, g_t: tl.int64, g_h: tl.int64, T, HV, lower_bound,
    K: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr,
    RAW: tl.constexpr, BIAS: tl.constexpr, BOUNDED: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """Store the running sums of one chunk's decays for one value head: a program each of chunks * HV.

    p_g [B, T, HV, K], any float dtype: the natural log decay, or with RAW the raw gate, to which p_dt_bias
    [HV, K] (BIAS) is added; p_A_log [HV] and lower_bound (BOUNDED) as in `device`. Written: p_gc [tokens, HV,
    K], fp32, in log2 units. g_b, g_t, g_h: strides of p_g in units of UNIT elements. p_table: as tile_table
    makes it.
    """
    i_c, i_hv = chunk_and_head(tl.program_id(0), HV)
    start = tl.load(p_table + i_c * 2).to(tl.int64)
    rows = tl.load(p_table + i_c * 2 + 1)
    if rows <= 0:
        return
    o_t = tl.arange(0, BT)
    o_k = tl.arange(0, BK)
    m_k = o_k < K
    mask = (o_t < rows)[:, None] & m_k[None, :]
    o_g = (start // T * g_b + (start % T + o_t) * g_t + i_hv * g_h) * UNIT
    b_g = tl.load(p_g + (o_g[:, None] + o_k[None, :]), mask=mask, other=0).to(tl.float32)  # [BT, BK]
    if RAW:
        A_log = tl.load(p_A_log + i_hv).to(tl.float32)
        if BIAS:
            b_g += tl.load(p_dt_bias + i_hv * K + o_k, mask=m_k, other=0).to(tl.float32)[None, :]
        if BOUNDED:
            b_g = bounded_gate(b_g, A_log, lower_bound)
        else:
            b_g = softplus_gate(b_g, A_log, 1.0, 20.0)  # past 20, softplus(x) is x in fp32
        b_g = tl.where(mask, b_g, 0.0)
    o_gc = (start * HV + i_hv) * K
    tl.store(p_gc + o_gc + (o_t[:, None] * (HV * K) + o_k[None, :]), log2_cumsum(b_g), mask=mask)


def kda_gates(g, A_log, dt_bias, lower_bound, table, chunk_size):
    """Run the stage, kda: return the sums of g from each chunk's start, [B, T, HV, K] fp32 in log2 units.

    g [B, T, HV, K]: the natural log decay or, with A_log [HV], the raw gate. dt_bias [HV, K] or None.
    lower_bound: None for the softplus gate.
    """
    B, T, HV, K = g.shape
    gc = torch.empty(B, T, HV, K, dtype=torch.float32, device=g.device)
    strides, unit = in_units(g)
    kda_gate_kernel[(table.shape[0] * HV,)](
        g, A_log, dt_bias, gc, table, *strides, T, HV, 0.0 if lower_bound is None else lower_bound,
        K=K, BT=chunk_size, BK=triton.next_power_of_2(K),
        RAW=A_log is not None, BIAS=dt_bias is not None, BOUNDED=lower_bound is not None, UNIT=unit,
        num_warps=4,
    )  # fmt: skip
    return gc
