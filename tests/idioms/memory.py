"""Masks, `other`, pointers and offsets."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .data import B1, F32, I8, I32, ORDINARY, N, b1, bf16, f16, f32, i8, i16, i32, i64, u8, uniform, whole
from .registry import idiom

COUNT = 50  # of N elements that are there
BEFORE = torch.full((N,), 7.0)


def cut(fill: float):
    return lambda x: torch.where(torch.arange(N) < COUNT, x, torch.tensor(fill, dtype=x.dtype))


@triton.jit
def load_other(x_ptr, y_ptr, n, OTHER: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i, mask=i < n, other=OTHER))


for name, values, other in (
    ("fp32", ORDINARY, float("-inf")),
    ("bf16", ORDINARY.to(bf16), 0.1),
    ("fp16", ORDINARY.to(f16), -1.5),
    ("int32", I32, -1),
    ("int8", I8, 5),
    ("int_of_float", I32, 2.0),
    ("bool", B1, 1),
):
    idiom(
        values,
        out=(values.dtype, (N,)),
        truth=cut(other),
        name=f"load_other_{name}",
        arguments=(COUNT,),
        OTHER=other,
        N=N,
    )(load_other)


@idiom(
    ORDINARY[:COUNT],
    out=(f32, (N,)),
    truth=lambda x: torch.cat([x, torch.zeros(N - COUNT)]),
    arguments=(COUNT,),
    N=N,
)
@triton.jit
def other_is_a_tensor(x_ptr, y_ptr, n, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i, mask=i < n, other=tl.zeros((N,), tl.float32)))


@idiom(
    ORDINARY,
    out=(f32, (N,)),
    truth=lambda x: torch.where(torch.arange(N) < COUNT, x * 2, torch.tensor(-3.0)),
    arguments=(COUNT,),
    N=N,
)
@triton.jit
def other_absent_then_where(x_ptr, y_ptr, n, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i, mask=i < n)
    tl.store(y_ptr + i, tl.where(i < n, x * 2, -3.0))


@idiom(ORDINARY, out=BEFORE, truth=lambda x: torch.where(torch.arange(N) % 3 == 0, x, BEFORE), N=N)
@triton.jit
def masked_store(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i), mask=i % 3 == 0)


@idiom(ORDINARY, out=BEFORE, truth=lambda x: BEFORE, arguments=(False,), N=N)
@triton.jit
def mask_from_scalar_argument(x_ptr, y_ptr, wanted, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i), mask=wanted & (i < N))


@idiom(
    ORDINARY, out=(f32, (2,)), truth=lambda x: torch.stack([x[3], torch.tensor(9.0)]), arguments=(3, 100, N)
)
@triton.jit
def masked_scalar_load(x_ptr, y_ptr, a, b, n):
    tl.store(y_ptr, tl.load(x_ptr + a, mask=a < n, other=9.0))
    tl.store(y_ptr + 1, tl.load(x_ptr + b, mask=b < n, other=9.0))


@idiom(
    uniform(5, 11),
    out=torch.zeros(8, 16),
    truth=lambda x: torch.nn.functional.pad(x, (0, 5, 0, 3), value=1.0),
    arguments=(5, 11, 11),
)
@triton.jit
def mask_of_two_axes(x_ptr, y_ptr, rows, cols, stride):
    r, c = tl.arange(0, 8), tl.arange(0, 16)
    m = (r[:, None] < rows) & (c[None, :] < cols)
    x = tl.load(x_ptr + r[:, None] * stride + c[None, :], mask=m, other=1.0)
    tl.store(y_ptr + r[:, None] * 16 + c[None, :], x)


@idiom(uniform(8, 16), out=torch.zeros(8, 16), truth=lambda x: torch.where(torch.arange(16) < 9, x, 0.0))
@triton.jit
def mask_is_broadcast(x_ptr, y_ptr):
    r, c = tl.arange(0, 8)[:, None], tl.arange(0, 16)[None, :]
    x = tl.load(x_ptr + r * 16 + c, mask=c < 9, other=0.0)
    tl.store(y_ptr + r * 16 + c, x)


@idiom(F32, B1, out=(f32, (N,)), truth=lambda x, m: torch.where(m, x, torch.tensor(0.0)), N=N)
@triton.jit
def mask_loaded_as_bool(x_ptr, m_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i, mask=tl.load(m_ptr + i), other=0.0))


@idiom(F32, B1.to(i8), out=(f32, (N,)), truth=lambda x, m: torch.where(m != 0, x, torch.tensor(0.0)), N=N)
@triton.jit
def mask_loaded_as_int8(x_ptr, m_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    keep = tl.load(m_ptr + i).to(tl.int1)
    tl.store(y_ptr + i, tl.load(x_ptr + i, mask=keep, other=0.0))


@idiom(B1, out=(b1, (N,)), truth=lambda x: ~x, N=N)
@triton.jit
def booleans_in_memory(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i) == 0)


@idiom(ORDINARY, out=(f32, (N,)), truth=lambda x: x.flip(0), arguments=(-1,), N=N)
@triton.jit
def negative_stride(x_ptr, y_ptr, stride, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + (N - 1) + i * stride))


@idiom(ORDINARY, out=(f32, (N // 2,)), truth=lambda x: x[: N // 2], N=N // 2)
@triton.jit
def pointer_moves_back_and_forth(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    p = x_ptr + i
    p += 16
    p -= N
    p = p + 16
    tl.store(y_ptr + i, tl.load(p))


@idiom(ORDINARY, out=(f32, (N,)), truth=lambda x: x, grid=(4,), B=16)
@triton.jit
def offsets_of_a_program(x_ptr, y_ptr, B: tl.constexpr):
    pid = tl.program_id(axis=0)
    offsets = pid * B + tl.arange(0, B)
    tl.store(y_ptr + offsets, tl.load(x_ptr + offsets))


@idiom(ORDINARY, out=(f32, (N,)), truth=lambda x: x, grid=(2, 4), B=8)
@triton.jit
def offsets_in_64_bits(x_ptr, y_ptr, B: tl.constexpr):
    i_t, i_h = tl.program_id(0), tl.program_id(1)
    base = (i_t * 4 + i_h).to(tl.int64) * B
    x_ptr += base
    y_ptr += base
    o = tl.arange(0, B)
    tl.store(y_ptr + o, tl.load(x_ptr + o))


@idiom(
    ORDINARY,
    whole(N, low=0, high=N, stream=9, dtype=i64),
    out=(f32, (N,)),
    truth=lambda x, index: x[index],
    N=N,
)
@triton.jit
def gather_by_loaded_int64(x_ptr, index_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + tl.load(index_ptr + i)))


@idiom(
    ORDINARY,
    whole(N, low=0, high=100, stream=10, dtype=u8) % N,
    out=(f32, (N,)),
    truth=lambda x, index: x[index.long()],
    N=N,
)
@triton.jit
def gather_by_loaded_uint8(x_ptr, index_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + tl.load(index_ptr + i)))


@idiom(
    torch.tensor([-3, 5, -1, 0], dtype=i32),
    out=torch.full((4,), 5.0),
    truth=lambda s: torch.where(s >= 0, s.float(), 5.0),
    grid=(4,),
)
@triton.jit
def padding_slot_returns_early(slot_ptr, y_ptr):
    pid = tl.program_id(0)
    slot = tl.load(slot_ptr + pid).to(tl.int64)
    if slot < 0:
        return
    tl.store(y_ptr + pid, slot.to(tl.float32))


@idiom(F32, out=(i32, (N,)), truth=lambda x: x.view(i32), N=N)
@triton.jit
def pointer_of_another_type(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    p = x_ptr.to(tl.pointer_type(tl.int32), bitcast=True)
    tl.store(y_ptr + i, tl.load(p + i))


@idiom(F32, out=(i16, (2 * N,)), truth=lambda x: x.view(i16), N=2 * N)
@triton.jit
def pointer_of_narrower_type(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    p = tl.cast(x_ptr, tl.pointer_type(tl.int16))
    tl.store(y_ptr + i, tl.load(p + i))


def launch_addresses(kernel, inputs, outputs) -> None:
    addresses = torch.tensor([x.data_ptr() for x in inputs], dtype=i64, device=inputs[0].device)
    kernel[(2,)](addresses, outputs[0], N=N)


@idiom(
    ORDINARY,
    ORDINARY.flip(0),
    out=(f32, (2, N)),
    truth=lambda x, y: torch.stack([x, y]),
    launch=launch_addresses,
)
@triton.jit
def pointers_loaded_from_memory(p_ptr, y_ptr, N: tl.constexpr):
    pid = tl.program_id(0)
    i = tl.arange(0, N)
    p = tl.load(p_ptr + pid).to(tl.pointer_type(tl.float32))
    tl.store(y_ptr + pid * N + i, tl.load(p + i))


def launch_view(kernel, inputs, outputs) -> None:
    x = inputs[0][1:, ::2].transpose(0, 1)
    kernel[(1,)](x, outputs[0], *x.stride())


@idiom(uniform(9, 32), out=(f32, (16, 8)), truth=lambda x: x[1:, ::2].T.contiguous(), launch=launch_view)
@triton.jit
def strides_of_a_view(x_ptr, y_ptr, s0, s1):
    a, b = tl.arange(0, 16), tl.arange(0, 8)
    x = tl.load(x_ptr + a[:, None] * s0 + b[None, :] * s1)
    tl.store(y_ptr + a[:, None] * 8 + b[None, :], x)


@idiom(ORDINARY, out=(f32, (N,)), truth=lambda x: x * 3, N=N)
@triton.jit
def written_then_read_again(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i))
    tl.debug_barrier()
    tl.store(y_ptr + i, tl.load(y_ptr + i) * 3)


@idiom(ORDINARY, out=(f32, (N,)), truth=lambda x: x + x, N=N)
@triton.jit
def modifiers_of_cache_and_eviction(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i, cache_modifier=".cg", volatile=False)
    x += tl.load(x_ptr + i, eviction_policy="evict_first")
    tl.store(y_ptr + i, x, eviction_policy="evict_last")
    tl.store(y_ptr + i, x, cache_modifier=".wb")


@idiom(ORDINARY, out=(f32, (N,)), truth=lambda x: torch.full_like(x, 2.5), N=N)
@triton.jit
def store_of_a_scalar(x_ptr, y_ptr, N: tl.constexpr):
    tl.store(y_ptr + tl.arange(0, N), 2.5)


@idiom(ORDINARY, out=(f32, (N,)), truth=lambda x: x, N=N)
@triton.jit
def block_of_one_element(x_ptr, y_ptr, N: tl.constexpr):
    for i in range(N):
        tl.store(y_ptr + i + tl.arange(0, 1), tl.load(x_ptr + i + tl.arange(0, 1)))
