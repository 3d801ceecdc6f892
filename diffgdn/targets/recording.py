"""Records how a target calls a function of another package: its arguments, as they lay before the call.

So what an adapter does need not be told by hand for each target: it makes its call, and that is written down.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Again = functools.partial[Any]  # a call with its arguments, to be made once more


class NotMade(Exception):
    """Ends a call that was to be recorded only."""


@dataclass
class Recorded:
    """One call of a function.

    given: its arguments by name; of those passed by position the name is their number, "0". before: copies of
    the tensors among them, contiguous, as they were before the call. defaults: of the function's keywords.
    returned: what came back, None if nothing did.
    """

    given: dict[str, Any]
    defaults: dict[str, Any] = field(default_factory=dict)
    before: dict[str, Tensor] = field(default_factory=dict)
    returned: Any = None


def watched(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that its calls are recorded where somebody listens; it is unchanged otherwise."""

    @functools.wraps(function)
    def call(*args: Any, **given: Any) -> Any:
        if _keeping:
            _keeping[-1].append(functools.partial(function, *args, **given))
        if not _listening:
            return function(*args, **given)
        made = Recorded({**{str(n): value for n, value in enumerate(args)}, **given}, _defaults(function))
        made.before = {
            name: value.detach().clone(memory_format=torch.contiguous_format)
            for name, value in made.given.items()
            if isinstance(value, Tensor)
        }
        listener = _listening[-1]
        listener.calls.append(made)
        if listener.only:
            raise NotMade
        made.returned = function(*args, **given)
        return made.returned

    return call


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    return {name: one.default for name, one in parameters.items() if one.default is not one.empty}


@dataclass
class _Listener:
    only: bool
    calls: list[Recorded] = field(default_factory=list)


_listening: list[_Listener] = []
_keeping: list[list[Again]] = []


@contextmanager
def recorded(only: bool = False) -> Iterator[list[Recorded]]:
    """While active, list the calls of watched functions. only: they are not made, and raise NotMade."""
    listener = _Listener(only)
    _listening.append(listener)
    try:
        yield listener.calls
    finally:
        _listening.remove(listener)


@contextmanager
def kept() -> Iterator[list[Again]]:
    """While active, list the calls of watched functions, which are made as always. Each can be made again on
    the very tensors that it had: without what an adapter does before and after."""
    calls: list[Again] = []
    _keeping.append(calls)
    try:
        yield calls
    finally:
        _keeping.remove(calls)


@contextmanager
def in_place(functions: dict[str, Callable[..., Any]], name: str) -> Iterator[None]:
    """While active, have a function of a table watched."""
    before = functions[name]
    functions[name] = watched(before)
    try:
        yield
    finally:
        functions[name] = before
