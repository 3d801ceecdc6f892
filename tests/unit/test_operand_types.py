"""Types and shapes of operands that are settled at once are what Triton's rules make of them."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from diffgdn.backend import interpreter, selection

if selection.detect() != "interpret":
    pytest.skip("the interpreter is not what runs kernels here", allow_module_level=True)
selection.enter("interpret")

import numpy as np  # noqa: E402
import triton.language as tl  # noqa: E402
from triton.runtime import interpreter as tritons  # noqa: E402

interpreter.repair()

from diffgdn.backend.interpreter import operand_types  # noqa: E402

KINDS = sorted(operand_types.NUMBERS)
SHAPES: tuple[tuple[int, ...], ...] = ((), (4,), (1,), (1, 4), (2, 1), (2, 4), (8,))
SHORT = tritons.interpreter_semantic
# Triton's own functions, by the same names.
LONG = type(
    "Long", (type(SHORT),), {name: getattr(type(SHORT), name).__wrapped__ for name in operand_types.SHORTENED}
)(tritons.interpreter_builder)
TYPES = {tl.dtype(name).name: tl.dtype(name) for name in KINDS}


def operand(kind: str, shape: tuple[int, ...]) -> Any:
    """Make a tensor of small numbers."""
    type_ = TYPES[kind]
    data = np.arange(1, 1 + int(np.prod(shape))).reshape(shape or (1,)).astype(tritons._get_np_dtype(type_))
    handle = tritons.TensorHandle(data, type_)
    return tl.tensor(handle, tl.block_type(type_, list(shape)) if shape else type_)


def pointers(shape: tuple[int, ...]) -> Any:
    type_ = tl.pointer_type(tl.float32)
    handle = tritons.TensorHandle(np.full(shape or (1,), 4096, np.uint64), type_)
    return tl.tensor(handle, tl.block_type(type_, list(shape)) if shape else type_)


def outcome(semantic: Any, lhs: Any, rhs: Any, *flags: bool) -> Any:
    """What comes of two operands: types, shapes and bits; or the class of the exception."""
    try:
        both = semantic.binary_op_type_checking_impl(lhs, rhs, *flags)
    except Exception as error:
        return type(error)
    return [
        (str(one.type), str(one.dtype), [int(size) for size in one.shape], one.handle.data.dtype)
        + (one.handle.data.shape, one.handle.data.tobytes(), str(one.handle.dtype))
        for one in both
    ]


@pytest.mark.parametrize("divides", [False, True])
def test_two_tensors_become_what_the_rules_say(divides: bool) -> None:
    flags = (False, False, True, divides)
    for kind, other in product(KINDS, KINDS):
        lhs, rhs = operand(kind, (4,)), operand(other, (4,))
        assert outcome(SHORT, lhs, rhs, *flags) == outcome(LONG, lhs, rhs, *flags), (kind, other)


@pytest.mark.parametrize("kind", ["fp32", "bf16", "int32", "int1"])
def test_two_shapes_become_one_as_the_rules_say(kind: str) -> None:
    seen = set()
    for shape, other in product(SHAPES, SHAPES):
        lhs, rhs = operand(kind, shape), operand(kind, other)
        short = outcome(SHORT, lhs, rhs)
        assert short == outcome(LONG, lhs, rhs), (shape, other)
        seen.add(isinstance(short, list))
    assert seen == {True, False}, "shapes that fit, and shapes that do not"


@pytest.mark.parametrize("number", [2, -1, 0.5, 2**33, 1e300, True])
def test_a_number_beside_a_tensor_becomes_what_the_rules_say(number: float) -> None:
    for kind, divides, shape in product(KINDS, (False, True), ((), (2, 4))):
        flags = (False, False, True, divides)
        for lhs, rhs in ((operand(kind, shape), number), (number, operand(kind, shape))):
            assert outcome(SHORT, lhs, rhs, *flags) == outcome(LONG, lhs, rhs, *flags), (kind, shape)


def test_offsets_to_pointers_become_what_the_rules_say() -> None:
    for shape, kind, other in product(SHAPES, KINDS, ((), (4,), (2, 4))):
        for flags in ((True, True), (False, False)):
            for lhs, rhs in (
                (pointers(shape), operand(kind, other)),
                (operand(kind, other), pointers(shape)),
            ):
                assert outcome(SHORT, lhs, rhs, *flags) == outcome(LONG, lhs, rhs, *flags), (shape, kind)


def test_a_cast_changes_what_has_another_type() -> None:
    for kind, other in product(KINDS, KINDS):
        value = operand(kind, (4,))
        short, long = SHORT.cast(value, TYPES[other]), LONG.cast(value, TYPES[other])
        assert str(short.type) == str(long.type)
        assert short.handle.data.tobytes() == long.handle.data.tobytes()
        assert (short is value) == (kind == other)


def test_what_holds_constants_is_unwrapped() -> None:
    three, one = tl.constexpr(3), operand("fp32", (4,))
    unwrap = tl.core._unwrap_if_constexpr
    assert unwrap(three) == 3
    assert unwrap([three, 4]) == [3, 4]
    assert unwrap((three, (three, 1.5))) == (3, (3, 1.5))
    assert all(unwrap(value) is value for value in (one, tl.float32, None, True, "name"))
