"""A released package as a target: its functions by a list of paths, its version, what of it really ran.

An adapter is a function with the keywords of `targets.calls` that calls theirs. It translates conventions and
leaves nothing out in silence: a keyword that theirs does not have is dropped where it says nothing
(`only`), and raises otherwise; promises keep such cases away.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
from packaging.version import Version
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.promises import EVERYTHING, Promises
from diffgdn.reference.noise import Contract
from diffgdn.targets import launches, pinning, recording
from diffgdn.targets.base import FunctionTarget, TargetError
from diffgdn.targets.released import places, stand_ins
from diffgdn.targets.released.places import Place
from diffgdn.targets.released.stand_ins import Surroundings
from diffgdn.tensors.arena import Arguments

Function = Callable[..., Any]
ANY = object()  # a keyword that may be dropped whatever it says
CONFIGURATIONS = 8  # at most, of an operation: each compiles its kernels anew
NO_FUNCTION = "this version has no function for it"
NO_COMMIT = "of no released package is a verify without stored states called"
NO_BLOCK_POINTERS = (
    "its kernels take tl.make_block_ptr, which Triton has no more since 3.9; Triton 3.6 to 3.8 have it"
)


@dataclass(frozen=True)
class Spec:
    """What is known of a released package before it is looked for.

    distribution: as pip knows it. package: as Python imports it. paths: by operation, `module:function`,
    newest first. backends: where it runs. wanted: what is unpacked of a wheel. around: what stands in for the
    server.
    """

    name: str
    distribution: str
    package: str
    paths: Mapping[str, tuple[str, ...]]
    backends: tuple[str, ...]
    wanted: tuple[str, ...] = ()
    around: Surroundings = field(default_factory=Surroundings)

    @property
    def how_to_get_it(self) -> str:
        """Say what to do where it is not found."""
        return f"pip install {self.distribution}"

    def place(self, given: str | None) -> Place:
        """Find where it lies, without importing it. Raises TargetError."""
        if given is not None:
            return places.given(self.distribution, self.package, given, self.wanted)
        found = places.installed(self.distribution, self.package)
        if found is None:
            raise TargetError(f"{self.distribution} is not installed; {self.how_to_get_it}")
        return found

    def imported_from(self, given: str | None) -> Place:
        """Find where it lies, and have imports take it from there. Raises TargetError."""
        place = self.place(given)
        _one_version(self, place)
        if given is not None and str(place.root) not in sys.path:
            sys.path.insert(0, str(place.root))
        importlib.invalidate_caches()
        return place


@dataclass
class Found:
    """A package that was imported.

    functions: by operation. paths: where each was found. missing: why an operation is not there. stood_in:
    names of modules that stand-ins replace.
    """

    spec: Spec
    place: Place
    functions: dict[str, Function] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    stood_in: tuple[str, ...] = ()


def load(spec: Spec, given: str | None) -> Found:
    """Import a released package's functions.

    given: a wheel or a folder; None for what is installed. Stand-ins are used where it cannot be imported
    without. Raises TargetError, in one line, if no function can be had.
    """
    place = spec.imported_from(given)
    found = Found(spec, place)
    if place.whole or not spec.around.packages:
        _import(found)
    if not found.functions and spec.around.packages:
        stand_ins.forget(spec.package)
        instead = stand_ins.install(place.root, spec.around) or (f"{spec.package}/__init__.py",)
        found = Found(spec, place, stood_in=instead)
        _import(found)
    if not found.functions:
        raise TargetError(f"{spec.distribution} {place.version}: {next(iter(found.missing.values()))}")
    return found


def _one_version(spec: Spec, place: Place) -> None:
    """Check that a process has imported no other version of a package. Raises TargetError."""
    module = sys.modules.get(spec.package)
    paths = [Path(path).parent.resolve() for path in getattr(module, "__path__", ())]
    if paths and place.root.resolve() not in paths:
        raise TargetError(f"{spec.package} of {paths[0]} is imported already; one version runs in a process")


def _import(found: Found) -> None:
    with warnings.catch_warnings():
        # Packages warn about what they find on the machine, and pytest turns warnings into errors.
        warnings.simplefilter("ignore")
        for op, paths in found.spec.paths.items():
            found.missing[op] = NO_FUNCTION
            for path in paths:
                if _take(found, op, path):
                    break


def _take(found: Found, op: str, path: str) -> bool:
    """Import the function of a path. Tells whether there is one, or a reason why it cannot be had."""
    module, _, name = path.partition(":")
    try:
        function: Function | None = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            return False  # an older or a newer place
        found.missing[op] = f"{error.name} is not installed"
        return True
    except Exception as error:  # whatever a package raises while it looks at devices and builds its kernels
        found.missing[op] = f"cannot be imported: {type(error).__name__}: {_line(error)}"
        return True
    if function is None:
        return False
    if lacks_block_pointers(function, found.spec.package):
        found.missing[op] = NO_BLOCK_POINTERS
        return True
    del found.missing[op]
    found.functions[op], found.paths[op] = recording.watched(function), path
    return True


def _line(error: Exception) -> str:
    return (str(error).strip() or "no message").splitlines()[0]


def has_block_pointers() -> bool:
    """Tell whether Triton is older than 3.9, which removed them."""
    return Version(triton.__version__).release[:2] < (3, 9)


def lacks_block_pointers(function: Function, package: str) -> bool:
    """Tell whether a kernel that a function's code leads to makes block pointers, and Triton has none."""
    if has_block_pointers():
        return False
    for kernel in pinning.reachable_kernels(function, package):
        try:
            if "make_block_ptr" in inspect.getsource(kernel):
                return True
        except (OSError, TypeError):
            continue
    return False


def declared(function: Function) -> frozenset[str]:
    """Name the parameters of a function; what it takes among **kwargs it may as well ignore."""
    parameters = inspect.signature(inspect.unwrap(function)).parameters.values()
    return frozenset(one.name for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL))


def optional(function: Function, name: str) -> bool:
    """Tell whether a parameter may be None, or left out."""
    parameter = inspect.signature(inspect.unwrap(function)).parameters.get(name)
    if parameter is None:
        return False
    return parameter.default is not parameter.empty or "None" in str(parameter.annotation)


def only(given: Mapping[str, Any], names: frozenset[str], neutral: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords that a function has, of those of a call.

    neutral: values with which a keyword that it does not have says nothing. Raises TypeError for another.
    """
    out = {}
    for name, value in given.items():
        if name in names:
            out[name] = value
        elif name not in neutral or not (neutral[name] is ANY or neutral[name] is value):
            raise TypeError(f"adapter: no keyword {name}, asked for {value!r:.60}")
    return out


def adapter(call: Function, keywords: frozenset[str]) -> Function:
    """Give an adapter the signature of the keywords that it takes, which says what it is asked for."""
    call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in sorted(keywords)]
    )
    return call


class ReleasedTarget(FunctionTarget):
    """A target over the functions of a released package. Autotuners launch the entry that a case draws."""

    adapts = True
    batch_invariant = False  # none of them promises it

    def __init__(
        self,
        found: Found,
        adapters: Mapping[str, Function],
        layout: str,
        promised: Mapping[str, Mapping[str, Any]],
        contracts: Mapping[str, Contract],
        missing: Mapping[str, str] | None = None,
        refuses: Callable[[Case], str | None] | None = None,
    ) -> None:
        """Make a target of adapters by operation.

        promised: fields of promises, by operation. contracts: of operations whose is not the default.
        missing: why operations are not there, over what `found` says. refuses: as of FunctionTarget. Raises
        TargetError.
        """
        self.found, self._contracts = found, dict(contracts)
        self._promised = {op: {**promised.get(op, {}), "batch_invariant": (False,)} for op in adapters}
        commits = (op for op, operation in OPERATIONS.items() if operation.commits and op not in adapters)
        self.missing = {**found.missing, **(missing or {}), **dict.fromkeys(commits, NO_COMMIT)}
        self._launched: dict[str, dict[str, None]] = {}
        self._found_tuners: dict[str, list[Any]] = {}
        self._loaded: tuple[int, list[Any]] = (-1, [])
        super().__init__(found.spec.name, adapters, layout, refuses=refuses)

    def narrowed(self, promises: Promises) -> Promises:
        """Return promises, such as a file's, within what the package promises and the adapter translates."""
        fields = {}
        for op, own in self._promised.items():
            asked = promises.of(op)
            fields[op] = {
                name: value
                for name, value in own.items()
                if isinstance(value, tuple) or getattr(asked, name) == getattr(EVERYTHING, name)
            }
        return super().narrowed(promises.narrowed(fields))

    def contract(self, op: str) -> Contract:
        return self._contracts.get(op) or super().contract(op)

    def configurations(self, op: str) -> int:
        """Count the entries of the longest list among an operation's kernels, CONFIGURATIONS at most."""
        return min(CONFIGURATIONS, max((len(one.configs) for one in self._tuners(op)), default=1))

    def refuses(self, case: Case, backend: str) -> str | None:
        if backend not in self.found.spec.backends:
            return f"{self.name} runs on a GPU only"
        return super().refuses(case, backend)

    def run(self, case: Case, arguments: Arguments) -> dict[str, Tensor]:
        with self._noted(case.op), pinning.pinned(self._all_tuners(), case.config):
            return super().run(case, arguments)

    def _tuners(self, op: str) -> list[Any]:
        if op not in self._found_tuners:
            function = self.found.functions[op]
            self._found_tuners[op] = pinning.reachable_autotuners(function, self.found.spec.package)
        return self._found_tuners[op]

    def _all_tuners(self) -> list[Any]:
        """Autotuners of every loaded module of the package, which loads some of them at a first call."""
        package = self.found.spec.package
        count = sum(1 for name in list(sys.modules) if name.split(".")[0] == package)
        if self._loaded[0] != count:
            self._loaded = (count, pinning.loaded_autotuners(package))
        return self._loaded[1]

    @contextmanager
    def _noted(self, op: str) -> Iterator[None]:
        """Note which kernels are launched meanwhile, and let the package warn whom it likes."""
        names: dict[str, None] = {}
        self._launched[op] = names
        with launches.recorded(names), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield

    def provenance(self, op: str) -> dict[str, str]:
        """Say what ran: the package and its version, where it is from, the function, kernels of the latest
        call, and what stood in for the server.
        """
        found = self.found
        out = found.place.said(found.spec.distribution)
        if op in found.paths:
            out["function"] = found.paths[op].replace(":", ".")
        if self._launched.get(op):
            out["kernels"] = ", ".join(self._launched[op])
        if found.stood_in:
            out["stand-ins"] = ", ".join(found.stood_in)
        return out


def layout_of(function: Function, vk: str, kv: str) -> str:
    """Tell the layout of states from what a function's documentation says. Raises TargetError."""
    says = inspect.getdoc(inspect.unwrap(function)) or ""
    if (vk in says) == (kv in says):
        raise TargetError(f"{function.__name__}: its documentation says neither {vk} nor {kv}")
    return "vk" if vk in says else "kv"
