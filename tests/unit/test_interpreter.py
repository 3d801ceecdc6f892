"""Triton's interpreter, repaired: what a kernel means on CPU tensors."""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction

import pytest

from diffgdn.backend import interpreter, selection

if selection.detect() != "interpret":
    pytest.skip("the interpreter is not what runs kernels here", allow_module_level=True)
selection.enter("interpret")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import triton  # noqa: E402
import triton.language as tl  # noqa: E402
from triton.language import exp as exp_by_name  # noqa: E402
from triton.language.extra import libdevice  # noqa: E402

from diffgdn.backend.interpreter import casts  # noqa: E402
from diffgdn.backend.interpreter import libdevice as computed  # noqa: E402

exponential = tl.exp
log1p_by_name = libdevice.log1p
STATES = """
import json, os
os.environ["TRITON_INTERPRET"] = "1"
from diffgdn.backend import interpreter
before = interpreter.needed()
interpreter.repair()
print(json.dumps([before, interpreter.needed()]))
"""


@pytest.fixture(scope="module")
def states() -> tuple[dict[str, bool], dict[str, bool]]:
    """Which repairs a fresh process needs, before they are made and after."""
    done = subprocess.run([sys.executable, "-c", STATES], capture_output=True, text=True, check=True)
    before, after = json.loads(done.stdout)
    return before, after


@pytest.mark.parametrize("repair", [one.name for one in interpreter.REPAIRS])
def test_a_repair_is_needed_until_it_is_made(
    repair: str, states: tuple[dict[str, bool], dict[str, bool]]
) -> None:
    before, after = states
    versions = next(one.versions for one in interpreter.REPAIRS if one.name == repair)
    needs = versions.endswith("and newer") or triton_version() <= version(versions.rpartition(" to ")[2])
    assert (before[repair], after[repair]) == (needs, False)


def triton_version() -> tuple[int, ...]:
    return version(triton.__version__)


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")[:2]))


# Casts


def every_half() -> np.ndarray:
    """Every 16-bit pattern, as an fp32 number's upper half, with lower halves on, around and between ties."""
    upper = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    return (upper[:, None] | lower[None, :]).reshape(-1).view(np.float32)


def test_fp32_becomes_bf16_as_torch_rounds_it() -> None:
    numbers = every_half()
    expected = torch.from_numpy(numbers.copy()).bfloat16().view(torch.int16).numpy().view(np.uint16)
    numeric = ~np.isnan(numbers)
    assert np.array_equal(casts.to_bf16(numbers)[numeric], expected[numeric])
    assert set(casts.to_bf16(numbers)[~numeric]) == {0x7FFF}


def test_every_bf16_number_survives_fp32() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    numbers = casts.from_bf16(bits)
    numeric = ~np.isnan(numbers)
    assert np.array_equal(casts.to_bf16(numbers)[numeric], bits[numeric])


def test_fp64_is_rounded_to_bf16_once() -> None:
    # Half a unit above 1, and a little that fp32 would lose: rounded twice it would fall to the even 1.
    number = np.array([1 + 2**-8 + 2**-40, -(1 + 2**-8 + 2**-40), 1 + 2**-8, 2.0**127 * 1.999999999])
    assert list(casts.from_bf16(casts.to_bf16(number))) == [1 + 2**-7, -(1 + 2**-7), 1.0, np.inf]


@pytest.mark.parametrize(
    ("number", "dtype", "expected"),
    [
        (-1.9, np.int32, -1),
        (3e9, np.int32, 2**31 - 1),
        (-3e9, np.int32, -(2**31)),
        (np.nan, np.int32, 0),
        (-1.0, np.uint32, 0),
        (1e30, np.int64, 2**63 - 1),
        (-1e30, np.int64, -(2**63)),
        (2.0**62, np.int64, 2**62),
    ],
)
def test_floats_become_integers_as_on_a_gpu(number: float, dtype: type, expected: int) -> None:
    assert casts.to_integer(np.array([number], np.float32), dtype)[0] == expected


@triton.jit
def cast_kernel(x, y, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(y + at, tl.load(x + at).to(y.dtype.element_ty))


@pytest.mark.parametrize("before", [torch.float32, torch.bfloat16, torch.float16, torch.int32, torch.float64])
@pytest.mark.parametrize("after", [torch.float32, torch.bfloat16, torch.float16, torch.int32, torch.float64])
def test_casts_in_a_kernel_are_torchs(before: torch.dtype, after: torch.dtype) -> None:
    numbers = [0.0, 1.0, -2.5, 1.00390625, 3.140625, -100.7, 65504.0, 0.33325195]
    x = torch.tensor(numbers, dtype=torch.float64).to(before)
    y = torch.empty(8, dtype=after)
    cast_kernel[(1,)](x, y, 8)
    assert torch.equal(y, x.to(after))


# Arithmetic


@triton.jit
def arithmetic_kernel(x, y, out, N: tl.constexpr):
    at = tl.arange(0, N)
    a, b = tl.load(x + at), tl.load(y + at)
    tl.store(out + at, a + b)
    tl.store(out + N + at, a * b)
    tl.store(out + 2 * N + at, -a)
    tl.store(out + 3 * N + at, tl.maximum(a, b))
    tl.store(out + 4 * N + at, tl.where(a < b, a, b))
    tl.store(out + 5 * N + at, a * 0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_arithmetic_rounds_each_operation(dtype: torch.dtype) -> None:
    x = torch.tensor([1.5, -2.25, 0.001, 300.0], dtype=dtype)
    y = torch.tensor([-1.25, 3.5, 1.0, 0.0078125], dtype=dtype)
    out = torch.empty(6, 4, dtype=dtype)
    arithmetic_kernel[(1,)](x, y, out, 4)
    tenth = torch.tensor(0.1, dtype=dtype)
    expected = [x + y, x * y, -x, torch.maximum(x, y), torch.minimum(x, y), x * tenth]
    assert torch.equal(out, torch.stack(expected))


@triton.jit
def wrap_kernel(n, out):
    tl.store(out, n * n)


def test_32_bit_integers_wrap_around() -> None:
    out = torch.empty(1, dtype=torch.int32)
    wrap_kernel[(1,)](65536 + 1, out)
    assert int(out) == 2 * 65536 + 1


@triton.jit
def condition_kernel(x, slot, out, N: tl.constexpr):
    at = tl.arange(0, N)
    live = (at < 3) & (tl.load(slot) >= 0)
    tl.store(out + at, tl.load(x + at, mask=live, other=0), mask=at >= 0)


@pytest.mark.parametrize(("slot", "expected"), [(0, [1.0, 2.0, 3.0, 0.0]), (-1, [0.0, 0.0, 0.0, 0.0])])
def test_a_condition_on_a_number_is_part_of_a_mask(slot: int, expected: list[float]) -> None:
    out = torch.empty(4)
    slots = torch.tensor([slot], dtype=torch.int32)
    condition_kernel[(1,)](torch.tensor([1.0, 2.0, 3.0, 4.0]), slots, out, 4)
    assert out.tolist() == expected


@triton.jit
def fma_kernel(x, y, z, out, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(out + at, tl.fma(tl.load(x + at), tl.load(y + at), tl.load(z + at)))


def test_a_fused_multiply_add_rounds_once() -> None:
    # Digits of the product that rounding first would lose, and a sum that float64 would round onto a tie of
    # fp32.
    x = torch.tensor([1 + 2**-12, 1 + 2**-23, 2.0**60, float("inf")])
    y = torch.tensor([1 + 2**-12, 1 - 2**-23, 2.0**60, 1.0])
    z = torch.tensor([-1 - 2**-11, 2.0**-24, 2.0**80, -1.0])
    out = torch.empty(4)
    fma_kernel[(1,)](x, y, z, out, 4)
    exact = [
        Fraction(a) * Fraction(b) + Fraction(c)
        for a, b, c in zip(x[:3].tolist(), y[:3].tolist(), z[:3].tolist(), strict=True)
    ]
    assert out.tolist() == [*(float(nearest_fp32(value)) for value in exact), float("inf")]


def nearest_fp32(value: Fraction) -> Fraction:
    """Of the fp32 numbers around a value, the nearest, the even one of two."""
    start = np.float32(float(value))
    near = [np.nextafter(start, np.float32(-np.inf)), start, np.nextafter(start, np.float32(np.inf))]
    return min(
        (Fraction(float(one)) for one in near),
        key=lambda one: (abs(one - value), int(np.float32(float(one)).view(np.uint32)) & 1),
    )


# Products


@triton.jit
def dot_kernel(x, y, out, N: tl.constexpr, PRECISION: tl.constexpr):
    at = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(out + at, tl.dot(tl.load(x + at), tl.load(y + at), input_precision=PRECISION))


def dot(x: torch.Tensor, y: torch.Tensor, precision: str | None = None) -> torch.Tensor:
    out = torch.empty(x.shape, dtype=torch.float32)
    dot_kernel[(1,)](x, y, out, x.shape[0], precision)
    return out


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_of_half_precision_are_products_of_numbers(dtype: torch.dtype) -> None:
    x = (torch.arange(256) % 7 - 3).reshape(16, 16).to(dtype)
    assert torch.equal(dot(x, x), x.float() @ x.float())


def test_tf32_drops_what_a_tensor_core_does_not_read() -> None:
    x = torch.full((16, 16), 1 + 2**-10 + 2**-11 + 2**-12)
    kept = 1 + 2**-10
    assert torch.equal(dot(x, torch.eye(16)), torch.full((16, 16), kept))
    assert torch.equal(dot(x, torch.eye(16), "tf32"), torch.full((16, 16), kept))
    assert torch.equal(dot(x, torch.eye(16), "tf32x3"), x)
    assert torch.equal(dot(x, torch.eye(16), "ieee"), x)


def test_tf32x3_is_nearly_fp32() -> None:
    x = torch.linspace(-1, 1, 256).reshape(16, 16)
    truth = x.double() @ x.double()
    assert (dot(x, x, "tf32x3") - truth).abs().max() < 2e-6 < (dot(x, x, "tf32") - truth).abs().max()


# Reductions and scans


@triton.jit
def larger(a, i, b, j):
    """Of two pairs the one with the larger first number; of equal ones, the first."""
    first = (a > b) or ((a == b) and (i < j))
    return tl.where(first, a, b), tl.where(first, i, j)


@triton.jit
def decayed(a, x, b, y):
    """Two steps of x <- a x + y as one."""
    return a * b, b * x + y


@triton.jit
def reduce_kernel(x, out, AXIS: tl.constexpr, KEEP: tl.constexpr):
    at = tl.arange(0, 4)[:, None] * 8 + tl.arange(0, 8)[None, :]
    values, index = tl.reduce((tl.load(x + at), at), AXIS, larger, keep_dims=KEEP)
    if AXIS is None:
        tl.store(out, tl.sum(index.to(tl.float32) + values * 0))
    elif KEEP:
        tl.store(out + tl.arange(0, 4)[:, None] + tl.zeros_like(index), index.to(tl.float32))
    else:
        tl.store(out + tl.arange(0, 4), index.to(tl.float32))


@pytest.mark.parametrize(("axis", "keep"), [(1, False), (1, True), (-1, False), (None, True)])
def test_a_kernels_own_reduction_works_along_any_axis(axis: int | None, keep: bool) -> None:
    x = torch.tensor([3.0, 9.0, 1.0, 9.0, 0.0, 0.0, 0.0, 0.0]).repeat(4, 1)
    out = torch.empty(1 if axis is None else 4)
    reduce_kernel[(1,)](x, out, axis, keep)
    assert out.tolist() == ([1.0] if axis is None else [1.0, 9.0, 17.0, 25.0])


@triton.jit
def scan_kernel(a, x, out, REVERSE: tl.constexpr):
    at = tl.arange(0, 8)
    _, h = tl.associative_scan((tl.load(a + at), tl.load(x + at)), 0, decayed, reverse=REVERSE)
    tl.store(out + at, h)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_kernels_own_scan_is_a_recurrence(reverse: bool) -> None:
    a, x = torch.full((8,), 0.5), torch.arange(8.0)
    out, h, expected = torch.empty(8), 0.0, []
    for value in x.flip(0) if reverse else x:
        h = 0.5 * h + float(value)
        expected.append(h)
    scan_kernel[(1,)](a, x, out, reverse)
    assert out.tolist() == (expected[::-1] if reverse else expected)


@triton.jit
def sums_kernel(x, out):
    values = tl.load(x + tl.arange(0, 8))
    tl.store(out, tl.sum(values))
    tl.store(out + 1, tl.max(values))
    tl.store(out + 2, tl.min(values))
    tl.store(out + 3 + tl.arange(0, 8), tl.cumsum(values))


def test_sums_of_bf16_are_sums_of_numbers_and_nan_loses() -> None:
    x = torch.tensor([1.0, -2.0, 3.0, 0.5, -0.25, 4.0, 8.0, 16.0], dtype=torch.bfloat16)
    out = torch.empty(11, dtype=torch.bfloat16)
    sums_kernel[(1,)](x, out)
    assert out.tolist() == [30.25, 16.0, -2.0, *x.float().cumsum(0).bfloat16().tolist()]
    x[0] = float("nan")
    sums_kernel[(1,)](x, out)
    assert out[1:3].tolist() == [16.0, -2.0]


# The language


@triton.jit
def names_kernel(x, out):
    value = tl.load(x)
    tl.store(out, exponential(value))
    tl.store(out + 1, exp_by_name(value))
    tl.store(out + 2, tl.math.exp(value))
    tl.store(out + 3, libdevice.exp(value))
    tl.store(out + 4, log1p_by_name(value))


def test_a_function_is_the_same_under_any_name() -> None:
    out = torch.empty(5)
    names_kernel[(1,)](torch.zeros(1), out)
    assert out.tolist() == [1.0, 1.0, 1.0, 1.0, 0.0]


@triton.jit
def loop_kernel(out, n, stride: tl.int64):
    total = tl.zeros((), tl.int64)
    for i in range(n):
        total += i.to(tl.int64) * (i * stride)  # type: ignore[attr-defined]
    for i in tl.range(0, n, 2, num_stages=2):
        total += i
    for i in tl.static_range(3):
        total += i
    tl.store(out, total)


def test_loops_count_in_tensors_and_strides_have_64_bits() -> None:
    out = torch.empty(1, dtype=torch.int64)
    loop_kernel[(1,)](out, 4, 2**30)
    assert int(out) == 2**30 * (1 + 4 + 9) + 2 + 3


@triton.jit
def truth_kernel(x, out, n, N: tl.constexpr, LIMIT: tl.constexpr):
    at = tl.arange(0, N)
    inside = (at >= 1) and (at < n) and not (at == 2)  # noqa: SIM201
    ends = (at == 0) or (at == N - 1)
    if LIMIT is not None and LIMIT > 2:
        tl.store(out + at, tl.where(inside, 1, 0) + tl.where(ends, 2, 0))


def test_and_or_not_work_element_by_element() -> None:
    out = torch.zeros(8, dtype=torch.int32)
    truth_kernel[(1,)](out, out, 5, 8, None)
    assert out.tolist() == [0] * 8
    truth_kernel[(1,)](out, out, 5, 8, 3)
    assert out.tolist() == [2, 1, 0, 1, 1, 0, 0, 2]


@triton.jit
def scalar_kernel(out, scale, number: tl.float64):
    tl.store(out, scale.to(tl.float64))
    tl.store(out + 1, number)


def test_a_float_argument_is_fp32_unless_it_is_declared_otherwise() -> None:
    out = torch.empty(2, dtype=torch.float64)
    scalar_kernel[(1,)](out, 0.1, 0.1)
    assert out.tolist() == [float(np.float32(0.1)), 0.1]


def test_a_kernel_sees_the_function_that_it_was_defined_in() -> None:
    @triton.jit
    def doubled(x):
        return x * 2

    three = tl.constexpr(3)

    @triton.jit
    def kernel(out):
        tl.store(out, doubled(three) + 1)

    out = torch.empty(1, dtype=torch.int32)
    kernel[(1,)](out)
    assert int(out) == 7


@triton.jit
def overflow_kernel(x, out):
    tl.store(out, tl.exp(tl.load(x)))


def test_an_overflow_is_infinite_without_a_warning() -> None:
    out = torch.empty(1)
    overflow_kernel[(1,)](torch.full((1,), 1000.0), out)
    assert out.tolist() == [float("inf")]


@triton.jit
def meta_kernel(out, n, BLOCK: tl.constexpr):
    tl.store(out + tl.program_id(0), n)


def test_a_grid_may_be_computed_from_arguments() -> None:
    out = torch.zeros(4, dtype=torch.int32)
    meta_kernel[lambda meta: (triton.cdiv(meta["n"], meta["BLOCK"]),)](out, 7, BLOCK=2)
    assert out.tolist() == [7, 7, 7, 7]


# Around the kernel


def test_device_guards_do_nothing_for_cpu_tensors() -> None:
    x = torch.zeros(1)
    interpreter.repair()
    with torch.cuda.device(x.device), torch.cuda.device_of(x), torch.cpu.device(x.device.index):  # type: ignore[attr-defined]
        pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, whose streams are real")
def test_streams_of_a_machine_without_a_gpu_do_nothing() -> None:
    interpreter.repair()
    with torch.cuda.stream(torch.cuda.current_stream()):
        torch.cuda.current_stream().synchronize()
    assert torch.cuda.current_stream("cpu").cuda_stream == 0


@pytest.mark.parametrize(
    ("symbol", "argument", "expected"),
    [
        ("__nv_expf", 1.0, np.e),
        ("__nv_fast_expf", 1.0, np.e),
        ("__nv_fast_fdividef", (1.0, 4.0), 0.25),
        ("__nv_fdiv_rn", (1.0, 4.0), 0.25),
        ("__nv_rsqrtf", 4.0, 0.5),
        ("__nv_erff", 0.0, 0.0),
        ("__nv_roundf", -2.5, -3.0),
        ("__nv_rintf", -2.5, -2.0),
        ("__nv_fmaf", (2.0, 3.0, 4.0), 10.0),
        ("__nv_exp10f", 2.0, 100.0),
        ("__nv_fdimf", (3.0, 1.0), 2.0),
    ],
)
def test_libdevice_functions_compute_what_they_are_called(
    symbol: str, argument: float | tuple[float, ...], expected: float
) -> None:
    values = argument if isinstance(argument, tuple) else (argument,)
    result = computed.function(symbol)(*(np.array([value], np.float32) for value in values))
    assert float(result[0]) == pytest.approx(expected, rel=1e-7)


def test_an_unknown_libdevice_function_says_so() -> None:
    with pytest.raises(NotImplementedError, match="__nv_byte_perm is not among the functions known"):
        computed.function("__nv_byte_perm")


@triton.jit
def block_pointer_kernel(x):
    p = tl.make_block_ptr(x, (8,), (1,), (0,), (8,), (0,))
    tl.store(p, tl.load(p) + 1)


@pytest.mark.filterwarnings("ignore:.*deprecated:UserWarning")  # by Triton 3.7 and 3.8
def test_block_pointers_work_where_they_exist_and_else_say_why() -> None:
    x = torch.zeros(8)
    if triton_version() < (3, 9):
        block_pointer_kernel[(1,)](x)
        assert x.tolist() == [1.0] * 8
    else:
        with pytest.raises(triton.runtime.errors.InterpreterError) as raised:
            block_pointer_kernel[(1,)](x)
        message = interpreter.explain(str(raised.value))
        assert message.startswith("block pointers (tl.make_block_ptr) were removed")
