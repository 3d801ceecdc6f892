"""Scans, of the library and with functions of one's own."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .data import I32, N, bf16, f32, i32, whole
from .reductions import TINY, W, X, any_order, larger
from .registry import Rule, idiom


@idiom(W, out=[(f32, (8, 16)), (f32, (8, 16))], truth=lambda x: (x.cumsum(1), x.cumsum(0)))
@triton.jit
def cumsum_of_whole_numbers(x_ptr, y_ptr, z_ptr):
    p = tl.arange(0, 8)[:, None] * 16 + tl.arange(0, 16)[None, :]
    x = tl.load(x_ptr + p)
    tl.store(y_ptr + p, tl.cumsum(x, axis=1))
    tl.store(z_ptr + p, tl.cumsum(x, 0))


@idiom(
    X,
    out=(f32, (8, 16)),
    truth=lambda x: x.double().cumsum(1),
    rule=Rule(any_order(16).source, bound=lambda x: 15 * 2.0**-24 * x.double().abs().cumsum(1)),
)
@triton.jit
def cumsum_fp32(x_ptr, y_ptr):
    p = tl.arange(0, 8)[:, None] * 16 + tl.arange(0, 16)[None, :]
    tl.store(y_ptr + p, tl.cumsum(tl.load(x_ptr + p), axis=1))


@idiom(W, out=(f32, (8, 16)), truth=lambda x: x.flip(1).cumsum(1).flip(1))
@triton.jit
def cumsum_reversed(x_ptr, y_ptr):
    p = tl.arange(0, 8)[:, None] * 16 + tl.arange(0, 16)[None, :]
    tl.store(y_ptr + p, tl.cumsum(tl.load(x_ptr + p), axis=1, reverse=True))


@idiom(W.to(bf16), out=(f32, (8, 16)), truth=lambda x: x.float().cumsum(0))
@triton.jit
def cumsum_bf16(x_ptr, y_ptr):
    p = tl.arange(0, 8)[:, None] * 16 + tl.arange(0, 16)[None, :]
    tl.store(y_ptr + p, tl.cumsum(tl.load(x_ptr + p), axis=0).to(tl.float32))


@idiom(I32, out=(i32, (N,)), truth=lambda x: x.long().cumsum(0).to(i32), N=N)
@triton.jit
def cumsum_int32_wraps(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.cumsum(tl.load(x_ptr + i), 0))


@idiom(torch.tensor(TINY), out=(f32, (8,)), truth=lambda x: x.cumprod(0))
@triton.jit
def cumprod(x_ptr, y_ptr):
    i = tl.arange(0, 8)
    tl.store(y_ptr + i, tl.cumprod(tl.load(x_ptr + i), axis=0))


@idiom(
    X,
    out=[(f32, (8, 16)), (f32, (8, 16))],
    truth=lambda x: (x.cummax(1).values, x.flip(1).cummax(1).values.flip(1)),
)
@triton.jit
def scan_with_own_function(x_ptr, y_ptr, z_ptr):
    p = tl.arange(0, 8)[:, None] * 16 + tl.arange(0, 16)[None, :]
    x = tl.load(x_ptr + p)
    tl.store(y_ptr + p, tl.associative_scan(x, 1, larger))
    tl.store(z_ptr + p, tl.associative_scan(x, 1, larger, reverse=True))


@triton.jit
def linear_step(a, b, c, d):
    return a * c, b * c + d


def recurrence(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    state, states = torch.zeros(8), []
    for t in range(16):
        state = state * a[:, t] + b[:, t]
        states.append(state)
    return a.cumprod(1), torch.stack(states, 1)


@idiom(
    torch.where(W % 2 == 0, 1.0, -1.0),
    whole(8, 16, stream=14),
    out=[(f32, (8, 16)), (f32, (8, 16))],
    truth=recurrence,
)
@triton.jit
def scan_of_a_tuple(a_ptr, b_ptr, y_ptr, z_ptr):
    p = tl.arange(0, 8)[:, None] * 16 + tl.arange(0, 16)[None, :]
    decays, states = tl.associative_scan((tl.load(a_ptr + p), tl.load(b_ptr + p)), 1, linear_step)
    tl.store(y_ptr + p, decays)
    tl.store(z_ptr + p, states)
