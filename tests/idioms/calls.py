"""Constants, functions that call functions, tuples, and grids."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .control import WHOLE
from .data import N, f32, i32
from .helpers import sum_and_max
from .registry import idiom

SIZE = tl.constexpr(16)


@triton.jit
def constexpr_branches(
    x_ptr, y_ptr, bias_ptr, scale, N: tl.constexpr, MODE: tl.constexpr, HAS_BIAS: tl.constexpr
):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    if MODE == "double":
        x = x * 2
    elif MODE == "negate":
        x = -x
    if HAS_BIAS:
        x += tl.load(bias_ptr + i)
    if scale is not None:
        x = x * scale
    tl.store(y_ptr + i, x)


def launch_branches(kernel, inputs, outputs) -> None:
    x, y = inputs[0], outputs[0]
    kernel[(1,)](x, y[0], None, None, N=N, MODE="double", HAS_BIAS=False)
    kernel[(1,)](x, y[1], x, None, N=N, MODE="negate", HAS_BIAS=True)
    kernel[(1,)](x, y[2], x, 0.5, N=N, MODE="plain", HAS_BIAS=True)


idiom(WHOLE, out=(f32, (3, N)), truth=lambda x: torch.stack([x * 2, -x + x, x]), launch=launch_branches)(
    constexpr_branches
)


@idiom(out=(i32, (5,)), truth=lambda: torch.tensor([8, 5, 33, 1, 16], dtype=i32), B=32, F=0.5)
@triton.jit
def constexpr_arithmetic(y_ptr, B: tl.constexpr, F: tl.constexpr):
    HALF: tl.constexpr = B // 4
    tl.store(y_ptr, HALF)
    LOG: tl.constexpr = B.bit_length() - 1 if False else 5
    tl.store(y_ptr + 1, LOG)
    tl.store(y_ptr + 2, B + 1)
    tl.store(y_ptr + 3, (F < 1.0) & (B > 2))
    tl.store(y_ptr + 4, SIZE)


@triton.jit
def twice(x):
    return x + x


@triton.jit
def four_times(x):
    return twice(twice(x))


@idiom(WHOLE, out=(f32, (N,)), truth=lambda x: x * 4, N=N)
@triton.jit
def functions_nested(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, four_times(tl.load(x_ptr + i)))


@triton.jit
def split_sign(x, zero=0.0):
    return tl.maximum(x, zero), tl.minimum(x, zero)


@idiom(WHOLE, out=[(f32, (N,)), (f32, (N,))], truth=lambda x: (x.clamp(min=0), x.clamp(max=0)), N=N)
@triton.jit
def function_returns_tuple(x_ptr, y_ptr, z_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    up, down = split_sign(tl.load(x_ptr + i))
    tl.store(y_ptr + i, up)
    tl.store(z_ptr + i, down)


@idiom(WHOLE, out=(f32, (2,)), truth=lambda x: torch.stack([x.sum(), x.max()]), N=N)
@triton.jit
def tuple_of_other_module(x_ptr, y_ptr, N: tl.constexpr):
    total, largest = sum_and_max(tl.load(x_ptr + tl.arange(0, N)))
    tl.store(y_ptr, total)
    tl.store(y_ptr + 1, largest)


@triton.jit(noinline=True)
def square(x):
    return x * x


@idiom(WHOLE, out=(f32, (4,)), truth=lambda x: x[:4] * x[:4], grid=(4,))
@triton.jit
def function_not_inlined(x_ptr, y_ptr):
    pid = tl.program_id(0)
    tl.store(y_ptr + pid, square(tl.load(x_ptr + pid)))


@triton.jit
def store_block(p, value, mask, WIDTH: tl.constexpr):
    tl.store(p + tl.arange(0, WIDTH), value, mask=mask)


@idiom(WHOLE, out=(f32, (N,)), truth=lambda x: x, N=N)
@triton.jit
def function_without_result(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    store_block(y_ptr, tl.load(x_ptr + i), i < N, WIDTH=N)


@triton.jit
def first_of(x, y, FIRST: tl.constexpr):
    if FIRST:
        return x
    else:
        return y


@idiom(WHOLE, out=(f32, (2, N)), truth=lambda x: torch.stack([x, -x]), N=N)
@triton.jit
def function_with_constexpr_branch(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, first_of(x, -x, True))
    tl.store(y_ptr + N + i, first_of(x, -x, FIRST=False))


def launch_tuple(kernel, inputs, outputs) -> None:
    kernel[(1,)]((inputs[0], inputs[1]), outputs[0], (3, 0.5), N=N)


@idiom(WHOLE, WHOLE.flip(0), out=(f32, (N,)), truth=lambda x, y: x * 3 + y * 0.5, launch=launch_tuple)
@triton.jit
def tuples_as_arguments(pointers, y_ptr, numbers, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(pointers[0] + i) * numbers[0] + tl.load(pointers[1] + i) * numbers[1])


@idiom(WHOLE, out=(f32, (3,)), truth=lambda x: x[:3] * torch.tensor([1.0, 2.0, 4.0]))
@triton.jit
def tuple_of_constants_in_loop(x_ptr, y_ptr):
    weights: tl.constexpr = (1.0, 2.0, 4.0)
    for i in tl.static_range(3):
        tl.store(y_ptr + i, tl.load(x_ptr + i) * weights[i])


@idiom(WHOLE, out=(f32, (2, 16)), truth=lambda x: torch.stack([x[:16] + x[16:32], x[:16] - x[16:32]]))
@triton.jit
def names_swapped_and_augmented(x_ptr, y_ptr):
    i = tl.arange(0, 16)
    a, b = tl.load(x_ptr + i), tl.load(x_ptr + 16 + i)
    a, b = a + b, a - b
    tl.store(y_ptr + i, a)
    y_ptr += 16
    tl.store(y_ptr + i, b)


@idiom(out=(i32, (24,)), truth=lambda: torch.arange(24, dtype=i32) + 100 * 24, grid=(2, 3, 4))
@triton.jit
def grid_of_three_axes(y_ptr):
    x, y, z = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    total = tl.num_programs(0) * tl.num_programs(1) * tl.num_programs(2)
    pid = (x * tl.num_programs(1) + y) * tl.num_programs(2) + z
    tl.store(y_ptr + pid, pid + 100 * total)


def launch_callable_grid(kernel, inputs, outputs) -> None:
    grid = lambda meta: (triton.cdiv(50, meta["B"]),)
    kernel[grid](inputs[0], outputs[0], 50, B=16)


@idiom(
    WHOLE,
    out=torch.zeros(N),
    truth=lambda x: torch.where(torch.arange(N) < 50, x, 0.0),
    launch=launch_callable_grid,
)
@triton.jit
def grid_from_meta(x_ptr, y_ptr, n, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(y_ptr + i, tl.load(x_ptr + i, mask=i < n), mask=i < n)
