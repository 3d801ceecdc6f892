"""Operators on what is read, written and walked over: masks, comparisons, loops, guards."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from diffgdn.mutants.operators import Change, Code, called, is_number, keyword, operator

ACCESSES = ("tl.load", "tl.store")
RANGES = ("range", "tl.range", "tl.static_range")
STRICTNESS = {ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">")}


def _mask(node: ast.AST) -> ast.keyword | None:
    """Return the mask of a load or store."""
    return keyword(node, "mask") if isinstance(node, ast.Call) and called(node) in ACCESSES else None


@operator("drop-mask", "a load or store has no mask")
def _drop_mask(code: Code, node: ast.AST) -> Iterator[Change]:
    mask = _mask(node)
    if mask is not None:
        assert isinstance(node, ast.Call)
        arguments: list[ast.expr | ast.keyword] = [*node.args, *node.keywords]
        before = max(code.end(one) for one in arguments if code.end(one) < code.start(mask))
        other = keyword(node, "other")
        end = code.end(mask if other is None else other)
        yield Change(((before, end, ""),))


@operator("negate-mask", "the mask of a load or store is negated")
def _negate_mask(code: Code, node: ast.AST) -> Iterator[Change]:
    mask = _mask(node)
    if mask is not None:
        yield code.replaced(mask.value, f"~({code.source(mask.value)})")


@operator("drop-condition", "of two conditions that have to hold, one is not asked for")
def _drop_condition(code: Code, node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd) and code.device:
        terms = [node.left, node.right]
        if any(is_number(term, 1) for term in terms):  # a bit is taken
            return
    elif isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And) and len(node.values) == 2:
        terms = node.values
    else:
        return
    for term in terms:
        yield code.replaced(node, f"({code.source(term)})")


@operator("off-by-one", "a bound is one too far, or one too near")
def _off_by_one(code: Code, node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in STRICTNESS:
        old, new = STRICTNESS[type(node.ops[0])]
        at = code.text.index(old, code.end(node.left))
        assert at < code.start(node.comparators[0])
        yield Change(((at, at + len(old), new),))


def _range(code: Code, node: ast.AST) -> tuple[ast.Call, str, str, str] | None:
    """Return a loop's range, with where it starts and ends and its step."""
    if not isinstance(node, ast.For) or called(node.iter) not in RANGES:
        return None
    assert isinstance(node.iter, ast.Call)
    parts = [code.source(one) for one in node.iter.args]
    start, stop, step = {1: ("0", *parts, "1"), 2: (*parts, "1"), 3: tuple(parts)}[len(parts)]
    return node.iter, start, stop, step


@operator("skip-last", "a loop ends before its last round")
def _skip_last(code: Code, node: ast.AST) -> Iterator[Change]:
    if found := _range(code, node):
        loop, start, stop, step = found
        yield code.replaced(loop, f"{called(loop)}({start}, {stop} - ({step}), {step})")


@operator("skip-first", "a loop leaves out its first round")
def _skip_first(code: Code, node: ast.AST) -> Iterator[Change]:
    if found := _range(code, node):
        loop, start, stop, step = found
        yield code.replaced(loop, f"{called(loop)}({start} + ({step}), {stop}, {step})")


@operator("one-round-more", "a loop goes a round too far")
def _one_round_more(code: Code, node: ast.AST) -> Iterator[Change]:
    if found := _range(code, node):
        loop, start, stop, step = found
        yield code.replaced(loop, f"{called(loop)}({start}, {stop} + ({step}), {step})")


def _condition(code: Code, node: ast.AST) -> tuple[ast.expr, bool] | None:
    """Return a condition, and whether a call's values decide it: else it is an option, fixed for a launch.

    None for what asks whether a tensor is there: without it there is nothing to go on with.
    """
    if not isinstance(node, ast.If | ast.IfExp):
        return None
    if any(isinstance(one, ast.Is | ast.IsNot) for one in ast.walk(node.test)):
        return None
    names = [one.id for one in ast.walk(node.test) if isinstance(one, ast.Name)]
    return node.test, code.device and any(name != name.upper() and name != "tl" for name in names)


@operator("guard-always", "what is done for some values is always done")
def _guard_always(code: Code, node: ast.AST) -> Iterator[Change]:
    found = _condition(code, node)
    if found is not None and found[1]:
        yield code.replaced(found[0], "True")


@operator("guard-never", "what is done for some values is never done")
def _guard_never(code: Code, node: ast.AST) -> Iterator[Change]:
    found = _condition(code, node)
    if found is not None and found[1]:
        yield code.replaced(found[0], "False")


@operator("ignore-option", "an option is not looked at")
def _ignore_option(code: Code, node: ast.AST) -> Iterator[Change]:
    found = _condition(code, node)
    if found is not None and not found[1]:
        yield code.replaced(found[0], "False")


@operator("drop-where", "a choice takes the one side for all elements")
def _drop_where(code: Code, node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.Call) and called(node) == "tl.where":
        for side in node.args[1:]:
            if not isinstance(side, ast.Constant):
                yield code.replaced(node, f"({code.source(side)})")


@operator("drop-clamp", "a number is not held to its limit, or is always the limit")
def _drop_clamp(code: Code, node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.Call) and called(node) in ("tl.minimum", "tl.maximum"):
        for side in node.args:
            yield code.replaced(node, f"({code.source(side)})")
