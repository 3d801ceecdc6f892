"""Operators on launchers: what is handed to a kernel or a stage."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import pairwise

from diffgdn.mutants.kernel_sources import defaults
from diffgdn.mutants.operators import Change, Code, called, operator


@operator("drop-option", "an option is not handed on")
def _drop_option(code: Code, node: ast.AST) -> Iterator[Change]:
    if code.device or not isinstance(node, ast.Call):
        return
    # Some options are collected first, to be handed to the launcher by name.
    collected = called(node) == "dict" and isinstance(code.parents[node], ast.Return)
    known = defaults("launch" if collected else called(node))
    arguments: list[ast.expr | ast.keyword] = [*node.args, *node.keywords]
    arguments.sort(key=code.start)
    for before, one in pairwise(arguments):
        if isinstance(one, ast.keyword) and one.arg in known:
            yield Change(((code.end(before), code.end(one), ""),))
