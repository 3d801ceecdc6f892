"""What a target is, and the shortest way to make one from functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.cases.operations import OPERATIONS
from diffgdn.reference.noise import CHUNKED, RECURRENT, Contract
from diffgdn.targets import calls
from diffgdn.tensors.arena import Arguments


class TargetError(ValueError):
    """A target that does not exist, cannot be imported, or is not one."""


class Target(Protocol):
    """One implementation of one or more operations.

    layout: of the states it takes, "vk" or "kv".
    """

    name: str
    layout: str

    @property
    def operations(self) -> tuple[str, ...]:
        """Names of the operations it implements."""

    def contract(self, op: str) -> Contract:
        """The roundings that it may make in an operation."""

    def configurations(self, op: str) -> int:
        """How many entries its own configuration list has; `case.config` pins one of them."""

    def refuses(self, case: Case, backend: str) -> str | None:
        """Why it cannot take this case on this backend, or None."""

    def run(self, case: Case, arguments: Arguments) -> dict[str, Tensor]:
        """Call the kernel once. Returns `o`, and `final` and `boundary` where asked for; pool and buffer are
        written in place."""


def default_contract(op: str) -> Contract:
    """Operands and stored intermediates of chunked operations in the input dtype, everything else in fp32."""
    return CHUNKED if OPERATIONS[op].is_chunked else RECURRENT


class FunctionTarget:
    """A target made of functions that take SGLang's keyword arguments and return what SGLang's functions
    return."""

    def __init__(
        self,
        name: str,
        functions: Mapping[str, Callable[..., Any]],
        layout: str = "vk",
        contract: Contract | None = None,
        refuses: Callable[[Case], str | None] | None = None,
    ) -> None:
        """functions: operation name to function. refuses: tells why a case is outside what the kernel
        promises, or None."""
        unknown = sorted(set(functions) - set(OPERATIONS))
        if unknown:
            raise TargetError(
                f"target {name}: unknown operation {unknown[0]!r}; known: {', '.join(OPERATIONS)}"
            )
        if layout not in ("vk", "kv"):
            raise TargetError(f"target {name}: layout must be 'vk' or 'kv', got {layout!r}")
        self.name, self.functions, self.layout = name, dict(functions), layout
        self._contract, self._refuses = contract, refuses
        self._accepts = {op: _accepted(function) for op, function in functions.items()}

    @property
    def operations(self) -> tuple[str, ...]:
        return tuple(self.functions)

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
        return self._refuses(case) if self._refuses else None

    def run(self, case: Case, arguments: Arguments) -> dict[str, Tensor]:
        given, accepts = calls.keywords(case, arguments), self._accepts[case.op]
        if accepts is not None:
            dropped = calls.EXTRAS - calls.NATIVE.get(case.op, frozenset()) - accepts
            given = {name: value for name, value in given.items() if name not in dropped}
        return calls.results(case, arguments, self.functions[case.op](**given))


def _accepted(function: Callable[..., Any]) -> frozenset[str] | None:
    """Names of the parameters that a function declares; None where it takes any, or cannot be asked."""
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
) -> Callable[[Callable[..., Any]], FunctionTarget]:
    """Decorator: make a function that takes an operation's keyword arguments a target of the operations."""

    def wrap(function: Callable[..., Any]) -> FunctionTarget:
        functions = dict.fromkeys(operations, function)
        return FunctionTarget(name or function.__name__, functions, layout, contract, refuses)

    return wrap
