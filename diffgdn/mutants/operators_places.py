"""Operators on where something is: strides, heads, slots, pointers, parents, axes, the width of offsets."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise

from diffgdn.mutants.operators import Change, Code, called, is_number, is_simple, operator

SLOTS = ("slot", "i_slot", "i_cache")
GROUPS = ("G", "GROUP")  # value heads to a key head
REDUCTIONS = ("tl.sum", "tl.cumsum")


def _loaded(node: ast.AST, code: Code) -> Iterator[ast.Name]:
    """Return the names that are read within a node, in order."""
    inside = [one for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load)]
    yield from sorted(inside, key=code.start)


def _is_read(node: ast.AST, *names: str) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and (not names or node.id in names)


@operator("swap-strides", "two strides are taken for each other")
def _swap_strides(code: Code, node: ast.AST) -> Iterator[Change]:
    if code.device and is_simple(node):
        strides = [one for one in _loaded(node, code) if code.parameters.get(one.id) == "tl.int64"]
        for one, other in pairwise(strides):
            if one.id != other.id:
                yield code.swapped(one, other)
    if not code.device and isinstance(node, ast.Call):
        for first, second in pairwise(node.args):
            if all(isinstance(one, ast.Starred) and _is_strides(one.value) for one in (first, second)):
                yield code.swapped(first, second)


def _is_strides(node: ast.AST) -> bool:
    return re.search(r"(^|\.)strides?$", called(node)) is not None


@operator("swap-axes", "two axes are taken for each other")
def _swap_axes(code: Code, node: ast.AST) -> Iterator[Change]:
    if not isinstance(node, ast.Tuple):
        return
    for one, other in pairwise(node.elts):
        numbers = [one.value for one in (one, other) if isinstance(one, ast.Constant)]
        if len(numbers) == 2 and numbers[0] != numbers[1] and all(type(n) is int for n in numbers):
            yield code.swapped(one, other)


@operator("wrong-axis", "a sum runs along the other axis")
def _wrong_axis(code: Code, node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.Call) and called(node) in REDUCTIONS:
        for axis in (*node.args[1:], *(one.value for one in node.keywords if one.arg == "axis")):
            if is_number(axis, 0) or is_number(axis, 1):
                yield code.replaced(axis, "1" if is_number(axis, 0) else "0")


@operator("h-for-hv", "key heads are taken for value heads, or the reverse")
def _h_for_hv(code: Code, node: ast.AST) -> Iterator[Change]:
    group = next((one for one in GROUPS if one in code.parameters), None)
    if code.device and group is not None and _is_read(node, "HV"):
        assert isinstance(node, ast.Name)
        yield code.replaced(node, f"(HV // {group})")
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.FloorDiv) and _is_read(node.right, *GROUPS):
        yield code.replaced(node, f"({code.source(node.left)})")
    for name, other in (("i_h", "i_hv"), ("i_hv", "i_h")):
        if code.device and _is_read(node, name) and other in code.names:
            assert isinstance(node, ast.Name)
            yield code.replaced(node, other)
    for name, other in (("H", "HV"), ("HV", "H")):
        if not code.device and _is_read(node, name) and other in code.names:
            assert isinstance(node, ast.Name)
            yield code.replaced(node, other)


@operator("wrong-slot", "the slot after it, or that of the sequence's number, for a sequence's slot")
def _wrong_slot(code: Code, node: ast.AST) -> Iterator[Change]:
    parent = code.parents.get(node)
    multiplied = isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.Mult)
    if code.device and multiplied and _is_read(node, *SLOTS):
        assert isinstance(node, ast.Name)
        yield code.replaced(node, f"({node.id} + 1)")
        if "i_n" in code.names:
            yield code.replaced(node, "i_n")


@operator("stale-pointer", "a pointer is moved too little, not at all or twice")
def _stale_pointer(code: Code, node: ast.AST) -> Iterator[Change]:
    step: ast.expr | None = None
    if code.device and isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
        step = node.value if ast.unparse(node.target).startswith("p_") else None
    if code.device and isinstance(node, ast.Assign) and called(node.value) == "row":
        assert isinstance(node.value, ast.Call)
        pointer, *rest = node.value.args
        if ast.unparse(node.targets[0]) == ast.unparse(pointer):
            step = rest[0]
    if step is not None:
        for times in ("0", "2"):
            yield code.replaced(step, f"{times} * ({code.source(step)})")


@operator("stale-tile", "a loop reads or writes the same place in each round")
def _stale_tile(code: Code, node: ast.AST) -> Iterator[Change]:
    if not code.device or not isinstance(node, ast.Name) or not _is_read(node):
        return
    above: ast.AST | None = node
    inside, loop = False, None
    while above is not None:
        parent = code.parents.get(above)
        if isinstance(parent, ast.Call) and called(parent) in ("tl.load", "tl.store", "row"):
            inside = inside or above in parent.args[:2]
        if isinstance(parent, ast.For) and _names(parent.target, node.id) and above is not parent.iter:
            loop = parent
        above = parent
    if inside and loop is not None:
        yield code.replaced(node, "0")


def _names(target: ast.expr, name: str) -> bool:
    return isinstance(target, ast.Name) and target.id == name


@operator("swap-parents", "a token goes on from another one than its parent")
def _swap_parents(code: Code, node: ast.AST) -> Iterator[Change]:
    if code.device and _is_read(node, "parent"):
        assert isinstance(node, ast.Name)
        yield code.replaced(node, "(parent - 1)")
        for name in ("i_t", "step"):
            if name in code.names:
                yield code.replaced(node, f"({name} - 1)")


@operator("drop-int64", "an offset is not widened to 64 bits")
def _drop_int64(code: Code, node: ast.AST) -> Iterator[Change]:
    if code.device and called(node).endswith(".to") and ast.unparse(node).endswith(".to(tl.int64)"):
        assert isinstance(node, ast.Call)
        assert isinstance(node.func, ast.Attribute)
        yield code.replaced(node, f"({code.source(node.func.value)})")


@operator("floor-for-ceil", "a part that is not full is not counted")
def _floor_for_ceil(code: Code, node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.Call) and called(node) == "triton.cdiv":
        over, under = (code.source(one) for one in node.args)
        yield code.replaced(node, f"(({over}) // ({under}))")
