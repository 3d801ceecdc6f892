"""Compute CUDA's libdevice functions on arrays: in float64, then rounded to the type of the result.

Kernels reach them as `triton.language.extra.libdevice.*`, of which Triton's interpreter knows nothing, and
as `triton.language.extra.cuda.libdevice.*`. The `fast_*` ones are as exact here as the others: on a GPU
their errors are those of the CUDA C++ Programming Guide, "Mathematical Functions".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from triton.language.extra import libdevice as stubs
from triton.runtime import interpreter

from diffgdn.backend.interpreter.fused import fma

DISPATCH = "_diffgdn_libdevice"


def functions_are_missing() -> bool:
    """Probe whether exp of the common module is an empty stub."""
    return DISPATCH not in vars(stubs)


def compute_in_float64() -> None:
    """Give the interpreter's builder external functions, and let the common module's stubs call CUDA's."""
    from triton.language.extra.cuda import libdevice as cuda

    interpreter.InterpreterBuilder.create_extern_elementwise = _create_extern_elementwise
    setattr(stubs, DISPATCH, lambda name, args: getattr(cuda, name)(*args))
    for name, stub in list(vars(stubs).items()):
        if callable(stub) and hasattr(cuda, name) and hasattr(stub, "__code__"):
            # The stub's own code is replaced, so that a kernel that imported it by name has it too.
            scope: dict[str, Any] = {}
            exec(f"def {name}(*args): return {DISPATCH}({name!r}, args)", scope)
            stub.__code__ = scope[name].__code__


def _create_extern_elementwise(
    self: Any, library: str, path: str, symbol: str, arguments: list[Any], type_: Any, pure: bool
) -> Any:
    """Compute an external function elementwise: the builder's method, in Triton's signature."""
    scalar = type_.scalar
    dtype = interpreter._get_np_dtype(scalar)
    data = [argument.data for argument in arguments]
    with np.errstate(all="ignore"):
        result = np.asarray(function(symbol)(*data))
    return interpreter.TensorHandle(result.astype(dtype, copy=False), scalar)


def function(symbol: str) -> Callable[..., Any]:
    """Find what computes a libdevice symbol on arrays.

    Raises:
        NotImplementedError: the symbol is not known here.
    """
    name = symbol.removeprefix("__nv_")
    if name in ON_BITS:
        return ON_BITS[name]
    plain = re.sub(r"^(fast_|[fd](?=(add|sub|mul|div|rcp|sqrt|rsqrt)_))|_rn$", "", name)
    for known in (name, plain, plain.removesuffix("f")):
        if known in IN_FLOAT64:
            return _in_float64(IN_FLOAT64[known])
    raise NotImplementedError(
        f"libdevice: {symbol} is not among the functions known to the CPU backend; use a GPU"
    )


def _in_float64(compute: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that it gets floating-point arguments in float64."""

    def wide(*arguments: Any) -> Any:
        return compute(
            *(value.astype(np.float64) if value.dtype.kind == "f" else value for value in arguments)
        )

    return wide


def _by_torch(compute: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    """Wrap a function of one torch tensor as one of a numpy array."""
    return lambda x: compute(torch.from_numpy(np.ascontiguousarray(x))).numpy()


def _elementwise(compute: Callable[..., float]) -> Callable[..., Any]:
    """Wrap a function of numbers as one of arrays, with a result in float64."""
    return np.vectorize(compute, otypes=[np.float64])


def _power(x: Any, y: Any) -> Any:
    """Raise x to the power y, also for integer y."""
    return np.power(x, y.astype(np.float64))


def _round_half_away(x: Any) -> Any:
    """Round to the nearest integer, halves away from zero."""
    return np.trunc(x + np.copysign(np.where(np.abs(x) < 2.0**52, 0.49999999999999994, 0.0), x))


IN_FLOAT64: dict[str, Callable[..., Any]] = {
    **{name: getattr(np, name) for name in ("exp", "exp2", "expm1", "log", "log2", "log10", "log1p")},
    **{name: getattr(np, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{name: getattr(np, f"arc{name[1:]}") for name in ("asin", "acos", "atan", "asinh", "acosh", "atanh")},
    **{
        name: getattr(np, name)
        for name in ("floor", "ceil", "trunc", "rint", "sqrt", "cbrt", "hypot", "fmod")
    },
    **{name: getattr(np, name) for name in ("copysign", "ldexp")},
    "atan2": np.arctan2,
    "exp10": lambda x: np.power(10.0, x),
    "pow": _power,
    "powi": _power,
    "nearbyint": np.rint,
    "round": _round_half_away,
    "fabs": np.abs,
    "fmin": np.fmin,
    "fmax": np.fmax,
    "fdim": lambda x, y: np.where(np.isnan(x) | np.isnan(y), np.nan, np.maximum(x - y, 0.0)),
    "rsqrt": lambda x: 1.0 / np.sqrt(x),
    "rcbrt": lambda x: 1.0 / np.cbrt(x),
    "rcp": lambda x: 1.0 / x,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "fdivide": np.divide,
    "remainder": _elementwise(lambda x, y: math.remainder(x, y) if math.isfinite(x) and y else math.nan),
    "sinpi": lambda x: np.sin(np.pi * np.fmod(x, 2.0)),
    "cospi": lambda x: np.cos(np.pi * np.fmod(x, 2.0)),
    "erf": _by_torch(torch.erf),
    "erfc": _by_torch(torch.erfc),
    "erfinv": _by_torch(torch.erfinv),
    "erfcx": _by_torch(torch.special.erfcx),
    "normcdf": _by_torch(torch.special.ndtr),
    "lgamma": _by_torch(torch.lgamma),
    "tgamma": _elementwise(
        lambda x: math.gamma(x) if math.isfinite(x) and not (x <= 0 and x == int(x)) else math.nan
    ),
    "cyl_bessel_i0": _by_torch(torch.special.i0),
    "cyl_bessel_i1": _by_torch(torch.special.i1),
    "saturate": lambda x: np.where(np.isnan(x), 0.0, np.clip(x, 0.0, 1.0)),
    "finite": np.isfinite,
    "isfinited": np.isfinite,
    "isinf": np.isinf,
    "isinfd": np.isinf,
    "isnan": np.isnan,
    "isnand": np.isnan,
    "signbit": np.signbit,
    "signbitd": np.signbit,
}


def _count_bits(x: Any) -> Any:
    """Count the bits that are set in each integer."""
    return np.bitwise_count(x.view(f"u{x.dtype.itemsize}"))


def _leading_zeros(x: Any) -> Any:
    """Count the zeros before the first bit that is set in each integer; int32."""
    bits = x.dtype.itemsize * 8
    values = x.view(f"u{x.dtype.itemsize}").astype(object)
    return np.vectorize(lambda value: bits - int(value).bit_length(), otypes=[np.int32])(values)


# Those that take integers, or more digits than float64 has.
ON_BITS: dict[str, Callable[..., Any]] = {
    "fma": fma,
    "fmaf": fma,
    "fma_rn": fma,
    "fmaf_rn": fma,
    "abs": np.abs,
    "llabs": np.abs,
    "popc": _count_bits,
    "popcll": _count_bits,
    "clz": _leading_zeros,
    "clzll": _leading_zeros,
    "float_as_int": lambda x: x.view(np.int32),
    "float_as_uint": lambda x: x.view(np.uint32),
    "int_as_float": lambda x: x.view(np.float32),
    "uint_as_float": lambda x: x.view(np.float32),
    "double_as_longlong": lambda x: x.view(np.int64),
    "longlong_as_double": lambda x: x.view(np.float64),
    "float2int_rz": np.trunc,
    "float2int_rn": np.rint,
    "float2int_rd": np.floor,
    "float2int_ru": np.ceil,
    "int2float_rn": lambda x: x,
    "double2float_rn": lambda x: x,
}
