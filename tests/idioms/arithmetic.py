"""Arithmetic in each float format, what literals and scalars are promoted to, fused and exact operations."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .data import BF16, F16, F32, FINITE, I32, ORDINARY, SIGNED, N, bf16, f16, f32, f64, uniform
from .registry import VERSION, Rule, idiom

DIV_FULL = Rule("PTX ISA, div.full.f32: 2 ulp; Triton divides fp32 by it", ulp=2, absolute=2.0**-126)
A, B = ORDINARY, uniform(N, stream=1)
POSITIVE = uniform(N, low=0.25, high=4.0, stream=2)


@triton.jit
def add(x_ptr, y_ptr, z_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(z_ptr + i, tl.load(x_ptr + i) + tl.load(y_ptr + i))


@triton.jit
def sub(x_ptr, y_ptr, z_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(z_ptr + i, tl.load(x_ptr + i) - tl.load(y_ptr + i))


@triton.jit
def mul(x_ptr, y_ptr, z_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(z_ptr + i, tl.load(x_ptr + i) * tl.load(y_ptr + i))


@triton.jit
def div(x_ptr, y_ptr, z_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(z_ptr + i, tl.load(x_ptr + i) / tl.load(y_ptr + i))


def rolled(x: Tensor) -> Tensor:
    return x.roll(7)


SPECIAL = {"bf16": BF16, "fp16": F16, "fp32": F32}
for kind, special in SPECIAL.items():
    dtype = special.dtype
    for kernel, operation in ((add, torch.add), (sub, torch.sub), (mul, torch.mul)):
        label = f"{operation.__name__}_{kind}"
        idiom(A.to(dtype), B.to(dtype), out=(dtype, (N,)), truth=operation, name=label, N=N)(kernel)
        idiom(special, rolled(special), out=(dtype, (N,)), truth=operation, name=f"{label}_special", N=N)(
            kernel
        )
idiom(
    A,
    POSITIVE,
    out=(f32, (N,)),
    truth=lambda x, y: x.double() / y.double(),
    rule=DIV_FULL,
    name="div_fp32",
    N=N,
)(div)
idiom(A.double(), POSITIVE.double(), out=(f64, (N,)), truth=torch.div, name="div_fp64", N=N)(div)
for dtype in (bf16, f16):
    label = f"div_{'bf16' if dtype == bf16 else 'fp16'}_gives_fp32"
    idiom(
        A.to(dtype),
        POSITIVE.to(dtype),
        out=(f32, (N,)),
        truth=lambda x, y: x.double() / y.double(),
        rule=DIV_FULL,
        name=label,
        N=N,
    )(div)
# What Triton computes in: the wider format; fp16 where one of two is fp16; fp32 where bf16 meets an integer.
for name, x, y, dtype in (
    ("add_bf16_fp32", A.to(bf16), B, f32),
    ("add_fp16_fp32", A.to(f16), B, f32),
    ("add_bf16_fp16", A.to(bf16), B.to(f16), f16),
    ("add_fp32_fp64", A, B.double(), f64),
    ("add_int32_fp32", I32, B, f32),
    ("add_int32_bf16", I32 % 100, B.to(bf16), f32),
    ("add_int32_fp16", I32 % 100, B.to(f16), f16),
):
    idiom(x, y, out=(dtype, (N,)), truth=lambda x, y, dtype=dtype: x.to(dtype) + y.to(dtype), name=name, N=N)(
        add
    )


@idiom(BF16, out=(bf16, (N,)), truth=lambda x: x * 0.5, N=N)
@triton.jit
def bf16_times_literal(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i) * 0.5)


@idiom(A.to(bf16), out=(bf16, (N,)), truth=lambda x: x * torch.tensor(0.1, dtype=bf16), N=N)
@triton.jit
def bf16_literal_is_rounded_first(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, 0.1 * tl.load(x_ptr + i))


@idiom(A.to(bf16), out=(f32, (N,)), truth=lambda x: x.float() * torch.tensor(0.1), arguments=(0.1,), N=N)
@triton.jit
def bf16_times_float_argument(x_ptr, y_ptr, scale, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i) * scale)


@idiom(A.to(f16), out=(f16, (N,)), truth=lambda x: x * torch.tensor(0.1, dtype=f16), N=N)
@triton.jit
def fp16_times_literal(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, 0.1 * tl.load(x_ptr + i))


@idiom(A, out=(f32, (N,)), truth=lambda x: x * torch.tensor(0.1), arguments=(0.1,), N=N)
@triton.jit
def fp32_times_float_argument(x_ptr, y_ptr, scale, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i) * scale)


@idiom(A.double(), out=(f64, (N,)), truth=lambda x: x * torch.tensor(0.1).double(), arguments=(0.1,), N=N)
@triton.jit
def fp64_times_float_argument(x_ptr, y_ptr, scale, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i) * scale)


@idiom(A.double(), out=(f64, (N,)), truth=lambda x: x * 0.1, N=N)
@triton.jit
def fp64_times_literal(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i) * 0.1)


@idiom(I32, out=(f32, (N,)), truth=lambda x: x.float() * 0.5, N=N)
@triton.jit
def int_times_literal(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i) * 0.5)


@idiom(A.to(bf16), out=(bf16, (N,)), truth=lambda x: -x, N=N)
@triton.jit
def negate_bf16(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, -tl.load(x_ptr + i))


@idiom(BF16, out=(bf16, (N,)), truth=lambda x: x.abs(), N=N)
@triton.jit
def abs_bf16(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.abs(tl.load(x_ptr + i)))


@idiom(F32, out=(f32, (N,)), truth=lambda x: x.abs(), N=N)
@triton.jit
def abs_fp32(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.abs(tl.load(x_ptr + i)))


@idiom(
    BF16,
    rolled(BF16),
    out=(torch.bool, (6, N)),
    N=N,
    truth=lambda x, y: torch.stack([x < y, x <= y, x > y, x >= y, x == y, x != y]),
)
@triton.jit
def compare_bf16(x_ptr, y_ptr, z_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x, y = tl.load(x_ptr + i), tl.load(y_ptr + i)
    tl.store(z_ptr + i, x < y)
    tl.store(z_ptr + N + i, x <= y)
    tl.store(z_ptr + 2 * N + i, x > y)
    tl.store(z_ptr + 3 * N + i, x >= y)
    tl.store(z_ptr + 4 * N + i, x == y)
    tl.store(z_ptr + 5 * N + i, x != y)


@idiom(
    F32,
    rolled(F32),
    out=(torch.bool, (6, N)),
    N=N,
    truth=lambda x, y: torch.stack([x < y, x <= y, x > y, x >= y, x == y, x != y]),
)
@triton.jit
def compare_fp32(x_ptr, y_ptr, z_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x, y = tl.load(x_ptr + i), tl.load(y_ptr + i)
    tl.store(z_ptr + i, x < y)
    tl.store(z_ptr + N + i, x <= y)
    tl.store(z_ptr + 2 * N + i, x > y)
    tl.store(z_ptr + 3 * N + i, x >= y)
    tl.store(z_ptr + 4 * N + i, x == y)
    tl.store(z_ptr + 5 * N + i, x != y)


def fused(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """x * y + z rounded once: exact in float64 but for the sum, which 53 bits hold nearly always."""
    return (x.double() * y.double() + z.double()).float()


@idiom(A, B, POSITIVE, out=(f32, (N,)), truth=fused, N=N)
@triton.jit
def fma_fp32(x_ptr, y_ptr, z_ptr, out_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out_ptr + i, tl.fma(tl.load(x_ptr + i), tl.load(y_ptr + i), tl.load(z_ptr + i)))


@idiom(
    A,
    B,
    POSITIVE,
    out=(f32, (N,)),
    N=N,
    truth=lambda x, y, z: x.double() * y.double() + z.double(),
    rule=Rule(
        "IEEE 754, whether or not the product is rounded before the sum",
        ulp=0.5,
        bound=lambda x, y, z: 2.0**-24 * (x.double() * y.double()).abs(),
    ),
)
@triton.jit
def multiply_then_add(x_ptr, y_ptr, z_ptr, out_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out_ptr + i, tl.load(x_ptr + i) * tl.load(y_ptr + i) + tl.load(z_ptr + i))


@idiom(A, POSITIVE, out=(f32, (N,)), truth=lambda x, y: x / y, N=N)
@triton.jit
def div_rn(x_ptr, y_ptr, z_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(z_ptr + i, tl.div_rn(tl.load(x_ptr + i), tl.load(y_ptr + i)))


@idiom(A, POSITIVE, out=(f32, (N,)), truth=lambda x, y: x.double() / y.double(), rule=DIV_FULL, N=N)
@triton.jit
def fdiv(x_ptr, y_ptr, z_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(z_ptr + i, tl.fdiv(tl.load(x_ptr + i), tl.load(y_ptr + i)))


@idiom(A, POSITIVE, out=(f32, (N,)), truth=lambda x, y: torch.fmod(x, y), N=N)
@triton.jit
def fmod(x_ptr, y_ptr, z_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(z_ptr + i, tl.load(x_ptr + i) % tl.load(y_ptr + i))


@idiom(SIGNED, out=[(f32, (N,)), (f32, (N,))], truth=lambda x: (x.floor(), x.ceil()), N=N)
@triton.jit
def floor_and_ceil(x_ptr, y_ptr, z_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, tl.floor(x))
    tl.store(z_ptr + i, tl.math.ceil(x))


@idiom(FINITE, out=(bf16, (N,)), truth=lambda x: (x.to(bf16) + 1).to(bf16), N=N)
@triton.jit
def one_added_in_bf16(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i).to(tl.bfloat16) + 1)


def running(x: Tensor) -> Tensor:
    total = x[:1]
    for i in range(1, len(x)):
        total = total + x[i]
    return total


@idiom(A.to(bf16), out=(bf16, (1,)), truth=running, N=N)
@triton.jit
def bf16_accumulates_in_loop(x_ptr, z_ptr, N: tl.constexpr):
    total = tl.load(x_ptr)
    for i in range(1, N):
        total += tl.load(x_ptr + i)
    tl.store(z_ptr, total)


@idiom(
    A.to(bf16), out=(bf16, (N,)), truth=lambda x: torch.where(x > 0, x, torch.tensor(0.3, dtype=bf16)), N=N
)
@triton.jit
def where_with_literal(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, tl.where(x > 0, x, 0.3))


@idiom(A.to(bf16), out=(bf16, (N,)), truth=lambda x: torch.full_like(x, 0.1) * x, N=N)
@triton.jit
def full_of_bf16(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.full((N,), 0.1, tl.bfloat16) * tl.load(x_ptr + i))


@idiom(A, out=(f32, (2, N)), N=N, truth=lambda x: torch.stack([x * 3, x + 5]), arguments=(3, 5))
@triton.jit
def float_with_int_argument(x_ptr, y_ptr, factor, shift, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, x * factor)
    tl.store(y_ptr + N + i, shift + x)


@idiom(out=(f32, (5,)), arguments=(2.5, True, 3), truth=lambda: torch.tensor([2.5, 6.25, 1.0, 4.0, 0.75]))
@triton.jit
def scalars_alone(y_ptr, x, flag, n):
    tl.store(y_ptr, x)
    tl.store(y_ptr + 1, x * x)
    tl.store(y_ptr + 2, 1.0 if flag else 0.0)
    tl.store(y_ptr + 3, n + flag)
    tl.store(y_ptr + 4, n / 4)


@idiom(A.to(bf16), out=(bf16, (N,)), truth=lambda x: x * torch.tensor(0.1, dtype=bf16), SCALE=0.1, N=N)
@triton.jit
def bf16_times_constexpr(x_ptr, y_ptr, SCALE: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i) * SCALE)


def half_units(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Half a unit of the product in its format, where it is rounded before the sum."""
    return torch.finfo(x.dtype).eps / 2 * (x.double() * y.double()).abs()


for kind, dtype in (("bf16", bf16), ("fp16", f16)):
    idiom(
        A.to(dtype),
        B.to(dtype),
        POSITIVE.to(dtype),
        out=(dtype, (N,)),
        name=f"multiply_then_add_{kind}",
        N=N,
        truth=lambda x, y, z: x.double() * y.double() + z.double(),
        rule=Rule(
            "IEEE 754, whether or not the product is rounded before the sum", ulp=0.5, bound=half_units
        ),
    )(multiply_then_add)


@idiom(
    I32 % 1000,
    (I32 >> 3) % 50 + 1,
    out=(f32, (N,)),
    truth=lambda x, y: x.double() / y.double(),
    rule=DIV_FULL,
    N=N,
)
@triton.jit
def integers_divide_to_float(x_ptr, y_ptr, z_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(z_ptr + i, tl.load(x_ptr + i) / tl.load(y_ptr + i))


INF, NAN = float("inf"), float("nan")
OVER = torch.tensor([1.0, -1.0, 0.0, INF, -INF, 1.0, -2.0, NAN, 3.0, 0.0, -0.0, 5.0, INF, 2.0, 1.0, 1e38])
UNDER = torch.tensor([0.0, 0.0, 0.0, INF, 2.0, INF, -INF, 1.0, NAN, 5.0, 5.0, -0.0, 0.0, 2.0, 3.0, 1e-5])


@idiom(OVER, UNDER, out=(f32, (16,)), truth=lambda x, y: x.double() / y.double(), rule=DIV_FULL)
@triton.jit
def divide_by_zero_and_infinity(x_ptr, y_ptr, z_ptr):
    i = tl.arange(0, 16)
    tl.store(z_ptr + i, tl.load(x_ptr + i) / tl.load(y_ptr + i))


SIGN_IS_CHANGED = (3, 8)  # from this Triton on; before, a number is subtracted from 0


def negated(x: Tensor) -> Tensor:
    return -x if VERSION >= SIGN_IS_CHANGED else 0 - x


@idiom(F32, out=(f32, (N,)), truth=negated, changed=SIGN_IS_CHANGED, N=N)
@triton.jit
def negate_special(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, -tl.load(x_ptr + i))
