"""Finds released packages by the name of their target, and tells what is there of each."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from packaging.utils import canonicalize_name

from diffgdn.cases import target_names
from diffgdn.targets.base import Target, TargetError
from diffgdn.targets.released import places

if TYPE_CHECKING:
    from diffgdn.targets.released.package import Spec

# The module of each has SPEC, and make(place) for the target.
MODULES = {
    name: "diffgdn.targets.fla"
    if name in ("fla", "fla-dispatch")
    else f"diffgdn.targets.released.{name}_target"
    for name in target_names.RELEASED
}


@dataclass(frozen=True)
class Status:
    """What is there of a target.

    place: where it lies, in words. operations: those that can be called. backends: where it can run. absent:
    why nothing of it can be had, None if something can. missing: why single operations cannot.
    """

    name: str
    version: str = ""
    place: str = ""
    operations: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    absent: str | None = None
    missing: dict[str, str] = field(default_factory=dict)
    stood_in: tuple[str, ...] = ()


def _module(name: str) -> Any:
    return importlib.import_module(MODULES[name])


def spec(name: str) -> Spec:
    """Return what is known of a released package before it is looked for."""
    found: Spec = _module(name).SPEC
    return found


def missing(name: str, place: str | None, backend: str) -> str | None:
    """Say why a released package cannot run on a backend, without importing it; None if it can."""
    about = spec(name)
    if backend not in about.backends:
        return f"{name} runs on a GPU only"
    try:
        about.place(place)
    except TargetError as error:
        return str(error)
    return None


@functools.cache
def version_at(target: str, distribution: str) -> str | None:
    """Return the version of a distribution that a target takes from a wheel or a folder, places.UNKNOWN if
    nothing says it; None if the target takes it from no such place. The package is not imported.
    """
    name, place = target_names.split(target)
    if place is None:
        return None
    about = spec(name)
    if canonicalize_name(about.distribution) != canonicalize_name(distribution):
        return None
    try:
        return about.place(place).version
    except TargetError:
        return places.UNKNOWN


def make(name: str, place: str | None) -> Target:
    """Import a released package and make its target. Raises TargetError."""
    found: Target = _module(name).make(name, place)
    return found


def status(name: str, place: str | None = None) -> Status:
    """Look for a released package, and import it if it is there."""
    about = spec(name)
    try:
        where = about.place(place)
    except TargetError as error:
        return Status(name, backends=about.backends, absent=str(error))
    try:
        target = make(name, place)
    except TargetError as error:
        return Status(name, where.version, where.words, backends=about.backends, absent=str(error))
    return Status(
        name,
        where.version,
        where.words,
        tuple(target.operations),
        about.backends,
        None,
        dict(getattr(target, "missing", {})),
        tuple(getattr(getattr(target, "found", None), "stood_in", ())),
    )
