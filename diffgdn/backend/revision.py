"""A target as it was at another revision of its repository, in a process that runs nothing else.

A copy of that revision lies in a folder. The environment of the process names the repository and the copy:
what would be imported from the one is imported from the other. Imports no torch.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

ENVIRONMENT = "DIFFGDN_REVISION"
INSTALLED = {"site-packages", "dist-packages"}  # folders, also of an environment that lies in a repository


@dataclass(frozen=True)
class Revision:
    """root: of the repository; copy: of a revision of it; package: the folder in which the target's package
    lies, or "". All as absolute paths.
    """

    root: str
    copy: str
    package: str = ""

    @property
    def environment(self) -> Mapping[str, str]:
        """Return what a process must have in its environment that is to run this revision."""
        return {ENVIRONMENT: json.dumps(asdict(self))}

    def holds(self, path: str | Path) -> bool:
        """Tell whether a path is the repository's, and not that of a package installed in it."""
        place = Path(path).absolute()
        inside = place.is_relative_to(self.root) or place.resolve().is_relative_to(self.root)
        return inside and not INSTALLED & set(place.parts)

    def moved(self, path: str | Path) -> str:
        """Return a path of the repository as it is in the copy; any other as it is."""
        if not self.holds(path):
            return str(path)
        place = Path(path).absolute()
        if not place.is_relative_to(self.root):
            place = place.resolve()
        return str(Path(self.copy) / place.relative_to(self.root))


def current() -> Revision | None:
    """Return the revision that this process is to run; None for things as they are."""
    told = os.environ.get(ENVIRONMENT)
    return None if told is None else Revision(**json.loads(told))


def enter() -> None:
    """Take the copy for the repository in this process, if it is to run another revision."""
    revision = current()
    if revision is None:
        return
    here = revision.moved(os.getcwd())
    own = [revision.moved(revision.package)] if revision.package else []
    sys.path[:] = [*own, *(revision.moved(entry or os.getcwd()) for entry in sys.path)]
    os.chdir(here if os.path.isdir(here) else revision.copy)


def stray() -> str | None:
    """Say which module has come from the repository as it is now, in place of the copy; None if none has.
    diffgdn itself asks the questions, whatever the revision.
    """
    revision = current()
    if revision is None:
        return None
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        ours = name.partition(".")[0] in ("diffgdn", "__main__", "__mp_main__")
        if isinstance(file, str) and not ours and revision.holds(file):
            return f"it imports {name} from {file}, which is not of that revision"
    return None


def package(module: ModuleType) -> ModuleType:
    """Return a package as this process is to have it: loaded anew from the copy if it is the repository's.

    Raises ImportError where the revision has no such package, and what the package raises.
    """
    revision, file = current(), module.__file__
    if revision is None or file is None or not revision.holds(file):
        return module
    name, place = f"{module.__name__.replace('.', '_')}_at_revision", revision.moved(file)
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, place, submodule_search_locations=[str(Path(place).parent)]
        )
        if spec is None or spec.loader is None or not Path(place).is_file():
            raise ImportError(f"{place} does not exist")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[name])
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
