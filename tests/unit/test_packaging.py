"""The three folders are one installed package, whole, and nothing beside it."""

import importlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import diffgdn

ROOT = Path(__file__).parents[2]
FOLDERS = {"diffgdn": "diffgdn", "strategies": "diffgdn.strategies", "kernels": "diffgdn.kernels"}
BUILD_WHEEL = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


def modules_on_disk() -> list[str]:
    names = []
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            names.append(".".join((package, *(part for part in parts if part != "__init__"))))
    return sorted(name for name in names if not name.endswith("__main__"))


@pytest.mark.parametrize("name", modules_on_disk())
def test_module_is_imported_from_its_folder(name: str) -> None:
    """Sub-packages that appear later are found without a change to the packaging."""
    module = importlib.import_module(name)
    assert module.__name__ == name
    assert module.__file__ is not None
    assert Path(module.__file__).is_relative_to(ROOT)


def test_every_folder_of_modules_is_a_package() -> None:
    """setuptools leaves out a folder without __init__.py, and the wheel would lack it."""
    bare = {
        path.parent
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if not (path.parent / "__init__.py").exists()
    }
    assert bare == set()


def test_wheel_holds_every_module_and_no_other_top_level_name(tmp_path: Path) -> None:
    """`kernels` is another distribution's name, so the wheel must not install a module called that."""
    source = tmp_path / "source"
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    subprocess.run(
        [sys.executable, "-c", BUILD_WHEEL, str(tmp_path)], cwd=source, check=True, capture_output=True
    )
    [wheel] = tmp_path.glob("*.whl")
    files = zipfile.ZipFile(wheel).namelist()
    modules = {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in files
        if name.endswith(".py") and not name.endswith("__main__.py")
    }
    assert modules == set(modules_on_disk())
    assert {name.split("/")[0] for name in files} == {"diffgdn", f"diffgdn-{diffgdn.__version__}.dist-info"}
    assert "diffgdn/py.typed" in files
    assert {"style.css", "frame.html", "run.html", "probe.html"} <= {Path(name).name for name in files}
