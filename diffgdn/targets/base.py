"""What a target is, and the shortest way to make one from functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from torch import Tensor

from diffgdn.cases import company
from diffgdn.cases.case import Case
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.promises import EVERYTHING, EXACT, OUTSIDE, Promises
from diffgdn.reference.noise import CHUNKED, RECURRENT, Contract
from diffgdn.targets import calls
from diffgdn.tensors.arena import Arguments

MOST_SAID = 240  # letters of one thing that a target says about what ran; findings hold a few more


class TargetError(ValueError):
    """Raised for a target that does not exist, cannot be imported, or is not one."""


class Target(Protocol):
    """One implementation of one or more operations.

    layout: of the states that it takes, "vk" for [..., V, K] or "kv" for [..., K, V]. It may have `promises`,
    of type Promises: what it supports; one without promises everything (`promises_of`). It may have
    `heads_compiled`: False if its kernels take H and HV as plain numbers, so that cases may have any.
    """

    name: str
    layout: str

    @property
    def operations(self) -> tuple[str, ...]:
        """Names of the operations it implements."""

    def contract(self, op: str) -> Contract:
        """Give the roundings that it may make in an operation."""

    def configurations(self, op: str) -> int:
        """Count the entries of its own configuration list, of which `case.config` pins one."""

    def refuses(self, case: Case, backend: str) -> str | None:
        """Say why it cannot take this case on this backend, or None: what promises, which are data, cannot
        say. Such a case is drawn and not run.
        """

    def run(self, case: Case, arguments: Arguments) -> dict[str, Tensor]:
        """Call the kernel once; pool and buffer are written in place, and so is packed_decode's `out`.

        Returns by name, in the dtypes that its promises say and with states in its own layout: o [B, T, HV,
        V], where a packed batch has B = 1; if asked for, final [N, HV, V, K] and boundary [chunks, HV, V, K]
        or [B, chunks / B, HV, V, K]. Raises `results.WrongForm` for one that its function left out.
        """


def promises_of(target: Target) -> Promises:
    """Return what a target promises: everything, if it does not say."""
    promises: Promises = getattr(target, "promises", EVERYTHING)
    return promises


def heads_compiled(target: Target) -> bool:
    """Return whether kernels are compiled anew for other H and HV: yes, if the target does not say."""
    return bool(getattr(target, "heads_compiled", True))


def provenance_of(target: Target, op: str) -> dict[str, str]:
    """Return what ran for an operation, in short words: what a target says in its method `provenance`."""
    says = getattr(target, "provenance", None)
    found: dict[str, str] = {} if says is None else says(op)
    return {name: value[:MOST_SAID] for name, value in found.items()}


def refusal(target: Target, case: Case, backend: str) -> str | None:
    """Say why a target is not asked about a case: it is outside its promises, or refused; or None."""
    if case.op in target.operations:
        broken = promises_of(target).broken_by(case)
        if broken is not None:
            return f"{OUTSIDE}{broken}"
    calls = (case, *(made for _, made in company.calls(case)))
    return next(filter(None, (target.refuses(one, backend) for one in calls)), None)


class Unbound:
    """A target of which everything is asked, whatever it promises; all else is that of the target."""

    def __init__(self, target: Target) -> None:
        self._target, self.promises = target, promises_of(target).without_limits()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


def check_promises(target: Target) -> None:
    """Check that promises leave cases of each of a target's operations. Raises TargetError."""
    promises = promises_of(target)
    if not isinstance(promises, Promises):
        raise TargetError(f"target {target.name}: promises: expected Promises, got {promises!r:.80}")
    for op in target.operations:
        try:
            promises.of(op)
        except ValueError as error:
            raise TargetError(f"target {target.name}: promises: {error}") from None


def default_contract(op: str) -> Contract:
    """Give the usual contract: operands and stored intermediates of chunked operations in the input dtype,
    all else in fp32."""
    return CHUNKED if OPERATIONS[op].is_chunked else RECURRENT


class FunctionTarget:
    """A target made of functions with the keyword arguments and return values of SGLang's functions.

    adapts: whether they are adapters, which call a package's own.
    """

    adapts = False

    def __init__(
        self,
        name: str,
        functions: Mapping[str, Callable[..., Any]],
        layout: str = "vk",
        contract: Contract | None = None,
        refuses: Callable[[Case], str | None] | None = None,
        promises: Promises = EVERYTHING,
        heads_compiled: bool = True,
    ) -> None:
        """Make a target of functions by name of the operation.

        layout: of states, "vk" or "kv". contract: None for `default_contract`. promises: what the kernel
        supports; cases are drawn inside. refuses: says what promises cannot, why a case is not to be run, or
        None. heads_compiled: whether kernels are compiled anew for other H and HV, as `tl.constexpr` are:
        cases of a GPU campaign then have few. Raises TargetError for an unknown operation or layout, and for
        promises that leave no case.
        """
        unknown = sorted(set(functions) - set(OPERATIONS))
        if unknown:
            raise TargetError(
                f"target {name}: unknown operation {unknown[0]!r}; known: {', '.join(OPERATIONS)}"
            )
        if layout not in ("vk", "kv"):
            raise TargetError(f"target {name}: layout must be 'vk' or 'kv', got {layout!r}")
        self.name, self.functions, self.layout = name, dict(functions), layout
        self._contract, self._refuses, self.promises = contract, refuses, promises
        self.heads_compiled = heads_compiled
        self._accepts = {op: _accepted(function) for op, function in functions.items()}
        check_promises(self)
        self.promises = self.narrowed(promises)

    @property
    def operations(self) -> tuple[str, ...]:
        return tuple(self.functions)

    def narrowed(self, promises: Promises) -> Promises:
        """Return promises without what its functions have no keyword for (`calls.unspoken`)."""
        fields: dict[str, dict[str, Any]] = {}
        for op, accepts in self._accepts.items():
            missing = calls.unspoken(op, accepts)
            if missing:
                fields[op] = missing
        return promises.narrowed(fields) if fields else promises

    def contract(self, op: str) -> Contract:
        return self._contract or default_contract(op)

    def configurations(self, op: str) -> int:
        return 1

    def refuses(self, case: Case, backend: str) -> str | None:
        if case.op not in self.functions:
            return f"{self.name} does not implement {case.op}"
        if self.layout not in case.operation.layouts:
            return f"{case.op} has no {self.layout} layout"
        accepts = self._accepts[case.op]
        if (
            accepts is not None
            and case.operation.is_chunked
            and case.boundary
            and case.chunk_size != 64
            and "chunk_size" not in accepts
        ):
            return "its boundary states are those of 64-token chunks"
        missing = calls.wanted(case) - accepts if accepts is not None else ()
        if missing:
            return f"it has no keyword {sorted(missing)[0]}"
        return self._refuses(case) if self._refuses else None

    def given(self, case: Case, arguments: Arguments) -> dict[str, Any]:
        """Collect the keyword arguments that its function is called with."""
        given, accepts = calls.keywords(case, arguments), self._accepts[case.op]
        if accepts is None:
            return given
        dropped = calls.EXTRAS - calls.NATIVE.get(case.op, frozenset()) - accepts
        return {name: value for name, value in given.items() if name not in dropped}

    def run(self, case: Case, arguments: Arguments) -> dict[str, Tensor]:
        given = self.given(case, arguments)
        returned = self.functions[case.op](**given)
        exact = self.promises.of(case.op).result_form == EXACT
        return calls.results(case, arguments, returned, self.declares(case.op, given), exact)

    def declares(self, op: str, given: Iterable[str]) -> frozenset[str]:
        """Return those of these keywords that an operation's function declares by name."""
        return (self._accepts[op] or frozenset()).intersection(given)


def _accepted(function: Callable[..., Any]) -> frozenset[str] | None:
    """Name the parameters that a function declares; None if it takes any, or cannot be asked."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    return None if takes_any else frozenset(parameters)


def target(
    *operations: str,
    name: str | None = None,
    layout: str = "vk",
    contract: Contract | None = None,
    refuses: Callable[[Case], str | None] | None = None,
    promises: Promises = EVERYTHING,
    heads_compiled: bool = True,
) -> Callable[[Callable[..., Any]], FunctionTarget]:
    """Decorate a function that takes an operation's keyword arguments to make it a target of the operations.

    name: None for that of the function. The others are those of `FunctionTarget`, which it becomes.
    """

    def wrap(function: Callable[..., Any]) -> FunctionTarget:
        functions = dict.fromkeys(operations, function)
        named = name or function.__name__
        return FunctionTarget(named, functions, layout, contract, refuses, promises, heads_compiled)

    return wrap
