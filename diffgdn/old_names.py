"""Modules under the names that they had in 0.1.0, so that scripts written then still run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

MODULES = {
    "diffgdn.case": "diffgdn.cases.case",
    "diffgdn.execute": "diffgdn.verdict.execute",
    "diffgdn.interpreter": "diffgdn.backend.interpreter",
    "diffgdn.isolate": "diffgdn.runner",
    "diffgdn.isolate.here": "diffgdn.old_here",
    "diffgdn.lane": "diffgdn.backend.selection",
    "diffgdn.prelude": "diffgdn.cases.prelude",
    "diffgdn.relations": "diffgdn.verdict.relations",
    "diffgdn.serving": "diffgdn.verdict.serving",
    "diffgdn.serving.play": "diffgdn.verdict.serving.play",
    "diffgdn.trace": "diffgdn.cases.trace",
}


class _Loader:  # importlib.abc would double the time that `import diffgdn` takes
    """Hands out the module of the new name, which stays as it is."""

    def __init__(self, new: str) -> None:
        self._new = new

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(self._new)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # Python has put the old name's into it


class OldNames:
    """Finds modules by their old names, when nothing else does."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        new = MODULES.get(name)
        return None if new is None else ModuleSpec(name, _Loader(new), is_package=True)  # type: ignore[arg-type]


def install() -> None:
    """Have Python find the old names from now on."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.append(OldNames())
