"""Copies source of this package's own modules into a script that is to need none of them."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

PACKAGE = "diffgdn"


@dataclass(frozen=True)
class Copied:
    """Source for a script: `imports` of other packages, a statement a line; `text`, definitions, each after
    those that it needs.
    """

    imports: str
    text: str


@dataclass
class _Module:
    """A module's source by name.

    `defined` gives the first and last line of each definition, `imported` the module that a name is from and
    how the import is written.
    """

    lines: list[str]
    defined: dict[str, tuple[int, int]] = field(default_factory=dict)
    nodes: dict[str, ast.stmt] = field(default_factory=dict)
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)


@functools.cache
def copied(module: str, names: tuple[str, ...]) -> Copied:
    """Copy the definitions of names in a module of diffgdn, with all that they use from it and from other
    modules of diffgdn.

    Raises ValueError if that cannot be copied: a name that two modules define, or that is imported under
    another name.
    """
    taken: dict[str, dict[str, None]] = {}
    imports: dict[str, None] = {}
    _take(module, names, taken, imports)
    seen: dict[str, str] = {}
    parts = []
    for owner, chosen in taken.items():
        source = _parsed(owner)
        for name in sorted(chosen, key=lambda name: source.defined[name]):
            if seen.setdefault(name, owner) != owner:
                raise ValueError(f"{name} is defined in {seen[name]} and in {owner}")
            first, last = source.defined[name]
            gap = "\n\n" if isinstance(source.nodes[name], ast.FunctionDef | ast.ClassDef) else ""
            parts.append(gap + "\n".join(source.lines[first - 1 : last]) + gap)
    return Copied(_merged(imports), re.sub("\n{4,}", "\n\n\n", "\n".join(parts)).strip())


def _merged(imports: Iterable[str]) -> str:
    """Put the imports from one module on one line, those from the standard library first."""
    plain, froms = [one for one in imports if one.startswith("import ")], dict[str, list[str]]()
    for one in imports:
        if one.startswith("from "):
            module, _, name = one.removeprefix("from ").partition(" import ")
            froms.setdefault(module, []).append(name)
    merged = [f"from {module} import {', '.join(sorted(names))}" for module, names in froms.items()]
    lines = sorted(plain) + sorted(merged)
    return "\n".join(
        sorted(lines, key=lambda line: line.split()[1].split(".")[0] not in sys.stdlib_module_names)
    )


def _take(
    module: str, names: Iterable[str], taken: dict[str, dict[str, None]], imports: dict[str, None]
) -> None:
    """Note definitions and imports in `taken` and `imports`, those of the modules that a module needs before
    its own.
    """
    source, mine, queue = _parsed(module), taken.get(module, {}), [*names]
    while queue:
        name = queue.pop()
        if name in source.defined and name not in mine:
            mine[name] = None
            queue += _names(source.nodes[name], annotations=False)
            for hint in _names(source.nodes[name], annotations=True):
                owner, text = source.imported.get(hint, (PACKAGE, ""))
                if not _own(owner):
                    imports[text] = None
        elif name in source.imported:
            owner, text = source.imported[name]
            if _own(owner):
                _take(owner, [_original(name, text)], taken, imports)
            else:
                imports[text] = None
    taken.pop(module, None)
    taken[module] = mine  # behind what it needs


def _own(module: str) -> bool:
    """Tell whether a module belongs to this package."""
    return module.split(".")[0] == PACKAGE


def _original(name: str, text: str) -> str:
    """Return the imported name itself. Raises ValueError if it is renamed by the import."""
    if f" as {name}" in text or text.startswith("import "):
        raise ValueError(f"{text!r}: only `from module import name` can be copied")
    return name


@functools.cache
def _parsed(module: str) -> _Module:
    """Parse a module's source into its definitions and imports."""
    text = inspect.getsource(importlib.import_module(module))
    found = _Module(text.splitlines())
    for node in _statements(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            for alias in node.names:
                shown = alias.name if alias.asname is None else f"{alias.name} as {alias.asname}"
                called = alias.asname or alias.name
                found.imported[called] = (node.module or "", f"from {node.module} import {shown}")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                shown = alias.name if alias.asname is None else f"{alias.name} as {alias.asname}"
                found.imported[alias.asname or alias.name.split(".")[0]] = (alias.name, f"import {shown}")
        else:
            for name in _defines(node):
                found.nodes[name] = node
                found.defined[name] = _with_comment(found.lines, node)
    return found


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Iterate over the statements at the top of a module, also those under `if TYPE_CHECKING`."""
    for node in tree.body:
        yield from node.body if isinstance(node, ast.If) else [node]


def _defines(node: ast.stmt) -> list[str]:
    """List the names that a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _with_comment(lines: list[str], node: ast.stmt) -> tuple[int, int]:
    """Find the first and last line of a definition, the comment above it included."""
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(one.lineno for one in decorators)])
    while first > 1 and lines[first - 2].startswith("#"):
        first -= 1
    return first, node.end_lineno or node.lineno


def _names(node: ast.AST, annotations: bool) -> list[str]:
    """List the names that a definition uses: those in annotations, which need no value, or all others."""
    hints = {id(part) for one in ast.walk(node) for hint in _hints(one) for part in ast.walk(hint)}
    used = [one for one in ast.walk(node) if isinstance(one, ast.Name)]
    return [one.id for one in used if (id(one) in hints) == annotations]


def _hints(node: ast.AST) -> list[ast.expr]:
    """List the annotations at a node."""
    found = [getattr(node, "annotation", None), getattr(node, "returns", None)]
    return [one for one in found if isinstance(one, ast.expr)]
