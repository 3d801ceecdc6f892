"""Cast from and to the 8-bit floats of NVIDIA's GPUs, e4m3 and e5m2.

Triton's interpreter rounds every tie up, and reads the codes of infinity and NaN as numbers. The formats:
Micikevicius et al., "FP8 formats for deep learning", 2022. What is too large becomes the largest finite
number (PTX ISA, cvt.rn.satfinite).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

from diffgdn.backend.interpreter.casts import cast

NAN = 0x7F
SIGN = np.uint8(0x80)


@dataclass(frozen=True)
class Format:
    """Describe an 8-bit format.

    A code above the largest finite one is NaN, or infinity if it is the next one and the format has
    infinities.

    Attributes:
        digits: behind the point.
        bias: of the exponent.
        largest: the code of the largest finite number.
        infinite: whether the format has infinities.
    """

    digits: int
    bias: int
    largest: int
    infinite: bool

    def magnitudes(self) -> Any:
        """Compute the numbers of the codes 0 to 127, in fp32."""
        codes = np.arange(128)
        fraction, exponent = codes % (1 << self.digits), codes >> self.digits
        normal = exponent > 0
        whole = fraction + np.where(normal, 1 << self.digits, 0)
        values = np.ldexp(whole.astype(np.float64), np.maximum(exponent, 1) - self.bias - self.digits)
        values[self.largest + 1 :] = np.nan
        if self.infinite:
            values[self.largest + 1] = np.inf
        return values.astype(np.float32)


FORMATS = {
    "fp8e4nv": Format(digits=3, bias=7, largest=0x7E, infinite=False),
    "fp8e5": Format(digits=2, bias=15, largest=0x7B, infinite=True),
}
MAGNITUDES = {name: format_.magnitudes() for name, format_ in FORMATS.items()}


def ties_are_rounded_up() -> bool:
    """Probe whether 1 + 1/16, halfway between two numbers of e4m3, is not rounded to the even one, 1."""
    half = interpreter.TensorHandle(np.array([1.0625], np.float32), tl.float32)
    nearest = interpreter._ir.ROUNDING_MODE.RTNE
    found = interpreter.interpreter_builder.create_fp_to_fp(half, tl.float8e4nv, nearest)
    return int(found.data[0]) != 0x38


def round_to_nearest() -> None:
    """Replace the interpreter's casts from and to these two formats."""
    builder = interpreter.InterpreterBuilder
    original = builder.create_fp_to_fp

    def create_fp_to_fp(self: Any, source: Any, type_: Any, rounding: Any) -> Any:
        before, after = source.dtype.scalar, type_.scalar
        if before.name not in FORMATS and after.name not in FORMATS:
            return original(self, source, type_, rounding)
        if before.name in FORMATS:
            data, before = decode(source.data, before.name), tl.float32
        else:
            data = cast(source.data, before, tl.float64)
        data = encode(data, after.name) if after.name in FORMATS else cast(data, before, after)
        return interpreter.TensorHandle(data, after)

    builder.create_fp_to_fp = create_fp_to_fp


def decode(codes: Any, name: str) -> Any:
    """Convert an array of codes to their numbers, in fp32: exact."""
    values = MAGNITUDES[name][codes & np.uint8(0x7F)]
    return np.where(codes & SIGN, -values, values)


def encode(data: Any, name: str) -> Any:
    """Find the codes of the nearest numbers, ties to the even code; the largest finite number for larger
    ones."""
    finite = MAGNITUDES[name][: FORMATS[name].largest + 1].astype(np.float64)
    halves = (finite[1:] + finite[:-1]) / 2
    magnitude = np.abs(data.astype(np.float64))
    below = np.searchsorted(halves, magnitude, side="left")
    above = np.searchsorted(halves, magnitude, side="right")
    code = np.where(below % 2 == 0, below, above)  # they differ on a tie alone
    code = np.where(np.isnan(data), NAN, code | np.where(np.signbit(data), 0x80, 0))
    return code.astype(np.uint8)
