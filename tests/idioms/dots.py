"""Matrix products: operand formats, input precisions, accumulators, shapes.

Products of small whole numbers are exact in every format, so all bits are fixed. Where operands have more
digits than the format they are multiplied in, the bound is that format's rounding of both operands, plus the
sum: K additions in fp32, each of which a tensor core may truncate at an ulp of the largest magnitude.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .data import bf16, f16, f32, f64, i8, i32, uniform, whole
from .registry import Rule, idiom

TF32 = 2.0**-10  # truncation of 13 of 23 bits; rounding to nearest has half of it


@triton.jit
def dot(a_ptr, b_ptr, c_ptr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    a = tl.load(a_ptr + m[:, None] * K + k[None, :])
    b = tl.load(b_ptr + k[:, None] * N + n[None, :])
    c = tl.dot(a, b)
    tl.store(c_ptr + m[:, None] * N + n[None, :], c)


@triton.jit
def dot_ieee(a_ptr, b_ptr, c_ptr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    a = tl.load(a_ptr + m[:, None] * K + k[None, :])
    b = tl.load(b_ptr + k[:, None] * N + n[None, :])
    tl.store(c_ptr + m[:, None] * N + n[None, :], tl.dot(a, b, input_precision="ieee"))


@triton.jit
def dot_tf32x3(a_ptr, b_ptr, c_ptr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    a = tl.load(a_ptr + m[:, None] * K + k[None, :])
    b = tl.load(b_ptr + k[:, None] * N + n[None, :])
    tl.store(c_ptr + m[:, None] * N + n[None, :], tl.dot(a, b, input_precision="tf32x3"))


@triton.jit
def dot_allow_tf32(a_ptr, b_ptr, c_ptr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    a = tl.load(a_ptr + m[:, None] * K + k[None, :])
    b = tl.load(b_ptr + k[:, None] * N + n[None, :])
    tl.store(c_ptr + m[:, None] * N + n[None, :], tl.dot(a, b, allow_tf32=False))


def matrix(a: Tensor, b: Tensor) -> Tensor:
    return a.double() @ b.double()


def sums(operand: float, k: int) -> Callable[..., Tensor]:
    """|a| @ |b|, times twice the error of an operand and K errors of an fp32 sum."""
    return lambda a, b: (2 * operand + operand**2 + k * 2.0**-23) * (a.double().abs() @ b.double().abs())


def tolerance(operand: float, k: int, what: str) -> Rule:
    return Rule(
        f"operands rounded to {what}, fp32 sums in any order, truncated: |a| @ |b| times the sum of both",
        bound=sums(operand, k),
    )


def one_hot(rows: int, columns: int) -> Tensor:
    """Ones where row and column agree modulo columns: one or two terms a product, to lay bare an operand's
    rounding."""
    return (torch.arange(rows)[:, None] % columns == torch.arange(columns)[None, :]).float()


for m, n, k in ((16, 16, 16), (64, 16, 32)):
    size = f"{m}x{n}x{k}"
    shape: dict[str, Any] = dict(M=m, N=n, K=k)
    if m == 16:
        for name, dtype in (("bf16", bf16), ("fp16", f16), ("fp32", f32)):
            a, b = whole(m, k, dtype=dtype), whole(k, n, stream=1, dtype=dtype)
            idiom(a, b, out=(f32, (m, n)), truth=matrix, name=f"dot_whole_{name}_{size}", **shape)(dot)
            a, b = uniform(m, k, dtype=dtype), uniform(k, n, stream=1, dtype=dtype)
            what = tolerance(TF32 if dtype == f32 else 0.0, k, "tf32" if dtype == f32 else "nothing")
            idiom(a, b, out=(f32, (m, n)), truth=matrix, rule=what, name=f"dot_{name}_{size}", **shape)(dot)
    for name, kernel, operand in (
        ("ieee", dot_ieee, 0.0),
        ("tf32x3", dot_tf32x3, 2.0**-20),
        ("allow_tf32", dot_allow_tf32, 0.0),
    ):
        if m == 16 or name == "ieee":
            what = tolerance(operand, k, "fp32" if not operand else "two tf32 each")
            idiom(
                uniform(m, k),
                uniform(k, n, stream=1),
                out=(f32, (m, n)),
                truth=matrix,
                rule=what,
                name=f"dot_{name}_{size}",
                **shape,
            )(kernel)
# One term each, or two: what the rounding of an operand to tf32 does, and that ieee does none of it.
LONG = uniform(64, 32, stream=7)
for m, n, k in ((16, 16, 16), (64, 16, 32)):
    shape = dict(M=m, N=n, K=k)
    idiom(
        LONG[:m, :k].contiguous(),
        one_hot(k, n),
        out=(f32, (m, n)),
        truth=matrix,
        name=f"dot_one_term_tf32_{m}x{n}x{k}",
        rule=Rule(
            "one operand rounded or truncated to tf32",
            bound=lambda a, b: (TF32 + 2.0**-23) * (a.double().abs() @ b.double()),
        ),
        **shape,
    )(dot)
    idiom(
        LONG[:m, :k].contiguous(),
        one_hot(k, n),
        out=(f32, (m, n)),
        truth=matrix,
        name=f"dot_one_term_ieee_{m}x{n}x{k}",
        **shape,
    )(dot_ieee)
idiom(
    LONG[:16, :16].contiguous(),
    one_hot(16, 16),
    out=(f32, (16, 16)),
    truth=matrix,
    name="dot_one_term_tf32x3",
    rule=Rule("two tf32 for one fp32", relative=2.0**-20),
    M=16,
    N=16,
    K=16,
)(dot_tf32x3)
A64, B64 = uniform(64, 32, dtype=bf16), uniform(32, 16, stream=1, dtype=bf16)
idiom(
    A64,
    B64,
    out=(f32, (64, 16)),
    truth=matrix,
    rule=tolerance(0.0, 32, "nothing"),
    name="dot_bf16_64x16x32",
    M=64,
    N=16,
    K=32,
)(dot)
idiom(
    uniform(64, 32),
    uniform(32, 16, stream=1),
    out=(f32, (64, 16)),
    truth=matrix,
    rule=tolerance(TF32, 32, "tf32"),
    name="dot_fp32_64x16x32",
    M=64,
    N=16,
    K=32,
)(dot)
idiom(
    uniform(16, 16, dtype=f64),
    uniform(16, 16, stream=1, dtype=f64),
    out=(f64, (16, 16)),
    truth=matrix,
    name="dot_fp64",
    rule=Rule("16 sums in fp64", absolute=2.0**-44),
    M=16,
    N=16,
    K=16,
)(dot)
SPECIAL = torch.where(
    torch.arange(256).reshape(16, 16) == 37,
    float("nan"),
    torch.where(torch.arange(256).reshape(16, 16) == 100, float("inf"), whole(16, 16)),
)
for name, dtype in (("bf16", bf16), ("fp32", f32)):
    idiom(
        SPECIAL.to(dtype),
        whole(16, 16, low=1, stream=1, dtype=dtype),
        out=(f32, (16, 16)),
        truth=matrix,
        name=f"dot_nan_and_inf_{name}",
        M=16,
        N=16,
        K=16,
    )(dot)
TINY = whole(16, 16) * 2.0**-130
idiom(
    TINY.to(bf16),
    whole(16, 16, stream=1, dtype=bf16),
    out=(f32, (16, 16)),
    truth=matrix,
    name="dot_subnormal_bf16",
    M=16,
    N=16,
    K=16,
)(dot)
idiom(
    whole(16, 32, low=-100, high=100, dtype=i8),
    whole(32, 16, low=-100, high=100, stream=1, dtype=i8),
    out=(i32, (16, 16)),
    truth=lambda a, b: (a.long() @ b.long()).to(i32),
    name="dot_int8",
    M=16,
    N=16,
    K=32,
)(dot)


A, B, C = whole(16, 16, dtype=bf16), whole(16, 16, stream=1, dtype=bf16), whole(16, 16, stream=2)


@idiom(A, B, C, out=(f32, (16, 16)), truth=lambda a, b, c: c + a.float() @ b.float())
@triton.jit
def dot_with_accumulator(a_ptr, b_ptr, c_ptr, d_ptr):
    r = tl.arange(0, 16)
    p = r[:, None] * 16 + r[None, :]
    tl.store(d_ptr + p, tl.dot(tl.load(a_ptr + p), tl.load(b_ptr + p), acc=tl.load(c_ptr + p)))


@idiom(A, B, C, out=(f32, (16, 16)), truth=lambda a, b, c: c + 2 * (a.float() @ b.float()))
@triton.jit
def dot_added_twice(a_ptr, b_ptr, c_ptr, d_ptr):
    r = tl.arange(0, 16)
    p = r[:, None] * 16 + r[None, :]
    acc = tl.load(c_ptr + p)
    acc += tl.dot(tl.load(a_ptr + p), tl.load(b_ptr + p))
    acc = tl.dot(tl.load(a_ptr + p), tl.load(b_ptr + p), acc)
    tl.store(d_ptr + p, acc)


@idiom(A.to(f16), B.to(f16), out=(f16, (16, 16)), truth=lambda a, b: (a.float() @ b.float()).to(f16))
@triton.jit
def dot_to_fp16(a_ptr, b_ptr, d_ptr):
    r = tl.arange(0, 16)
    p = r[:, None] * 16 + r[None, :]
    tl.store(d_ptr + p, tl.dot(tl.load(a_ptr + p), tl.load(b_ptr + p), out_dtype=tl.float16))


@idiom(A, B, out=(bf16, (16, 16)), truth=lambda a, b: (a.float() @ b.float()).to(bf16))
@triton.jit
def dot_then_bf16(a_ptr, b_ptr, d_ptr):
    r = tl.arange(0, 16)
    p = r[:, None] * 16 + r[None, :]
    tl.store(d_ptr + p, tl.dot(tl.load(a_ptr + p), tl.load(b_ptr + p)).to(tl.bfloat16))


@idiom(
    uniform(16, 16),
    B,
    out=(f32, (16, 16)),
    truth=lambda a, b: matrix(a.to(bf16), b),
    rule=Rule(
        "bf16 products, fp32 sums in any order, truncated",
        bound=lambda a, b: 16 * 2.0**-23 * (a.double().abs() @ b.double().abs()),
    ),
)
@triton.jit
def dot_of_operand_cast_to_the_other(a_ptr, b_ptr, d_ptr):
    r = tl.arange(0, 16)
    p = r[:, None] * 16 + r[None, :]
    b = tl.load(b_ptr + p)
    tl.store(d_ptr + p, tl.dot(tl.load(a_ptr + p).to(b.dtype), b))


@idiom(A, B, out=(f32, (16, 16)), truth=lambda a, b: a.float().T @ b.float().T)
@triton.jit
def dot_of_transposed(a_ptr, b_ptr, d_ptr):
    r = tl.arange(0, 16)
    p = r[:, None] * 16 + r[None, :]
    b = tl.load(b_ptr + r[:, None] + r[None, :] * 16)
    tl.store(d_ptr + p, tl.dot(tl.trans(tl.load(a_ptr + p)), b))


@idiom(
    whole(2, 16, 16, dtype=f16),
    whole(2, 16, 16, stream=1, dtype=f16),
    out=(f32, (2, 16, 16)),
    truth=lambda a, b: a.float() @ b.float(),
)
@triton.jit
def dot_batched(a_ptr, b_ptr, d_ptr):
    r = tl.arange(0, 16)
    p = tl.arange(0, 2)[:, None, None] * 256 + r[None, :, None] * 16 + r[None, None, :]
    tl.store(d_ptr + p, tl.dot(tl.load(a_ptr + p), tl.load(b_ptr + p)))


@idiom(
    whole(32, 48, dtype=bf16),
    whole(48, 32, stream=1, dtype=bf16),
    out=torch.zeros(32, 32),
    truth=lambda a, b: a.float() @ b.float(),
    grid=(2, 2),
    arguments=(32, 32, 48),
)
@triton.jit
def matmul_of_a_tutorial(a_ptr, b_ptr, c_ptr, M, N, K):
    pid_m, pid_n = tl.program_id(0), tl.program_id(1)
    offs_m = (pid_m * 16 + tl.arange(0, 16)) % M
    offs_n = (pid_n * 16 + tl.arange(0, 16)) % N
    offs_k = tl.arange(0, 32)
    a_ptrs = a_ptr + offs_m[:, None] * K + offs_k[None, :]
    b_ptrs = b_ptr + offs_k[:, None] * N + offs_n[None, :]
    accumulator = tl.zeros((16, 16), dtype=tl.float32)
    for k in range(0, tl.cdiv(K, 32)):
        a = tl.load(a_ptrs, mask=offs_k[None, :] < K - k * 32, other=0.0)
        b = tl.load(b_ptrs, mask=offs_k[:, None] < K - k * 32, other=0.0)
        accumulator = tl.dot(a, b, accumulator)
        a_ptrs += 32
        b_ptrs += 32 * N
    tl.store(c_ptr + offs_m[:, None] * N + offs_n[None, :], accumulator)


@idiom(whole(16, 16), whole(16, stream=1), out=(f32, (16,)), truth=lambda a, v: a @ v)
@triton.jit
def matrix_times_vector_by_sum(a_ptr, v_ptr, y_ptr):
    r = tl.arange(0, 16)
    a = tl.load(a_ptr + r[:, None] * 16 + r[None, :])
    tl.store(y_ptr + r, tl.sum(a * tl.load(v_ptr + r)[None, :], axis=1))
