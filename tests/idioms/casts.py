"""Casts among all number formats, explicit and implied, of tensors and of scalars."""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from .data import (
    B1,
    BF16,
    F16,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    ORDINARY,
    SIGNED,
    SMALL,
    U8,
    U16,
    U32,
    U64,
    N,
    b1,
    bf16,
    f16,
    f32,
    f64,
    i8,
    i16,
    i32,
    i64,
    u8,
)
from .registry import Rule, idiom

CLAMPED = Rule(
    "PTX ISA, cvt: what an integer format does not hold is clamped to its ends; CUDA Math API, type casting "
    "intrinsics: NaN becomes 0, but 2^31 or 2^63 from fp64 and in 64 bits"
)
CHOSEN = Rule("no standard says: what an H100 does")


@triton.jit
def cast(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, x.to(y_ptr.dtype.element_ty))


def to(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda x: x.to(dtype)


def through(*dtypes: torch.dtype) -> Callable[[Tensor], Tensor]:
    def truth(x: Tensor) -> Tensor:
        for dtype in dtypes:
            x = x.to(dtype)
        return x

    return truth


def clamped(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """The whole part, clamped to the range of dtype."""
    low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max

    def whole(value: float, nan: int) -> int:
        if value != value:
            return nan
        return low if value <= low else high if value >= high else int(value)

    def truth(x: Tensor) -> Tensor:
        bits = torch.iinfo(dtype).bits
        upper_bit = low if low < 0 else 2 ** (bits - 1)
        nan = upper_bit if bits == 64 or x.dtype == f64 else 0
        return torch.tensor([whole(value, nan) for value in x.double().tolist()], dtype=dtype)

    return truth


def once(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """fp64 rounded to 16 bits once; torch goes through fp32. That is done here too, but rounding to odd."""

    def truth(x: Tensor) -> Tensor:
        y = x.float()
        error = x - y.double()
        even = (y.view(i32) & 1) == 0
        towards = torch.where(error > 0, float("inf"), float("-inf"))
        odd = torch.where(y.isfinite() & (error != 0) & even, torch.nextafter(y, towards.float()), y)
        return odd.to(dtype)

    return truth


FLOATS = {"fp16": F16, "bf16": BF16, "fp32": F32, "fp64": F64}
INTEGERS = {"i8": I8, "i16": I16, "i32": I32, "i64": I64, "u8": U8, "u16": U16, "u32": U32, "u64": U64}
for a, values in FLOATS.items():
    for b, like in FLOATS.items():
        if a != b:
            truth = once(like.dtype) if a == "fp64" and b != "fp32" else to(like.dtype)
            idiom(values, out=(like.dtype, (N,)), truth=truth, name=f"cast_{a}_{b}", N=N)(cast)
    for b in ("i8", "i16", "i32", "i64", "u8", "u32"):
        small = SMALL if b.startswith("u") else SIGNED
        dtype = INTEGERS[b].dtype
        idiom(small.to(values.dtype), out=(dtype, (N,)), truth=to(dtype), name=f"cast_{a}_{b}", N=N)(cast)
    idiom(values, out=(i32, (N,)), truth=clamped(i32), rule=CLAMPED, name=f"cast_{a}_i32_clamped", N=N)(cast)
    idiom(values, out=(b1, (N,)), truth=lambda x: x != 0, name=f"cast_{a}_bool", N=N)(cast)
for a, b in (
    *(("fp32", b) for b in ("i64", "u32", "u64")),
    *(("fp64", b) for b in ("i64", "u32", "u64")),
):
    dtype = INTEGERS[b].dtype
    idiom(
        FLOATS[a], out=(dtype, (N,)), truth=clamped(dtype), rule=CLAMPED, name=f"cast_{a}_{b}_clamped", N=N
    )(cast)
for a, values in FLOATS.items():
    for b in ("i8", "i16", "i64", "u8", "u16", "u64"):
        if not (a in ("fp32", "fp64") and b.endswith("64")):
            dtype = INTEGERS[b].dtype
            idiom(values, out=(dtype, (N,)), truth=None, rule=CHOSEN, name=f"cast_{a}_{b}_outside", N=N)(cast)
for a, values in INTEGERS.items():
    for b, like in FLOATS.items():
        if b != "bf16" or a in ("i8", "u8", "i16", "i32", "i64"):
            idiom(values, out=(like.dtype, (N,)), truth=to(like.dtype), name=f"cast_{a}_{b}", N=N)(cast)
PAIRS = "i8-i32 u8-i32 i32-i8 i32-u8 i16-u32 i32-i64 i64-i32 i64-i8 u32-i64 i32-u64 u64-i16"
for a, b in (pair.split("-") for pair in PAIRS.split()):
    dtype = INTEGERS[b].dtype
    idiom(INTEGERS[a], out=(dtype, (N,)), truth=to(dtype), name=f"cast_{a}_{b}", N=N)(cast)
for a, values in (("i32", I32), ("i64", I64), ("u8", U8)):
    idiom(values, out=(b1, (N,)), truth=lambda x: x != 0, name=f"cast_{a}_bool", N=N)(cast)
for b, dtype in (("i8", i8), ("i32", i32), ("i64", i64), ("bf16", bf16), ("fp32", f32)):
    idiom(B1, out=(dtype, (N,)), truth=to(dtype), name=f"cast_bool_{b}", N=N)(cast)


@idiom(F32, out=(bf16, (N,)), truth=to(bf16), N=N)
@triton.jit
def store_implies_bf16(x_ptr, y_ptr, N: tl.constexpr):
    offs = tl.arange(0, N)
    tl.store(y_ptr + offs, tl.load(x_ptr + offs))


@idiom(F32, out=(f16, (N,)), truth=to(f16), N=N)
@triton.jit
def store_implies_fp16(x_ptr, y_ptr, N: tl.constexpr):
    offs = tl.arange(0, N)
    tl.store(y_ptr + offs, tl.load(x_ptr + offs))


@idiom(SIGNED, out=(i32, (N,)), truth=to(i32), N=N)
@triton.jit
def store_implies_int(x_ptr, y_ptr, N: tl.constexpr):
    offs = tl.arange(0, N)
    tl.store(y_ptr + offs, tl.load(x_ptr + offs))


@idiom(I32, out=(f32, (N,)), truth=to(f32), N=N)
@triton.jit
def store_implies_float(x_ptr, y_ptr, N: tl.constexpr):
    offs = tl.arange(0, N)
    tl.store(y_ptr + offs, tl.load(x_ptr + offs))


@idiom(I64, out=(i8, (N,)), truth=to(i8), N=N)
@triton.jit
def store_implies_narrow(x_ptr, y_ptr, N: tl.constexpr):
    offs = tl.arange(0, N)
    tl.store(y_ptr + offs, tl.load(x_ptr + offs))


@idiom(F32, out=(f32, (N,)), truth=through(bf16, f32), N=N)
@triton.jit
def round_trip_bf16(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i).to(tl.bfloat16).to(tl.float32))


@idiom(F32, out=(f32, (N,)), truth=through(f16, f32), N=N)
@triton.jit
def round_trip_fp16(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.cast(tl.cast(tl.load(x_ptr + i), tl.float16), tl.float32))


@idiom(F64, out=(bf16, (N,)), truth=through(f32, bf16), N=N)
@triton.jit
def fp64_by_way_of_fp32(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i).to(tl.float32).to(tl.bfloat16))


def towards_zero(mask: int, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda x: (x.view(i32) & mask).view(f32).to(dtype)


@idiom(ORDINARY, out=(bf16, (N,)), truth=towards_zero(-0x10000, bf16), N=N)
@triton.jit
def towards_zero_bf16(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i).to(tl.bfloat16, fp_downcast_rounding="rtz"))


@idiom(ORDINARY, out=(f16, (N,)), truth=towards_zero(-0x2000, f16), N=N)
@triton.jit
def towards_zero_fp16(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i).to(tl.float16, fp_downcast_rounding="rtz"))


@idiom(F32, out=(f16, (N,)), truth=to(f16), N=N)
@triton.jit
def nearest_fp16_by_name(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i).to(tl.float16, fp_downcast_rounding="rtne"))


@idiom(F32, out=(i32, (N,)), truth=lambda x: x.view(i32), N=N)
@triton.jit
def bits_of_fp32(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i).to(tl.int32, bitcast=True))


@idiom(F32.view(i32), out=(f32, (N,)), truth=lambda x: x.view(f32), N=N)
@triton.jit
def fp32_of_bits(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.cast(tl.load(x_ptr + i), tl.float32, bitcast=True))


@idiom(BF16, out=(i16, (N,)), truth=lambda x: x.view(i16), N=N)
@triton.jit
def bits_of_bf16(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i).to(tl.int16, bitcast=True))


@idiom(I16, out=(bf16, (N,)), truth=lambda x: x.view(bf16), N=N)
@triton.jit
def bf16_of_bits(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i).to(tl.bfloat16, bitcast=True))


@idiom(BF16, out=(f32, (N,)), truth=lambda x: (x.view(i16).to(i32) << 16).view(f32), N=N)
@triton.jit
def widen_bf16_by_shift(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    bits = tl.load(x_ptr + i).to(tl.uint16, bitcast=True).to(tl.uint32) << 16
    tl.store(y_ptr + i, bits.to(tl.float32, bitcast=True))


@idiom(out=(f32, (4,)), truth=lambda: torch.tensor([7.0, 7.5, 3.0, 1.0]), arguments=(7, 3.9, True))
@triton.jit
def cast_scalar_arguments(y_ptr, n, x, flag):
    tl.store(y_ptr, n.to(tl.float32))
    tl.store(y_ptr + 1, n.to(tl.float32) + 0.5)
    tl.store(y_ptr + 2, x.to(tl.int32).to(tl.float32))
    tl.store(y_ptr + 3, flag.to(tl.float32))


@idiom(out=(i64, (8,)), truth=lambda: torch.arange(8) * 2**30, arguments=(8,))
@triton.jit
def cast_loop_counter(y_ptr, n):
    for i in range(n):
        tl.store(y_ptr + i, i.to(tl.int64) * 1073741824)


@idiom(out=(f32, (8,)), truth=lambda: torch.arange(8) * 0.5, arguments=(8,))
@triton.jit
def cast_loop_counter_to_float(y_ptr, n):
    for i in tl.range(0, n):
        tl.store(y_ptr + i, i.to(tl.float32) * 0.5)


@idiom(out=(i64, (3,)), truth=lambda: torch.tensor([0, 2**32, 2**33]), grid=(3,))
@triton.jit
def cast_program_id(y_ptr):
    pid = tl.program_id(0).to(tl.int64)
    tl.store(y_ptr + pid, pid << 32)


@idiom(F32, out=(f32, (N,)), truth=lambda x: (x > 0).to(f32) - (x < 0).to(f32), N=N)
@triton.jit
def sign_by_comparisons(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, (x > 0).to(tl.float32) - (x < 0).to(tl.float32))


@idiom(I32, out=(f64, (N,)), truth=lambda x: x.to(f64) / 3.0, N=N)
@triton.jit
def int_to_double_and_divide(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    three = tl.full((N,), 3.0, tl.float64)
    tl.store(y_ptr + i, tl.load(x_ptr + i).to(tl.float64) / three)


# What both formats hold; the largest of e4m3 is 448, where Triton saturates and torch has NaN.
EIGHT_BITS = torch.tensor(
    [
        0.0,
        -0.0,
        1.0,
        -1.0,
        1.0625,
        1.1875,
        1.125,
        0.3,
        -0.3,
        448.0,
        447.0,
        2.0**-9,
        2.0**-10,
        1.5 * 2.0**-9,
        2.0**-6,
        2.0**-7,
        100.0,
        -200.0,
        17.0,
        19.0,
        0.015,
        0.0146,
        3.3,
        7.7,
        240.0,
        2.0**-16,
        2.0**-17,
        2.0**-14,
        1.75 * 2.0**-16,
        13.0,
        15.0,
        31.0,
    ]
    * 2
)


@triton.jit
def through_eight_bits(x_ptr, bits_ptr, y_ptr, KIND: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i).to(KIND)
    tl.store(bits_ptr + i, x.to(tl.uint8, bitcast=True))
    tl.store(y_ptr + i, x.to(tl.float32))


for kind, dtype in ((tl.float8e4nv, torch.float8_e4m3fn), (tl.float8e5, torch.float8_e5m2)):
    for source in (f32, bf16, f16):
        idiom(
            EIGHT_BITS.to(source),
            out=[(u8, (N,)), (f32, (N,))],
            name=f"{kind.name}_of_{str(source)[6:]}",
            KIND=kind,
            N=N,
            truth=lambda x, dtype=dtype: (x.to(dtype).view(u8), x.to(dtype).float()),
        )(through_eight_bits)


for kind in (tl.float8e4nv, tl.float8e5):
    for width, values in FLOATS.items():
        if width != "fp64":
            idiom(
                values,
                out=[(u8, (N,)), (f32, (N,))],
                truth=None,
                rule=CHOSEN,
                name=f"{kind.name}_of_{width}_outside",
                KIND=kind,
                N=N,
            )(through_eight_bits)


@triton.jit
def eight_bits_widened(bits_ptr, y_ptr, z_ptr, w_ptr, KIND: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(bits_ptr + i).to(KIND, bitcast=True)
    tl.store(y_ptr + i, x.to(tl.float32))
    tl.store(z_ptr + i, x.to(tl.bfloat16))
    tl.store(w_ptr + i, x.to(tl.float16))


CODES = torch.arange(256, dtype=i32).to(u8)
# Infinity and NaN of e5m2 are left out: Triton 3.6 widens infinity to 65536 in bf16.
FINITE = torch.where((CODES & 0x7F) < 0x7C, CODES, CODES & 0x80)

for kind, dtype, codes in (
    (tl.float8e4nv, torch.float8_e4m3fn, CODES),
    (tl.float8e5, torch.float8_e5m2, FINITE),
):
    idiom(
        codes,
        out=[(f32, (256,)), (bf16, (256,)), (f16, (256,))],
        KIND=kind,
        N=256,
        name=f"{kind.name}_widened",
        truth=lambda x, dtype=dtype: tuple(x.view(dtype).float().to(wide) for wide in (f32, bf16, f16)),
    )(eight_bits_widened)
