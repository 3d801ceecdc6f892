"""A module of helpers as large repositories have: aliases and functions under names of their own."""

import triton
import triton.language as tl
from triton.language import exp2, log

exp = tl.exp
sqrt = tl.math.sqrt
log_alias = log


@triton.jit
def safe_exp(x):
    return exp(tl.where(x <= 0, x, float("-inf")))


@triton.jit
def decay(g, scale):
    return exp2(g * scale)


@triton.jit
def sum_and_max(x):
    return tl.sum(x, 0), tl.max(x, 0)
