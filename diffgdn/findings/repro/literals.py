"""Writes tensors as Python source: short if they are regular, listed if they are small, packed otherwise."""

from __future__ import annotations

import base64
import textwrap
import zlib

import numpy as np
import torch
from torch import Tensor

LISTED = 2048  # elements up to which values are written out
NOISE_LISTED = 32  # the same for noise, which nobody reads one by one
WIDTH = 100
_FLOAT_BITS = {
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


def source(tensor: Tensor, listed: int = LISTED) -> str:
    """Write an expression that gives a contiguous CPU tensor of the same shape, dtype and bits (NaNs may
    differ).

    It uses names of a script: torch, nan, inf, unpack. Values of up to `listed` elements are written out.
    """
    tensor = tensor.detach().cpu().contiguous()
    shape, dtype = tuple(tensor.shape), tensor.dtype
    if not tensor.numel():
        return f"torch.zeros({shape}, dtype={dtype})"
    flat = tensor.reshape(-1)
    if tensor.numel() > 1 and _constant(flat):
        return f"torch.full({shape}, {number(flat[0])}, dtype={dtype})"
    if tensor.numel() <= listed:
        return f"torch.tensor({_listed(tensor)}, dtype={dtype})"
    return _packed(flat, shape)


def _constant(flat: Tensor) -> bool:
    """Tell whether all elements are one value; 0.0 and -0.0 are two, all NaNs one."""
    if flat.is_floating_point():
        same = (flat == flat[0]) & (flat.signbit() == flat[0].signbit())
        return bool((same | (flat.isnan() & flat[0].isnan())).all())
    return bool((flat == flat[0]).all())


def number(value: Tensor) -> str:
    """Write the shortest decimal that reads back as the value, in float32 for bf16 and fp16."""
    if value.dtype == torch.float64:
        return repr(value.item())
    return str(np.float32(value.item())) if value.is_floating_point() else str(value.item())


def _listed(tensor: Tensor) -> str:
    """Write nested lists, wrapped."""
    if tensor.dim() == 0:
        return number(tensor)
    if tensor.dim() == 1:
        return _wrapped("[" + ", ".join(number(value) for value in tensor) + "]")
    rows = ",\n".join(_listed(row) for row in tensor)
    if "\n" not in rows:
        return f"[{rows}]"
    return "[\n" + textwrap.indent(rows, "    ") + ",\n]"


def _wrapped(text: str) -> str:
    """Break a long line between values."""
    return "\n ".join(textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False))


def _packed(flat: Tensor, shape: tuple[int, ...]) -> str:
    """Write a call of the script's unpack(text, kind, dtype, shape): base64 of zlib of the little-endian
    elements.
    """
    kind = _FLOAT_BITS.get(flat.dtype, flat.dtype)
    raw = flat.view(kind).numpy()
    text = base64.b64encode(zlib.compress(raw.astype(raw.dtype.newbyteorder("<")).tobytes(), 9)).decode()
    lines = "\n".join(f'    "{line}"' for line in textwrap.wrap(text, WIDTH))
    return f'unpack(\n{lines},\n    "{raw.dtype.name}", {flat.dtype}, {shape},\n)'


def noise(spread: Tensor) -> str:
    """Write the noise of a result as an expression, bit for bit, so that the script's bound equals the
    verdict's.
    """
    return source(spread, NOISE_LISTED)
