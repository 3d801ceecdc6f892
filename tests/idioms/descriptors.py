"""Tensor descriptors, made in the kernel or by the caller, and block pointers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .data import bf16, f32, uniform, whole
from .registry import idiom

X = uniform(20, 16, stream=18)
REMOVED = (3, 9)


def allocate_on(device: torch.device) -> None:
    """Memory for the descriptors that a kernel makes itself."""
    triton.set_allocator(lambda size, alignment, stream: torch.empty(size, dtype=torch.int8, device=device))


def launch_with_allocator(kernel, inputs, outputs) -> None:
    allocate_on(inputs[0].device)
    kernel[(1,)](*inputs, *outputs, *inputs[0].shape)


def padded(x: Tensor) -> Tensor:
    return torch.nn.functional.pad(x[16:], (0, 0, 0, 12))


@idiom(
    X,
    out=[(f32, (16, 16)), torch.zeros(20, 16)],
    launch=launch_with_allocator,
    truth=lambda x: (padded(x), torch.cat([torch.zeros(8, 16), x[:12]])),
)
@triton.jit
def descriptor_made_in_kernel(x_ptr, y_ptr, z_ptr, rows, columns):
    d = tl.make_tensor_descriptor(x_ptr, shape=[rows, columns], strides=[columns, 1], block_shape=[16, 16])
    r = tl.arange(0, 16)
    tl.store(y_ptr + r[:, None] * 16 + r[None, :], d.load([16, 0]))
    z = tl.make_tensor_descriptor(z_ptr, [rows, columns], [columns, 1], [16, 16])
    z.store([8, 0], d.load([0, 0]))


@idiom(X.to(bf16), out=(bf16, (16, 16)), truth=padded, launch=launch_with_allocator)
@triton.jit
def descriptor_of_bf16_by_function(x_ptr, y_ptr, rows, columns):
    d = tl.make_tensor_descriptor(x_ptr, [rows, columns], [columns, 1], [16, 16])
    r = tl.arange(0, 16)
    tl.store(y_ptr + r[:, None] * 16 + r[None, :], tl.load_tensor_descriptor(d, [16, 0]))


def launch_with_host_descriptor(kernel, inputs, outputs) -> None:
    from triton.tools.tensor_descriptor import TensorDescriptor

    described = TensorDescriptor.from_tensor(inputs[0], [16, 16])
    kernel[(2,)](described, outputs[0])


@idiom(
    X,
    out=(f32, (32, 16)),
    truth=lambda x: torch.nn.functional.pad(x, (0, 0, 0, 12)),
    launch=launch_with_host_descriptor,
)
@triton.jit
def descriptor_of_the_caller(d, y_ptr):
    pid = tl.program_id(0)
    r = tl.arange(0, 16)
    tl.store(y_ptr + (pid * 16 + r)[:, None] * 16 + r[None, :], d.load([pid * 16, 0]))


@idiom(
    X,
    out=[(f32, (16, 16)), torch.zeros(20, 16)],
    arguments=(20, 16),
    removed=REMOVED,
    truth=lambda x: (padded(x), torch.cat([torch.zeros(8, 16), x[:12]])),
)
@triton.jit
def block_pointers(x_ptr, y_ptr, z_ptr, rows, columns):
    x = tl.make_block_ptr(x_ptr, (rows, columns), (columns, 1), (16, 0), (16, 16), (1, 0))
    y = tl.make_block_ptr(
        base=y_ptr, shape=(16, 16), strides=(16, 1), offsets=(0, 0), block_shape=(16, 16), order=(1, 0)
    )
    tl.store(y, tl.load(x, boundary_check=(0, 1), padding_option="zero"))
    z = tl.make_block_ptr(z_ptr, (rows, columns), (columns, 1), (8, 0), (16, 16), (1, 0))
    x = tl.advance(x, (-16, 0))
    tl.store(z, tl.load(x, boundary_check=(0,)), boundary_check=(0,))


@idiom(
    whole(64, 16, dtype=bf16),
    out=(f32, (16,)),
    truth=lambda x: x.float().sum(0),
    arguments=(64,),
    removed=REMOVED,
)
@triton.jit
def block_pointer_advanced_in_loop(x_ptr, y_ptr, n):
    p = tl.make_block_ptr(x_ptr, (n, 16), (16, 1), (0, 0), (16, 16), (1, 0))
    total = tl.zeros((16,), tl.float32)
    for _ in range(0, n, 16):
        total += tl.sum(tl.load(p, boundary_check=(0, 1)).to(tl.float32), 0)
        p = tl.advance(p, (16, 0))
    tl.store(y_ptr + tl.arange(0, 16), total)
