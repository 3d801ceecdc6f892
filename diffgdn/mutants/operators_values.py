"""Operators on numbers: decays, scale and beta, exponentials, precision, what sums start from, signs."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from diffgdn.mutants.operators import Change, Code, called, is_number, operator

EXPONENTIALS = {"tl.exp2": "tl.exp", "tl.exp": "tl.exp2"}
SUMS = ("dot", "dot_add", "tl.sum", "tl.cumsum", "tl.fma", "log2_cumsum")
OF_INTEGERS = ("chunk/tile_table.py",)  # whose sums are of chunks and tokens
BETAS = ("b_beta", "beta")


def _bare(node: ast.AST) -> ast.AST:
    """Return what is under subscripts: x of x[:, None]."""
    while isinstance(node, ast.Subscript):
        node = node.value
    return node


def _is_exponential(node: ast.AST) -> bool:
    return called(_bare(node)) in EXPONENTIALS


def _is_decay(code: Code, node: ast.AST) -> bool:
    """Tell whether a factor is an exponential, or a name that was given one."""
    if _is_exponential(node):
        return True
    bare = _bare(node)
    if not isinstance(bare, ast.Name):
        return False
    given = (one for one in ast.walk(code.node) if isinstance(one, ast.Assign))
    return any(ast.unparse(one.targets[0]) == bare.id and _is_exponential(one.value) for one in given)


def _factors(node: ast.AST) -> Iterator[ast.expr]:
    """Return the two sides of a product."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        yield from (node.left, node.right)
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Mult):
        yield node.value


def _is_named(node: ast.AST, *names: str) -> bool:
    bare = _bare(node)
    return isinstance(bare, ast.Name) and bare.id in names


def _twice(code: Code, factor: ast.expr) -> Change:
    text = code.source(factor)
    return code.replaced(factor, f"(({text}) * ({text}))")


@operator("drop-decay", "a product lacks its decay")
def _drop_decay(code: Code, node: ast.AST) -> Iterator[Change]:
    for factor in _factors(node):
        if code.device and _is_decay(code, factor):
            yield code.replaced(factor, "1.0")


@operator("double-decay", "a product has its decay twice")
def _double_decay(code: Code, node: ast.AST) -> Iterator[Change]:
    for factor in _factors(node):
        if code.device and _is_decay(code, factor):
            yield _twice(code, factor)


@operator("drop-scale", "a product lacks its scale")
def _drop_scale(code: Code, node: ast.AST) -> Iterator[Change]:
    for factor in _factors(node):
        if code.device and _is_named(factor, "scale"):
            yield code.replaced(factor, "1.0")


@operator("double-scale", "a product has its scale twice")
def _double_scale(code: Code, node: ast.AST) -> Iterator[Change]:
    for factor in _factors(node):
        if code.device and _is_named(factor, "scale"):
            yield _twice(code, factor)


@operator("drop-beta", "a product lacks its beta")
def _drop_beta(code: Code, node: ast.AST) -> Iterator[Change]:
    for factor in _factors(node):
        if code.device and _is_named(factor, *BETAS):
            yield code.replaced(factor, "1.0")


@operator("double-beta", "a product has its beta twice")
def _double_beta(code: Code, node: ast.AST) -> Iterator[Change]:
    for factor in _factors(node):
        if code.device and _is_named(factor, *BETAS):
            yield _twice(code, factor)


@operator("exp-sign", "an exponent has the other sign")
def _exp_sign(code: Code, node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.Call) and called(node) in EXPONENTIALS:
        yield code.replaced(node.args[0], f"-({code.source(node.args[0])})")


@operator("exp-base", "an exponential has the other base")
def _exp_base(code: Code, node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.Call) and called(node) in EXPONENTIALS:
        yield code.replaced(node.func, EXPONENTIALS[called(node)])


@operator("narrow-operand", "what is read is computed with in its own dtype, or in bf16")
def _narrow_operand(code: Code, node: ast.AST) -> Iterator[Change]:
    if not code.device or not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return
    if node.func.attr == "to" and ast.unparse(node.args[0]) == "tl.float32":
        yield code.replaced(node, f"({code.source(node.func.value)})")
        yield code.replaced(node.args[0], "tl.bfloat16")


@operator("narrow-sum", "a sum or product is rounded to bf16")
def _narrow_sum(code: Code, node: ast.AST) -> Iterator[Change]:
    if not code.device or not isinstance(node, ast.Call) or called(node) not in SUMS:
        return
    if code.file not in OF_INTEGERS:
        yield code.replaced(node, f"({code.source(node)}).to(tl.bfloat16).to(tl.float32)")


@operator("narrow-workspace", "what is kept between stages, or returned, is in bf16")
def _narrow_workspace(code: Code, node: ast.AST) -> Iterator[Change]:
    if not code.device and isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.float32":
        yield code.replaced(node, "torch.bfloat16")


@operator("wrong-initial", "a sum, a block or a choice starts from one in place of zero")
def _wrong_initial(code: Code, node: ast.AST) -> Iterator[Change]:
    if not code.device:
        return
    places: list[ast.expr] = []
    if isinstance(node, ast.Call) and called(node) == "tl.full":
        places.append(node.args[1])
    if isinstance(node, ast.Call) and called(node) == "tl.where":
        places += node.args[1:]
    if isinstance(node, ast.keyword) and node.arg == "other":
        places.append(node.value)
    if isinstance(node, ast.Assign):
        places.append(node.value)
    for place in places:
        if is_number(place, 0):
            yield code.replaced(place, "1.0" if "." in code.source(place) else "1")


def _is_value(node: ast.AST) -> bool:
    """Tell whether an expression is one of blocks of values, not of places: it holds a name like b_x."""
    return any(isinstance(one, ast.Name) and one.id.startswith("b_") for one in ast.walk(node))


@operator("plus-minus", "a value is taken with the other sign")
def _plus_minus(code: Code, node: ast.AST) -> Iterator[Change]:
    if not code.device or not isinstance(node, ast.BinOp | ast.AugAssign):
        return
    if not isinstance(node.op, ast.Add | ast.Sub) or not _is_value(node):
        return
    old, new = ("+", "-") if isinstance(node.op, ast.Add) else ("-", "+")
    left = node.left if isinstance(node, ast.BinOp) else node.target
    at = code.text.index(old, code.end(left))
    yield Change(((at, at + 1, new),))


@operator("swap-factors", "a product of matrices has its factors in the other order")
def _swap_factors(code: Code, node: ast.AST) -> Iterator[Change]:
    if code.device and isinstance(node, ast.Call) and called(node) in ("dot", "dot_add"):
        yield code.swapped(node.args[0], node.args[1])
