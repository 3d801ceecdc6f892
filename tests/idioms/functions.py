"""Exponentials, logarithms, roots and what people build from them."""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from .data import F32, N, bf16, f16, f32, f64, uniform
from .judge import unit
from .registry import Rule, idiom

EPS = 2.0**-23
FLUSHED = 2.0**-126  # approximate functions may flush subnormal results to zero


def expf(x: Tensor) -> Tensor:
    """2 + floor(1.173 |x|) ulp of exp(x)."""
    return (2 + torch.floor(1.173 * x.double().abs())) * unit(torch.exp(x.double()), f32)


GUIDE = "CUDA C++ Programming Guide, Mathematical Functions"
EXP = Rule(
    f"{GUIDE}: __expf, 2 + floor(abs(1.173 * x)) ulp; Triton takes ex2.approx(x * log2(e))",
    absolute=FLUSHED,
    bound=expf,
)
EXP2 = Rule("PTX ISA, ex2.approx.ftz.f32: 2 ulp", ulp=2, absolute=FLUSHED)
LOG = Rule(f"{GUIDE}: logf, log2f, 1 ulp", ulp=1)
RSQRT = Rule(f"{GUIDE}: rsqrtf, 2 ulp", ulp=2)
SQRT = Rule("PTX ISA, sqrt.approx.ftz.f32: relative error 2^-23", relative=EPS, absolute=2.0**-63)
TRIG = Rule(f"{GUIDE}: sinf, cosf, erff, 2 ulp", ulp=2)
DOUBLE = Rule(f"{GUIDE}: exp, log, sqrt, sin, erf in double precision, 2 ulp", ulp=2)

WIDE = uniform(N, low=-86.0, high=88.0, stream=3)
GATES = uniform(N, low=-12.0, high=12.0, stream=4)
POSITIVE = torch.exp2(uniform(N, low=-60.0, high=60.0, stream=5, dtype=f64)).float()
NORMAL = torch.where(F32.abs() < 2.0**-126, torch.zeros_like(F32), F32)
ENDS = torch.tensor(
    [
        0.0,
        -0.0,
        1.0,
        -1.0,
        88.72283,
        88.8,
        200.0,
        float("inf"),
        -87.3,
        -88.0,
        -103.0,
        -104.0,
        -200.0,
        float("-inf"),
        float("nan"),
        2.0**-140,
    ]
    * 4
)


@triton.jit
def exp(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.exp(tl.load(x_ptr + i)))


@triton.jit
def exp2(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.exp2(tl.load(x_ptr + i)))


@triton.jit
def log(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.log(tl.load(x_ptr + i)))


@triton.jit
def log2(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.log2(tl.load(x_ptr + i)))


@triton.jit
def sqrt(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.sqrt(tl.load(x_ptr + i)))


@triton.jit
def rsqrt(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.rsqrt(tl.load(x_ptr + i)))


@triton.jit
def sine(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.sin(tl.load(x_ptr + i)))


@triton.jit
def cosine(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.cos(tl.load(x_ptr + i)))


@triton.jit
def erf(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.erf(tl.load(x_ptr + i)))


def in_double(function):
    return lambda x: function(x.double())


for kernel, function, rule, ordinary in (
    (exp, torch.exp, EXP, WIDE),
    (exp2, torch.exp2, EXP2, WIDE),
    (log, torch.log, LOG, POSITIVE),
    (log2, torch.log2, LOG, POSITIVE),
    (sqrt, torch.sqrt, SQRT, POSITIVE),
    (rsqrt, torch.rsqrt, RSQRT, POSITIVE),
    (sine, torch.sin, TRIG, GATES),
    (cosine, torch.cos, TRIG, GATES),
    (erf, torch.erf, TRIG, GATES / 4),
):
    label = function.__name__
    idiom(ordinary, out=(f32, (N,)), truth=in_double(function), rule=rule, name=label, N=N)(kernel)
    idiom(ordinary.double(), out=(f64, (N,)), truth=function, rule=DOUBLE, name=f"{label}_fp64", N=N)(kernel)
for kernel, function, rule in ((exp, torch.exp, EXP), (exp2, torch.exp2, EXP2)):
    idiom(ENDS, out=(f32, (N,)), truth=in_double(function), rule=rule, name=f"{function.__name__}_ends", N=N)(
        kernel
    )
for kernel, function, rule in (
    (log, torch.log, LOG),
    (log2, torch.log2, LOG),
    (sqrt, torch.sqrt, SQRT),
    (rsqrt, torch.rsqrt, RSQRT),
):
    idiom(
        NORMAL, out=(f32, (N,)), truth=in_double(function), rule=rule, name=f"{function.__name__}_ends", N=N
    )(kernel)


@idiom(POSITIVE, out=(f32, (N,)), truth=lambda x: torch.from_numpy(np.sqrt(x.numpy())), N=N)
@triton.jit
def sqrt_rn(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.sqrt_rn(tl.load(x_ptr + i)))


@idiom(GATES.to(bf16), out=(bf16, (N,)), truth=in_double(torch.exp), rule=Rule(EXP.source, ulp=0.51), N=N)
@triton.jit
def exp_of_bf16(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i).to(tl.float32)
    tl.store(y_ptr + i, tl.exp(x).to(tl.bfloat16))


@idiom(GATES.to(f16), out=(f16, (N,)), truth=in_double(torch.exp2), rule=Rule(EXP2.source, ulp=0.51), N=N)
@triton.jit
def exp2_of_fp16(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.math.exp2(tl.load(x_ptr + i).to(tl.float32)))


@idiom(
    out=(f32, (3,)),
    truth=lambda: torch.tensor([2.0, 1.5, 4.0], dtype=f64).exp(),
    arguments=(2.0, 1.5, 4),
    rule=Rule(EXP.source, ulp=6),
)
@triton.jit
def exp_of_scalars(y_ptr, x, z, n):
    tl.store(y_ptr, tl.exp(x))
    tl.store(y_ptr + 1, tl.exp(z + 0.0))
    tl.store(y_ptr + 2, tl.exp(n * 1.0))


def logistic_bound(x: Tensor) -> Tensor:
    """exp(-x) to its own error, weighed by its share of the sum; a rounding of the sum; 2 ulp of the
    quotient."""
    x = x.double()
    y = torch.sigmoid(x)
    return ((2 + 1.173 * x.abs()) * (1 - y) + 4) * EPS * y


LOGISTIC = Rule(f"{EXP.source}; div.full.f32 2 ulp, to first order", absolute=FLUSHED, bound=logistic_bound)


@idiom(WIDE, out=(f32, (N,)), truth=in_double(torch.sigmoid), rule=LOGISTIC, N=N)
@triton.jit
def sigmoid_of_tl(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.sigmoid(tl.load(x_ptr + i)))


@idiom(WIDE, out=(f32, (N,)), truth=in_double(torch.sigmoid), rule=LOGISTIC, N=N)
@triton.jit
def sigmoid_by_hand(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, 1 / (1 + tl.exp(-x)))


@idiom(
    GATES.to(bf16),
    out=(bf16, (N,)),
    truth=in_double(torch.nn.functional.silu),
    rule=Rule(LOGISTIC.source, ulp=0.51),
    N=N,
)
@triton.jit
def silu_bf16(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i).to(tl.float32)
    tl.store(y_ptr + i, (x * tl.sigmoid(x)).to(y_ptr.dtype.element_ty))


def softplus_bound(x: Tensor) -> Tensor:
    x = x.double()
    return ((2 + 1.173 * x.abs()) * torch.sigmoid(x) + 1) * EPS + 2 * EPS * torch.nn.functional.softplus(x)


SOFTPLUS = Rule(f"{EXP.source}; logf 1 ulp, to first order", bound=softplus_bound)


@idiom(
    uniform(N, low=-10.0, high=30.0, stream=6),
    out=(f32, (N,)),
    N=N,
    rule=SOFTPLUS,
    truth=lambda x: torch.log1p(torch.exp(x.double())),
)
@triton.jit
def softplus_with_threshold(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, tl.where(x <= 20.0, tl.log(1.0 + tl.exp(x)), x))


@idiom(
    GATES,
    out=(f32, (N,)),
    N=N,
    truth=lambda x: -torch.exp(torch.tensor(0.25, dtype=f64)) * torch.log1p(torch.exp(x.double())),
    arguments=(0.25,),
    rule=Rule(SOFTPLUS.source, relative=6 * EPS, bound=lambda x: 1.3 * softplus_bound(x)),
)
@triton.jit
def gate_of_a_scalar(x_ptr, y_ptr, A_log, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, -tl.exp(A_log) * tl.log(1 + tl.exp(x)))


def tanh_bound(x: Tensor) -> Tensor:
    return 2 * logistic_bound(2 * x) + 2 * EPS


@idiom(
    GATES / 4, out=(f32, (N,)), truth=in_double(torch.tanh), rule=Rule(LOGISTIC.source, bound=tanh_bound), N=N
)
@triton.jit
def tanh_by_sigmoid(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, 2 * tl.sigmoid(2 * tl.load(x_ptr + i)) - 1)


@idiom(WIDE, out=(f32, (N,)), truth=in_double(torch.exp), rule=EXP, N=N)
@triton.jit
def exp_by_exp2(x_ptr, y_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y_ptr + i, tl.math.exp2(tl.load(x_ptr + i) * 1.4426950408889634))


def softmax_bound(x: Tensor) -> Tensor:
    """Arguments lie within 24 of their maximum: 31 ulp an exponential; 16 sums and a quotient."""
    return (2 * 31 + 16 + 3) * EPS * torch.softmax(x.double(), -1)


@idiom(
    GATES.reshape(4, 16),
    out=(f32, (4, 16)),
    truth=lambda x: torch.softmax(x.double(), -1),
    rule=Rule(EXP.source, bound=softmax_bound),
)
@triton.jit
def softmax_by_hand(x_ptr, y_ptr):
    p = tl.arange(0, 4)[:, None] * 16 + tl.arange(0, 16)[None, :]
    x = tl.load(x_ptr + p)
    e = tl.exp(x - tl.max(x, axis=1)[:, None])
    tl.store(y_ptr + p, e / tl.sum(e, axis=1)[:, None])


@idiom(
    GATES.reshape(4, 16),
    out=(f32, (4, 16)),
    truth=lambda x: torch.softmax(x.double(), 0),
    rule=Rule(EXP.source, bound=lambda x: (2 * 31 + 16 + 3) * EPS * torch.softmax(x.double(), 0)),
)
@triton.jit
def softmax_of_tl(x_ptr, y_ptr):
    p = tl.arange(0, 4)[:, None] * 16 + tl.arange(0, 16)[None, :]
    tl.store(y_ptr + p, tl.softmax(tl.load(x_ptr + p), dim=0))


@idiom(
    GATES.reshape(4, 16),
    out=(f32, (4, 16)),
    truth=lambda x: torch.nn.functional.normalize(x.double(), dim=-1),
    rule=Rule(f"{SQRT.source}; sums of 16 squares in any order", relative=(16 + 4) * EPS),
)
@triton.jit
def l2norm_rows(x_ptr, y_ptr):
    p = tl.arange(0, 4)[:, None] * 16 + tl.arange(0, 16)[None, :]
    x = tl.load(x_ptr + p)
    tl.store(y_ptr + p, x / tl.sqrt(tl.sum(x * x, 1))[:, None])


@idiom(
    GATES.to(bf16).reshape(4, 16),
    out=(bf16, (4, 16)),
    N=16,
    truth=lambda x: x.double() * torch.rsqrt((x.double() ** 2).mean(-1, keepdim=True) + 1e-6),
    rule=Rule(f"{RSQRT.source}; sums of 16 squares in any order", ulp=0.51),
    grid=(4,),
)
@triton.jit
def rmsnorm_rows(x_ptr, y_ptr, N: tl.constexpr):
    row = tl.program_id(0)
    cols = tl.arange(0, N)
    x = tl.load(x_ptr + row * N + cols).to(tl.float32)
    rstd = tl.rsqrt(tl.sum(x * x, axis=0) / N + 1e-6)
    tl.store(y_ptr + row * N + cols, x * rstd)


@idiom(
    WIDE / 2,
    out=(f32, (1,)),
    truth=lambda x: torch.logsumexp(x.double(), 0, keepdim=True),
    N=N,
    rule=Rule(EXP.source, ulp=2, absolute=120 * EPS),
)
@triton.jit
def logsumexp(x_ptr, y_ptr, N: tl.constexpr):
    x = tl.load(x_ptr + tl.arange(0, N))
    m = tl.max(x, 0)
    tl.store(y_ptr, m + tl.log(tl.sum(tl.exp(x - m), 0)))
