"""Small @triton.jit helpers shared by the kernels: norms, gates, products.

Everything here works on fp32 block values and returns fp32. The same source runs compiled and in the
interpreter; the two places where they must differ ask INTERPRETED.
"""

import triton
import triton.language as tl


def inlined(function):
    """A @triton.jit function for use inside kernels: itself, or, interpreted, the plain function under it.

    The interpreter patches triton.language anew for each call of a jit function from another (0.2 ms); once,
    for the kernel, is enough.
    """
    return function if isinstance(function, triton.runtime.JITFunction) else function.rewrite()


sum_along = inlined(tl.sum)

# Inside the square root of l2norm, as in the formula x / sqrt(sum(x^2) + eps).
L2NORM_EPS = tl.constexpr(1e-6)


@inlined
@triton.jit
def l2norm(b_x, AXIS: tl.constexpr):
    """Scale b_x to unit length along AXIS: x / sqrt(sum(x^2) + 1e-6). b_x fp32, padding lanes zero."""
    return b_x * (1.0 / tl.sqrt(sum_along(b_x * b_x, axis=AXIS, keep_dims=True) + L2NORM_EPS))


@inlined
@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)), with exponentials of numbers <= 0 only: neither side overflows or loses digits."""
    e = tl.exp(-tl.abs(x))
    return tl.where(x < 0, e, 1.0) / (1.0 + e)


@inlined
@triton.jit
def softplus(x, beta, threshold):
    """log(1 + exp(beta x)) / beta, and x itself where beta x is past the threshold.

    log1p is formed as e * log(u) / (u - 1) with u = 1 + e rounded, which keeps its relative accuracy
    for tiny e.
    """
    bx = x * beta
    e = tl.exp(tl.minimum(bx, threshold))
    u = 1.0 + e
    flat = u == 1.0
    log1p = tl.where(flat, e, tl.log(u) * (e / tl.where(flat, 1.0, u - 1.0)))
    return tl.where(bx > threshold, x, log1p / beta)


@inlined
@triton.jit
def softplus_gate(x, A_log, beta, threshold):
    """Natural log decay of the raw gate x = a + dt_bias: -exp(A_log) * softplus(x)."""
    return -tl.exp(A_log) * softplus(x, beta, threshold)


@inlined
@triton.jit
def bounded_gate(x, A_log, lower_bound):
    """Natural log decay of the raw gate x = a + dt_bias, bounded: lower_bound * sigmoid(exp(A_log) * x)."""
    return lower_bound * sigmoid(tl.exp(A_log) * x)


# Decorated functions stay JITFunction only where they will be compiled.
INTERPRETED = tl.constexpr(not isinstance(sigmoid, triton.runtime.JITFunction))


@inlined
@triton.jit
def dot(b_a, b_b):
    """b_a @ b_b accumulated in fp32; fp32 operands multiply in IEEE fp32, never tf32.

    The interpreter multiplies bf16 operands as raw bits, so they are widened there; the products
    are the same.
    """
    if INTERPRETED:
        b_a = b_a.to(tl.float32)
        b_b = b_b.to(tl.float32)
    return tl.dot(b_a, b_b, input_precision="ieee")


@inlined
@triton.jit
def dot_add(b_a, b_b, b_acc):
    """b_acc + b_a @ b_b, as dot does it."""
    if INTERPRETED:
        b_a = b_a.to(tl.float32)
        b_b = b_b.to(tl.float32)
    return tl.dot(b_a, b_b, acc=b_acc, input_precision="ieee")


@inlined
@triton.jit
def round_to(b_x, dtype: tl.constexpr):
    """fp32 b_x in another dtype, rounded to nearest even.

    The interpreter's own cast to bf16 truncates and gets subnormals wrong, so there they are rounded and
    flushed here.
    """
    if INTERPRETED:
        if dtype == tl.bfloat16:
            bits = b_x.to(tl.int32, bitcast=True).to(tl.int64)  # 64 bits: see iota
            rounded = (
                ((bits + (((bits >> 16) & 1) + 0x7FFF)) & -0x10000).to(tl.int32).to(tl.float32, bitcast=True)
            )
            # NaN, which the carry could turn into a number, stays NaN; a subnormal becomes 0
            normal = tl.abs(b_x) >= 1.1754943508222875e-38
            b_x = tl.where(normal, rounded, tl.where(b_x == b_x, 0.0, b_x))
    return b_x.to(dtype)


@inlined
@triton.jit
def iota(N: tl.constexpr):
    """0 .. N - 1; interpreted in 64 bits, for each 32-bit sum or product costs eight operations of checks."""
    i = tl.arange(0, N)
    if INTERPRETED:
        i = i.to(tl.int64)
    return i
