"""Integers: division, remainders, shifts, overflow, mixed widths and signs, bits, and logic on booleans."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .data import B1, I8, I32, I64, U8, N, b1, i8, i32, i64, u32
from .registry import idiom

DIVISORS = torch.tensor([1, -1, 2, -2, 3, -3, 7, -7, 16, -16, 127, -128, 5, -5, 64, 100] * 4, dtype=i32)
SAFE = torch.where(I32 == -(2**31), torch.ones_like(I32), I32)
SHIFTS = torch.arange(N, dtype=i32) % 32
WRAP = "modulo 2^32"


def truncated(x: Tensor, y: Tensor) -> Tensor:
    return torch.div(x.to(i64), y.to(i64), rounding_mode="trunc").to(x.dtype)


def remainder(x: Tensor, y: Tensor) -> Tensor:
    return torch.fmod(x.to(i64), y.to(i64)).to(x.dtype)


@idiom(
    SAFE, DIVISORS, out=[(i32, (N,)), (i32, (N,))], truth=lambda x, y: (truncated(x, y), remainder(x, y)), N=N
)
@triton.jit
def divide_int32(x_ptr, y_ptr, q_ptr, r_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x, y = tl.load(x_ptr + i), tl.load(y_ptr + i)
    tl.store(q_ptr + i, x // y)
    tl.store(r_ptr + i, x % y)


@idiom(
    I64 >> 1,
    DIVISORS.to(i64),
    out=[(i64, (N,)), (i64, (N,))],
    N=N,
    truth=lambda x, y: (torch.div(x, y, rounding_mode="trunc"), torch.fmod(x, y)),
)
@triton.jit
def divide_int64(x_ptr, y_ptr, q_ptr, r_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x, y = tl.load(x_ptr + i), tl.load(y_ptr + i)
    tl.store(q_ptr + i, x // y)
    tl.store(r_ptr + i, x % y)


@idiom(
    I32.view(u32),
    DIVISORS.abs().view(u32),
    out=[(u32, (N,)), (u32, (N,))],
    N=N,
    truth=lambda x, y: ((x.to(i64) // y.to(i64)).to(u32), (x.to(i64) % y.to(i64)).to(u32)),
)
@triton.jit
def divide_uint32(x_ptr, y_ptr, q_ptr, r_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x, y = tl.load(x_ptr + i), tl.load(y_ptr + i)
    tl.store(q_ptr + i, x // y)
    tl.store(r_ptr + i, x % y)


@idiom(
    SAFE,
    out=[(i32, (N,)), (i32, (N,))],
    N=N,
    arguments=(7,),
    truth=lambda x: (truncated(x, torch.full_like(x, 7)), remainder(x, torch.full_like(x, -7))),
)
@triton.jit
def divide_by_scalar(x_ptr, q_ptr, r_ptr, n, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    tl.store(q_ptr + i, x // n)
    tl.store(r_ptr + i, x % -7)


@idiom(
    I32,
    SHIFTS,
    out=[(i32, (N,)), (i32, (N,))],
    N=N,
    truth=lambda x, s: ((x.to(i64) << s.to(i64)).to(i32), x >> s),
)
@triton.jit
def shift_int32(x_ptr, s_ptr, l_ptr, r_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x, s = tl.load(x_ptr + i), tl.load(s_ptr + i)
    tl.store(l_ptr + i, x << s)
    tl.store(r_ptr + i, x >> s)


@idiom(
    I32.view(u32), SHIFTS.view(u32), out=(u32, (N,)), truth=lambda x, s: (x.to(i64) >> s.to(i64)).to(u32), N=N
)
@triton.jit
def shift_uint32(x_ptr, s_ptr, r_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(r_ptr + i, tl.load(x_ptr + i) >> tl.load(s_ptr + i))


@idiom(I8, out=[(i8, (N,)), (i8, (N,))], truth=lambda x: (x >> 3, (x.to(i32) << 2).to(i8)), N=N)
@triton.jit
def shift_int8_by_literal(x_ptr, y_ptr, z_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, x >> 3)
    tl.store(z_ptr + i, x << 2)


@idiom(
    I32,
    I32.roll(5),
    out=[(i32, (N,)), (i32, (N,)), (i32, (N,))],
    N=N,
    truth=lambda x, y: tuple(f(x.to(i64), y.to(i64)).to(i32) for f in (torch.add, torch.sub, torch.mul)),
)
@triton.jit
def overflow_int32(x_ptr, y_ptr, a_ptr, s_ptr, m_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x, y = tl.load(x_ptr + i), tl.load(y_ptr + i)
    tl.store(a_ptr + i, x + y)
    tl.store(s_ptr + i, x - y)
    tl.store(m_ptr + i, x * y)


@idiom(
    I8,
    I8.roll(3),
    out=[(i8, (N,)), (i8, (N,))],
    N=N,
    truth=lambda x, y: ((x.to(i32) + y.to(i32)).to(i8), (x.to(i32) * y.to(i32)).to(i8)),
)
@triton.jit
def overflow_int8(x_ptr, y_ptr, a_ptr, m_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x, y = tl.load(x_ptr + i), tl.load(y_ptr + i)
    tl.store(a_ptr + i, x + y)
    tl.store(m_ptr + i, x * y)


@idiom(out=(i32, (N,)), truth=lambda: (torch.arange(N, dtype=i64) * 100000000).to(i32), N=N)
@triton.jit
def arange_wraps(y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, i * 100000000)


@idiom(out=(i64, (N,)), truth=lambda: torch.arange(N, dtype=i64) * 100000000, N=N)
@triton.jit
def arange_widened(y_ptr, N: tl.constexpr):
    i = tl.arange(0, N).to(tl.int64)
    tl.store(y_ptr + i, i * 100000000)


@idiom(out=(i64, (N,)), truth=lambda: torch.arange(N, dtype=i64) * 2**33, arguments=(2**33,), N=N)
@triton.jit
def arange_times_wide_argument(y_ptr, stride, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, i * stride)


@idiom(out=(i64, (2,)), truth=lambda: torch.tensor([-727379968, 10**12]), arguments=(10**6, 10**6))
@triton.jit
def annotated_int64(y_ptr, narrow, wide: tl.int64):
    tl.store(y_ptr, narrow * narrow)
    tl.store(y_ptr + 1, wide * wide)


@idiom(I8, I32, out=(i32, (N,)), truth=lambda x, y: (x.to(i64) + y.to(i64)).to(i32), N=N)
@triton.jit
def mixed_widths(x_ptr, y_ptr, z_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(z_ptr + i, tl.load(x_ptr + i) + tl.load(y_ptr + i))


@idiom(I32, I32.view(u32).roll(1), out=(i64, (N,)), truth=lambda x, y: (x.to(i64) + y.to(i64)) % 2**32, N=N)
@triton.jit
def mixed_signs_are_unsigned(x_ptr, y_ptr, z_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(z_ptr + i, (tl.load(x_ptr + i) + tl.load(y_ptr + i)).to(tl.int64))


@idiom(U8, I8, out=(i32, (N,)), truth=lambda x, y: (x.to(i32) + y.to(i32)) % 256, N=N)
@triton.jit
def mixed_signs_of_bytes(x_ptr, y_ptr, z_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(z_ptr + i, (tl.load(x_ptr + i) + tl.load(y_ptr + i)).to(tl.int32))


@idiom(I32, I32.roll(3), out=[(i32, (N,))] * 4, truth=lambda x, y: (x & y, x | y, x ^ y, ~x), N=N)
@triton.jit
def bitwise(x_ptr, y_ptr, a_ptr, o_ptr, e_ptr, n_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x, y = tl.load(x_ptr + i), tl.load(y_ptr + i)
    tl.store(a_ptr + i, x & y)
    tl.store(o_ptr + i, x | y)
    tl.store(e_ptr + i, x ^ y)
    tl.store(n_ptr + i, ~x)


@idiom(B1, B1.roll(5), out=[(b1, (N,))] * 5, truth=lambda x, y: (x & y, x | y, x ^ y, ~x, x & ~y), N=N)
@triton.jit
def logic_of_booleans(x_ptr, y_ptr, a_ptr, o_ptr, e_ptr, n_ptr, d_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x, y = tl.load(x_ptr + i), tl.load(y_ptr + i)
    tl.store(a_ptr + i, x & y)
    tl.store(o_ptr + i, x | y)
    tl.store(e_ptr + i, x ^ y)
    tl.store(n_ptr + i, ~x)
    tl.store(d_ptr + i, x & (y == 0))


@idiom(I32, out=(b1, (N,)), truth=lambda x: (x > 0) & (x < 1000) | (x == -1), N=N)
@triton.jit
def conditions_joined(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, (x > 0) & (x < 1000) | (x == -1))


@idiom(B1, out=(i32, (N,)), truth=lambda x: x.to(i32) * 3 + 1, N=N)
@triton.jit
def boolean_as_number(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i) * 3 + 1)


def high_half(x: Tensor, y: Tensor) -> Tensor:
    pairs = zip(x.tolist(), y.tolist(), strict=True)
    values = [((a % 2**32) * (b % 2**32)) >> 32 for a, b in pairs]
    return torch.tensor(values, dtype=i64).to(i32)


@idiom(I32, I32.roll(9), out=(i32, (N,)), truth=high_half, N=N)
@triton.jit
def umulhi(x_ptr, y_ptr, z_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(z_ptr + i, tl.umulhi(tl.load(x_ptr + i), tl.load(y_ptr + i)))


@idiom(
    I32,
    I32.roll(3),
    out=[(i32, (N,))] * 3,
    N=N,
    truth=lambda x, y: (torch.minimum(x, y), torch.maximum(x, y), x.abs()),
)
@triton.jit
def minimum_maximum_abs(x_ptr, y_ptr, a_ptr, b_ptr, c_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x, y = tl.load(x_ptr + i), tl.load(y_ptr + i)
    tl.store(a_ptr + i, tl.minimum(x, y))
    tl.store(b_ptr + i, tl.maximum(x, y))
    tl.store(c_ptr + i, tl.abs(x))


@idiom(I32, out=(i32, (N,)), truth=lambda x: (-x.to(i64)).to(i32), N=N)
@triton.jit
def negate_int32(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, -tl.load(x_ptr + i))


@idiom(out=(i32, (6,)), arguments=(13, 5), truth=lambda: torch.tensor([3, 2, 3, 65, 18, 8], dtype=i32))
@triton.jit
def scalar_integers(y_ptr, n, m):
    tl.store(y_ptr, tl.cdiv(n, m))
    tl.store(y_ptr + 1, n // m)
    tl.store(y_ptr + 2, n % m)
    tl.store(y_ptr + 3, n * m)
    tl.store(y_ptr + 4, n + m)
    tl.store(y_ptr + 5, max(n - m, 0))


def swizzled() -> tuple[Tensor, Tensor]:
    grid_m, grid_n, group = 5, 3, 2
    rows, cols = [], []
    for pid in range(grid_m * grid_n):
        first = pid // (group * grid_n) * group
        size = min(grid_m - first, group)
        rows.append(first + pid % (group * grid_n) % size)
        cols.append(pid % (group * grid_n) // size)
    return torch.tensor(rows, dtype=i32), torch.tensor(cols, dtype=i32)


@idiom(out=[(i32, (15,)), (i32, (15,))], truth=swizzled, grid=(15,), arguments=(5, 3), GROUP=2)
@triton.jit
def grouped_order_by_hand(m_ptr, n_ptr, grid_m, grid_n, GROUP: tl.constexpr):
    pid = tl.program_id(0)
    width = GROUP * grid_n
    group_id = pid // width
    group_size = min(grid_m - group_id * GROUP, GROUP)
    tl.store(m_ptr + pid, group_id * GROUP + (pid % width) % group_size)
    tl.store(n_ptr + pid, (pid % width) // group_size)


def swizzled_by_tl() -> tuple[Tensor, Tensor]:
    rows, cols = swizzled()
    return rows, cols


@idiom(out=[(i32, (15,)), (i32, (15,))], truth=swizzled_by_tl, grid=(5, 3), arguments=(5, 3), GROUP=2)
@triton.jit
def swizzle2d(m_ptr, n_ptr, grid_m, grid_n, GROUP: tl.constexpr):
    i, j = tl.program_id(0), tl.program_id(1)
    m, n = tl.swizzle2d(i, j, grid_m, grid_n, GROUP)
    tl.store(m_ptr + i * grid_n + j, m)
    tl.store(n_ptr + i * grid_n + j, n)


@idiom(B1, B1.roll(5), out=(i32, (N,)), truth=lambda x, y: (x ^ y).to(i32), N=N)
@triton.jit
def booleans_added(x_ptr, y_ptr, z_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    total = tl.load(x_ptr + i) + tl.load(y_ptr + i)  # modulo 2
    tl.store(z_ptr + i, total.to(tl.int32))


@idiom(
    I32,
    out=[(i32, (N,)), (i32, (N,))],
    truth=lambda x: ((x > 3).to(i32), (x > 3).to(i32) + (x < 100).to(i32)),
    N=N,
)
@triton.jit
def comparison_as_integer(x_ptr, y_ptr, z_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, (x > 3).to(tl.int32))
    tl.store(z_ptr + i, (x > 3).to(tl.int32) + (x < 100))
