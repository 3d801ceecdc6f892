"""Loads the kernels with a mutant's edits, as a package of its own beside the real one.

@triton.jit reads the source of a function again, so the edited text lies where Python's `linecache` looks.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import linecache
import re
import sys
from types import ModuleType

from diffgdn.mutants.kernel_sources import sources
from diffgdn.mutants.mutant import DeadMutant, Mutant

PREFIX = "diffgdn_mutant_"  # of the packages' names


def edited(mutant: Mutant) -> dict[str, str]:
    """Return the sources with a mutant's edits. Raises DeadMutant."""
    plain = sources()
    for edit in mutant.edits:
        if edit.file not in plain:
            raise DeadMutant(f"{mutant.id}: there is no {edit.file}")
    return {file: mutant.apply(file, text) for file, text in plain.items()}


class _Sources(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds and loads the modules of one package from texts."""

    def __init__(self, package: str, texts: dict[str, str]) -> None:
        self.package, self.texts = package, texts

    def _file(self, name: str) -> str | None:
        """Return the file that a module of the package is made from."""
        if name != self.package and not name.startswith(f"{self.package}."):
            return None
        inner = name[len(self.package) :].lstrip(".").replace(".", "/")
        options = (f"{inner}/__init__.py" if inner else "__init__.py", f"{inner}.py")
        return next((file for file in options if file in self.texts), None)

    def find_spec(
        self, fullname: str, path: object = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        file = self._file(fullname)
        if file is None:
            return None
        package = file.endswith("__init__.py")
        # As a path it exists nowhere: what reads the source must find it in `linecache`.
        place = f"<{self.package}>/{file}"
        spec = importlib.machinery.ModuleSpec(fullname, self, origin=place, is_package=package)
        spec.has_location = True
        return spec

    def get_source(self, fullname: str) -> str:
        file = self._file(fullname)
        assert file is not None
        return self.texts[file]

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        place = module.__spec__.origin
        assert place is not None
        text = self.get_source(module.__name__)
        linecache.cache[place] = (len(text), None, text.splitlines(keepends=True), place)
        exec(compile(text, place, "exec"), vars(module))


def load(mutant: Mutant) -> ModuleType:
    """Import the kernels as a mutant has them: a module with the functions of `diffgdn.kernels`.

    Raises DeadMutant if an edit does not fit, and what Python raises for a text that is no module.
    """
    name = PREFIX + re.sub(r"\W", "_", mutant.id)
    if name not in sys.modules:
        sys.meta_path.insert(0, _Sources(name, edited(mutant)))
    return importlib.import_module(name)
