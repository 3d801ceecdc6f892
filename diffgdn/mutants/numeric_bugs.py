"""Bugs of arithmetic: exponentials, gates, norms, the inverse of a chunk's matrix, precision."""

from __future__ import annotations

from diffgdn.mutants.mutant import Edit, Mutant

_DIFFERENCES = "tl.exp2(tl.where(seen, b_g[:, :, None, :] - b_g[:, None, :, :], 0.0)) * b_k[:, None, :, :]"
_INVERSE = """    if BT == 16:
        b_D = b_L
    else:
        b_D = diagonal_blocks(b_L, BT, 16)  # [BT // 16, 16, 16]
"""
_SUBSTITUTION = """    b_X = tl.where(i == j, 1.0, 0.0) - tl.where(((i >> 1) == (j >> 1)) & (i > j), b_D, 0.0)
    for s in tl.static_range(1, 4):
        lower_left = ((i >> (s + 1)) == (j >> (s + 1))) & ((i >> s) > (j >> s))
        b_X -= dot(dot(b_X, tl.where(lower_left, b_D, 0.0)), b_X)
"""
_SERIES_FP16 = """    b_P = (0.0 - b_D).to(tl.float16)
    b_X = tl.where(i == j, 1.0, 0.0) + b_P
    for s in tl.static_range(1, 4):
        b_P = dot(b_P, b_P).to(tl.float16)
        b_X += dot(b_X.to(tl.float16), b_P)
"""
_SERIES_WHOLE = """    o_i = tl.arange(0, BT)
    b_P = 0.0 - b_L
    b_X = tl.where(o_i[:, None] == o_i[None, :], 1.0, 0.0) + b_P
    for s in tl.static_range(1, 6):
        if (1 << s) < BT:
            b_P = dot(b_P, b_P)
            b_X += dot(b_X, b_P)
"""
_MERGES = """    if BT > 16:
        b_X = merge(b_X, b_L, BT, 16)
    if BT > 32:
        b_X = merge(b_X, b_L, BT, 32)
"""

BUGS = (
    Mutant(
        "offdiag-rows-unmasked",
        "FLA #794, commit 91d870f8",
        "blocks off the diagonal of kda's matrix load the gate they are split at without the mask of rows",
        (
            Edit(
                "chunk/wy_kda.py",
                "b_m = tl.load(p_gc + i_k + (middle[:, None] * g_t + o_k[None, :]), mask=m_tk, other=0)",
                "b_m = tl.load(p_gc + i_k + (middle[:, None] * g_t + o_k[None, :]), "
                "mask=(o_k + i_k < K)[None, :], other=0)",
            ),
        ),
        "kda.extend",
    ),
    Mutant(
        "mask-after-overflow",
        "sglang-jax #1587",
        "exponentials of kda's diagonal blocks are multiplied by their mask after they overflowed",
        (
            Edit(
                "chunk/wy_kda.py",
                _DIFFERENCES,
                "tl.exp2(b_g[:, :, None, :] - b_g[:, None, :, :]) * tl.where(seen, 1.0, 0.0)"
                " * b_k[:, None, :, :]",
            ),
        ),
        "kda.extend",
    ),
    Mutant(
        "clamp-breaks-cancel",
        "SGLang #39971",
        "exp(g_i) exp(-g_j) for exp(g_i - g_j) in kda's diagonal blocks, both exponents clamped at 126",
        (
            Edit(
                "chunk/wy_kda.py",
                _DIFFERENCES,
                "tl.exp2(tl.maximum(b_g, -126.0))[:, :, None, :]"
                " * tl.exp2(tl.minimum(-b_g, 126.0))[:, None, :, :] * b_k[:, None, :, :]",
            ),
        ),
        "kda.extend",
    ),
    Mutant(
        "inf-times-zero-anchor",
        "SGLang #27488",
        "exp(g_i - g_end) exp(g_end - g_j) for exp(g_i - g_j) in kda's diagonal blocks: one overflows",
        (
            Edit(
                "chunk/wy_kda.py",
                f"b_d = {_DIFFERENCES}",
                "b_last = tl.load(p_gc + i_k + ((rows - 1) * g_t + o_c), mask=o_c + i_k < K, other=0)\n"
                "        b_d = tl.exp2(tl.where(m_c, b_g - b_last, 0.0))[:, :, None, :]"
                " * tl.exp2(tl.where(m_c, b_last - b_g, 0.0))[:, None, :, :] * b_k[:, None, :, :]",
            ),
        ),
        "kda.extend",
    ),
    Mutant(
        "neumann-fp16",
        "FlashKDA #34, cudnn-frontend #1051",
        "blocks of 16 are inverted by a Neumann series in fp16",
        (Edit("chunk/inverse.py", _SUBSTITUTION, _SERIES_FP16),),
        "*.extend",
    ),
    Mutant(
        "neumann-slow-decay",
        "tt-metal #54813, cudnn-frontend #1124",
        "a chunk's whole matrix is inverted by a Neumann series, whose powers grow where little is forgotten",
        (
            Edit("chunk/inverse.py", _INVERSE, ""),
            Edit("chunk/inverse.py", _SUBSTITUTION, _SERIES_WHOLE),
            Edit("chunk/inverse.py", _MERGES, ""),
        ),
        "*.extend",
    ),
    Mutant(
        "newton-too-few",
        "vLLM #53864",
        "the inverse of a chunk's matrix takes a round too few",
        (Edit("chunk/inverse.py", "tl.static_range(1, 4)", "tl.static_range(1, 3)"),),
        "*.extend",
    ),
    Mutant(
        "softplus-no-linear-branch",
        "FlashInfer #4481, cuLA #107",
        "softplus takes the exponential of large numbers too, which overflows past 88",
        (
            Edit(
                "device.py",
                "tl.where(bx > threshold, x, log1p / beta)",
                "tl.where(bx > threshold, tl.log(1.0 + tl.exp(bx)), log1p) / beta",
            ),
        ),
    ),
    Mutant(
        "inf-times-zero-gate",
        "lattice #314",
        "exp(A_log) may be infinite, and infinity times a gate of zero is NaN",
        (Edit("device.py", "return tl.minimum(tl.exp(A_log), LARGEST)", "return tl.exp(A_log)"),),
    ),
    Mutant(
        "eps-on-mean",
        "mlx-lm #1624",
        "the l2norm adds its epsilon to the mean of the squares, not to their sum",
        (Edit("device.py", "+ L2NORM_EPS))", "+ L2NORM_EPS * b_x.shape[AXIS]))"),),
    ),
    Mutant(
        "max-not-sum",
        "llama.cpp #28068",
        "the l2norm divides by the larger of norm and epsilon, not by the root of their sum",
        (
            Edit(
                "device.py",
                "(1.0 / tl.sqrt(tl.sum(b_x * b_x, axis=AXIS, keep_dims=True) + L2NORM_EPS))",
                "(1.0 / tl.maximum(tl.sqrt(tl.sum(b_x * b_x, axis=AXIS, keep_dims=True)), L2NORM_EPS))",
            ),
        ),
    ),
    Mutant(
        "aux-dtype-rounded",
        "FlashInfer #4214",
        "A_log and dt_bias are rounded to the dtype of q",
        (
            Edit(
                "recurrent_launch.py",
                "    changes = cache is not None and cache.ndim == 3\n",
                "    A_log, dt_bias = (x if x is None else x.to(q.dtype) for x in (A_log, dt_bias))\n"
                "    changes = cache is not None and cache.ndim == 3\n",
            ),
        ),
    ),
    Mutant(
        "dt-bias-per-head",
        "mlx-lm #1792",
        "the bias of channel 0 for all channels",
        (
            Edit("chunk/gates.py", "p_dt_bias + i_hv * K + o_k,", "p_dt_bias + i_hv * K + o_k * 0,"),
            Edit(
                "recurrent_steps.py",
                "b_dt_bias = read(p_dt_bias, columns, VARIANT.WHOLE_COLUMNS)",
                "b_dt_bias = read(p_dt_bias, (columns[0] * 0, columns[1]), VARIANT.WHOLE_COLUMNS)",
            ),
        ),
        "kda.*",
    ),
    Mutant(
        "scale-from-v",
        "mlx-lm #1798",
        "the scale that is not given is V^-0.5, not K^-0.5",
        (
            Edit(
                "pool_calls.py",
                "    scale = check.scale_or_default(scale, K)\n",
                "    scale = check.scale_or_default(scale, V)\n",
            ),
        ),
    ),
)
