"""The sources of the kernels, and which operations each of them serves. Imports no torch."""

from __future__ import annotations

import ast
import fnmatch
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from diffgdn.cases.operations import OPERATIONS


def _folder() -> Path:
    spec = find_spec("diffgdn.kernels")  # found, not imported
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))


FOLDER = _folder()

# Where the public functions of operations are.
ENTRIES = {
    "chunk/gdn.py": "gdn.extend",
    "chunk/kda.py": "kda.extend",
    "sequences.py": "*.recurrent",
    "packed_decode.py": "*.packed_decode",
    "pool_calls.py": "*.update, *.decode, *.verify",
    "draft_calls.py": "*.verify_commit",
}
# Files, and functions as `file.function`, that serve fewer operations than what imports them.
NARROWER = {
    "step_changes.py": "*.verify_commit",
    "chunk/wy_gdn.py": "gdn.*",
    "chunk/wy_kda.py": "kda.*",
    "gates.kda_gate_kernel": "kda.*",
    "gates.kda_gates": "kda.*",
    "device.bounded_gate": "kda.*",
    "device.dot": "*.extend",
    "device.dot_add": "*.extend",
    "sequences.fused_recurrent_gated_delta_rule": "gdn.*",
    "sequences.fused_recurrent_kda": "kda.*",
    "pool_calls.fused_recurrent_gated_delta_rule_update": "*.update",
    "pool_calls.fused_sigmoid_gating_delta_rule_update": "*.decode, *.verify",
    "recurrent_steps.ancestors": "*.update, *.verify, *.verify_commit",
    "recurrent_steps.replay": "*.update, *.verify, *.verify_commit",
    "recurrent_steps.change_places": "*.verify_commit",
    "recurrent_steps.write_change": "*.verify_commit",
}


def sources() -> dict[str, str]:
    """Read the kernels' sources, by path below their folder."""
    return {path.relative_to(FOLDER).as_posix(): path.read_text() for path in sorted(FOLDER.rglob("*.py"))}


def served(file: str, function: str, texts: Mapping[str, str]) -> str:
    """Return the operations that a function serves, as a Mutant has them: all that it can change.

    Those whose public functions are in a file that imports its file, itself or by another, but for the few
    that are known not to call it.
    """
    found = {
        operation
        for entry, patterns in ENTRIES.items()
        if file in _reached(entry, tuple(texts.items()))
        for operation in chosen(patterns)
    }
    for narrower in (NARROWER.get(file), NARROWER.get(function)):
        if narrower is not None:
            found &= set(chosen(narrower))
    return "*" if len(found) == len(OPERATIONS) else ", ".join(name for name in OPERATIONS if name in found)


def chosen(patterns: str) -> tuple[str, ...]:
    """List the operations that shell patterns choose, `*.update, *.verify`, in the order of OPERATIONS."""
    each = [one.strip() for one in patterns.split(",")]
    return tuple(name for name in OPERATIONS if any(fnmatch.fnmatchcase(name, one) for one in each))


def defaults(function: str) -> frozenset[str]:
    """Name the keyword-only parameters with a default of a function of the kernels."""
    return _defaults().get(function, frozenset())


@cache
def _defaults() -> dict[str, frozenset[str]]:
    found = {}
    for text in sources().values():
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef):
                pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
                found[node.name] = frozenset(one.arg for one, default in pairs if default is not None)
    return found


@cache
def _reached(entry: str, texts: tuple[tuple[str, str], ...]) -> frozenset[str]:
    """Return the files that a file imports, itself or by others, and itself."""
    known, found, ahead = dict(texts), set(), [entry]
    while ahead:
        file = ahead.pop()
        if file not in found:
            found.add(file)
            ahead += [one for one in _imported(file, known[file]) if one in known]
    return frozenset(found)


def _imported(file: str, text: str) -> Iterator[str]:
    """Return the files that a file may import, as its relative imports say."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = PurePosixPath(file).parents[node.level - 1]
            inner = folder.joinpath(*(node.module or "").split(".")) if node.module else folder
            yield f"{inner}.py"
            yield from (f"{inner / one.name}.py" for one in node.names)
