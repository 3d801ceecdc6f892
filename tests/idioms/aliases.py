"""The same functions under other names: module aliases, imports, helper modules, tl.math and libdevice."""

from __future__ import annotations

import torch
import triton
import triton.language as T
import triton.language as tl
from torch import Tensor
from triton.language import exp as tl_exp
from triton.language.extra import libdevice
from triton.language.extra.cuda import libdevice as cuda_libdevice

from . import helpers
from .data import F32, I32, SIGNED, N, f32, f64, i32, uniform
from .functions import (
    DOUBLE,
    EXP,
    EXP2,
    GATES,
    GUIDE,
    LOG,
    LOGISTIC,
    POSITIVE,
    RSQRT,
    SQRT,
    WIDE,
    in_double,
)
from .helpers import decay, exp, log_alias, safe_exp, sqrt
from .registry import Rule, idiom

maximum, load, store = tl.maximum, tl.load, tl.store
TWO_ULP = Rule(f"{GUIDE}: expf, log1pf, tanhf, 2 ulp", ulp=2)


@idiom(WIDE, out=(f32, (N,)), truth=in_double(torch.exp), rule=EXP, N=N)
@triton.jit
def exp_imported_by_name(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl_exp(tl.load(x_ptr + i)))


@idiom(WIDE, out=(f32, (N,)), truth=in_double(torch.exp), rule=EXP, N=N)
@triton.jit
def exp_of_helper_module(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, exp(tl.load(x_ptr + i)))


@idiom(WIDE, out=(f32, (N,)), truth=in_double(torch.exp), rule=EXP, N=N)
@triton.jit
def exp_as_attribute_of_helpers(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, helpers.exp(tl.load(x_ptr + i)))


@idiom(
    WIDE, out=(f32, (N,)), N=N, rule=EXP, truth=lambda x: torch.where(x <= 0, x.double(), float("-inf")).exp()
)
@triton.jit
def jit_helper_of_other_module(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, safe_exp(tl.load(x_ptr + i)))


@idiom(GATES, out=(f32, (N,)), truth=lambda x: torch.exp2(x.double() * 0.5), rule=EXP2, N=N)
@triton.jit
def exp2_inside_other_module(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, decay(tl.load(x_ptr + i), 0.5))


@idiom(POSITIVE, out=(f32, (N,)), truth=in_double(torch.sqrt), rule=SQRT, N=N)
@triton.jit
def sqrt_of_helper_module(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, sqrt(tl.load(x_ptr + i)))


@idiom(POSITIVE, out=(f32, (N,)), truth=in_double(torch.log), rule=LOG, N=N)
@triton.jit
def log_alias_of_helper_module(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, log_alias(tl.load(x_ptr + i)))


@idiom(F32, out=(f32, (N,)), truth=lambda x: torch.fmax(x, torch.tensor(0.5)), N=N)
@triton.jit
def load_and_store_as_aliases(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    store(y_ptr + i, maximum(load(x_ptr + i), 0.5))


@idiom(WIDE, out=(f32, (N,)), truth=in_double(torch.exp), rule=EXP, N=N)
@triton.jit
def language_under_another_name(x_ptr, y_ptr, N: T.constexpr):
    i = T.arange(0, N)
    T.store(y_ptr + i, T.exp(T.load(x_ptr + i)))


@idiom(GATES, out=(f32, (N,)), truth=in_double(torch.sigmoid), rule=LOGISTIC, N=N)
@triton.jit
def functions_of_tl_math(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, tl.math.fdiv(1.0, 1.0 + tl.math.exp(-x)))


@idiom(POSITIVE, out=(f32, (N,)), truth=in_double(torch.rsqrt), rule=RSQRT, N=N)
@triton.jit
def functions_as_methods(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.load(x_ptr + i).rsqrt())


@idiom(WIDE, out=(f32, (N,)), truth=in_double(torch.exp), rule=TWO_ULP, N=N)
@triton.jit
def libdevice_exp(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, libdevice.exp(tl.load(x_ptr + i)))


@idiom(WIDE.double(), out=(f64, (N,)), truth=torch.exp, rule=DOUBLE, N=N)
@triton.jit
def libdevice_exp_fp64(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, libdevice.exp(tl.load(x_ptr + i)))


@idiom(POSITIVE, out=(f32, (N,)), truth=in_double(torch.log1p), rule=TWO_ULP, N=N)
@triton.jit
def libdevice_log1p(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, libdevice.log1p(tl.load(x_ptr + i)))


@idiom(GATES, out=(f32, (N,)), truth=in_double(torch.tanh), rule=TWO_ULP, N=N)
@triton.jit
def libdevice_tanh(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, libdevice.tanh(tl.load(x_ptr + i)))


@idiom(POSITIVE, out=(f32, (N,)), truth=in_double(torch.rsqrt), rule=RSQRT, N=N)
@triton.jit
def libdevice_rsqrt(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, cuda_libdevice.rsqrt(tl.load(x_ptr + i)))


@idiom(WIDE, out=(f32, (N,)), truth=in_double(torch.exp), rule=EXP, N=N)
@triton.jit
def libdevice_fast_expf(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.extra.cuda.libdevice.fast_expf(tl.load(x_ptr + i)))


@idiom(
    POSITIVE,
    out=(f32, (N,)),
    truth=in_double(torch.log),
    N=N,
    rule=Rule(f"{GUIDE}: __logf, 2^-21.41 between 0.5 and 2, else 3 ulp", ulp=3, absolute=2.0**-21.41),
)
@triton.jit
def libdevice_fast_logf(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, libdevice.fast_logf(tl.load(x_ptr + i)))


@idiom(
    POSITIVE,
    uniform(N, stream=9),
    out=(f32, (N,)),
    truth=lambda x, y: torch.pow(x.double(), y.double()),
    N=N,
    rule=Rule(f"{GUIDE}: powf, 9 ulp", ulp=9, absolute=2.0**-126),
)
@triton.jit
def libdevice_pow(x_ptr, y_ptr, z_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(z_ptr + i, libdevice.pow(tl.load(x_ptr + i), tl.load(y_ptr + i)))


@idiom(
    SIGNED,
    out=[(f32, (N,)), (f32, (N,)), (f32, (N,))],
    truth=lambda x: (x.trunc(), x.round(), x.floor()),
    N=N,
)
@triton.jit
def libdevice_rounding(x_ptr, y_ptr, z_ptr, w_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, libdevice.trunc(x))
    tl.store(z_ptr + i, libdevice.rint(x))
    tl.store(w_ptr + i, libdevice.floor(x))


@idiom(F32, out=[(i32, (N,)), (i32, (N,))], truth=lambda x: (x.isnan().to(i32), x.isinf().to(i32)), N=N)
@triton.jit
def libdevice_isnan_isinf(x_ptr, y_ptr, z_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, libdevice.isnan(x).to(tl.int32))
    tl.store(z_ptr + i, (libdevice.isinf(x) != 0).to(tl.int32))


@idiom(SIGNED, uniform(N, stream=8), out=(f32, (N,)), truth=torch.copysign, N=N)
@triton.jit
def libdevice_copysign(x_ptr, y_ptr, z_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(z_ptr + i, libdevice.copysign(tl.load(x_ptr + i), tl.load(y_ptr + i)))


def ones_of(x: Tensor) -> Tensor:
    return torch.tensor([bin(value % 2**32).count("1") for value in x.tolist()], dtype=i32)


@idiom(I32, out=(i32, (N,)), truth=ones_of, N=N)
@triton.jit
def libdevice_popc(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, libdevice.popc(tl.load(x_ptr + i)))
