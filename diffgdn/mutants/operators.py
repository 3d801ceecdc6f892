"""Operators: kinds of mistake that are made at every place of a source where they can be made. No torch.

An operator looks at one node of a function after the other, and answers with changes of the text at that
place; all else stays byte for byte. What it makes of a function is numbered in the order of the source, so
that a mutant keeps its name when other functions, or lines above, are edited.

Changed are functions under @triton.jit and the launchers around them. Left out are the checks of a caller's
arguments, which no case that keeps to an operation's domain can fail: functions named `check_` or `values_`,
lines of a launcher that call one or raise, and the files of them; tile choices, of which any one is right;
what selects a GPU; docstrings and annotations.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from diffgdn.mutants.mutant import Mutant, Spot

LEFT_OUT = ("arguments.py", "chunk/chunk_checks.py", "chunk/chunk_tiles.py", "current_device.py", "tiles.py")
_CHECK = re.compile(r"^_*(check|values)_|^check\.")
_KV = re.compile(r"\bKV\b|\bkv\b|\blayout\b")
_SIMPLE = ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Expr | ast.Return


class Code:
    """A function of the sources, as operators see it.

    file, text: the source it is in. node: its definition. device: whether it runs on the GPU.
    """

    def __init__(self, file: str, text: str, node: ast.FunctionDef) -> None:
        self.file, self.text, self.node = file, text, node
        self.device = any("triton.jit" in ast.unparse(one) for one in node.decorator_list)
        self._starts = [0]
        for line in text.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._lines = text.split("\n")
        self.parents = {child: one for one in ast.walk(node) for child in ast.iter_child_nodes(one)}

    @property
    def name(self) -> str:
        """Name the function and its file, in short."""
        return f"{PurePosixPath(self.file).stem}.{self.node.name}"

    def offset(self, line: int, column: int) -> int:
        """Return where a position of `ast`, of which columns count bytes, is in the text."""
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode())

    def start(self, node: ast.expr | ast.stmt | ast.keyword) -> int:
        """Return where a node begins."""
        return self.offset(node.lineno, node.col_offset)

    def end(self, node: ast.expr | ast.stmt | ast.keyword) -> int:
        """Return where a node ends."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.offset(node.end_lineno, node.end_col_offset)

    def source(self, node: ast.expr | ast.stmt) -> str:
        """Return a node's text, without parentheses around it."""
        return self.text[self.start(node) : self.end(node)]

    @cached_property
    def parameters(self) -> dict[str, str]:
        """The function's parameters, with their annotations."""
        arguments = [*self.node.args.posonlyargs, *self.node.args.args, *self.node.args.kwonlyargs]
        return {one.arg: "" if one.annotation is None else ast.unparse(one.annotation) for one in arguments}

    @cached_property
    def names(self) -> frozenset[str]:
        """All names that the function has or gives a value."""
        stored = (one.id for one in ast.walk(self.node) if isinstance(one, ast.Name) and _is_stored(one))
        return frozenset({*self.parameters, *stored})

    @cached_property
    def statements(self) -> tuple[ast.stmt, ...]:
        """What operators see of the function: its statements, in order, and none that is left out."""
        return tuple(self._seen(self.node.body))

    def _seen(self, body: list[ast.stmt]) -> Iterator[ast.stmt]:
        for one in body:
            if isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant):
                continue  # a docstring
            if _CHECK.match(self.node.name) and not isinstance(one, ast.Return):
                continue
            if not isinstance(one, ast.For | ast.While | ast.If | ast.With):
                if self.device or not _checks(one):
                    yield one
                continue
            head = one.test if isinstance(one, ast.If | ast.While) else one
            raises = isinstance(one, ast.If) and any(isinstance(inner, ast.Raise) for inner in one.body)
            if self.device or not (raises or (isinstance(head, ast.expr) and _checks(head))):
                yield one
            yield from self._seen(one.body)
            yield from self._seen(getattr(one, "orelse", []))

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """What operators are shown: statements and all within them, each once, in the order of the text."""
        found: list[ast.AST] = []
        for statement in self.statements:
            found += [statement, *_within(statement)]
        return tuple(found)

    def replaced(self, node: ast.expr | ast.stmt, new: str) -> Change:
        """Return the change of a node's text."""
        return Change(((self.start(node), self.end(node), new),))

    def swapped(self, one: ast.expr, other: ast.expr) -> Change:
        """Return the change of two nodes' texts into each other's."""
        spans = (one, self.source(other)), (other, self.source(one))
        return Change(tuple((self.start(node), self.end(node), text) for node, text in spans))


@dataclass(frozen=True)
class Change:
    """What an operator does at one place: (start, end, new text) of each span of text that it changes."""

    spans: tuple[tuple[int, int, str], ...]


@dataclass(frozen=True)
class Operator:
    """A kind of mistake.

    name: of words joined by dashes. about: what is wrong, in a line. changes: what it makes of one node of a
    function; it is shown all of them.
    """

    name: str
    about: str
    changes: Callable[[Code, ast.AST], Iterator[Change]]


OPERATORS: dict[str, Operator] = {}  # as files define them


def operator(
    name: str, about: str
) -> Callable[[Callable[[Code, ast.AST], Iterator[Change]]], Callable[[Code, ast.AST], Iterator[Change]]]:
    """Register a function as an operator."""

    def register(
        changes: Callable[[Code, ast.AST], Iterator[Change]],
    ) -> Callable[[Code, ast.AST], Iterator[Change]]:
        assert name not in OPERATORS
        OPERATORS[name] = Operator(name, about, changes)
        return changes

    return register


def functions(file: str, text: str) -> tuple[Code, ...]:
    """Return the functions of a source, as operators see them; none of a file that is left out."""
    if file in LEFT_OUT:
        return ()
    tree = ast.parse(text)
    return tuple(Code(file, text, node) for node in tree.body if isinstance(node, ast.FunctionDef))


def mutants_of(code: Code, operations: str) -> Iterator[Mutant]:
    """Make all mutants of a function. operations: a pattern of those that it serves.

    No two have the same text: of two operators that make the same change the first has it.
    """
    made: set[tuple[tuple[int, int, str], ...]] = set()
    for one in OPERATORS.values():
        number = 0
        for node in code.nodes:
            for change in one.changes(code, node):
                spans = tuple(sorted(change.spans))
                spots = tuple(Spot(code.file, at, code.text[at:end], new) for at, end, new in spans)
                number += 1
                if spans in made or all(spot.old == spot.new for spot in spots):
                    continue
                made.add(spans)
                name = f"{one.name}@{code.name}.{number}"
                about = _told(one, code, spots)
                yield Mutant(name, code.file, about, spots, operations, _layout(code, node, spots))


def _layout(code: Code, node: ast.AST, spots: tuple[Spot, ...]) -> str:
    """Return the layout of states that reaches a change: "kv" within what is done for that alone."""
    if any(spot.old.lstrip(", ").startswith("kv=") for spot in spots):
        return "kv"
    inner: ast.AST | None = None
    outer: ast.AST | None = node
    while outer is not None:
        if isinstance(outer, ast.If | ast.IfExp) and _KV.search(ast.unparse(outer.test)):
            body = outer.body if isinstance(outer.body, list) else [outer.body]
            if inner is None or inner is outer.test or inner in body:
                return "kv"
        inner, outer = outer, code.parents.get(outer)
    return "vk"


def operator_of(mutant: str) -> str:
    """Name the operator that made a mutant, by the mutant's id."""
    return mutant.partition("@")[0]


def _told(one: Operator, code: Code, spots: tuple[Spot, ...]) -> str:
    line = code.text.count("\n", 0, spots[0].start) + 1
    changes = "; ".join(f"{_flat(spot.old)} -> {_flat(spot.new)}" for spot in spots)
    return f"{one.about}, line {line}: {changes}"


def _flat(text: str) -> str:
    """Return a text on one line."""
    return " ".join(text.split()) or "nothing"


def _is_stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def _checks(node: ast.AST) -> bool:
    """Whether something calls a check, or raises."""
    for one in ast.walk(node):
        if isinstance(one, ast.Raise) or (isinstance(one, ast.Call) and _CHECK.match(called(one))):
            return True
    return False


def _within(statement: ast.stmt) -> Iterator[ast.AST]:
    """Return what is within a statement, in order, save statements, which are seen themselves."""
    for child in ast.iter_child_nodes(statement):
        if not isinstance(child, ast.stmt):
            yield child
            yield from _inside(child)


def _inside(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        yield child
        yield from _inside(child)


def called(node: ast.AST) -> str:
    """Return what a call calls, `tl.load`; "" for what is no call."""
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def is_simple(node: ast.AST) -> bool:
    """Tell whether a node is a statement that holds no other."""
    return isinstance(node, _SIMPLE)


def keyword(call: ast.Call, name: str) -> ast.keyword | None:
    """Return a call's keyword argument, None without it."""
    return next((one for one in call.keywords if one.arg == name), None)


def is_number(node: ast.AST | None, value: float) -> bool:
    """Tell whether a node is this number."""
    return isinstance(node, ast.Constant) and type(node.value) in (int, float) and node.value == value
