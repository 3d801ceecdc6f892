"""Atomic operations, in one program or such that the order does not matter."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .data import I32, N, bf16, f16, i32, i64, whole
from .registry import idiom

W = whole(N, stream=15)
SLOTS = whole(N, low=0, high=8, stream=16, dtype=i32)


def collected(x, slots):
    return torch.full((8,), 1.0, dtype=x.dtype).index_add(0, slots.long(), x)


@idiom(W, SLOTS, out=torch.ones(8), truth=collected, N=N)
@triton.jit
def atomic_add_fp32(x_ptr, slot_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.atomic_add(y_ptr + tl.load(slot_ptr + i), tl.load(x_ptr + i))


@idiom(W.to(f16), SLOTS, out=torch.ones(8, dtype=f16), truth=collected, N=N)
@triton.jit
def atomic_add_fp16(x_ptr, slot_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.atomic_add(y_ptr + tl.load(slot_ptr + i), tl.load(x_ptr + i))


@idiom(W.to(bf16), SLOTS, out=torch.ones(8, dtype=bf16), truth=collected, N=N)
@triton.jit
def atomic_add_bf16(x_ptr, slot_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.atomic_add(y_ptr + tl.load(slot_ptr + i), tl.load(x_ptr + i), sem="relaxed")


@idiom(
    out=[torch.zeros(1, dtype=i32), (i32, (6,))],
    truth=lambda: (torch.tensor([6], dtype=i32), torch.ones(6, dtype=i32)),
    grid=(6,),
)
@triton.jit
def atomic_add_returns_old(counter_ptr, y_ptr):
    ticket = tl.atomic_add(counter_ptr, 1)
    tl.store(y_ptr + ticket, 1)


@idiom(W, out=torch.zeros(N), truth=lambda x: torch.where(torch.arange(N) < 20, x, 0.0), N=N)
@triton.jit
def atomic_add_masked(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.atomic_add(y_ptr + i, tl.load(x_ptr + i), mask=i < 20)


@idiom(
    I32,
    out=[torch.zeros(1, dtype=i32)] * 5,
    N=N,
    truth=lambda x: tuple(torch.tensor([v], dtype=i32) for v in (2**31 - 1, -(2**31), 0, -1, xor_all(x))),
)
@triton.jit
def atomics_of_integers(x_ptr, max_ptr, min_ptr, and_ptr, or_ptr, xor_ptr, N: tl.constexpr):
    x = tl.load(x_ptr + tl.arange(0, N))
    zero = tl.arange(0, N) * 0
    tl.atomic_max(max_ptr + zero, x)
    tl.atomic_min(min_ptr + zero, x)
    tl.atomic_and(and_ptr + zero, x)
    tl.atomic_or(or_ptr + zero, x)
    tl.atomic_xor(xor_ptr + zero, x)


def xor_all(x) -> int:
    total = 0
    for value in x.tolist():
        total ^= value
    return total


@idiom(
    W,
    out=[torch.full((1,), -1.5), torch.full((1,), 1.5)],
    truth=lambda x: (x.max()[None], x.min()[None]),
    N=N,
)
@triton.jit
def atomic_max_and_min_of_floats(x_ptr, max_ptr, min_ptr, N: tl.constexpr):
    x = tl.load(x_ptr + tl.arange(0, N))
    zero = tl.arange(0, N) * 0
    tl.atomic_max(max_ptr + zero, x)
    tl.atomic_min(min_ptr + zero, x)


@idiom(
    out=[torch.tensor([5, 7], dtype=i32), (i32, (2,))],
    truth=lambda: (torch.tensor([9, 7], dtype=i32), torch.tensor([5, 7], dtype=i32)),
)
@triton.jit
def atomic_cas(lock_ptr, y_ptr):
    tl.store(y_ptr, tl.atomic_cas(lock_ptr, 5, 9))
    tl.store(y_ptr + 1, tl.atomic_cas(lock_ptr + 1, 5, 9))


@idiom(
    out=[torch.tensor([5], dtype=i32), (i32, (1,))],
    truth=lambda: (torch.tensor([8], dtype=i32), torch.tensor([5], dtype=i32)),
)
@triton.jit
def atomic_xchg(p_ptr, y_ptr):
    tl.store(y_ptr, tl.atomic_xchg(p_ptr, 8))


@idiom(
    whole(4, stream=17),
    out=[torch.zeros(1), torch.zeros(1, dtype=i32)],
    truth=lambda x: (x.sum()[None], torch.zeros(1, dtype=i32)),
    grid=(4,),
)
@triton.jit
def lock_around_an_update(x_ptr, total_ptr, lock_ptr):
    while tl.atomic_cas(lock_ptr, 0, 1) == 1:
        pass
    tl.store(total_ptr, tl.load(total_ptr) + tl.load(x_ptr + tl.program_id(0)))
    tl.debug_barrier()
    tl.atomic_xchg(lock_ptr, 0)


@idiom(out=torch.zeros(1, dtype=i64), truth=lambda: torch.tensor([2**40 * 3]), grid=(3,))
@triton.jit
def atomic_add_int64(y_ptr):
    tl.atomic_add(y_ptr, tl.full((), 1099511627776, tl.int64))
