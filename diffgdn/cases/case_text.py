"""Reads the text of a case, as its repr has it: names of records and plain values, and no other code.

Of numbers sums, products and shifts are read too, as a person writes them: `pitch=(1 << 30) + 5`.
"""

from __future__ import annotations

import ast
import operator
from typing import Any

from diffgdn.cases.case import Case, Edit, Gates, Pool, Values
from diffgdn.cases.lay import Lay
from diffgdn.cases.operand_options import Operands
from diffgdn.cases.sparsity import Only
from diffgdn.cases.state_options import StateOptions
from diffgdn.cases.trace import Trace
from diffgdn.cases.trace_form import Form
from diffgdn.cases.trace_steps import Step

RECORDS: dict[str, Any] = {
    one.__name__: one
    for one in (Case, Edit, Form, Gates, Lay, Only, Operands, Pool, StateOptions, Step, Trace, Values)
}
SIGNS: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.LShift: operator.lshift,
}
PLAIN = (ast.Add, ast.Sub, ast.Mult)
MOST = 1 << 62  # of a number


def read(text: str) -> Case | Trace:
    """Return the case, or the trace, that a text stands for. Raises ValueError, in one line."""
    try:
        found = _value(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError as error:
        raise ValueError(f"no case: {error.msg}") from None
    except TypeError as error:
        raise ValueError(f"no case: {error}") from None
    if not isinstance(found, Case | Trace):
        raise ValueError(f"expected Case(...) or Trace(...), got {text!r:.60}")
    return found


def _value(node: ast.expr) -> Any:
    """Return what an expression stands for. Raises ValueError, and TypeError for a wrong keyword."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Tuple):
        return tuple(_value(one) for one in node.elts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _value(node.operand)
        if type(number) in (int, float):
            return -number
    if isinstance(node, ast.BinOp) and type(node.op) in SIGNS:
        left, right = _value(node.left), _value(node.right)
        if type(left) is type(right) is int and 0 <= right <= MOST and (right < 63 or type(node.op) in PLAIN):
            number = SIGNS[type(node.op)](left, right)
            if abs(number) <= MOST:
                return number
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RECORDS:
        named = {one.arg: _value(one.value) for one in node.keywords if one.arg is not None}
        if len(named) == len(node.keywords):
            return RECORDS[node.func.id](*map(_value, node.args), **named)
    raise ValueError(f"no part of a case: {ast.unparse(node):.60}")
