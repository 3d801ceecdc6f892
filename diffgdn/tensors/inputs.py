"""Draws the tensors of a case: the same bits on every machine and device.

Elements come from a counter-based hash, splitmix64 (Steele, Lea and Flood 2014, "Fast Splittable Pseudorandom
Number Generators", OOPSLA), and from nothing but exactly rounded IEEE operations (+, -, *, /, sqrt and powers
of two); libm's exp and log differ between machines in the last bit and are not used. `draw` makes plain,
contiguous CPU tensors, which the oracle reads; `layout` lays them out for a kernel.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.cases.case_checks import LATER_GATE_LAWS
from diffgdn.cases.operand_options import COARSENESS, NONE, dtype_of
from diffgdn.cases.sparsity import AXES, places

DTYPE = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
LN2 = 0.6931471805599453
FINE = 3.0 * 2.0**-13  # of a dt_bias in a finer dtype than a: neither bf16 nor fp16 holds it beside a half
# A raw gate at which softplus and sigmoid are exactly linear, 0 or 1; exact in fp16 and bf16.
SATURATED = 16384.0
FORGET = -16384.0  # a log decay whose exponential underflows in every format; exact in fp16 and bf16
# What "extreme" draws of. exp(A_log): 0, nearly so, in the range of checkpoints, beyond fp32. a, all exact in
# fp16 and bf16: past what exp holds in fp32, past where softplus is linear, and on either side of 0; with the
# bias never 0, nor so low that softplus is 0 itself.
EXTREME_A_LOG = [-math.inf, -60.0, -6.0, 5.0, 89.0]
EXTREME_A = [3000.0, 100.0, 88.5, 20.0, 0.5, -3.0]
ACROSS = 2.0  # of a threshold of softplus, on either side
FRACTION_BITS = {"float32": 23, "float16": 10, "bfloat16": 7}
STRONGEST_SEEN = 316.0  # |g| of a token, in a checkpoint
NORMAL_STD = 65536.0 * 0.5773502691896258  # of the sum of four uniform 16-bit integers
LOWER = np.uint64(0x0000FFFF0000FFFF)  # the lower 16 bits of each half of a hash
EXACT_HALVES = 2  # how often beta = 1/2 may occur in one sequence of an exact case: each adds a bit

Data = dict[str, Tensor]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Hashes = NDArray[np.uint64]


def _hashes(case: Case, name: str, shape: tuple[int, ...], stream: int = 0) -> Hashes:
    """Hash (seed, tensor name, stream, counter) to 64 bits for each element of a shape.

    splitmix64 (Steele, Lea and Flood 2014, with Stafford's variant 13 of MurmurHash3's finalizer as mixing
    function) from a key of the first three on, counters starting at 1.
    """
    count = math.prod(shape)
    key = (
        case.values.seed * 0x9E3779B97F4A7C15
        + zlib.crc32(name.encode()) * 0xD1B54A32D192ED03
        + stream * 0x8CB92BA72F3D8DD7
    ) % 2**64
    with np.errstate(over="ignore"):
        z = np.arange(1, count + 1, dtype=np.uint64)
        z += np.uint64(key)
        z *= np.uint64(0x9E3779B97F4A7C15)
        z ^= z >> np.uint64(30)
        z *= np.uint64(0xBF58476D1CE4E5B9)
        z ^= z >> np.uint64(27)
        z *= np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
        return z.reshape(shape)


def _uniform(bits: Hashes) -> Floats:
    """Turn hashes into numbers of 53 bits, uniform in [0, 1)."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _normal(bits: Hashes) -> Integers:
    """Turn hashes into nearly normal integers of standard deviation NORMAL_STD: the centred sum of four
    uniform 16-bit integers."""
    pairs = bits & LOWER  # two sums side by side, which are below 2**17
    pairs += (bits >> np.uint64(16)) & LOWER
    sums: Integers = ((pairs & np.uint64(0xFFFFFFFF)) + (pairs >> np.uint64(32))).view(np.int64)
    sums -= 131070
    return sums


def _choose(bits: Hashes, options: list[float]) -> Floats:
    """Choose an option for each hash."""
    return np.asarray(options, dtype=np.float64)[(bits % np.uint64(len(options))).astype(np.int64)]


def _rough_log2(values: Floats) -> Floats:
    """Interpolate log2 linearly between powers of two: by exact operations alone, close enough for a law."""
    mantissa, exponent = np.frexp(values)
    interpolated: Floats = exponent + (2.0 * mantissa - 2.0)
    return interpolated


def _unit_rows(integers: Integers) -> Floats:
    """Scale rows to length one. Squares are summed as integers, so that the order does not matter."""
    squares = (integers * integers).sum(axis=-1, keepdims=True)
    scaled: Floats = integers / np.sqrt(np.maximum(squares, 1).astype(np.float64))
    return scaled


def _vectors(case: Case, name: str, rows: int, heads: int, dim: int, unit: bool) -> Floats:
    """Draw q, k, v or state rows, [rows, heads, dim], by the case's law. unit: of length at most one."""
    law, shape = case.values.law, (rows, heads, dim)
    if law == "zero":
        return np.zeros(shape)
    if law == "ones":
        length = 2.0 ** -math.ceil(math.log2(dim) / 2) if unit else 1.0
        return np.full(shape, length)
    if law == "exact":
        return _exact_vectors(case, name, shape)
    bits = _hashes(case, name, shape)
    if law == "uniform":
        integers = (bits >> np.uint64(48)).astype(np.int64) - 32768
    else:
        integers = _normal(bits)
    if law == "parallel" and name == "k":
        base = _normal(_hashes(case, "k.base", (1, heads, dim)))
        integers = 32 * base + integers
    if law == "spiky":
        integers = np.where(bits % np.uint64(29) == 0, 24 * integers, integers)
    if law == "zero_rows":
        zero = _hashes(case, name + ".zero", (rows, heads, 1)) % np.uint64(3) == 0
        integers = np.where(zero, 0, integers)
    return _unit_rows(integers) if unit else integers / NORMAL_STD


def _exact_vectors(case: Case, name: str, shape: tuple[int, int, int]) -> Floats:
    """Draw numbers that are exact in bf16, [rows, heads, dim]: one-hot keys, queries with at most two nonzero
    channels, small whole values and states."""
    rows, heads, dim = shape
    if name == "k":
        # A few channels only, so that later tokens overwrite what earlier ones wrote.
        used = min(dim, 3)
        hot = (_hashes(case, "k.hot", (rows, heads)) % np.uint64(used)).astype(np.int64)
        spread = (_hashes(case, "k.spread", (heads, used)) % np.uint64(dim)).astype(np.int64)
        channel = np.take_along_axis(spread, hot.T, axis=1).T
        return _one_hot(channel, dim).astype(np.float64)
    if name == "q":
        first, second = (
            _one_hot((_hashes(case, f"q.{i}", (rows, heads)) % np.uint64(dim)).astype(np.int64), dim)
            for i in (1, 2)
        )
        return first.astype(np.float64) - 2.0 * (second & ~first)
    return _choose(_hashes(case, name, shape), [1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 4.0])


def _one_hot(channel: Integers, dim: int) -> NDArray[np.bool_]:
    """Mark one channel of each row: [..., dim] from [...]."""
    marks: NDArray[np.bool_] = np.arange(dim) == channel[..., None]
    return marks


def _keep_only(case: Case, name: str, values: Floats, sign: float = 1.0) -> Floats:
    """Set values of a tensor to zero that `case.only` does not keep. sign: -1 for values that are negated
    later."""
    entry = next((one for one in case.only if one.tensor == name), None)
    if entry is None:
        return values
    inside = np.ones(values.shape, dtype=bool)
    for axis, (word, size) in enumerate(zip(AXES[name], values.shape, strict=False)):
        chosen = getattr(entry, word)
        if chosen is not None:
            marks = np.zeros(size, dtype=bool)
            marks[list(places(chosen))] = True
            inside &= marks.reshape(-1, *([1] * (values.ndim - axis - 1)))
    if name == "state" and case.operation.has_pool:
        for slot in set(case.pool.indices):
            same = [n for n, other in enumerate(case.pool.indices) if other == slot]
            inside[same] = inside[same].any(axis=0)
    return np.where(inside, values if entry.value is None else sign * entry.value, 0.0)


def _is_kept(case: Case, name: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Mark the elements of a tensor that `case.only` does not set to zero."""
    kept: NDArray[np.bool_] = _keep_only(case, name, np.ones(shape)) != 0.0
    return kept


def _positions(case: Case) -> Integers:
    """Position of each real token within its own sequence, [total]."""
    return np.concatenate([np.arange(length) for length in (*case.lens, 0)])


def _decay(case: Case, heads_shape: tuple[int, ...]) -> Floats:
    """Draw sizes |g| of the log decay (natural log), [total, HV] or [total, HV, K], by the case's law."""
    law, strength = case.gates.law, case.gates.strength
    shape = (case.total, *heads_shape)
    bits = _hashes(case, "g", shape)
    u = _uniform(bits)
    place = _positions(case).reshape(-1, *([1] * len(heads_shape)))
    flat = np.ones(shape)
    if law == "zero":
        return np.zeros(shape)
    if law == "exact":
        # At most two in a chunk of 64: the sum of more multiples of log2(e) * FORGET depends on the order of
        # summation.
        return np.where((place % 32 == 2) & (bits % np.uint64(2) == 0), -FORGET, 0.0)
    if law == "constant":
        return strength * flat
    if law == "uniform":
        return strength * u
    if law == "mixed":
        return np.where(
            bits % np.uint64(4) == 0, 8.0 * strength, np.where(bits % np.uint64(4) == 1, strength * u, 0.0)
        )
    if law == "alternating":
        return np.where(place % 2 == 1, strength, 0.0) * flat
    if law == "jump":
        return np.where(place == case.gates.at, 32.0 * strength, 0.015625 * strength * u) * flat
    if law == "underflow":
        return 30.0 * strength * (0.5 + u)
    if law == "huge":  # per-token |g| up to thousands, as kimi-type models reach
        return strength * np.ldexp(1.0 + u, (bits % np.uint64(12)).astype(np.int32))
    if law == "checkpoint":
        return np.minimum(
            strength * np.ldexp(1.0 + u, -9 + (bits % np.uint64(18)).astype(np.int32)), STRONGEST_SEEN
        )
    if law == "extreme":
        return _choose(bits, [0.0, 0.0, 2.0**-20, STRONGEST_SEEN, 8192.0])
    # "model": |g| = A * dt with A in [1, 16] per head, dt log-uniform in [2**-10, 2**-3), the initialisation
    # that these models publish
    rates = _hashes(case, "g.rate", (1, case.HV, *([1] * (len(heads_shape) - 1))))
    rate = 1.0 + 15.0 * _uniform(rates)
    return strength * rate * np.ldexp(1.0 + u, -10 + (bits % np.uint64(7)).astype(np.int32))


def _beta(case: Case) -> Floats:
    """Draw beta, [total, HV], in [0, 2], by the case's law."""
    law, shape = case.gates.beta, (case.total, case.HV)
    bits = _hashes(case, "beta", shape)
    if law in ("one", "half", "zero", "two"):
        return np.full(shape, {"one": 1.0, "half": 0.5, "zero": 0.0, "two": 2.0}[law])
    if law == "exact":
        wanted = np.where(bits % np.uint64(4) == 0, 0.0, 1.0)
        return np.where(
            (_positions(case) < EXACT_HALVES).reshape(-1, 1) & (bits % np.uint64(4) == 1), 0.5, wanted
        )
    return _uniform(bits) if law == "uniform" else 1.0 - 0.03125 * _uniform(bits)


def _raw_decay(size: Floats) -> Floats:
    """Invert softplus roughly: a raw gate x with softplus(x) exactly 0 if the size is 0, else within a
    third of it."""
    small = LN2 * _rough_log2(np.maximum(size, 2.0**-60))
    raw = np.where(size > 1.0, size, small)
    return np.where(size == 0.0, -SATURATED, np.minimum(raw, SATURATED))


def _wild_gates(case: Case, heads: tuple[int, ...]) -> tuple[Floats, Floats, Floats]:
    """Draw raw a [total, HV(, K)], A_log [HV] and dt_bias [HV(, K)] by laws that draw each by itself."""
    bits, rates = _hashes(case, "a", (case.total, *heads)), _hashes(case, "A_log", (case.HV,))
    bias = _uniform(_hashes(case, "dt_bias", heads))
    if case.gates.law == "extreme":
        return _choose(bits, EXTREME_A), _choose(rates, EXTREME_A_LOG), 0.4 * bias - 0.2
    return 24.0 * _uniform(bits) - 12.0, 11.0 * _uniform(rates) - 6.0, 8.0 * bias - 4.0


def _at_threshold(case: Case, shape: tuple[int, ...]) -> Floats:
    """Draw raw gates a at which softplus becomes linear, to the bit, a step of their dtype below or above
    it, or within ACROSS on either side. Around 0 the steps are those of 1."""
    at = case.operands.softplus_threshold / case.operands.softplus_beta
    step = 2.0 ** (math.frexp(at or 1.0)[1] - 1 - FRACTION_BITS[case.gates.dtype])
    bits = _hashes(case, "a", shape)
    side = (bits % np.uint64(4)).astype(np.float64) - 1.0
    return at + np.where(side == 2.0, ACROSS * (2.0 * _uniform(bits) - 1.0), step * side)


def _raw_beta(beta: Floats) -> Floats:
    """Invert the sigmoid roughly: a raw b with sigmoid(b) near beta; exact for 0, 1/2 and 1."""
    odds = _rough_log2(np.clip(beta, 2.0**-20, 1.0)) - _rough_log2(np.clip(1.0 - beta, 2.0**-20, 1.0))
    inner = LN2 * odds
    return np.where(
        beta <= 0.0, -SATURATED, np.where(beta >= 1.0, SATURATED, np.where(beta == 0.5, 0.0, inner))
    )


def _tokens(case: Case, values: Floats, dtype: torch.dtype) -> Tensor:
    """Round values [total, ...] to a dtype, through float32 as a caller would, and add NaN for the padding
    tokens behind the last sequence: [tokens, ...]."""
    tensor = torch.from_numpy(np.ascontiguousarray(values)).to(torch.float32).to(dtype)
    tail = torch.full((case.tail, *tensor.shape[1:]), math.nan, dtype=dtype)
    return torch.cat([tensor, tail]) if case.tail else tensor


def _own_dtype(case: Case, name: str) -> torch.dtype:
    """Look up the dtype of an operand of the case."""
    return DTYPE[dtype_of(case, name)]


def _beta_data(case: Case) -> Data:
    """Draw beta, or b, as `draw` returns it. Where a raw beta counts twice, the law is that of the half."""
    beta = _keep_only(case, "beta", _beta(case))
    raw = {"beta": beta, "b": _raw_beta(beta)}
    return {name: _tokens(case, raw[name], _own_dtype(case, name)) for name in case.decay_and_beta[1:]}


def _gate_data(case: Case) -> Data:
    """Draw g (natural log) and beta, or a, b, A_log and dt_bias, as `draw` returns them."""
    dtype, operands = DTYPE[case.gates.dtype], case.operands
    heads = (case.HV, case.K) if case.operation.is_kda else (case.HV,)
    size = _keep_only(case, "g", _decay(case, heads), sign=-1.0)
    if not case.raw_gates:
        return {"g": _tokens(case, -size, dtype)} | _beta_data(case)
    exact = case.gates.law in ("zero", "exact")
    # A_log in steps of ln 2 and a bias of a few eighths; none of either where the law wants gates that are
    # exact.
    steps, bias = np.zeros(case.HV), np.zeros(heads)
    if not exact:
        steps = (_hashes(case, "A_log", (case.HV,)) % np.uint64(3)).astype(np.float64)
        bias = _choose(_hashes(case, "dt_bias", heads), [0.0, 0.25, -0.5, 0.125])
        if COARSENESS.index(dtype_of(case, "dt_bias")) < COARSENESS.index(case.gates.dtype):
            bias = np.where(bias == 0.0, 0.0, bias + FINE)
    if operands.dt_bias == NONE:
        bias = np.zeros(heads)
    per_head = steps.reshape(1, case.HV, *([1] * (len(heads) - 1)))
    raw = _raw_decay(np.ldexp(size, -per_head.astype(np.int32)) * operands.softplus_beta)
    raw = np.where(np.abs(raw) == SATURATED, raw, raw / operands.softplus_beta)
    raw = np.where(np.abs(raw) == SATURATED, raw, raw - bias)
    A_log = steps * LN2
    if case.gates.law in LATER_GATE_LAWS:
        wild, A_log, bias = _wild_gates(case, heads)
        raw = np.where(_is_kept(case, "g", wild.shape), wild, -SATURATED)
    if case.gates.law == "threshold":
        raw, bias = _at_threshold(case, raw.shape), np.zeros(heads)
        raw = np.where(_is_kept(case, "g", raw.shape), raw, -SATURATED)
    data = {"a": _tokens(case, raw, dtype)} | _beta_data(case)
    data["A_log"] = torch.from_numpy(A_log).to(torch.float32).to(_own_dtype(case, "A_log"))
    if operands.dt_bias != NONE:
        data["dt_bias"] = torch.from_numpy(bias).to(_own_dtype(case, "dt_bias"))
    return data


def _state(case: Case) -> Tensor:
    """Draw initial states [N, HV, V, K] in the pool's dtype: zero for padding, the same for sequences that
    share a slot."""
    operation, pool = case.operation, case.pool
    slots = pool.indices if operation.has_pool else tuple(range(len(case.lens)))
    out = np.zeros((len(case.lens), case.HV, case.V, case.K))
    for n, slot in enumerate(slots):
        if slot >= 0 and case.values.state == "law":
            rows = _vectors(case, f"state.{slot}", case.HV, case.V, case.K, unit=False)
            np.multiply(rows, 2.0**case.values.v_exponent, out=out[n])
    out = _keep_only(case, "state", out)
    out[[n for n, slot in enumerate(slots) if slot < 0]] = 0.0
    return torch.from_numpy(out).to(torch.float32).to(DTYPE[pool.dtype])


def draw(case: Case) -> Data:
    """Draw the tensors of a case, plain contiguous CPU tensors, with `only` and then edits applied.

    q, k [tokens, H, K] and v [tokens, HV, V] in `case.dtype`.
    g [tokens, HV(, K)] (natural log) and beta [tokens, HV] in `gates.dtype`; or raw a [tokens, HV(, K)],
        b [tokens, HV] and dt_bias [HV(, K)] in it, and A_log [HV] in float32. `case.operands` says which of
        these there are, and which have other dtypes.
    state [N, HV, V, K] in `pool.dtype`, absent with `values.state == "none"`.

    Padding tokens are NaN. Raises ValueError for an edit of a tensor or element that the case does not have.
    """
    scale = case.values
    # Without l2norm a key longer than one makes the recurrence itself explode: that would test nothing.
    q = np.ldexp(_vectors(case, "q", case.total, case.H, case.K, unit=not case.l2norm), scale.q_exponent)
    k = _vectors(case, "k", case.total, case.H, case.K, unit=not case.l2norm)
    k = np.ldexp(k, scale.q_exponent) if case.l2norm else k
    v = np.ldexp(_vectors(case, "v", case.total, case.HV, case.V, unit=False), scale.v_exponent)
    drawn = {"q": q, "k": k, "v": v}
    data: Data = {
        name: _tokens(case, _keep_only(case, name, values), _own_dtype(case, name))
        for name, values in drawn.items()
    }
    data |= _gate_data(case)
    if scale.state != "none":
        data["state"] = _state(case)
    for edit in case.edits:
        if edit.tensor not in data:
            raise ValueError(f"edits: {case.op} has no tensor {edit.tensor!r}; it has {', '.join(data)}")
        flat = data[edit.tensor].view(-1)
        if not 0 <= edit.position < flat.numel():
            raise ValueError(
                f"edits: position {edit.position} outside {edit.tensor} of {flat.numel()} elements"
            )
        flat[edit.position] = edit.value
    return data
