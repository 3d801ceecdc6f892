"""Small @triton.jit helpers shared by the kernels: norms, gates, products.

Everything here works on fp32 block values and returns fp32. Decays are natural logs, zero or less: the state
is multiplied by exp(g). The softplus gate is that of Mamba-2 (Dao and Gu 2024, "Transformers are SSMs"),
which Gated DeltaNet takes over (Yang, Kautz and Hatamizadeh 2024), and Kimi Linear per channel (Kimi Team
2025).
"""

import triton
import triton.language as tl

# Whether kernels of this process run in Triton's interpreter: decorated functions are then no JITFunction.
# For launchers alone, which choose larger tiles there.
INTERPRETED = not isinstance(tl.sum, triton.runtime.JITFunction)

# Inside the square root of l2norm, as in the formula x / sqrt(sum(x^2) + eps).
L2NORM_EPS = tl.constexpr(1e-6)
LARGEST = tl.constexpr(3.4028234663852886e38)  # fp32 number
LINEAR = tl.constexpr(40.0)  # from here on softplus(x) is x in fp32, and exp(x) far from its end


@triton.jit
def l2norm(b_x, AXIS: tl.constexpr):
    """Return b_x scaled to unit length along AXIS: x / sqrt(sum(x^2) + 1e-6). Lanes past its end are zero."""
    return b_x * (1.0 / tl.sqrt(tl.sum(b_x * b_x, axis=AXIS, keep_dims=True) + L2NORM_EPS))


@triton.jit
def sigmoid(x):
    """Return 1 / (1 + exp(-x)), by exponentials of numbers <= 0 alone: nothing overflows or loses digits."""
    e = tl.exp(-tl.abs(x))
    return tl.where(x < 0, e, 1.0) / (1.0 + e)


@triton.jit
def write_strength(b_b, NEG_EIGVAL: tl.constexpr):
    """Return beta of a raw one: sigmoid(b), with NEG_EIGVAL 2 sigmoid(b), so that I - beta k k^T may reflect.

    A state matrix with negative eigenvalues: Grazzi et al. 2024, "Unlocking State-Tracking in Linear RNNs
    Through Negative Eigenvalues".
    """
    b_beta = sigmoid(b_b)
    if NEG_EIGVAL:
        b_beta = 2.0 * b_beta
    return b_beta


@triton.jit
def softplus(x, beta, threshold):
    """Return log(1 + exp(beta x)) / beta, and x itself where beta x is past the threshold. beta > 0.

    log1p is formed as e * log(u) / (u - 1) with u = 1 + e rounded, which keeps its relative accuracy for tiny
    e (Goldberg 1991, "What Every Computer Scientist Should Know About Floating-Point Arithmetic", theorem 4).
    """
    bx = x * beta
    threshold = tl.minimum(threshold, LINEAR)
    e = tl.exp(tl.minimum(bx, threshold))
    u = 1.0 + e
    flat = u == 1.0
    log1p = tl.where(flat, e, tl.log(u) * (e / tl.where(flat, 1.0, u - 1.0)))
    return tl.where(bx > threshold, x, log1p / beta)


@triton.jit
def rate_of(A_log):
    """Return exp(A_log), the largest fp32 number where that overflows: times 0 it has to be 0, as in channels
    beyond K, and not NaN.
    """
    return tl.minimum(tl.exp(A_log), LARGEST)


@triton.jit
def softplus_gate(x, A_log, beta, threshold):
    """Return the natural log decay of the raw gate x = a + dt_bias: -exp(A_log) * softplus(x).

    beta, threshold: those of softplus.
    """
    return -rate_of(A_log) * softplus(x, beta, threshold)


@triton.jit
def bounded_gate(x, A_log, lower_bound):
    """Return the natural log decay of the raw gate x = a + dt_bias, from lower_bound (below zero) to 0.

    It is lower_bound * sigmoid(exp(A_log) * x).
    """
    return lower_bound * sigmoid(rate_of(A_log) * x)


@triton.jit
def dot(b_a, b_b):
    """Return b_a @ b_b in fp32, accumulated in fp32; fp32 operands multiply in IEEE fp32, never tf32."""
    return tl.dot(b_a, b_b, input_precision="ieee")


@triton.jit
def dot_add(b_a, b_b, b_acc):
    """Return b_acc + b_a @ b_b, accumulated into b_acc [fp32] as dot does it."""
    return tl.dot(b_a, b_b, acc=b_acc, input_precision="ieee")
