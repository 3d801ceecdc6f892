"""Blocks given another shape or order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .data import ORDINARY, N, bf16, f32, i32, uniform, whole
from .registry import idiom

X = uniform(4, 16, stream=11)


@idiom(X, out=(f32, (16, 4)), truth=lambda x: x.T.contiguous())
@triton.jit
def trans(x_ptr, y_ptr):
    a, b = tl.arange(0, 4), tl.arange(0, 16)
    x = tl.load(x_ptr + a[:, None] * 16 + b[None, :])
    tl.store(y_ptr + b[:, None] * 4 + a[None, :], tl.trans(x))


@idiom(X, out=(f32, (16, 4)), truth=lambda x: x.T.contiguous())
@triton.jit
def transposed_by_property(x_ptr, y_ptr):
    a, b = tl.arange(0, 4), tl.arange(0, 16)
    x = tl.load(x_ptr + a[:, None] * 16 + b[None, :])
    tl.store(y_ptr + b[:, None] * 4 + a[None, :], x.T)


@idiom(uniform(2, 4, 8), out=(f32, (8, 2, 4)), truth=lambda x: x.permute(2, 0, 1).contiguous())
@triton.jit
def permute(x_ptr, y_ptr):
    i = tl.arange(0, 64)
    x = tl.reshape(tl.load(x_ptr + i), (2, 4, 8))
    tl.store(y_ptr + i, tl.reshape(tl.permute(x, (2, 0, 1)), (64,)))


@idiom(uniform(2, 4, 8), out=(f32, (2, 8, 4)), truth=lambda x: x.transpose(1, 2).contiguous())
@triton.jit
def trans_of_three_axes(x_ptr, y_ptr):
    i = tl.arange(0, 64)
    x = tl.load(x_ptr + i).reshape(2, 4, 8)
    tl.store(y_ptr + i, tl.trans(x, (0, 2, 1)).reshape(64))


@idiom(X, out=(f32, (8, 8)), truth=lambda x: x.reshape(8, 8))
@triton.jit
def reshape_and_view(x_ptr, y_ptr):
    i = tl.arange(0, 64)
    x = tl.reshape(tl.load(x_ptr + i), [4, 16])
    x = tl.view(x, [64]).reshape([8, 8])
    r = tl.arange(0, 8)
    tl.store(y_ptr + r[:, None] * 8 + r[None, :], x)


@idiom(X, out=(f32, (64,)), truth=lambda x: x.flatten())
@triton.jit
def ravel(x_ptr, y_ptr):
    a, b = tl.arange(0, 4), tl.arange(0, 16)
    x = tl.load(x_ptr + a[:, None] * 16 + b[None, :])
    tl.store(y_ptr + tl.arange(0, 64), tl.ravel(x))


@idiom(uniform(16), out=(f32, (4, 16, 2)), truth=lambda x: x[None, :, None].expand(4, 16, 2).contiguous())
@triton.jit
def expand_dims_and_broadcast(x_ptr, y_ptr):
    a, b, c = tl.arange(0, 4), tl.arange(0, 16), tl.arange(0, 2)
    x = tl.expand_dims(tl.load(x_ptr + b), 0).expand_dims(-1)
    p = a[:, None, None] * 32 + b[None, :, None] * 2 + c[None, None, :]
    tl.store(y_ptr + p, tl.broadcast_to(x, (4, 16, 2)))


@idiom(
    uniform(4),
    uniform(16, stream=1),
    out=[(f32, (4, 16)), (f32, (4, 16))],
    truth=lambda a, b: (a[:, None] * b[None, :], a[:, None].expand(4, 16).contiguous()),
)
@triton.jit
def outer_product_and_broadcast(a_ptr, b_ptr, y_ptr, z_ptr):
    i, j = tl.arange(0, 4), tl.arange(0, 16)
    a, b = tl.load(a_ptr + i), tl.load(b_ptr + j)
    p = i[:, None] * 16 + j[None, :]
    tl.store(y_ptr + p, a[:, None] * b[None, :])
    spread, _ = tl.broadcast(a[:, None], b[None, :])
    tl.store(z_ptr + p, spread)


@idiom(
    X, out=[(f32, (4, 8)), (f32, (4, 8))], truth=lambda x: (x[:, ::2].contiguous(), x[:, 1::2].contiguous())
)
@triton.jit
def split(x_ptr, y_ptr, z_ptr):
    a, b = tl.arange(0, 4), tl.arange(0, 16)
    x = tl.load(x_ptr + a[:, None] * 16 + b[None, :])
    even, odd = tl.split(tl.reshape(x, (4, 8, 2)))
    p = a[:, None] * 8 + tl.arange(0, 8)[None, :]
    tl.store(y_ptr + p, even)
    tl.store(z_ptr + p, odd)


@idiom(uniform(16), uniform(16, stream=1), out=(f32, (16, 2)), truth=lambda x, y: torch.stack([x, y], -1))
@triton.jit
def join(x_ptr, y_ptr, z_ptr):
    i = tl.arange(0, 16)
    z = tl.join(tl.load(x_ptr + i), tl.load(y_ptr + i))
    tl.store(z_ptr + i[:, None] * 2 + tl.arange(0, 2)[None, :], z)


@idiom(
    uniform(16), uniform(16, stream=1), out=(f32, (32,)), truth=lambda x, y: torch.stack([x, y], -1).flatten()
)
@triton.jit
def interleave(x_ptr, y_ptr, z_ptr):
    i = tl.arange(0, 16)
    tl.store(z_ptr + tl.arange(0, 32), tl.interleave(tl.load(x_ptr + i), tl.load(y_ptr + i)))


@idiom(whole(16), whole(16, stream=1), out=(f32, (1,)), truth=lambda x, y: (x.sum() + y.sum())[None])
@triton.jit
def cat_in_any_order(x_ptr, y_ptr, z_ptr):
    i = tl.arange(0, 16)
    z = tl.cat(tl.load(x_ptr + i), tl.load(y_ptr + i), can_reorder=True)
    tl.store(z_ptr, tl.sum(z, 0))


@idiom(ORDINARY, out=(f32, (N,)), truth=lambda x: x.flip(0), N=N)
@triton.jit
def flip(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.flip(tl.load(x_ptr + i), 0))


@idiom(X.to(bf16), out=(bf16, (4, 16)), truth=lambda x: x.flip(1))
@triton.jit
def flip_of_an_axis(x_ptr, y_ptr):
    p = tl.arange(0, 4)[:, None] * 16 + tl.arange(0, 16)[None, :]
    tl.store(y_ptr + p, tl.flip(tl.load(x_ptr + p), dim=1))


@idiom(
    out=[(f32, (16,)), (i32, (16,)), (bf16, (16,))],
    truth=lambda: (torch.zeros(16), torch.full((16,), -3, dtype=i32), torch.full((16,), 0.1, dtype=bf16)),
)
@triton.jit
def zeros_and_full(x_ptr, y_ptr, z_ptr):
    i = tl.arange(0, 16)
    zero = tl.zeros([16], dtype=tl.float32)
    tl.store(x_ptr + i, tl.zeros_like(zero) + zero)
    tl.store(y_ptr + i, tl.full([16], -3, tl.int32))
    tl.store(z_ptr + i, tl.full([16], value=0.1, dtype=tl.bfloat16))


@idiom(out=(f32, (8, 8)), truth=lambda: torch.eye(8) + torch.ones(8, 8).tril(-1) * 2)
@triton.jit
def triangle_by_comparing_indices(y_ptr):
    i = tl.arange(0, 8)
    one = tl.where(i[:, None] == i[None, :], 1.0, 0.0)
    lower = (i[:, None] > i[None, :]).to(tl.float32) * 2
    tl.store(y_ptr + i[:, None] * 8 + i[None, :], one + lower)


@idiom(X, out=(f32, (2,)), truth=lambda x: torch.stack([x[2, 5], x[1].sum() * 0 + x[1, 0]]))
@triton.jit
def element_chosen_by_mask_and_sum(x_ptr, y_ptr):
    a, b = tl.arange(0, 4)[:, None], tl.arange(0, 16)[None, :]
    x = tl.load(x_ptr + a * 16 + b)
    tl.store(y_ptr, tl.sum(tl.sum(tl.where((a == 2) & (b == 5), x, 0.0), 1), 0))
    row = tl.sum(tl.where(a == 1, x, 0.0), 0)
    tl.store(y_ptr + 1, tl.sum(tl.where(tl.arange(0, 16) == 0, row, 0.0), 0))


@idiom(ORDINARY, out=(i32, (4,)), truth=lambda x: torch.tensor([4, 16, 64, 2], dtype=i32))
@triton.jit
def shape_of_a_block(x_ptr, y_ptr):
    x = tl.load(x_ptr + tl.arange(0, 64)).reshape(4, 16)
    tl.store(y_ptr, x.shape[0])
    tl.store(y_ptr + 1, x.shape[1])
    tl.store(y_ptr + 2, x.numel)
    tl.store(y_ptr + 3, len(x.shape))
