"""Inputs of the idioms: tables of the values on which formats and machines differ, and ordinary numbers from
a counter-based hash. The same bits everywhere.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

f16, bf16, f32, f64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
i8, i16, i32, i64, u8, b1 = torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool
u16, u32, u64 = torch.uint16, torch.uint32, torch.uint64
N = 64

# Signs, subnormals, the ends of fp32 and bf16, ties of bf16 and fp16 and their neighbours, ends of integers.
BITS_F32 = """
00000000 80000000 00000001 80000001 007fffff 807fffff 00800000 80800000
3f800000 bf800000 3f808000 3f818000 3f807fff 3f808001 bf808000 bf818000
3f801000 3f803000 3f800fff 3f801001 7f7fffff ff7fffff 7f7f7fff 7f7f8000
477fe000 477fefff 477ff000 47800000 c77ff000 33000000 33000001 33800000
33c00000 b3000000 38800000 387fe000 387fffff 7f800000 ff800000 7fc00000
ffc00000 7fc00123 3f000000 bf000000 3fc00000 bfc00000 40200000 4b000001
42fe0000 42ff0000 43000000 c3000000 c3010000 437f0000 43800000 46fffe00
4f000000 cf000000 4effffff 4f800000 5f000000 df000000 00008000 00018000
"""


def f32_from(words: str) -> Tensor:
    """fp32 from bit patterns in hexadecimal."""
    return torch.from_numpy(
        np.array([int(word, 16) for word in words.split()], dtype=np.uint32).view(np.float32)
    )


def hashed(count: int, stream: int = 0) -> np.ndarray:
    """64-bit hashes (splitmix64) of (stream, counter), as uint64."""
    with np.errstate(over="ignore"):
        z = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(stream * 0x10001)
        z = z * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def uniform(
    *shape: int, low: float = -2.0, high: float = 2.0, stream: int = 0, dtype: torch.dtype = f32
) -> Tensor:
    """Numbers of [low, high), rounded to dtype."""
    count = int(np.prod(shape))
    unit = (hashed(count, stream) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return torch.from_numpy((low + (high - low) * unit).reshape(shape)).to(dtype)


def whole(*shape: int, low: int = -4, high: int = 5, stream: int = 0, dtype: torch.dtype = f32) -> Tensor:
    """Integers of low .. high - 1 in any dtype."""
    count = int(np.prod(shape))
    values = (hashed(count, stream) % np.uint64(high - low)).astype(np.int64) + low
    return torch.from_numpy(values.reshape(shape)).to(dtype)


F32 = f32_from(BITS_F32)
F64 = torch.cat(
    [
        F32.double()[:48],
        torch.tensor(
            [
                5e-324,
                -5e-324,
                2.0**-1022,
                1e308,
                -1e308,
                1 + 2.0**-24,
                1 + 2.0**-24 + 2.0**-50,
                1 + 2.0**-8 + 2.0**-40,
                1 + 2.0**-11 + 2.0**-40,
                2.0**-150,
                1.5 * 2.0**-149,
                2.0**53 + 2,
                3.5,
                -3.5,
                1e19,
                -1e19,
            ],
            dtype=f64,
        ),
    ]
)
# Every sixteen-bit pattern stands for its neighbourhood: signs, subnormals, one, the ends, infinities, NaN.
F16 = torch.from_numpy(
    np.array(
        [
            0,
            0x8000,
            1,
            0x8001,
            0x3FF,
            0x400,
            0x8400,
            0x3C00,
            0x3C01,
            0xBC00,
            0x7BFF,
            0xFBFF,
            0x7C00,
            0xFC00,
            0x7E00,
            0x3800,
            0x3E00,
            0x4100,
            0x5BF8,
            0x5C00,
            0xD800,
            0xD808,
            0x5BFF,
            0x6800,
            0x77FF,
            0x0200,
            0x3BFF,
            0x4248,
            0x4900,
            0x5640,
            0xC000,
            0x6400,
        ]
        * 2,
        dtype=np.uint16,
    )
    .view(np.float16)
    .copy()
)
BF16 = F32.to(bf16)
ORDINARY = uniform(N)
FINITE = torch.where(torch.isfinite(F32), F32, torch.zeros_like(F32))
I64 = torch.tensor(
    [
        0,
        1,
        -1,
        2,
        -2,
        3,
        -3,
        7,
        -7,
        127,
        128,
        -128,
        -129,
        255,
        256,
        32767,
        32768,
        -32768,
        -32769,
        65535,
        65536,
        2**24 + 1,
        -(2**24) - 1,
        2**24 + 3,
        2**31 - 1,
        -(2**31),
        2**31,
        2**32 - 1,
        2**32,
        2**53 + 1,
        2**63 - 1,
        -(2**63),
    ]
    * 2,
    dtype=i64,
)
I32 = I64.to(i32)
I16 = I64.to(i16)
I8 = I64.to(i8)
U8 = I64.to(u8)
U16, U32, U64 = I16.view(u16), I32.view(u32), I64.view(u64)
B1 = I64 % 2 == 1
# Numbers that every integer dtype holds once their fraction is dropped.
SMALL = torch.tensor(
    [0.0, -0.0, 0.5, 0.99, 1.0, 1.5, 2.5, 3.5, 7.75, 99.0, 100.99, 126.5, 127.0, 64.25, 33.0, 12.125] * 4
)
SIGNED = torch.cat([SMALL[:32], -SMALL[:32]])
