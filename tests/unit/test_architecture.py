"""Who may import whom: the contracts in pyproject.toml, held also where import-linter is not installed."""

import ast
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS: dict[str, str] = PYPROJECT["tool"]["setuptools"]["package-dir"]  # {package: folder}
CONTRACTS: list[dict[str, Any]] = PYPROJECT["tool"]["importlinter"]["contracts"]


def modules() -> dict[str, Path]:
    """{dotted name: file} of every module; a package has the name of its folder."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((package, *(part for part in parts if part != "__init__")))] = path
    return found


MODULES = modules()


def named_in(name: str, path: Path) -> set[str]:
    """Absolute names that a module imports, inside functions and under TYPE_CHECKING too.

    `from diffgdn import cli` names a module, `from diffgdn.cases.case import Case` names what is in one.
    """
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            above = parents[: len(parents) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            below = {f"{base}.{alias.name}" for alias in node.names}
            found |= {inner if inner in MODULES else base for inner in below}
    return found


IMPORTS = {name: named_in(name, path) for name, path in MODULES.items()}


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def reached(name: str) -> set[str]:
    """All modules that importing one may import, over others too."""
    found, left = set[str](), [name]
    while left:
        new = {module for module in IMPORTS.get(left.pop(), ()) if module in MODULES} - found
        found |= new
        left += new
    return found


def of(kind: str) -> list[Any]:
    """The contracts of one type, as parameters of a test."""
    return [pytest.param(one, id=one["name"]) for one in CONTRACTS if one["type"] == kind]


def levels(contract: dict[str, Any], container: str) -> dict[str, int]:
    """{room: how far down its layer lies}."""
    return {
        f"{container}.{name.strip()}": level
        for level, layer in enumerate(contract["layers"])
        for name in layer.split("|")
    }


def upward(level: dict[str, int], imports: dict[str, set[str]]) -> Iterator[tuple[str, str]]:
    """(importer, imported) of every import of a layer above, or of another room of the same layer."""

    def room_of(name: str) -> str | None:
        return next((room for room in level if within(name, room)), None)

    for importer, names in imports.items():
        own = room_of(importer)
        for imported in names if own is not None else ():
            other = room_of(imported)
            if own is not None and other not in (None, own) and level[other or ""] <= level[own]:
                yield importer, imported


def test_every_kind_of_contract_is_held_here() -> None:
    assert {contract["type"] for contract in CONTRACTS} == {"layers", "forbidden"}
    assert PYPROJECT["tool"]["importlinter"]["root_packages"] == ["diffgdn"]


@pytest.mark.parametrize("contract", of("layers"))
def test_a_room_imports_only_rooms_below_it(contract: dict[str, Any]) -> None:
    for container in contract["containers"]:
        level = levels(contract, container)
        assert set(level) <= set(MODULES), "a layer is not there: has it another name now?"
        assert list(upward(level, IMPORTS)) == []


@pytest.mark.parametrize("contract", of("layers"))
def test_every_room_has_its_layer(contract: dict[str, Any]) -> None:
    for container in contract["containers"]:
        depth = container.count(".") + 1
        rooms = {name for name in MODULES if within(name, container) and name.count(".") == depth}
        left_out = {f"{container}.{name}" for name in contract["exhaustive_ignores"]}
        assert rooms - left_out == set(levels(contract, container))


def test_an_import_upward_or_sideways_is_noticed() -> None:
    level = {"p.top": 0, "p.left": 1, "p.right": 1, "p.low": 2}
    fine = {"p.top.a": {"p.left", "p.low.x"}, "p.left.a": {"p.left.b", "p.low", "torch"}}
    assert list(upward(level, fine)) == []
    wrong = {"p.low.a": {"p.top"}, "p.left": {"p.right.z"}}
    assert list(upward(level, wrong)) == [("p.low.a", "p.top"), ("p.left", "p.right.z")]


@pytest.mark.parametrize("contract", of("forbidden"))
def test_what_is_forbidden_is_not_imported(contract: dict[str, Any]) -> None:
    rooms: list[str] = contract["source_modules"] + contract["forbidden_modules"]
    assert set(rooms) <= set(MODULES), "a module is not there: has it another name now?"
    strange = {
        (name, other)
        for source in contract["source_modules"]
        for name in MODULES
        if within(name, source)
        for other in reached(name)
        for forbidden in contract["forbidden_modules"]
        if within(other, forbidden)
    }
    assert strange == set()


def test_kernels_need_torch_and_triton_alone() -> None:
    allowed = {"torch", "triton", "diffgdn.kernels", *sys.stdlib_module_names}
    kernels = {name: names for name, names in IMPORTS.items() if within(name, "diffgdn.kernels")}
    assert len(kernels) > 10
    strange = {
        (name, imported)
        for name, names in kernels.items()
        for imported in names
        if not any(within(imported, room) for room in allowed)
    }
    assert strange == set()


def test_nothing_imports_the_command_line() -> None:
    importers = {
        name
        for name, names in IMPORTS.items()
        if not within(name, "diffgdn.cli") and any(within(imported, "diffgdn.cli") for imported in names)
    }
    assert importers == {"diffgdn.__main__"}


def last_parts(names: Iterable[str]) -> Counter[str]:
    return Counter(name.rpartition(".")[2] for name in names)


def test_no_module_name_occurs_twice() -> None:
    counted = last_parts(name for name in MODULES if not name.endswith("__main__"))
    assert {name for name, times in counted.items() if times > 1} == set()


@pytest.mark.parametrize("package", [name for name, path in MODULES.items() if path.stem == "__init__"])
def test_every_folder_says_what_it_is(package: str) -> None:
    assert ast.get_docstring(ast.parse(MODULES[package].read_text()))


TABLE = re.findall(r"^\| (\d*) ?\| `([\w/]+)/` \|", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)


def shown(package: str) -> str:
    """The folder of a package as ARCHITECTURE.md names it."""
    return package.removeprefix("diffgdn.").replace(".", "/")


def test_every_folder_has_one_line_in_the_architecture() -> None:
    packages = [
        shown(name) for name, path in MODULES.items() if path.stem == "__init__" and name != "diffgdn"
    ]
    assert Counter(folder for _, folder in TABLE) == Counter(packages)


@pytest.mark.parametrize("contract", of("layers"))
def test_the_architecture_shows_the_layers_of_the_contract(contract: dict[str, Any]) -> None:
    numbered = {folder: int(layer) for layer, folder in TABLE if layer}
    height = len(contract["layers"])
    level = levels(contract, "diffgdn")
    assert numbered == {
        shown(room): height - down for room, down in level.items() if MODULES[room].stem == "__init__"
    }
