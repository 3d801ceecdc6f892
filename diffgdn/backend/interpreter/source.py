"""Rewrite kernels' source so that Python's own statements mean what the compiler makes of them.

Triton's interpreter runs a kernel's body as Python. There a loop variable is an int, which has no `.to` and
no 32 bits; `and` and `or` ask a whole block for one truth value; and a kernel that was defined inside a
function no longer sees that function's names.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import triton.language as tl
from triton.runtime import interpreter

from diffgdn.backend.interpreter import language

# Names under which rewritten kernels find the functions below. The interpreter puts its own globals into each
# kernel's module, where that has no such name.
LOOP, ALL, ANY, NOT = "_diffgdn_counted", "_diffgdn_all", "_diffgdn_any", "_diffgdn_not"


def loop_variable_is_plain() -> bool:
    """Probe whether nothing rewrites a for statement."""
    return not hasattr(interpreter.FunctionRewriter.ast_transformer, "visit_For")


def rewrite_as_compiled() -> None:
    """Rewrite loops, boolean operators and assignments, and let closures see their names."""
    for name, function in ((LOOP, language.counted), (ALL, every), (ANY, some), (NOT, negated)):
        setattr(interpreter, name, function)
    interpreter.FunctionRewriter.ast_transformer = _transformer()
    interpreter.FunctionRewriter._compile_and_exec = _compile_and_exec


def every(*operands: Callable[[], Any]) -> Any:
    """Evaluate `a and b and ...`: elementwise from the first tensor on, as compiled; before it, as Python
    has it.

    Args:
        operands: functions that evaluate one operand each.
    """
    return _joined(operands, "logical_and", lambda value: bool(value))


def some(*operands: Callable[[], Any]) -> Any:
    """Evaluate `a or b or ...`: elementwise from the first tensor on, as compiled; before it, as Python has
    it.

    Args:
        operands: functions that evaluate one operand each.
    """
    return _joined(operands, "logical_or", lambda value: not value)


def negated(value: Any) -> Any:
    """Evaluate `not a`, elementwise for a tensor."""
    return value.__not__() if isinstance(value, tl.tensor) else not value


def _joined(operands: tuple[Callable[[], Any], ...], method: str, goes_on: Callable[[Any], bool]) -> Any:
    """Evaluate operands from the left: by a tensor's method from the first tensor on, before it while
    `goes_on` says so."""
    value = operands[0]()
    for operand in operands[1:]:
        if isinstance(value, tl.tensor):
            value = getattr(value, method)(operand())
        elif goes_on(value):
            value = operand()
        else:
            return value
    return value


class _Rewriter(ast.NodeTransformer):
    """Rewrite loops, boolean operators and assignments of a kernel's syntax tree."""

    def visit_For(self, node: ast.For) -> Any:
        """Let a `range` yield tensors."""
        self.generic_visit(node)
        if _is_call_of(node.iter, "range"):
            node.iter.func = ast.Name(LOOP, ast.Load())  # type: ignore[attr-defined]
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> Any:
        """Let `and` and `or` call `every` and `some`."""
        self.generic_visit(node)
        name = ALL if isinstance(node.op, ast.And) else ANY
        return ast.Call(ast.Name(name, ast.Load()), [_thunk(value) for value in node.values], [])

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Any:
        """Let `not` call `negated`."""
        self.generic_visit(node)
        if not isinstance(node.op, ast.Not):
            return node
        return ast.Call(ast.Name(NOT, ast.Load()), [node.operand], [])

    def visit_Assign(self, node: ast.Assign) -> Any:
        """Do as Triton does; older versions do not look into the value."""
        if len(node.targets) > 1:
            raise ValueError("Multiple assignments are not supported")
        node.targets = [self.visit(target) for target in node.targets]
        node.value = _as_tensor(self.visit(node.value))
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        """Take it for an assignment like another, unless its annotation is constexpr."""
        self.generic_visit(node)
        if node.value is not None and "constexpr" not in ast.unparse(node.annotation):
            node.value = _as_tensor(node.value)
        return node


def _transformer() -> Any:
    """Make the transformer of syntax trees that takes the place of the interpreter's, and does what that
    one does too."""
    return type("Transformer", (_Rewriter, interpreter.ASTTransformer), {})()


def _is_call_of(node: ast.expr, name: str) -> bool:
    """Tell whether an expression calls a function by a plain name."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def _thunk(value: ast.expr) -> ast.Lambda:
    """Wrap an expression in a function without arguments, so that it is evaluated when it is asked for."""
    nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
    return ast.Lambda(nothing, value)


def _as_tensor(value: ast.expr) -> ast.Call:
    """Wrap an expression so that a number becomes a scalar tensor; everything else stays as it is."""
    function = ast.Attribute(ast.Name("interpreter_semantic", ast.Load()), "to_tensor", ast.Load())
    return ast.Call(function, [value, ast.Constant(False)], [])


def _compile_and_exec(self: Any, transformed: ast.Module) -> Any:
    """Compile the rewritten function among the globals of its module and the names that it was defined
    beside."""
    code = compile(transformed, filename=self.filename, mode="exec")
    scope = self.fn.__globals__
    for key, value in vars(interpreter).items():
        scope.setdefault(key, value)
    if self.fn.__closure__:
        cells = zip(self.fn.__code__.co_freevars, self.fn.__closure__, strict=True)
        scope = {**scope, **{name: cell.cell_contents for name, cell in cells}}
    namespace = dict(self.kwargs)
    exec(code, scope, namespace)
    return namespace[self.fn.__name__]
