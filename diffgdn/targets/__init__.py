"""Finds implementations under test: the built-in targets by name, and users' own by `module:name`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from diffgdn.cases import promises_file, target_names
from diffgdn.cases.promises import Promises
from diffgdn.cases.target_names import BUILT_IN, RELEASED
from diffgdn.targets.base import (
    FunctionTarget,
    Target,
    TargetError,
    check_promises,
    default_contract,
    heads_compiled,
    promises_of,
    provenance_of,
    refusal,
    target,
)
from diffgdn.targets.released import roster

__all__ = [
    "FunctionTarget",
    "Target",
    "TargetError",
    "default_contract",
    "get",
    "heads_compiled",
    "missing",
    "names",
    "promises",
    "promises_of",
    "provenance_of",
    "refusal",
    "registered",
    "target",
]


GROUP = "diffgdn.targets"  # of entry points, by which other packages register targets


def names() -> tuple[str, ...]:
    """Name the built-in targets."""
    return BUILT_IN


def missing(name: str, backend: str) -> str | None:
    """Say why a built-in target cannot run on this backend here, and what to do about it; None if it can."""
    bare, place = target_names.split(name)
    return roster.missing(bare, place, backend) if bare in RELEASED else None


def promises(name: str) -> Promises:
    """Return what a target promises, without importing it where a file says so. Raises TargetError."""
    return _declared(name) or promises_of(get(name))


def get(name: str) -> Target:
    """Load a built-in target, or the object that `module:name` or `path/to/file.py:name` names.

    Promises that a file declares for it take the place of its own. Raises TargetError, in one line, if there
    is none. Runs the code of the user's module.
    """
    declared = _declared(name)
    found = _get(name)
    if declared is not None:
        narrowed = found.narrowed(declared) if isinstance(found, FunctionTarget) else declared
        found.promises = narrowed  # type: ignore[attr-defined]
    check_promises(found)
    return found


def _declared(name: str) -> Promises | None:
    """Return what a file promises for a target. Raises TargetError."""
    try:
        return promises_file.declared(name)
    except ValueError as error:
        raise TargetError(str(error)) from None


def _get(name: str) -> Target:
    """Load a target, with its own promises. Raises TargetError."""
    if name in ("vk", "kv"):
        from diffgdn.targets.own import own

        return own(name)
    if name == "eager":
        from diffgdn.targets.eager import Eager

        return Eager()
    bare, place = target_names.split(name)
    if bare in RELEASED:
        return roster.make(bare, place)
    if name in (one.name for one in _entry_points()):
        return _of_entry_point(name)
    module, separator, attribute = name.rpartition(":")
    if not separator or not module or not attribute:
        known = ", ".join((*BUILT_IN, *(one.name for one in _entry_points())))
        raise TargetError(f"unknown target {name!r}; built in: {known}; your own: module:name")
    found: Target | None = getattr(_load(module), attribute, None)
    if found is None:
        raise TargetError(f"target {name!r}: {module} has no attribute {attribute!r}")
    return _checked(name, attribute, found)


def _checked(name: str, what: str, found: Any) -> Target:
    """Check that an object is a target. Raises TargetError."""
    if not all(
        hasattr(found, part) for part in ("name", "layout", "operations", "contract", "refuses", "run")
    ):
        raise TargetError(
            f"target {name!r}: {what} is {type(found).__name__}, not a target; "
            "decorate it with @diffgdn.target(...)"
        )
    checked: Target = found
    return checked


def registered() -> tuple[str, ...]:
    """Name the targets that installed packages register as entry points of the group GROUP."""
    return tuple(one.name for one in _entry_points())


def _entry_points() -> tuple[EntryPoint, ...]:
    """List the entry points of other packages; names of built-in targets are not theirs to take."""
    return tuple(one for one in entry_points(group=GROUP) if one.name not in BUILT_IN)


def _of_entry_point(name: str) -> Target:
    """Load the target that an entry point names. Raises TargetError."""
    point = next(one for one in _entry_points() if one.name == name)
    try:
        found = point.load()
    except Exception as error:  # whatever its module raises while it is imported
        raise TargetError(
            f"target {name!r} ({point.value}) cannot be imported: {type(error).__name__}: {error}"
        ) from error
    return _checked(name, point.value, found)


def _load(module: str) -> Any:
    """Import a module by name or file. Raises TargetError."""
    if not module.endswith(".py"):
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))  # a user's module beside where the command is run
        try:
            return importlib.import_module(module)
        except Exception as error:  # whatever a user's module raises while it is imported
            raise TargetError(
                f"target module {module!r} cannot be imported: {type(error).__name__}: {error}"
            ) from error
    path = Path(module)
    if not path.is_file():
        raise TargetError(f"target file {module!r} does not exist")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # modules beside the file can be imported, as by a script
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, loaded)
    try:
        spec.loader.exec_module(loaded)
    except Exception as error:
        raise TargetError(
            f"target file {module!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    return loaded
