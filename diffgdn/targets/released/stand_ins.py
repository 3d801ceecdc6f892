"""What stands in for the server around released kernels, where the real package cannot be imported.

A server's `__init__` files import all of it, and what it depends on; its kernels need little of that. Here
packages get no `__init__` (they are only a place to look for modules), and the few modules that kernels
import beside their own are replaced. A stand-in answers what the real one would on this machine,
or that a special path is not there, so that the plain kernel runs. Findings say which stood in.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

Members = Mapping[str, Any]
ASKS = re.compile(r"(is|has|supports|use)_\w+|\w+_supported|\w+_has_amx_support")


@dataclass(frozen=True)
class Surroundings:
    """packages: those without their `__init__`, parents first. modules: those replaced, and a function that
    makes what each holds; in it other questions such as `is_hip` are answered with no.
    """

    packages: tuple[str, ...] = ()
    modules: Mapping[str, Callable[[], Members]] | None = None


class StandIn(ModuleType):
    """A module in place of a server's own."""

    def __getattr__(self, name: str) -> Any:
        if ASKS.fullmatch(name):
            return no
        raise AttributeError(f"the stand-in for {self.__name__} has no {name}")


def no(*args: Any, **given: Any) -> bool:
    """Say that something is not there."""
    return False


def not_there(*args: Any, **given: Any) -> Any:
    """Refuse a call that no operation here makes. Raises NotImplementedError."""
    raise NotImplementedError("a stand-in for the server around the kernels has no such function")


def install(root: Path, around: Surroundings) -> tuple[str, ...]:
    """Put packages without an `__init__` and stand-ins among the modules, and return the stand-ins' names."""
    for name in around.packages:
        module = ModuleType(name)
        module.__path__ = [str(root / name.replace(".", "/"))]
        _put(module)
    for name, members in (around.modules or {}).items():
        stand_in = StandIn(name)
        stand_in.__path__ = []
        vars(stand_in).update(members())
        _put(stand_in)
    return tuple(around.modules or ())


def forget(package: str) -> None:
    """Drop what was imported of a package."""
    for name in list(sys.modules):
        if name == package or name.startswith(f"{package}."):
            del sys.modules[name]


def _put(module: ModuleType) -> None:
    """Register a module, and make it known to its parent."""
    sys.modules[module.__name__] = module
    parent, _, last = module.__name__.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], last, module)


def compute_capability() -> int:
    """The GPU's, as 90; 0 without one."""
    if not torch.cuda.is_available():
        return 0
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


def torch_release() -> tuple[int, ...]:
    """Torch's version as numbers, (2, 11, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", torch.__version__.split("+")[0])[:3])
