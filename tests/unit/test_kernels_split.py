"""Products of numbers cut in parts, and the inverse that is made of them."""

from __future__ import annotations

from typing import Any

import pytest

from diffgdn.backend import selection

selection.enter(selection.detect())

import torch  # noqa: E402
import triton  # noqa: E402
import triton.language as tl  # noqa: E402

from diffgdn.kernels.chunk.split_inverse import cut, invert_split, whole_dot  # noqa: E402
from diffgdn.kernels.device import INTERPRETED  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"
SIZE = 64


@triton.jit  # type: ignore[untyped-decorator]
def invert_kernel(p_L: Any, p_X: Any, BT: tl.constexpr) -> None:
    o = tl.arange(0, BT)[:, None] * BT + tl.arange(0, BT)[None, :]
    tl.store(p_X + o, invert_split(tl.load(p_L + o), BT))


@triton.jit  # type: ignore[untyped-decorator]
def dot_kernel(p_a: Any, p_b: Any, p_c: Any, BT: tl.constexpr) -> None:
    o = tl.arange(0, BT)[:, None] * BT + tl.arange(0, BT)[None, :]
    tl.store(p_c + o, whole_dot(tl.load(p_a + o), tl.load(p_b + o)))


@triton.jit  # type: ignore[untyped-decorator]
def cut_kernel(p_x: Any, p_hi: Any, p_lo: Any, N: tl.constexpr) -> None:
    o = tl.arange(0, N)
    b_hi, b_lo = cut(tl.load(p_x + o))
    tl.store(p_hi + o, b_hi)
    tl.store(p_lo + o, b_lo)


def lower(kind: str) -> torch.Tensor:
    """Return beta k k^T below the diagonal, without decay, fp32."""
    torch.manual_seed(0)
    if kind == "parallel, beta 2":
        below = torch.full((SIZE, SIZE), 2.0)
    elif kind == "parallel, beta 1":
        below = torch.ones(SIZE, SIZE)
    else:
        spread = {"nearly parallel": 0.05, "normal": 100.0}[kind]
        keys = torch.nn.functional.normalize(torch.randn(1, 128) + spread * torch.randn(SIZE, 128), dim=-1)
        below = keys @ keys.T * (1 + torch.rand(SIZE, 1))
    return below.tril(-1).to(DEVICE)


@pytest.mark.parametrize("kind", ["normal", "nearly parallel", "parallel, beta 1", "parallel, beta 2"])
def test_the_inverse_is_far_better_than_what_it_is_rounded_to(kind: str) -> None:
    """A twentieth of bf16's unit roundoff, of the largest number in the row."""
    below = lower(kind)
    X = torch.empty_like(below)
    invert_kernel[(1,)](below, X, BT=SIZE)
    right = torch.linalg.inv(torch.eye(SIZE, dtype=torch.float64, device=DEVICE) + below.double())
    off = (X.double() - right).abs() / right.abs().amax(dim=1, keepdim=True)
    assert off.max() < 2.0**-8 / 20
    assert X.triu(1).abs().max() == 0


@pytest.mark.parametrize("left", [True, False])
def test_a_product_with_the_identity_is_exact(left: bool) -> None:
    torch.manual_seed(1)
    x, one = torch.randn(SIZE, SIZE, device=DEVICE) * 1e4, torch.eye(SIZE, device=DEVICE)
    c = torch.empty_like(x)
    dot_kernel[(1,)](*((x, one) if left else (one, x)), c, BT=SIZE)
    assert torch.equal(c, x)


def test_a_product_is_as_good_as_in_fp32() -> None:
    torch.manual_seed(2)
    a, b = (torch.randn(SIZE, SIZE, device=DEVICE) for _ in range(2))
    c = torch.empty_like(a)
    dot_kernel[(1,)](a, b, c, BT=SIZE)
    terms = a.double().abs() @ b.double().abs()
    assert ((c.double() - a.double() @ b.double()).abs() / terms).max() < 2.0**-22


def test_a_number_is_its_two_parts_to_seventeen_bits() -> None:
    torch.manual_seed(3)
    x = torch.randn(1024, device=DEVICE) * torch.exp2(torch.randint(-30, 30, (1024,), device=DEVICE))
    hi, lo = (torch.empty(1024, dtype=torch.bfloat16, device=DEVICE) for _ in range(2))
    cut_kernel[(1,)](x, hi, lo, N=1024)
    off = (x.double() - hi.double() - lo.double()).abs() / x.double().abs()
    assert off.max() <= 2.0**-17
    assert torch.equal(hi.double() + (x - hi.float()).double(), x.double())
