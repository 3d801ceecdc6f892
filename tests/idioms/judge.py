"""Whether what a kernel left behind is what it should be, by the idiom's rule; and bits as text."""

from __future__ import annotations

import base64
import zlib

import torch
from torch import Tensor

from .registry import Idiom, Out

WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def complaint(idiom: Idiom, found: list[Tensor], expected: list[Tensor]) -> str:
    """What is wrong, in one line: how many elements, and the first of them. Empty if nothing is."""
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        if one.shape != other.shape:
            return f"output {number}: shape {tuple(one.shape)}, expected {tuple(other.shape)}"
        wrong = differs(idiom, one, other).flatten().nonzero().flatten()
        if len(wrong):
            at = int(wrong[0])
            return (
                f"output {number}: {len(wrong)} of {one.numel()} elements, the first [{at}]: "
                f"{shown(one, at)}, expected {shown(other, at)}"
            )
    return ""


def differs(idiom: Idiom, found: Tensor, expected: Tensor) -> Tensor:
    """Which elements break the rule. A NaN is a NaN, whatever its payload."""
    if idiom.rule.exact:
        if found.dtype != expected.dtype:
            expected = expected.to(found.dtype)
        return (words(found) != words(expected)) & ~(is_nan(found) & is_nan(expected))
    truth, got = expected.double(), found.double()
    special = ~truth.isfinite() | ~got.isfinite()
    unequal = (got != truth) & ~(got.isnan() & truth.isnan())
    far = ~((got - truth).abs() <= allowed(idiom, truth, found.dtype))
    overflow = got.isinf() & (got.sign() == truth.sign()) & (truth.abs() >= torch.finfo(found.dtype).max)
    return torch.where(special, unequal & ~overflow, far)


def allowed(idiom: Idiom, truth: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest distance from the truth for each element, in float64."""
    rule = idiom.rule
    distance = rule.ulp * unit(truth, dtype) + rule.relative * truth.abs() + rule.absolute
    if rule.bound is not None:
        distance = distance + rule.bound(*idiom.inputs)
    return distance


def unit(truth: Tensor, dtype: torch.dtype) -> Tensor:
    """One unit in the last place of dtype at each truth."""
    info = torch.finfo(dtype)
    magnitude = truth.abs().clamp(min=info.tiny)
    _, exponent = torch.frexp(torch.where(magnitude.isfinite(), magnitude, torch.ones_like(magnitude)))
    return torch.ldexp(torch.full_like(truth, info.eps), exponent - 1)


def is_nan(tensor: Tensor) -> Tensor:
    return tensor.isnan() if tensor.is_floating_point() else torch.zeros(tensor.shape, dtype=torch.bool)


def words(tensor: Tensor) -> Tensor:
    """The bits of each element, as integers."""
    return tensor.contiguous().view(WORDS[tensor.element_size()])


def flipped(tensor: Tensor) -> Tensor:
    """A tensor of the same dtype with every bit the other way round, every boolean the other."""
    return ~tensor if tensor.dtype == torch.bool else (~words(tensor)).view(tensor.dtype)


def shown(tensor: Tensor, at: int) -> str:
    flat = tensor.flatten()
    digits = 2 * tensor.element_size()
    bits = int(words(flat)[at]) % 16**digits
    return f"{flat[at].item()!r} (0x{bits:0{digits}x})"


def to_text(tensor: Tensor) -> str:
    """The bytes of a tensor, little-endian, compressed, in base64."""
    raw = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    return base64.b64encode(zlib.compress(raw, 9)).decode()


def from_text(text: str, out: Out) -> Tensor:
    """The tensor of `to_text`, of the dtype and shape that the idiom says."""
    dtype, shape = (out.dtype, tuple(out.shape)) if isinstance(out, Tensor) else out
    raw = bytearray(zlib.decompress(base64.b64decode(text, validate=True)))
    return torch.frombuffer(raw, dtype=dtype).reshape(shape)
