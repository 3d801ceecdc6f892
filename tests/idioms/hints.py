"""What changes no result: hints, assertions, printing, and ways to launch. Inline assembly, which does."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .data import N, f32, i32, whole
from .registry import Rule, idiom

W = whole(N, stream=21)


@idiom(W, out=(f32, (N,)), truth=lambda x: x, N=N)
@triton.jit
def multiple_of_and_contiguous(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.max_contiguous(tl.multiple_of(tl.arange(0, N), N), N)
    tl.store(y_ptr + i, tl.load(x_ptr + i))


@idiom(W, out=(f32, (N,)), truth=lambda x: x, arguments=(N,), N=N)
@triton.jit
def assume_and_multiple_of_scalar(x_ptr, y_ptr, stride, N: tl.constexpr):
    tl.assume(stride > 0)
    stride = tl.multiple_of(stride, 8)
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + (i * stride) // stride))


@idiom(W, out=(f32, (N,)), truth=lambda x: x, arguments=(N,), N=N)
@triton.jit
def assertions(x_ptr, y_ptr, n, N: tl.constexpr):
    tl.static_print("elements in a block:", N)
    tl.static_assert(N == 64, "a block has 64 elements")
    tl.device_assert(n <= N, "n is too large")
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    tl.device_assert(x == x)
    tl.store(y_ptr + i, x)


@idiom(W, out=(f32, (N,)), truth=lambda x: x, N=N)
@triton.jit
def documented_with_text(x_ptr, y_ptr, N: tl.constexpr):
    """A kernel may have a docstring, comments and annotations."""
    i = tl.arange(0, N)  # [N]
    b_x: tl.tensor = tl.load(x_ptr + i)
    tl.store(y_ptr + i, b_x)


@idiom(out=(i32, (2,)), truth=lambda: torch.tensor([16, 1], dtype=i32), arguments=(16, 1))
@triton.jit(do_not_specialize=["n", "one"])
def not_specialized(y_ptr, n, one):
    tl.store(y_ptr, n)
    tl.store(y_ptr + 1, one)


@idiom(
    out=[(f32, (N,)), (i32, (N,))],
    truth=None,
    arguments=(1234,),
    N=N,
    rule=Rule("Philox in integers, and an exact product"),
)
@triton.jit
def random_numbers(y_ptr, z_ptr, seed, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.rand(seed, i))
    tl.store(z_ptr + i, tl.randint(seed, i + 7))


def launch_autotuned(kernel, inputs, outputs) -> None:
    grid = lambda meta: (triton.cdiv(N, meta["B"]),)
    kernel[grid](inputs[0], outputs[0], N)


@idiom(W, out=(f32, (N,)), truth=lambda x: x * 2, launch=launch_autotuned)
@triton.autotune(configs=[triton.Config({"B": 16}, num_warps=2, num_stages=2)], key=["n"])
@triton.jit
def autotuned(x_ptr, y_ptr, n, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(y_ptr + i, tl.load(x_ptr + i, mask=i < n) * 2, mask=i < n)


def launch_under_heuristics(kernel, inputs, outputs) -> None:
    kernel[(1,)](inputs[0], None, outputs[0], N=N)


@idiom(W, out=(f32, (N,)), truth=lambda x: x, launch=launch_under_heuristics)
@triton.heuristics({"HAS_BIAS": lambda args: args["b_ptr"] is not None})
@triton.jit
def under_heuristics(x_ptr, b_ptr, y_ptr, N: tl.constexpr, HAS_BIAS: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    if HAS_BIAS:
        x += tl.load(b_ptr + i)
    tl.store(y_ptr + i, x)


@idiom(W, out=(f32, (N,)), truth=lambda x: x, launch=launch_autotuned)
@triton.autotune(configs=[triton.Config({"B": 32})], key=["n"])
@triton.heuristics({"EVEN": lambda args: args["n"] % args["B"] == 0})
@triton.jit
def autotuned_over_heuristics(x_ptr, y_ptr, n, B: tl.constexpr, EVEN: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    if EVEN:
        tl.store(y_ptr + i, tl.load(x_ptr + i))
    else:
        tl.store(y_ptr + i, tl.load(x_ptr + i, mask=i < n), mask=i < n)


def launch_with_options(kernel, inputs, outputs) -> None:
    kernel[(1,)](inputs[0], outputs[0], N=N, num_warps=2, num_stages=1)


@idiom(W, out=(f32, (N,)), truth=lambda x: x + 1, launch=launch_with_options)
@triton.jit
def launched_with_options(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i) + 1)


@idiom(W.to(i32), out=(i32, (N,)), truth=lambda x: x + 1, raises="inline", N=N)
@triton.jit
def inline_assembly(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    y = tl.inline_asm_elementwise("add.s32 $0, $1, 1;", "=r,r", [x], dtype=tl.int32, is_pure=True, pack=1)
    tl.store(y_ptr + i, y)
