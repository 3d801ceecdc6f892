"""Checks of what a caller passes, shared by all public functions.

Every failure names the argument, what was expected and what came, and is raised before anything is launched.
A wrong type or dtype is a TypeError, everything else a ValueError. The checks of shape, dtype, stride and
device are free; the checks of values (functions named `values_of_...`) read tensors back from the device and
are asked for by `values_wanted`.
"""

import math
from itertools import pairwise
from numbers import Real

import torch

from .device import INTERPRETED

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
INTEGERS = (torch.int32, torch.int64)
MAX_HEAD_DIM = 256


def wrong_value(name, expected, got):
    """Return a ValueError that names the argument, what was expected and what came. To be raised."""
    return ValueError(f"{name}: expected {expected}, got {got}")


def wrong_type(name, expected, got):
    """Return a TypeError that names the argument, what was expected and what came. To be raised."""
    return TypeError(f"{name}: expected {expected}, got {got}")


def tensor(name, x, dtypes=None, ndim=None):
    """Check that x is a tensor of one of these dtypes, and of one of these numbers of dimensions.

    dtypes, ndim: None for any; ndim: an int or several. Raises TypeError for no tensor or another dtype,
    ValueError for another number of dimensions.
    """
    if not isinstance(x, torch.Tensor):
        raise wrong_type(name, "a torch.Tensor", "None" if x is None else type(x).__name__)
    if dtypes is not None and x.dtype not in dtypes:
        raise wrong_type(name, "dtype " + " or ".join(map(str, dict.fromkeys(dtypes))), x.dtype)
    ndims = (ndim,) if isinstance(ndim, int) else ndim
    if ndims is not None and x.ndim not in ndims:
        raise wrong_value(
            name, f"{' or '.join(map(str, ndims))} dimensions", f"{x.ndim} (shape {tuple(x.shape)})"
        )


def shape(name, x, axes, sizes):
    """Check that x has exactly these sizes. axes: what they are called, such as "[B, T, HV]"."""
    if tuple(x.shape) != tuple(sizes):
        raise wrong_value(name, f"shape {axes} = {tuple(sizes)}", tuple(x.shape))


def last_dim_contiguous(name, x):
    """Check that the last dimension of x has stride 1, or one element. All other strides may be any."""
    if x.shape[-1] > 1 and x.stride(-1) != 1:
        raise wrong_value(name, "its last dimension contiguous (stride 1)", f"stride {x.stride(-1)}")


def rows_apart(name, x):
    """Check that no two elements of x, which is written, share an address (as they do after expand)."""
    reach = 0
    for stride, size in sorted(
        (stride, size) for size, stride in zip(x.shape, x.stride(), strict=True) if size > 1
    ):
        if stride <= reach:
            raise wrong_value(
                name,
                "elements that do not overlap, as it is written",
                f"strides {x.stride()}, shape {tuple(x.shape)}",
            )
        reach += stride * (size - 1)


def one_device(tensors):
    """Check that all of {name: tensor or None} are where the first one is, and that kernels can run there."""
    present = {name: x for name, x in tensors.items() if x is not None}
    first, x0 = next(iter(present.items()))
    for name, x in present.items():
        if x.device != x0.device:
            raise wrong_value(name, f"device {x0.device}, that of {first}", x.device)
    if x0.device.type == "meta" or (x0.device.type == "cpu" and not INTERPRETED):
        raise wrong_value(
            first, "a GPU tensor, or a CPU tensor under TRITON_INTERPRET=1", f"device {x0.device}"
        )


def heads(H, HV):
    """Check that each of H query heads serves the same number of the HV value heads."""
    if H < 1 or HV < 1 or HV % H:
        raise wrong_value("v", f"a number of value heads HV that is a multiple of q's H = {H}", f"HV = {HV}")


def head_dims(K, V):
    """Check that the head dimensions K (of q and k) and V (of v) are from 1 to MAX_HEAD_DIM."""
    for name, axis, dim in (("k", "K", K), ("v", "V", V)):
        if not 1 <= dim <= MAX_HEAD_DIM:
            raise wrong_value(name, f"a head dimension {axis} from 1 to {MAX_HEAD_DIM}", f"{axis} = {dim}")


def number(name, x):
    """Return x as a float if it is a finite Python number.

    Raises TypeError for anything else (True and False too), ValueError for NaN and infinities.
    """
    if isinstance(x, bool) or not isinstance(x, Real):
        raise wrong_type(name, "a number", type(x).__name__)
    if not math.isfinite(x):
        raise wrong_value(name, "a finite number", x)
    return float(x)


def scale_or_default(scale, K):
    """Return the factor of q: K^-0.5 for None, else the finite number `scale`, zero included."""
    return K**-0.5 if scale is None else number("scale", scale)


def flag(name, x):
    """Check that x is True or False. Raises TypeError for anything else, 0 and 1 too."""
    if not isinstance(x, bool):
        raise wrong_type(name, "True or False", repr(x))


def one_of(name, x, choices):
    """Check that x equals one of these choices. Raises ValueError if not."""
    if x not in choices:
        raise wrong_value(name, " or ".join(map(repr, choices)), repr(x))


def values_wanted(validate, x):
    """Return whether values are to be checked: as asked, or, unasked, where x is on a CPU.

    Reading values of a GPU tensor waits for the GPU. Raises TypeError for another `validate` than True, False
    and None.
    """
    if validate is not None and not isinstance(validate, bool):
        raise wrong_type("validate", "True, False or None", repr(validate))
    return x.device.type == "cpu" if validate is None else validate


def sequence_bounds(cu_seqlens):
    """Check that cu_seqlens is [N + 1], int32 or int64, of any stride; return N, the number of sequences."""
    tensor("cu_seqlens", cu_seqlens, INTEGERS, ndim=1)
    if cu_seqlens.numel() < 1:
        raise wrong_value("cu_seqlens", "N + 1 >= 1 elements", f"{cu_seqlens.numel()}")
    return cu_seqlens.numel() - 1


def values_of_cu_seqlens(cu_seqlens, tokens):
    """Check 0 = cu_seqlens[0] <= cu_seqlens[1] <= ... <= tokens; return these bounds as a list."""
    bounds = cu_seqlens.tolist()
    if bounds[0] != 0:
        raise wrong_value("cu_seqlens", "cu_seqlens[0] = 0", bounds[0])
    for i, (start, end) in enumerate(pairwise(bounds)):
        if end < start:
            raise wrong_value(
                "cu_seqlens", "non-decreasing values", f"{start} then {end} at position {i + 1}"
            )
    if bounds[-1] > tokens:
        raise wrong_value("cu_seqlens", f"a last value of at most {tokens}, the number of tokens", bounds[-1])
    return bounds


def indices(name, x, N):
    """Check that x is [N], int32 or int64, with any stride."""
    tensor(name, x, INTEGERS, ndim=1)
    shape(name, x, "[N]", (N,))


def values_of_indices(name, x, rows, distinct, of):
    """Check that indices x are negative (padding) or below `rows`, the number of rows of the argument `of`.

    distinct: `of` is written, so that no two of them that are not negative may be equal. Raises ValueError.
    """
    live = [i for i in x.tolist() if i >= 0]
    for i in live:
        if i >= rows:
            raise wrong_value(name, f"indices below {rows}, the number of rows of {of}", i)
    if distinct and len(set(live)) != len(live):
        twice = next(i for i in live if live.count(i) > 1)
        raise wrong_value(
            name, f"distinct live indices, because {of} is written", f"{twice} {live.count(twice)} times"
        )


def qkv(q, k, v):
    """Check q, k [B, T, H, K] and v [B, T, HV, V] against each other; return B, T, H, HV, K, V.

    Each in fp32, bf16 or fp16, HV % H == 0, K and V from 1 to MAX_HEAD_DIM, the last
    dimension contiguous.
    """
    tensor("q", q, FLOATS, ndim=4)
    tensor("k", k, FLOATS, ndim=4)
    tensor("v", v, FLOATS, ndim=4)
    B, T, H, K = q.shape
    shape("k", k, "[B, T, H, K], that of q,", (B, T, H, K))
    if v.shape[:2] != (B, T):
        raise wrong_value("v", f"shape [B, T, HV, V] with B, T = {(B, T)}, those of q", tuple(v.shape))
    HV, V = v.shape[2:]
    head_dims(K, V)
    heads(H, HV)
    for name, x in (("q", q), ("k", k), ("v", v)):
        last_dim_contiguous(name, x)
    return B, T, H, HV, K, V


def per_token(name, x, axes, sizes, dtypes):
    """Check a gate or beta: one of these dtypes, this shape, contiguous in the last dimension."""
    tensor(name, x, dtypes)
    shape(name, x, axes, sizes)
    last_dim_contiguous(name, x)


def states(name, x, rows, HV, V, K, layout, written):
    """Check that x holds states [rows, HV, V, K] (layout "kv": [rows, HV, K, V]), of fp32, bf16 or fp16.

    rows: None for any number. Any leading strides, the last dimension contiguous; written: no two elements
    at one address.
    """
    tensor(name, x, FLOATS, ndim=4)
    rows = x.shape[0] if rows is None else rows
    if layout == "kv":
        shape(name, x, "[rows, HV, K, V]", (rows, HV, K, V))
    else:
        shape(name, x, "[rows, HV, V, K]", (rows, HV, V, K))
    last_dim_contiguous(name, x)
    if written:
        rows_apart(name, x)


def per_head(name, x, numel, axes, dtypes):
    """Check that x, A_log or dt_bias, has this many elements, in any shape; return it flat and contiguous.

    axes: what the elements are, for the message. A copy is made where strides ask for it.
    """
    tensor(name, x, dtypes)
    if x.numel() != numel:
        raise wrong_value(name, f"{numel} elements, {axes}", f"{x.numel()} (shape {tuple(x.shape)})")
    return x.reshape(-1).contiguous()  # one axis with a stride is flat, but not contiguous


def gate_weights(A_log, dt_bias, HV, K):
    """Check what raw gates come with, and return both flat and contiguous: A_log, HV elements, and dt_bias.

    dt_bias: HV elements, with K (kda) HV * K, or None for zeros. Both in fp32, bf16 or fp16.
    """
    A_log = per_head("A_log", A_log, HV, "[HV]", FLOATS)
    if dt_bias is not None:
        size, axes = (HV, "[HV]") if K is None else (HV * K, "[HV, K]")
        dt_bias = per_head("dt_bias", dt_bias, size, axes, FLOATS)
    return A_log, dt_bias


def gates(g, beta, dtype, sizes, K, A_log, dt_bias, lower_bound, beta_is_raw, allow_neg_eigval):
    """Check g and beta, given or raw, and return A_log, dt_bias and lower_bound as kernels take them.

    g [*sizes] or, with K (kda), [*sizes, K], beta [*sizes] or None, in fp32 or `dtype`, that of q. With A_log
    g is the raw gate; dt_bias and lower_bound (kda) are for that alone, allow_neg_eigval for a raw beta.
    """
    floats = (torch.float32, dtype)
    if K is None:
        per_token("g", g, "[B, T, HV]", sizes, floats)
    else:
        per_token("g", g, "[B, T, HV, K]", (*sizes, K), floats)
    if beta is not None:
        per_token("beta", beta, "[B, T, HV]", sizes, floats)
    flag("beta_is_raw", beta_is_raw)
    flag("allow_neg_eigval", allow_neg_eigval)
    if beta_is_raw and beta is None:
        raise wrong_value("beta_is_raw", "False without beta", beta_is_raw)
    if allow_neg_eigval and not beta_is_raw:
        raise wrong_value("allow_neg_eigval", "False unless beta_is_raw", allow_neg_eigval)
    if A_log is None:
        for name, value in (("dt_bias", dt_bias), ("lower_bound", lower_bound)):
            if value is not None:
                raise wrong_value(
                    name, "None without A_log, where g is the log decay itself", type(value).__name__
                )
        return None, None, None
    A_log, dt_bias = gate_weights(A_log, dt_bias, sizes[-1], K)
    return A_log, dt_bias, None if lower_bound is None else number("lower_bound", lower_bound)
