"""Loops, branches, and returning early."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .data import N, f32, i32, i64, whole
from .registry import idiom

WHOLE = torch.where(whole(N) == 0, 5.0, whole(N))  # no zeros: Triton 3.6 and 3.7 negate by 0 - x


@idiom(WHOLE, out=(f32, (1,)), truth=lambda x: x[:37].sum()[None], arguments=(37,))
@triton.jit
def loop_to_argument(x_ptr, y_ptr, n):
    total = 0.0
    for i in range(n):
        total += tl.load(x_ptr + i)
    tl.store(y_ptr, total)


@idiom(WHOLE, out=(f32, (1,)), truth=lambda x: x[3:50:5].sum()[None], arguments=(3, 50, 5))
@triton.jit
def loop_with_start_and_step(x_ptr, y_ptr, a, b, s):
    total = 0.0
    for i in range(a, b, s):
        total += tl.load(x_ptr + i)
    tl.store(y_ptr, total)


@idiom(WHOLE, out=(f32, (1,)), truth=lambda x: torch.zeros(1), arguments=(0,))
@triton.jit
def loop_of_no_steps(x_ptr, y_ptr, n):
    total = 0.0
    for i in range(0, n):
        total += tl.load(x_ptr + i)
    tl.store(y_ptr, total)


@idiom(WHOLE, out=(f32, (1,)), truth=lambda x: x[:1] + 1, arguments=(1,))
@triton.jit
def loop_of_one_step(x_ptr, y_ptr, n):
    total = 1.0
    for i in range(n):
        total += tl.load(x_ptr + i)
    tl.store(y_ptr, total)


@idiom(WHOLE, out=(f32, (16,)), truth=lambda x: x.reshape(4, 16).sum(0), arguments=(N,), B=16)
@triton.jit
def loop_over_blocks(x_ptr, y_ptr, n, B: tl.constexpr):
    acc = tl.zeros([B], dtype=tl.float32)
    for start in range(0, n, B):
        acc += tl.load(x_ptr + start + tl.arange(0, B))
    tl.store(y_ptr + tl.arange(0, B), acc)


@idiom(WHOLE, out=(f32, (16,)), truth=lambda x: x.reshape(4, 16).sum(0), arguments=(N,), B=16)
@triton.jit
def loop_to_cdiv(x_ptr, y_ptr, n, B: tl.constexpr):
    acc = tl.zeros([B], dtype=tl.float32)
    for i in range(0, tl.cdiv(n, B)):
        acc += tl.load(x_ptr + i * B + tl.arange(0, B))
    tl.store(y_ptr + tl.arange(0, B), acc)


@idiom(WHOLE, torch.tensor([5, 41], dtype=i64), out=(f32, (1,)), truth=lambda x, se: x[5:41].sum()[None])
@triton.jit
def loop_with_loaded_bounds(x_ptr, se_ptr, y_ptr):
    bos = tl.load(se_ptr).to(tl.int32)
    eos = tl.load(se_ptr + 1).to(tl.int32)
    total = 0.0
    for i in range(bos, eos):
        total += tl.load(x_ptr + i)
    tl.store(y_ptr, total)


@idiom(WHOLE, out=(f32, (1,)), truth=lambda x: x[:40].sum()[None], arguments=(40,))
@triton.jit
def loop_in_stages(x_ptr, y_ptr, n):
    total = 0.0
    for i in tl.range(0, n, 1, num_stages=2):
        total += tl.load(x_ptr + i)
    tl.store(y_ptr, total)


@idiom(WHOLE, out=(f32, (8,)), truth=lambda x: x[:8].cumsum(0))
@triton.jit
def loop_unrolled(x_ptr, y_ptr):
    total = 0.0
    for i in tl.static_range(8):
        total += tl.load(x_ptr + i)
        tl.store(y_ptr + i, total)


@idiom(WHOLE, out=(f32, (1,)), truth=lambda x: x[2:16:3].sum()[None], B=16)
@triton.jit
def loop_unrolled_with_step(x_ptr, y_ptr, B: tl.constexpr):
    total = 0.0
    for i in tl.static_range(2, B, step=3):
        total += tl.load(x_ptr + i)
    tl.store(y_ptr, total)


@idiom(WHOLE, out=(f32, (6,)), truth=lambda x: x[:6].flip(0), arguments=(6,))
@triton.jit
def loop_downwards(x_ptr, y_ptr, n):
    for i in range(n - 1, -1, -1):
        tl.store(y_ptr + (n - 1 - i), tl.load(x_ptr + i))


@idiom(WHOLE, out=(f32, (4, 4)), truth=lambda x: x[:4, None] * x[None, 4:8], arguments=(4, 4))
@triton.jit
def loops_nested(x_ptr, y_ptr, n, m):
    for i in range(n):
        a = tl.load(x_ptr + i)
        for j in range(m):
            tl.store(y_ptr + i * m + j, a * tl.load(x_ptr + 4 + j))


@idiom(out=(i32, (2,)), truth=lambda: torch.tensor([128, 7], dtype=i32), arguments=(100,))
@triton.jit
def while_loop(y_ptr, n):
    value, steps = 1, 0
    while value < n:
        value = value * 2
        steps += 1
    tl.store(y_ptr, value)
    tl.store(y_ptr + 1, steps)


@idiom(
    torch.arange(N, dtype=i32) * 3,
    out=(i32, (4,)),
    truth=lambda x: torch.tensor([0, 34, 20, 63], dtype=i32),
    grid=(4,),
)
@triton.jit
def while_bisecting_loaded_values(x_ptr, y_ptr):
    pid = tl.program_id(0)
    wanted = tl.load(x_ptr + 20) * (pid == 2) + 100 * (pid == 1) + 190 * (pid == 3)
    low = 0
    high = 63
    while low < high:
        middle = (low + high) // 2
        if tl.load(x_ptr + middle) < wanted:
            low = middle + 1
        else:
            high = middle
    tl.store(y_ptr + pid, low)


@idiom(torch.tensor([5], dtype=i32), out=(i32, (1,)), truth=lambda n: torch.tensor([120], dtype=i32))
@triton.jit
def while_with_loaded_bound(n_ptr, y_ptr):
    n = tl.load(n_ptr)
    product = 1
    while n > 0:
        product *= n
        n -= 1
    tl.store(y_ptr, product)


@idiom(
    WHOLE,
    out=torch.full((4,), 9.0),
    truth=lambda x: torch.where(torch.arange(4) < 3, x[:4], 9.0),
    grid=(4,),
    arguments=(3,),
)
@triton.jit
def return_early(x_ptr, y_ptr, n):
    pid = tl.program_id(0)
    if pid >= n:
        return
    tl.store(y_ptr + pid, tl.load(x_ptr + pid))


@idiom(WHOLE, out=(f32, (8,)), truth=lambda x: torch.where(x[:8] > 0, x[:8] * 2, -x[:8]), grid=(8,))
@triton.jit
def branch_on_loaded_value(x_ptr, y_ptr):
    pid = tl.program_id(0)
    x = tl.load(x_ptr + pid)
    if x > 0:
        x = x * 2
    else:
        x = -x
    tl.store(y_ptr + pid, x)


@idiom(out=(i32, (6,)), truth=lambda: torch.tensor([10, 20, 30, 30, 30, 30], dtype=i32), grid=(6,))
@triton.jit
def branches_in_a_chain(y_ptr):
    pid = tl.program_id(0)
    if pid == 0:
        value = 10
    elif pid == 1:
        value = 20
    else:
        value = 30
    tl.store(y_ptr + pid, value)


@idiom(out=(i32, (8,)), truth=lambda: torch.tensor([0, 0, 1, 1, 1, 0, 0, 1], dtype=i32), grid=(8,))
@triton.jit
def conditions_of_scalars(y_ptr):
    pid = tl.program_id(0)
    flag = 0
    if (pid > 1 and pid < 5) or pid == 7:
        flag = 1
    if not pid >= 0:
        flag = 5
    tl.store(y_ptr + pid, flag)


@idiom(out=(i32, (4,)), truth=lambda: torch.tensor([100, 1, 2, 3], dtype=i32), grid=(4,))
@triton.jit
def ternary_of_scalars(y_ptr):
    pid = tl.program_id(0)
    tl.store(y_ptr + pid, 100 if pid == 0 else pid)
