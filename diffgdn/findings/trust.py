"""Decides whose code may run because a file says so.

A finding names the target it failed on, and loading one that is not built in runs code. A finding may come
from a stranger, who may name any code on this machine. So a name in a file is enough only for code that lies
in the folder where the command is run: that is what the user works on. For all other code the user must say
so. Imports no target.

Installed packages that were made to be tested here are run unasked: released ones by their names, and those
that register an entry point of the group diffgdn.targets. A wheel or a folder of one is code as any other.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
from pathlib import Path

from diffgdn.cases import target_names
from diffgdn.cases.target_names import BUILT_IN

INSTALLED = {"site-packages", "dist-packages"}  # folders, also of an environment that lies in a project


def refusal(target: str, folder: Path | None = None) -> str | None:
    """Say in one line why a target that a file names is not loaded unasked, or return None.

    `folder` is the one whose code is trusted, None the current one. Nothing is imported.
    """
    folder, (name, place) = (folder or Path.cwd()).resolve(), target_names.split(target)
    if place is not None:
        return None if _inside(folder / place, folder) else _outside(target)
    module = name.rpartition(":")[0]
    if target in BUILT_IN or not module:
        return None
    places = [module] if module.endswith(".py") else _places(module.partition(".")[0], folder)
    if places is not None and all(_inside(folder / place, folder) for place in places):
        return None
    return _outside(target)


def _outside(target: str) -> str:
    return f"target {target!r:.200} is code from outside of this folder; --trust-targets runs it"


def _inside(place: Path, folder: Path) -> bool:
    """Tell whether a place lies below the folder, links followed, and not among installed packages."""
    place = place.resolve()
    return place.is_relative_to(folder) and not INSTALLED & set(place.parts)


def _places(name: str, folder: Path) -> list[str] | None:
    """List where `targets` would import a top-level module from: nothing if there is no such module, None if
    it has no place.
    """
    if name in sys.stdlib_module_names:
        return None
    importlib.invalidate_caches()
    try:
        spec = importlib.machinery.PathFinder.find_spec(name, [str(folder), *sys.path])
        spec = spec or importlib.util.find_spec(name)  # as modules of an editable install are found
    except (ImportError, ValueError):
        return None
    if spec is None:
        return []
    if spec.has_location and spec.origin:
        return [spec.origin]
    return list(spec.submodule_search_locations or ()) or None
