"""Functions and formats that the interpreter computes by itself, over all or many of their arguments."""

from __future__ import annotations

import pytest

from diffgdn.backend import selection

if selection.detect() != "interpret":
    pytest.skip("the interpreter is not what runs kernels here", allow_module_level=True)
selection.enter("interpret")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import triton  # noqa: E402
import triton.language as tl  # noqa: E402

from diffgdn.backend.interpreter import eight_bits  # noqa: E402


@pytest.mark.parametrize(("name", "dtype"), [("fp8e4nv", torch.float8_e4m3fn), ("fp8e5", torch.float8_e5m2)])
def test_eight_bits_are_torchs(name: str, dtype: torch.dtype) -> None:
    codes = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    numbers = codes.view(dtype).float().numpy()
    assert np.array_equal(eight_bits.decode(codes.numpy(), name), numbers, equal_nan=True)
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.float16).float()
    inside = every[every.abs() <= float(np.nanmax(np.where(np.isfinite(numbers), numbers, 0)))]
    expected = inside.to(dtype).view(torch.uint8).numpy()
    assert np.array_equal(eight_bits.encode(inside.numpy(), name), expected)


def test_eight_bits_saturate() -> None:
    large = np.array([449.0, -1e30, np.inf, np.nan], np.float32)
    assert list(eight_bits.encode(large, "fp8e4nv")) == [0x7E, 0xFE, 0x7E, 0x7F]


@triton.jit
def umulhi_kernel(x_ptr, y_ptr, out_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out_ptr + i, tl.umulhi(tl.load(x_ptr + i), tl.load(y_ptr + i)))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_umulhi_is_the_upper_half_of_the_unsigned_product(dtype: torch.dtype) -> None:
    bits = torch.iinfo(dtype).bits
    edges = [
        0,
        1,
        -1,
        2,
        3,
        2**31 - 1,
        -(2**31),
        2 ** (bits - 1) - 1,
        -(2 ** (bits - 1)),
        2**16 + 1,
        12345,
        -7,
    ]
    x = torch.tensor([a for a in edges for _ in edges] + [0] * 112, dtype=dtype)
    y = torch.tensor([b for _ in edges for b in edges] + [0] * 112, dtype=dtype)
    out = torch.empty_like(x)
    umulhi_kernel[(1,)](x, y, out, 256)
    for a, b, high in zip(x.tolist(), y.tolist(), out.tolist(), strict=True):
        assert high % 2**bits == (a % 2**bits) * (b % 2**bits) >> bits


@triton.jit
def functions_kernel(x_ptr, out_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    tl.store(out_ptr + i, tl.log(x))
    tl.store(out_ptr + N + i, tl.log2(x))
    tl.store(out_ptr + 2 * N + i, tl.exp(x - 1.0))


def test_functions_lie_within_an_ulp_near_1() -> None:
    x = torch.from_numpy((1 + np.arange(-8192, 8192) * 2.0**-16).astype(np.float32))
    out = torch.empty(3, 16384)
    functions_kernel[(1,)](x, out, 16384)
    wide = x.double().numpy()
    for found, truth in zip(out.numpy(), (np.log(wide), np.log2(wide), np.exp(wide - 1.0)), strict=True):
        assert (np.abs(found - truth) <= np.spacing(np.abs(found)) * 0.51).all()


@triton.jit
def atomic_kernel(x_ptr, y_ptr, old_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    old = tl.atomic_add(y_ptr + i % 2, tl.load(x_ptr + i), mask=i != 5)
    tl.store(old_ptr + i, old)


def test_atomic_additions_of_bf16_to_one_place_all_count() -> None:
    x = torch.arange(8).to(torch.bfloat16)
    y, old = torch.tensor([100.0, 0.5], dtype=torch.bfloat16), torch.zeros(8, dtype=torch.bfloat16)
    atomic_kernel[(1,)](x, y, old, 8)
    assert y.tolist() == [112.0, 11.5]
    assert old.tolist() == [100.0, 0.5, 100.0, 1.5, 102.0, 0.0, 106.0, 4.5]
