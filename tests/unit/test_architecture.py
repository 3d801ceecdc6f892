"""Who may import whom, as ARCHITECTURE.md says."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {"diffgdn": "diffgdn", "strategies": "diffgdn.strategies", "kernels": "diffgdn.kernels"}


def imports_of(path: Path, package: str) -> set[str]:
    """Absolute names of what a module imports, inside functions and under TYPE_CHECKING too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *base.split(".")]).rstrip(".")
            # `from diffgdn import cli` names a module, `from diffgdn.cases.case import Case` does not: take
            # both
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def imports_under(room: str) -> dict[str, set[str]]:
    """{file: what it imports} for a package or module such as `diffgdn.kernels` or `diffgdn.cases.case`."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            own = ".".join((package, *path.relative_to(ROOT / folder).parent.parts))
            name = own if path.stem == "__init__" else f"{own}.{path.stem}"
            if within(name, room):
                found[str(path.relative_to(ROOT))] = imports_of(path, own)
    return found


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def test_kernels_need_torch_and_triton_alone() -> None:
    allowed = {"torch", "triton", "diffgdn.kernels", *sys.stdlib_module_names}
    strange = {
        (file, name)
        for file, names in imports_under("diffgdn.kernels").items()
        for name in names
        if not any(within(name, room) for room in allowed) and name != "diffgdn"
    }
    assert strange == set()


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("diffgdn.reference.oracle", "diffgdn.kernels"),
        ("diffgdn.reference.oracle", "diffgdn.targets"),
        ("diffgdn.cases.operations", "diffgdn.cases.case"),
        ("diffgdn.cases.case", "diffgdn.tensors.inputs"),
        ("diffgdn.tensors.inputs", "diffgdn.verdict.checks"),
        ("diffgdn.verdict.checks", "diffgdn.verdict.execute"),
        ("diffgdn.verdict.execute", "diffgdn.campaign"),
        ("diffgdn.campaign", "diffgdn.report"),
    ],
)
def test_room_does_not_import(room: str, forbidden: str) -> None:
    modules = imports_under(room)
    assert modules, f"{room} is not there: has it another name now?"
    strange = {(file, name) for file, names in modules.items() for name in names if within(name, forbidden)}
    assert strange == set()


def test_nothing_imports_the_command_line() -> None:
    strange = {
        file
        for file, names in imports_under("diffgdn").items()
        for name in names
        if within(name, "diffgdn.cli") and not file.startswith("diffgdn/cli")
    }
    assert strange <= {"diffgdn/__main__.py"}
