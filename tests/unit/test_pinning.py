"""Pinned autotuning: which configuration is launched, and that nothing is benchmarked."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from diffgdn.targets import pinning
from diffgdn.targets.fla import CONFIGURATIONS, Fla

PACKAGE = "tuned_package"


class OutOfResources(Exception):
    """Of the name that Triton gives it."""


class Tuner:
    """The parts of Triton's Autotuner that matter: with more than one configuration it looks at the clock."""

    def __init__(self, configs: list[int], unfit: tuple[int, ...] = ()) -> None:
        self.configs, self.cache, self.unfit = configs, {"stale": configs[-1]}, unfit
        self.arg_names, self.launched, self.benchmarks = ["x"], list[Any](), 0
        self.early_config_prune: Callable[..., list[int]] | None = None

    def run(self, *args: Any, **kwargs: Any) -> int:
        if len(self.configs) > 1:
            self.benchmarks += 1
        assert not self.cache
        if self.configs[0] in self.unfit:
            raise OutOfResources("shared memory")
        self.launched.append(self.configs[0])
        return self.configs[0]


class Wrapper:
    """Heuristics hold the decorated kernel as `fn`, and know nothing of configurations."""

    def __init__(self, fn: Any) -> None:
        self.fn = fn

    def run(self, *args: Any, **kwargs: Any) -> Any:
        return self.fn.run(*args, **kwargs)


@pytest.mark.parametrize(("entry", "chosen"), [(0, 10), (2, 30), (3, 10), (7, 20)])
def test_the_entry_is_taken_modulo_the_length_of_each_list(entry: int, chosen: int) -> None:
    tuner, other = Tuner([10, 20, 30]), Tuner([1, 2])
    with pinning.pinned([tuner, other], entry):
        assert Wrapper(tuner).run(5) == chosen
        assert other.run(5) == entry % 2 + 1
    assert (tuner.benchmarks, other.benchmarks) == (0, 0)


def test_afterwards_the_tuner_is_as_it_was_with_an_empty_cache() -> None:
    tuner = Tuner([10, 20])
    with pytest.raises(ZeroDivisionError), pinning.pinned([tuner], 1):
        raise ZeroDivisionError
    assert (tuner.configs, tuner.cache) == ([10, 20], {})
    assert "run" not in vars(tuner)


def test_an_entry_that_does_not_fit_the_device_gives_way_to_the_next() -> None:
    tuner = Tuner([10, 20, 30], unfit=(30, 10))
    with pinning.pinned([tuner], 2):
        assert tuner.run(5) == 20
    assert tuner.launched == [20]


def test_where_no_entry_fits_the_first_error_is_raised() -> None:
    tuner = Tuner([10, 20], unfit=(10, 20))
    with pinning.pinned([tuner], 0), pytest.raises(OutOfResources, match="shared memory"):
        tuner.run(5)


def test_an_error_of_the_kernel_is_raised_and_not_retried() -> None:
    tuner = Tuner([10, 20])
    tuner.cache = {}

    def run(*args: Any, **kwargs: Any) -> int:
        tuner.launched.append(tuner.configs[0])
        raise ValueError("mine")

    tuner.run = run  # type: ignore[method-assign]
    with pinning.pinned([tuner], 0), pytest.raises(ValueError, match="mine"):
        tuner.run(5)
    assert tuner.launched == [10]
    assert tuner.run is run


def test_entries_that_the_tuner_prunes_for_a_call_do_not_count() -> None:
    tuner = Tuner([10, 20, 30])
    tuner.early_config_prune = lambda configs, named, **kwargs: [
        config for config in configs if config > named["x"] + kwargs["y"]
    ]
    with pinning.pinned([tuner], 0):
        assert tuner.run(15, y=1) == 20


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A package whose function reaches `far` through a wrapper, a class and a helper, `gone` by backward."""
    module = ModuleType(PACKAGE)
    vars(module).update(
        far=Wrapper(Tuner(list(range(5)))),
        near=Tuner([1, 2, 3]),
        gone=Tuner([1] * 9),
        stray=Tuner([1]),
        functools=functools,
    )
    code = """
def helper():
    return [far for _ in range(1)]
class Function:
    @staticmethod
    def forward(): return helper()
    @staticmethod
    def backward(): return gone
def decorate(f):
    @functools.wraps(f)
    def wrapper(*args): return f(*args)
    return wrapper
@decorate
def entry(q):
    near.run(q)
    return Function.forward()
def plain(q):
    return q
"""
    exec(code, vars(module))
    for value in ("helper", "Function", "entry", "plain"):
        vars(module)[value].__module__ = PACKAGE
    monkeypatch.setitem(sys.modules, PACKAGE, module)
    return module


def test_every_autotuner_of_the_loaded_modules_is_found_once(package: ModuleType) -> None:
    vars(package)["again"] = package.near
    found = pinning.loaded(PACKAGE)
    expected = (package.far.fn, package.near, package.gone, package.stray)
    assert {id(tuner) for tuner in found} == {id(tuner) for tuner in expected}
    assert len(found) == 4


def test_what_a_function_launches_is_read_from_its_code(package: ModuleType) -> None:
    found = pinning.reachable(package.entry, PACKAGE)
    assert {id(tuner) for tuner in found} == {id(package.far.fn), id(package.near)}


def test_configurations_are_the_longest_list_that_an_operation_launches(package: ModuleType) -> None:
    target = Fla({"gdn.extend": package.entry, "gdn.recurrent": package.plain}, PACKAGE)
    assert target.configurations("gdn.extend") == 5
    assert target.configurations("gdn.recurrent") == 1
    package.near.configs = list(range(40))
    assert target.configurations("gdn.extend") == CONFIGURATIONS


def test_a_plain_value_is_no_autotuner() -> None:
    assert pinning.autotuner(functools) is None
    assert pinning.autotuner("configs") is None
    assert pinning.autotuner(Wrapper(None)) is None
