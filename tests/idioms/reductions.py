"""Reductions, of the library and with functions of one's own."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .data import B1, I8, I32, N, b1, bf16, f16, f32, f64, i32, uniform, whole
from .registry import Rule, idiom

W = whole(8, 16, stream=12)
X = uniform(8, 16, stream=13)
HOLES = torch.where(W > 3, float("nan"), W)
TINY = [1.0, 2.0, 0.5, -1.0, 1.0, 2.0, -0.5, 1.0]


def any_order(count: int, dim: int = -1) -> Rule:
    """Sums of `count` terms in any order: each addition rounds by at most half an ulp of the sum of
    magnitudes."""
    return Rule(
        "Higham, Accuracy and Stability of Numerical Algorithms, section 4.2: any order of summation",
        bound=lambda x: (count - 1) * 2.0**-24 * x.double().abs().sum(dim),
    )


@idiom(W, out=[(f32, (8,)), (f32, (16,)), (f32, (1,))], truth=lambda x: (x.sum(1), x.sum(0), x.sum()[None]))
@triton.jit
def sum_of_whole_numbers(x_ptr, r_ptr, c_ptr, t_ptr):
    a, b = tl.arange(0, 8), tl.arange(0, 16)
    x = tl.load(x_ptr + a[:, None] * 16 + b[None, :])
    tl.store(r_ptr + a, tl.sum(x, axis=1))
    tl.store(c_ptr + b, tl.sum(x, 0))
    tl.store(t_ptr, tl.sum(x))


@idiom(X, out=(f32, (8,)), truth=lambda x: x.double().sum(1), rule=any_order(16))
@triton.jit
def sum_fp32(x_ptr, y_ptr):
    a, b = tl.arange(0, 8), tl.arange(0, 16)
    tl.store(y_ptr + a, tl.sum(tl.load(x_ptr + a[:, None] * 16 + b[None, :]), axis=1))


@idiom(
    X,
    out=(f32, (8, 16)),
    truth=lambda x: x.double() - x.double().mean(1, keepdim=True),
    rule=Rule("sum of 16 in any order, a quotient of 2 ulp, a difference", absolute=16 * 2.0**-22),
)
@triton.jit
def sum_keeps_dims(x_ptr, y_ptr):
    p = tl.arange(0, 8)[:, None] * 16 + tl.arange(0, 16)[None, :]
    x = tl.load(x_ptr + p)
    tl.store(y_ptr + p, x - tl.sum(x, axis=1, keep_dims=True) / 16)


@triton.jit
def sum_of_rows(x_ptr, y_ptr):
    a, b = tl.arange(0, 8), tl.arange(0, 16)
    tl.store(y_ptr + a, tl.sum(tl.load(x_ptr + a[:, None] * 16 + b[None, :]), axis=1))


# Triton adds bf16 in bf16: exact for small whole numbers, else each addition may round by half an ulp.
idiom(W.to(bf16), out=(f32, (8,)), truth=lambda x: x.float().sum(1), name="sum_bf16")(sum_of_rows)
idiom(
    X.to(bf16),
    out=(f32, (8,)),
    truth=lambda x: x.double().sum(1),
    name="sum_bf16_rounds",
    rule=Rule(
        "16 numbers in any order, each addition rounded to bf16",
        bound=lambda x: 15 * 2.0**-9 * x.double().abs().sum(1),
    ),
)(sum_of_rows)


@idiom(W.to(f16), out=(f16, (8,)), truth=lambda x: x.double().sum(1).to(f16))
@triton.jit
def sum_fp16(x_ptr, y_ptr):
    a, b = tl.arange(0, 8), tl.arange(0, 16)
    tl.store(y_ptr + a, tl.sum(tl.load(x_ptr + a[:, None] * 16 + b[None, :]), axis=1))


@idiom(
    I8,
    B1,
    out=[(i32, (1,)), (i32, (1,))],
    truth=lambda x, m: (x.long().sum()[None].to(i32), m.sum()[None].to(i32)),
    N=N,
)
@triton.jit
def sum_of_bytes_and_booleans(x_ptr, m_ptr, y_ptr, z_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr, tl.sum(tl.load(x_ptr + i), 0))
    tl.store(z_ptr, tl.sum(tl.load(m_ptr + i).to(tl.int32), 0))


@idiom(I32, out=(i32, (1,)), truth=lambda x: x.long().sum()[None].to(i32), N=N)
@triton.jit
def sum_wraps(x_ptr, y_ptr, N: tl.constexpr):
    tl.store(y_ptr, tl.sum(tl.load(x_ptr + tl.arange(0, N)), 0))


@idiom(X, out=[(f32, (8,)), (f32, (16,)), (f32, (1,))], truth=lambda x: (x.amax(1), x.amin(0), x.max()[None]))
@triton.jit
def max_and_min(x_ptr, r_ptr, c_ptr, t_ptr):
    a, b = tl.arange(0, 8), tl.arange(0, 16)
    x = tl.load(x_ptr + a[:, None] * 16 + b[None, :])
    tl.store(r_ptr + a, tl.max(x, axis=1))
    tl.store(c_ptr + b, tl.min(x, axis=0))
    tl.store(t_ptr, tl.max(x))


@idiom(X.to(bf16), out=[(f32, (8,)), (f32, (8,))], truth=lambda x: (x.float().amax(1), x.float().amin(1)))
@triton.jit
def max_and_min_bf16(x_ptr, r_ptr, c_ptr):
    a, b = tl.arange(0, 8), tl.arange(0, 16)
    x = tl.load(x_ptr + a[:, None] * 16 + b[None, :])
    tl.store(r_ptr + a, tl.max(x, axis=1).to(tl.float32))
    tl.store(c_ptr + a, tl.min(x, axis=1).to(tl.float32))


@idiom(HOLES, out=(f32, (8,)), truth=lambda x: torch.nan_to_num(x, nan=float("-inf")).amax(1))
@triton.jit
def max_passes_over_nan(x_ptr, y_ptr):
    a, b = tl.arange(0, 8), tl.arange(0, 16)
    tl.store(y_ptr + a, tl.max(tl.load(x_ptr + a[:, None] * 16 + b[None, :]), axis=1))


@idiom(W, out=[(i32, (8,)), (i32, (8,))], truth=lambda x: (x.argmax(1).to(i32), x.argmin(1).to(i32)))
@triton.jit
def argmax_and_argmin_first_of_equals(x_ptr, y_ptr, z_ptr):
    a, b = tl.arange(0, 8), tl.arange(0, 16)
    x = tl.load(x_ptr + a[:, None] * 16 + b[None, :])
    tl.store(y_ptr + a, tl.argmax(x, axis=1))
    tl.store(z_ptr + a, tl.argmin(x, axis=1))


@idiom(X, out=[(f32, (8,)), (i32, (8,))], truth=lambda x: (x.amax(1), x.argmax(1).to(i32)))
@triton.jit
def max_with_indices(x_ptr, y_ptr, z_ptr):
    a, b = tl.arange(0, 8), tl.arange(0, 16)
    value, index = tl.max(tl.load(x_ptr + a[:, None] * 16 + b[None, :]), axis=1, return_indices=True)
    tl.store(y_ptr + a, value)
    tl.store(z_ptr + a, index)


def xor_of(x: Tensor) -> Tensor:
    total = 0
    for value in x.tolist():
        total ^= value
    return torch.tensor([total], dtype=x.dtype)


@idiom(I32, out=(i32, (1,)), truth=xor_of, N=N)
@triton.jit
def xor_sum(x_ptr, y_ptr, N: tl.constexpr):
    tl.store(y_ptr, tl.xor_sum(tl.load(x_ptr + tl.arange(0, N)), 0))


@triton.jit
def either(a, b):
    return a | b


@triton.jit
def product(a, b):
    return a * b


@triton.jit
def larger(a, b):
    return tl.maximum(a, b)


@idiom(
    I32,
    torch.tensor(TINY),
    out=[(i32, (1,)), (f32, (1,)), (f32, (1,))],
    N=N,
    truth=lambda x, y: (torch.tensor([-1], dtype=i32), y.prod()[None], y.max()[None]),
)
@triton.jit
def reduce_with_own_function(x_ptr, y_ptr, o_ptr, p_ptr, m_ptr, N: tl.constexpr):
    tl.store(o_ptr, tl.reduce(tl.load(x_ptr + tl.arange(0, N)), 0, either))
    y = tl.load(y_ptr + tl.arange(0, 8))
    tl.store(p_ptr, tl.reduce(y, 0, product))
    tl.store(m_ptr, tl.reduce(y, axis=0, combine_fn=larger))


@triton.jit
def add_pairs(a, m, b, n):
    return a + b, m + n


@idiom(W, out=[(f32, (8,)), (f32, (8,))], truth=lambda x: (x.sum(1), (x * x).sum(1)))
@triton.jit
def reduce_of_a_tuple(x_ptr, y_ptr, z_ptr):
    a, b = tl.arange(0, 8), tl.arange(0, 16)
    x = tl.load(x_ptr + a[:, None] * 16 + b[None, :])
    total, squares = tl.reduce((x, x * x), 1, add_pairs)
    tl.store(y_ptr + a, total)
    tl.store(z_ptr + a, squares)


@triton.jit
def welford(mean_a, m2_a, count_a, mean_b, m2_b, count_b):
    delta = mean_b - mean_a
    count = count_a + count_b
    share = tl.where(count == 0, 0.0, count_b / count)
    return mean_a + delta * share, m2_a + m2_b + delta * delta * count_a * share, count


@idiom(
    X,
    out=[(f32, (8,)), (f32, (8,))],
    truth=lambda x: (x.double().mean(1), x.double().var(1, unbiased=False)),
    rule=Rule(
        "16 steps of a mean and a sum of squares of numbers below 2, each a few roundings",
        absolute=16 * 16 * 2.0**-23,
    ),
)
@triton.jit
def reduce_by_welford(x_ptr, y_ptr, z_ptr):
    a, b = tl.arange(0, 8), tl.arange(0, 16)
    x = tl.load(x_ptr + a[:, None] * 16 + b[None, :])
    zero, one = tl.zeros_like(x), tl.full([8, 16], 1.0, tl.float32)
    mean, m2, count = tl.reduce((x, zero, one), 1, welford)
    tl.store(y_ptr + a, mean)
    tl.store(z_ptr + a, m2 / count)


@idiom(W.reshape(4, 4, 8), out=[(f32, (4, 8)), (f32, (4,))], truth=lambda x: (x.sum(1), x.amax((1, 2))))
@triton.jit
def reduce_three_axes(x_ptr, y_ptr, z_ptr):
    a, c = tl.arange(0, 4), tl.arange(0, 8)
    x = tl.load(x_ptr + a[:, None, None] * 32 + a[None, :, None] * 8 + c[None, None, :])
    tl.store(y_ptr + a[:, None] * 8 + c[None, :], tl.sum(x, axis=1))
    tl.store(z_ptr + a, tl.max(tl.max(x, axis=2), axis=-1))


@idiom(B1, out=(b1, (2,)), truth=lambda x: torch.stack([x.any(), x.all()]), N=N)
@triton.jit
def any_and_all(x_ptr, y_ptr, N: tl.constexpr):
    x = tl.load(x_ptr + tl.arange(0, N)).to(tl.int32)
    tl.store(y_ptr, tl.max(x, 0) != 0)
    tl.store(y_ptr + 1, tl.min(x, 0) != 0)


@idiom(
    X,
    out=(f32, (8,)),
    truth=lambda x: x.sum(1, dtype=f64),
    rule=Rule("fp64 sum, one rounding to fp32", ulp=0.51),
)
@triton.jit
def sum_in_another_dtype(x_ptr, y_ptr):
    a, b = tl.arange(0, 8), tl.arange(0, 16)
    x = tl.load(x_ptr + a[:, None] * 16 + b[None, :])
    tl.store(y_ptr + a, tl.sum(x, axis=1, dtype=tl.float64))


# argmax and argmin of rows with NaN are left out: what they are depends on the order of the reduction.


@idiom(
    W, out=[(i32, (8,)), (i32, (8, 16))], truth=lambda x: ((x > 0).sum(1).to(i32), (x > 0).cumsum(1).to(i32))
)
@triton.jit
def counts_by_summing_comparisons(x_ptr, y_ptr, z_ptr):
    a, b = tl.arange(0, 8), tl.arange(0, 16)
    p = a[:, None] * 16 + b[None, :]
    positive = tl.load(x_ptr + p) > 0
    tl.store(y_ptr + a, tl.sum(positive.to(tl.int32), axis=1))
    tl.store(z_ptr + p, tl.cumsum(positive.to(tl.int32), axis=1))


@idiom(W, out=(i32, (8,)), truth=lambda x: (x > 0).sum(1).to(i32))
@triton.jit
def sum_of_booleans(x_ptr, y_ptr):
    a, b = tl.arange(0, 8), tl.arange(0, 16)
    tl.store(y_ptr + a, tl.sum(tl.load(x_ptr + a[:, None] * 16 + b[None, :]) > 0, axis=1))


@idiom(
    I8,
    I8.view(torch.uint8),
    out=[(i32, (2,)), (i32, (2,))],
    N=N,
    truth=lambda x, y: tuple(torch.stack([v.amax(), v.amin()]).to(i32) for v in (x, y)),
)
@triton.jit
def max_and_min_of_bytes(x_ptr, y_ptr, a_ptr, b_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(a_ptr, tl.max(tl.load(x_ptr + i), 0))
    tl.store(a_ptr + 1, tl.min(tl.load(x_ptr + i), 0))
    tl.store(b_ptr, tl.max(tl.load(y_ptr + i), 0))
    tl.store(b_ptr + 1, tl.min(tl.load(y_ptr + i), 0))
