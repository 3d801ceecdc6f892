"""Settle the types and shapes of operands at once where nothing is to be decided.

Every operation asks Triton's rules for the type to compute in, compares types by name and converts both
operands, most often from a type to itself. That took a quarter of a kernel's time. What the rules say is not
changed: what is not settled here is asked of them.
"""

from __future__ import annotations

from functools import wraps
from types import FunctionType
from typing import Any

import triton.language as tl
from triton.runtime import interpreter

from diffgdn.backend.interpreter.types import SHAPE, SIZES

INTEGERS = frozenset({"int1", *(f"{sign}int{width}" for sign in ("", "u") for width in (8, 16, 32, 64))})
WIDE = INTEGERS | {"fp32", "fp64"}  # two operands of one of these are computed in it, whatever the operation
NUMBERS = WIDE | {"fp16", "bf16"}  # and of these, unless it is a division
# Among the globals of triton.language.core: its own function, and classes of what it gives back as it is.
UNWRAP, PLAIN = "_diffgdn_unwrap", "_diffgdn_plain"


def rules_are_asked_each_time() -> bool:
    """Probe whether the rules are asked in which type to add two fp32 numbers."""
    asked: list[object] = []
    semantic = type(interpreter.interpreter_semantic)(interpreter.interpreter_builder)

    def noted(*types: object) -> Any:
        asked.append(types)
        return tl.float32

    semantic.computation_type_impl = noted
    one = semantic.scalar_constant(1.0, tl.float32)
    semantic.binary_op_type_checking_impl(one, one)
    return bool(asked)


def settle_at_once() -> None:
    """Put the short ways before Triton's own."""
    _compare_a_type_with_itself()
    _unwrap_at_once()
    _share_block_types()
    semantic = type(interpreter.interpreter_semantic)
    for name, shortened in SHORTENED.items():
        original = getattr(semantic, name)
        setattr(semantic, name, wraps(original)(shortened(original)))


def _operands(original: Any) -> Any:
    """Let operands of one type be, and an offset to a pointer."""

    def binary_op_type_checking_impl(
        self: Any,
        lhs: Any,
        rhs: Any,
        allow_lhs_ptr: bool = False,
        allow_rhs_ptr: bool = False,
        arithmetic_check: bool = True,
        div_or_mod: bool = False,
    ) -> Any:
        if lhs.__class__ is tl.tensor and rhs.__class__ is tl.tensor:
            name, other = lhs.dtype.name, rhs.dtype.name
            alike = name == other and name in (WIDE if div_or_mod else NUMBERS)
            if alike or (allow_lhs_ptr and lhs.dtype.is_ptr() and other in INTEGERS):
                return self.broadcast_impl_value(lhs, rhs)
        return original(self, lhs, rhs, allow_lhs_ptr, allow_rhs_ptr, arithmetic_check, div_or_mod)

    return binary_op_type_checking_impl


def _computation(original: Any) -> Any:
    """Ask for the type of a computation once for each pair of types."""
    found: dict[tuple[Any, ...], Any] = {}

    def computation_type_impl(
        self: Any, a_ty: Any, a_is_scalar: bool, b_ty: Any, b_is_scalar: bool, div_or_mod: bool
    ) -> Any:
        key = a_ty.name, a_is_scalar, b_ty.name, b_is_scalar, div_or_mod
        if key not in found:
            found[key] = original(self, a_ty, a_is_scalar, b_ty, b_is_scalar, div_or_mod)
        return found[key]

    return computation_type_impl


def _cast(original: Any) -> Any:
    """Let be what has its type already."""

    def cast(self: Any, input: Any, dst_ty: Any, fp_downcast_rounding: str | None = None) -> Any:
        if input.type.scalar is dst_ty.scalar:
            return input
        return original(self, input, dst_ty, fp_downcast_rounding)

    return cast


def _broadcast(original: Any) -> Any:
    """Let shapes that are equal be, repeat a scalar for a block, and find the shape of two blocks once."""
    found: dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[int, ...] | None] = {}

    def broadcast_impl_value(self: Any, lhs: Any, rhs: Any) -> Any:
        mine, other = vars(lhs.type).get(SHAPE), vars(rhs.type).get(SHAPE)
        if mine is other:  # of two scalars neither has one
            return lhs, rhs
        if other is None:
            return lhs, _repeated(self, rhs, lhs.type)
        if mine is None:
            return _repeated(self, lhs, rhs.type), rhs
        key = vars(lhs.type)[SIZES], vars(rhs.type)[SIZES]
        if key not in found:
            found[key] = _common(*key)
        shape = found[key]
        if shape is None:
            return original(self, lhs, rhs)
        return _spread(self, lhs, shape), _spread(self, rhs, shape)

    return broadcast_impl_value


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...] | None:
    """Work out the shape that blocks of one rank have together; None if the ranks differ or none fits."""
    fits = len(one) == len(other) and all(a == b or 1 in (a, b) for a, b in zip(one, other, strict=True))
    return tuple(b if a == 1 else a for a, b in zip(one, other, strict=True)) if fits else None


def _spread(semantic: Any, block: Any, shape: tuple[int, ...]) -> Any:
    """Broadcast a block to a shape that it fits."""
    if vars(block.type)[SIZES] == shape:
        return block
    type_ = tl.block_type(block.type.scalar, list(shape))
    return semantic.tensor(semantic.builder.create_broadcast(block.handle, list(shape)), type_)


def _repeated(semantic: Any, scalar: Any, block: Any) -> Any:
    """Make a block of a scalar, in the shape of a block type."""
    type_ = block.with_element_ty(scalar.type.scalar)
    return semantic.tensor(semantic.builder.create_splat(type_, scalar.handle), type_)


SHORTENED = {
    "binary_op_type_checking_impl": _operands,
    "computation_type_impl": _computation,
    "cast": _cast,
    "broadcast_impl_value": _broadcast,
}


def _compare_a_type_with_itself() -> None:
    """Let a type equal itself without a look at its name."""
    original = tl.dtype.__eq__
    tl.dtype.__eq__ = wraps(original)(lambda self, other: self is other or original(self, other))


def _unwrap_at_once() -> None:
    """Let what is certainly no constexpr, and holds none, pass through the function that unwraps one.

    Its code is replaced, for it is bound to its name in several modules.
    """
    function = tl.core._unwrap_if_constexpr
    names = vars(tl.core)
    names[UNWRAP] = FunctionType(function.__code__, names)
    names[PLAIN] = frozenset((tl.tensor, tl.dtype, bool, int, float, str, type(None)))

    def unwrap(o):  # type: ignore[no-untyped-def]
        kind = o.__class__
        if kind is constexpr:  # type: ignore[name-defined]  # noqa: F821 (globals of triton.language.core)
            return o.value
        return o if kind in _diffgdn_plain else _diffgdn_unwrap(o)  # type: ignore[name-defined]  # noqa: F821

    function.__code__ = unwrap.__code__


def _share_block_types() -> None:
    """Make the type of a block of numbers once, and be it what its operation is given as."""
    original, original_ir = tl.block_type.with_element_ty, tl.block_type.to_ir
    made: dict[tuple[str, tuple[int, ...]], Any] = {}

    def with_element_ty(self: Any, scalar_ty: Any) -> Any:
        if scalar_ty.name not in NUMBERS or SIZES not in vars(self):
            return original(self, scalar_ty)
        key = scalar_ty.name, vars(self)[SIZES]
        if key not in made:
            made[key] = original(self, scalar_ty)
        return made[key]

    def to_ir(self: Any, builder: Any) -> Any:
        return self if self.element_ty.name in NUMBERS else original_ir(self, builder)

    tl.block_type.with_element_ty, tl.block_type.to_ir = with_element_ty, to_ir
