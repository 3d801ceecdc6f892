"""Moves tensors from one device to another, all at once.

If many processes share a GPU, each transfer waits for its process' turn, some milliseconds, however little it
carries.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

ALIGNED = 16  # bytes


def move(tensors: Mapping[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
    """Move tensors to a device in one transfer, and return all by name.

    Tensors that are there already come back as they are; the others, which must lie on one device, as
    contiguous copies.
    """
    device = torch.device(device)
    away = {name: tensor for name, tensor in tensors.items() if tensor.device.type != device.type}
    if not away:
        return dict(tensors)
    starts, end = {}, 0
    for name, tensor in away.items():
        starts[name] = end
        end += -(-tensor.numel() * tensor.element_size() // ALIGNED) * ALIGNED
    source = next(iter(away.values())).device
    packed = torch.empty(end, dtype=torch.uint8, device=source)
    for name, tensor in away.items():
        _part(packed, starts[name], tensor).copy_(tensor)
    there = packed.to(device, non_blocking=device.type == "cuda")
    return {
        name: _part(there, starts[name], tensor) if name in away else tensor
        for name, tensor in tensors.items()
    }


def _part(packed: Tensor, start: int, like: Tensor) -> Tensor:
    """View bytes from `start` on as a tensor of the dtype and shape of another."""
    size = like.numel() * like.element_size()
    return packed[start : start + size].view(like.dtype).view(like.shape)
