"""Pins a foreign kernel's autotuning: a configuration from its own list by number, never a benchmark.

Benchmarking inside a fuzz loop costs seconds per shape, makes a run depend on the machine's load, and hides
which configuration failed. Objects are recognised by their parts (configs, cache, run), so that subclasses of
triton.runtime.autotuner.Autotuner count, and wrappers such as Heuristics are looked through by their `fn`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType, ModuleType
from typing import Any

# What triton.runtime.autotuner.Autotuner itself (its `_bench`) takes as "this configuration does not fit this
# call": such an entry would never have been chosen, so that its failing says nothing about the kernel.
UNFIT = frozenset({"OutOfResources", "CompileTimeAssertionFailure", "PTXASError"})
WRAPPERS = 8  # decorators around one kernel, at most


def find_autotuner(value: Any) -> Any | None:
    """Find the autotuner that a decorated kernel is or wraps; None if there is none."""
    if isinstance(value, (ModuleType, type, str, int, float)):
        return None
    for _ in range(WRAPPERS):
        if (
            isinstance(getattr(value, "configs", None), list)
            and hasattr(value, "cache")
            and callable(getattr(value, "run", None))
        ):
            return value
        value = getattr(value, "fn", None)
        if value is None:
            return None
    return None


def loaded_autotuners(package: str) -> list[Any]:
    """List the autotuners that loaded modules of a package hold, each once."""
    found = {}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == package and module is not None:
            for value in list(vars(module).values()):
                tuner = find_autotuner(value)
                if tuner is not None:
                    found[id(tuner)] = tuner
    return list(found.values())


def reachable_autotuners(function: Callable[..., Any], package: str) -> list[Any]:
    """List the autotuners that a function's code leads to through functions and classes of its package.

    They are read from the names in compiled code, without a call: what a call launches is among them. Methods
    named `backward` are left out.
    """
    found = {id(tuner): tuner for item in _reachable(function, package) if (tuner := find_autotuner(item))}
    return list(found.values())


def reachable_kernels(function: Callable[..., Any], package: str) -> list[Any]:
    """List the Python functions of the Triton kernels that a function's code leads to in its package."""
    found = {}
    for item in _reachable(function, package):
        for _ in range(WRAPPERS):
            if not (callable(getattr(item, "run", None)) and hasattr(item, "fn")):
                break
            item = item.fn
            if isinstance(item, FunctionType):
                found[id(item)] = item
    return list(found.values())


def _reachable(function: Callable[..., Any], package: str) -> Iterator[Any]:
    """List what a function's code leads to through functions and classes of its package; not past kernels."""
    seen: set[int] = set()
    queue: list[Any] = [function]
    while queue:
        item = queue.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        if find_autotuner(item) is not None:
            continue
        if isinstance(item, type):
            queue += [
                part for name, part in vars(item).items() if name != "backward" and _is_of(part, package)
            ]
        elif _is_of(item, package):
            inner = inspect.unwrap(getattr(item, "__func__", item))
            code = getattr(inner, "__code__", None)
            names = _names(code) if isinstance(code, CodeType) else ()
            queue += [inner.__globals__[name] for name in names if name in inner.__globals__]


def _is_of(value: Any, package: str) -> bool:
    """Whether a function or class, not a module, is defined in a package."""
    module = getattr(getattr(value, "__func__", value), "__module__", None)
    return isinstance(module, str) and module.split(".")[0] == package and not isinstance(value, ModuleType)


def _names(code: CodeType) -> Iterator[str]:
    """List the names that compiled code uses, that of inner functions included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


_shipped: list[None] = []  # one for each `as_shipped` that is active


@contextmanager
def as_shipped() -> Iterator[None]:
    """While active, `pinned` pins nothing: autotuners choose by their own benchmarks, as for any caller."""
    _shipped.append(None)
    try:
        yield
    finally:
        _shipped.pop()


@contextmanager
def pinned(tuners: Iterable[Any], entry: int) -> Iterator[None]:
    """While active, autotuners launch entry `entry`, modulo the length of their list, without benchmarks.

    Entries that the tuner's own early pruning takes out for a call do not count. One that does not fit the
    device (see UNFIT) gives way to the next, as it would under autotuning; if none fits, its error is raised.
    """
    tuners = () if _shipped else tuners
    changed = [(tuner, tuner.configs, vars(tuner).get("run")) for tuner in tuners]
    for tuner, configs, _ in changed:
        tuner.run = _Pin(tuner, configs, entry)
    try:
        yield
    finally:
        for tuner, configs, run in changed:
            tuner.configs = configs
            tuner.cache.clear()
            if run is None:
                del tuner.run  # the method of its class again
            else:
                tuner.run = run


class _Pin:
    """Stands in for an autotuner's `run` and launches one entry."""

    def __init__(self, tuner: Any, configs: list[Any], entry: int) -> None:
        self.tuner, self.configs, self.entry, self.run = tuner, configs, entry, tuner.run

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        candidates = self._candidates(args, kwargs)
        unfit: Exception | None = None
        for step in range(len(candidates)):
            # A list of one is what an autotuner launches without a look at its cache or at the clock.
            self.tuner.configs = [candidates[(self.entry + step) % len(candidates)]]
            self.tuner.cache.clear()
            try:
                return self.run(*args, **kwargs)
            except Exception as error:
                if UNFIT.isdisjoint(cls.__name__ for cls in type(error).__mro__):
                    raise
                unfit = unfit or error
        assert unfit is not None
        raise unfit

    def _candidates(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        prune = getattr(self.tuner, "early_config_prune", None)
        if prune is None:
            return self.configs
        return (
            list(prune(self.configs, dict(zip(self.tuner.arg_names, args, strict=False)), **kwargs))
            or self.configs
        )
