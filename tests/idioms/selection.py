"""Choosing: where, minimum, maximum and clamp with NaN; sorting, gathering, counting."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .data import F32, I32, ORDINARY, N, bf16, f16, f32, i32, uniform, whole
from .registry import Rule, idiom

# PTX orders the zeros of both signs, IEEE 754 does not: see maximum_and_minimum_of_zeros.
NO_ZERO = torch.where(F32 == 0, torch.full_like(F32, 0.25), F32)


@idiom(
    NO_ZERO,
    out=[(f32, (N,)), (f32, (N,))],
    truth=lambda x: (torch.where(x > 0, x, -x), torch.where(x.isnan(), 0.0, x)),
    N=N,
)
@triton.jit
def where_with_nan(x_ptr, y_ptr, z_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, tl.where(x > 0, x, -x))
    tl.store(z_ptr + i, tl.where(x != x, 0.0, x))


@idiom(
    ORDINARY,
    out=(f32, (N,)),
    truth=lambda x: torch.where(torch.arange(N) < 40, x, float("-inf")),
    arguments=(40,),
    N=N,
)
@triton.jit
def where_minus_infinity(x_ptr, y_ptr, n, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.where(i < n, tl.load(x_ptr + i), -float("inf")))


@idiom(uniform(8, 8), out=(f32, (8, 8)), truth=lambda x: torch.where(torch.ones(8, 8).tril() > 0, x, 0.0))
@triton.jit
def where_broadcasts(x_ptr, y_ptr):
    r = tl.arange(0, 8)
    p = r[:, None] * 8 + r[None, :]
    tl.store(y_ptr + p, tl.where(r[:, None] >= r[None, :], tl.load(x_ptr + p), 0))


@idiom(
    NO_ZERO,
    NO_ZERO.roll(11),
    out=[(f32, (N,)), (f32, (N,))],
    truth=lambda x, y: (torch.fmax(x, y), torch.fmin(x, y)),
    N=N,
)
@triton.jit
def maximum_and_minimum(x_ptr, y_ptr, a_ptr, b_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x, y = tl.load(x_ptr + i), tl.load(y_ptr + i)
    tl.store(a_ptr + i, tl.maximum(x, y))
    tl.store(b_ptr + i, tl.minimum(x, y))


@idiom(
    NO_ZERO,
    NO_ZERO.roll(11),
    out=[(f32, (N,)), (f32, (N,))],
    truth=lambda x, y: (torch.maximum(x, y), torch.minimum(x, y)),
    N=N,
)
@triton.jit
def maximum_propagates_nan(x_ptr, y_ptr, a_ptr, b_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x, y = tl.load(x_ptr + i), tl.load(y_ptr + i)
    tl.store(a_ptr + i, tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL))
    tl.store(b_ptr + i, tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL))


@idiom(
    NO_ZERO.to(bf16),
    NO_ZERO.roll(11).to(bf16),
    out=[(bf16, (N,)), (bf16, (N,))],
    truth=lambda x, y: (torch.fmax(x, y), torch.fmin(x, y)),
    N=N,
)
@triton.jit
def maximum_and_minimum_bf16(x_ptr, y_ptr, a_ptr, b_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x, y = tl.load(x_ptr + i), tl.load(y_ptr + i)
    tl.store(a_ptr + i, tl.maximum(x, y))
    tl.store(b_ptr + i, tl.minimum(x, y))


@idiom(NO_ZERO.to(f16), out=(f16, (N,)), truth=lambda x: torch.fmax(x, torch.tensor(0.1, dtype=f16)), N=N)
@triton.jit
def maximum_with_literal_fp16(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.maximum(tl.load(x_ptr + i), 0.1))


@idiom(ORDINARY, out=(f32, (N,)), truth=lambda x: x.clamp(-0.5, 1.25), N=N)
@triton.jit
def clamp(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.clamp(tl.load(x_ptr + i), -0.5, 1.25))


@idiom(
    F32,
    out=[(f32, (N,)), (f32, (N,))],
    N=N,
    truth=lambda x: (torch.fmin(torch.fmax(x, torch.tensor(-3.0)), torch.tensor(2.0)), x.clamp(-3.0, 2.0)),
)
@triton.jit
def clamp_with_nan(x_ptr, y_ptr, z_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, tl.clamp(x, -3.0, 2.0))
    tl.store(z_ptr + i, tl.clamp(x, -3.0, 2.0, propagate_nan=tl.PropagateNan.ALL))


@idiom(
    ORDINARY,
    out=[(f32, (N,)), (f32, (N,))],
    truth=lambda x: (x.sort().values, x.sort(descending=True).values),
    N=N,
)
@triton.jit
def sort(x_ptr, y_ptr, z_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, tl.sort(x))
    tl.store(z_ptr + i, tl.sort(x, descending=True))


@idiom(I32.reshape(4, 16), out=(i32, (4, 16)), truth=lambda x: x.sort(1).values)
@triton.jit
def sort_rows_of_integers(x_ptr, y_ptr):
    p = tl.arange(0, 4)[:, None] * 16 + tl.arange(0, 16)[None, :]
    tl.store(y_ptr + p, tl.sort(tl.load(x_ptr + p), dim=1))


@idiom(uniform(N, dtype=bf16), out=(bf16, (N,)), truth=lambda x: x.sort().values, N=N)
@triton.jit
def sort_bf16(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.sort(tl.load(x_ptr + i)))


@idiom(uniform(4, 16), out=(f32, (4, 4)), truth=lambda x: x.topk(4, 1).values)
@triton.jit
def topk(x_ptr, y_ptr):
    a = tl.arange(0, 4)
    x = tl.load(x_ptr + a[:, None] * 16 + tl.arange(0, 16)[None, :])
    tl.store(y_ptr + a[:, None] * 4 + a[None, :], tl.topk(x, 4))


@idiom(
    uniform(8, 16),
    whole(8, 16, low=0, high=8, stream=19, dtype=i32),
    out=[(f32, (8, 16)), (f32, (8, 16))],
    truth=lambda x, index: (x.gather(0, index.long()), x.gather(1, index.long())),
)
@triton.jit
def gather(x_ptr, index_ptr, y_ptr, z_ptr):
    p = tl.arange(0, 8)[:, None] * 16 + tl.arange(0, 16)[None, :]
    x, index = tl.load(x_ptr + p), tl.load(index_ptr + p)
    tl.store(y_ptr + p, tl.gather(x, index, 0))
    tl.store(z_ptr + p, tl.gather(x, index, axis=1))


@idiom(
    whole(N, low=0, high=16, stream=20, dtype=i32),
    out=(i32, (16,)),
    truth=lambda x: torch.bincount(x, minlength=16).to(i32),
    N=N,
)
@triton.jit
def histogram(x_ptr, y_ptr, N: tl.constexpr):
    counts = tl.histogram(tl.load(x_ptr + tl.arange(0, N)), 16)
    tl.store(y_ptr + tl.arange(0, 16), counts)


ZEROS = torch.tensor([0.0, -0.0, 0.0, -0.0])


@idiom(
    ZEROS,
    torch.tensor([-0.0, 0.0, 0.0, -0.0]),
    out=[(f32, (4,)), (f32, (4,))],
    truth=None,
    rule=Rule("PTX ISA, max and min: +0.0 > -0.0"),
)
@triton.jit
def maximum_and_minimum_of_zeros(x_ptr, y_ptr, a_ptr, b_ptr):
    i = tl.arange(0, 4)
    x, y = tl.load(x_ptr + i), tl.load(y_ptr + i)
    tl.store(a_ptr + i, tl.maximum(x, y))
    tl.store(b_ptr + i, tl.minimum(x, y))


@idiom(ORDINARY, out=(f32, (N,)), truth=lambda x: torch.where(x > 0, x, x * 0.01), N=N)
@triton.jit
def leaky_relu(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, tl.where(x > 0, x, x * 0.01))


@idiom(ORDINARY.to(bf16), out=(bf16, (N,)), truth=lambda x: x.clamp(min=0), N=N)
@triton.jit
def relu_bf16(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.maximum(tl.load(x_ptr + i), 0.0))
