"""Small device functions that the kernels beside this file share, as such projects keep them."""

import triton
import triton.language as tl

exp = tl.exp
log = tl.log
cdiv = triton.cdiv
EPS = tl.constexpr(1e-6)
LARGEST = tl.constexpr(3.4028234663852886e38)


@triton.jit
def l2norm(x):
    return x * tl.rsqrt(tl.sum(x * x, 0) + EPS)


@triton.jit
def softplus(x, beta, threshold):
    y = beta * x
    return tl.where(y <= threshold, (1 / beta) * log(1 + exp(y)), x)


@triton.jit
def log_decay(x, A_log, softplus_beta, softplus_threshold, lower_bound, BOUNDED: tl.constexpr):
    if BOUNDED:
        # x is 0 in channels past K: inf * 0 would make all of the state NaN
        g = lower_bound * tl.sigmoid(tl.minimum(exp(A_log), LARGEST) * x)
    else:
        g = -exp(A_log) * softplus(x, softplus_beta, softplus_threshold)
    return g
