"""Columns of values and outputs in memory, and as tensor cores have them, without a way between warps.

The walk has V along rows: tokens are columns, so that a state and what is formed of it are left operands and
stay in registers. The accumulator gives each warp 16 rows. Memory has a row for each token. As a [BV, BT]
block the compiler would share it out among warps token by token, and move all of it through shared memory, a
piece and two barriers at a time. As a grid, [BT // 16, 16 of V, BV // 16, 16 of T], it gives each warp the 16
rows of V that it has.
"""

import triton
import triton.language as tl


@triton.jit
def grid_tokens(BT: tl.constexpr):
    """Return the tokens of a grid, [BT // 16, 1, 1, 16]."""
    i = tl.arange(0, BT // 16) * 16
    return i[:, None, None, None] + tl.arange(0, 16)[None, None, None, :]


@triton.jit
def grid_columns(BV: tl.constexpr):
    """Return the columns of V of a grid, [1, 16, BV // 16, 1]."""
    i = tl.arange(0, BV // 16) * 16
    return i[None, None, :, None] + tl.arange(0, 16)[None, :, None, None]


@triton.jit
def of_grid(b_x, BT: tl.constexpr, BV: tl.constexpr):
    """Return a grid b_x [BT // 16, 16, BV // 16, 16] as [BV, BT]."""
    return tl.reshape(tl.permute(b_x, (2, 1, 0, 3)), [BV, BT])


@triton.jit
def to_grid(b_x, BT: tl.constexpr, BV: tl.constexpr):
    """Return b_x [BV, BT] as a grid [BT // 16, 16, BV // 16, 16]."""
    return tl.permute(tl.reshape(b_x, [BV // 16, 16, BT // 16, 16]), (2, 1, 0, 3))
