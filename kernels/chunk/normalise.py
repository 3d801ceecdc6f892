"""Stage: l2norm of q or k over the head dimension, rounded to their dtype."""

import torch
import triton
import triton.language as tl

from ..device import INTERPRETED, l2norm
from .strides import in_units

BLOCK_R = 32  # rows per program


@triton.jit(do_not_specialize=["x_b", "x_t", "x_h", "T", "H", "rows"])
def l2norm_kernel(
    p_x, p_y, x_b: tl.int64, x_t: tl.int64, x_h: tl.int64, T, H, rows,
    K: tl.constexpr, BR: tl.constexpr, BK: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """Store BR of the `rows` = B * T * H rows of p_x [B, T, H, K], scaled to unit length, to p_y.

    p_y is contiguous. x_b, x_t, x_h: strides of p_x in units of UNIT elements. Computed in fp32 and rounded
    once, to p_y's dtype.
    """
    o_r = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    o_k = tl.arange(0, BK)
    o_t = o_r // H
    o_x = (o_t // T * x_b + o_t % T * x_t + o_r % H * x_h) * UNIT
    mask = (o_r < rows)[:, None] & (o_k < K)[None, :]
    b_x = tl.load(p_x + (o_x[:, None] + o_k[None, :]), mask=mask, other=0).to(tl.float32)  # [BR, BK]
    b_y = l2norm(b_x, 1).to(p_y.dtype.element_ty)
    tl.store(p_y + (o_r[:, None] * K + o_k[None, :]), b_y, mask=mask)


def normalise(x):
    """Run the stage: return x [B, T, H, K] with its rows scaled to unit length, contiguous, in x's dtype.

    x: its last dimension contiguous. See `device.l2norm` for the formula.
    """
    B, T, H, K = x.shape
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    rows = B * T * H
    if rows == 0:
        return y
    block_r = min(triton.next_power_of_2(rows), 1024) if INTERPRETED else BLOCK_R
    strides, unit = in_units(x)
    l2norm_kernel[(triton.cdiv(rows, block_r),)](
        x, y, *strides, T, H, rows, K=K, BR=block_r, BK=triton.next_power_of_2(K), UNIT=unit, num_warps=4
    )
    return y
