"""Frozen dataclasses that print short, evaluate back, and are read strictly from JSON."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Kind = TypeVar("Kind")


class Record:
    """Base of dataclasses whose repr leaves defaults out, so that a shrunk case is short and still evaluates
    back.
    """

    def __repr__(self) -> str:
        shown = []
        for spec in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, spec.name)
            default = spec.default
            if spec.default_factory is not dataclasses.MISSING:
                default = spec.default_factory()
            if default is dataclasses.MISSING or value != default or type(value) is not type(default):
                shown.append(f"{spec.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


def require(condition: bool, message: str) -> None:
    """Raise ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def read(kind: type[Kind], data: Any, where: str) -> Kind:
    """Build a record from a JSON object, by the types of the record's fields.

    A field may be an int, a float, a str, a bool, another record, a tuple of any of them, or a union of these
    with None or of an int with a tuple. JSON lists become tuples; whole numbers may stand for floats; nothing
    else is converted. `where` names the object in messages. Raises ValueError naming the field that is
    unknown, missing or of the wrong type, and what the record itself raises.
    """
    require(isinstance(data, Mapping), f"{where}: expected an object, got {data!r:.80}")
    types = _types(kind)  # type: ignore[arg-type]  # a class is hashable
    unknown = sorted(set(data) - set(types))
    require(not unknown, f"{where}: unknown field {', '.join(map(repr, unknown)):.80}")
    values = {name: _value(types[name], raw, f"{where}.{name}") for name, raw in data.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from None


@functools.cache
def _types(kind: Any) -> dict[str, Any]:
    """The type of each field of a record: its annotation, evaluated in the module of the record."""
    hints = get_type_hints(kind)
    return {spec.name: hints[spec.name] for spec in dataclasses.fields(kind)}


def _value(kind: Any, raw: Any, place: str) -> Any:
    """Read a value of a field's type, or of a part of it."""
    if kind in (int, str, bool):
        require(type(raw) is kind, f"{place}: expected {kind.__name__}, got {raw!r:.80}")
        return raw
    if kind is float:
        return _float(raw, place)
    if dataclasses.is_dataclass(kind):
        return read(kind, raw, place)  # type: ignore[arg-type]  # a class, not an instance
    if get_origin(kind) in (Union, UnionType):
        return _one_of(get_args(kind), raw, place)
    if get_origin(kind) is tuple and get_args(kind)[1:] == (...,):
        return _tuple(get_args(kind)[0], raw, place)
    raise NotImplementedError(f"{place}: {kind} is not read from JSON")


def _float(raw: Any, place: str) -> float:
    """Read a number as a float. Raises ValueError for other types and for integers that no float holds."""
    require(type(raw) in (int, float), f"{place}: expected a number, got {raw!r:.80}")
    try:
        return float(raw)
    except OverflowError:
        raise ValueError(f"{place}: expected a number, got one that no float holds") from None


def _one_of(kinds: tuple[Any, ...], raw: Any, place: str) -> Any:
    """Read the kind whose very type the value has, or else the last one, which then says what is wrong."""
    if raw is None and type(None) in kinds:
        return None
    others = [kind for kind in kinds if kind is not type(None)]
    return _value(next((kind for kind in others if type(raw) is kind), others[-1]), raw, place)


def _tuple(kind: Any, raw: Any, place: str) -> tuple[Any, ...]:
    """Read a list of values that are all of one kind."""
    if kind is int:
        right = isinstance(raw, list) and all(type(item) is int for item in raw)
        require(right, f"{place}: expected a list of integers, got {raw!r:.80}")
        return tuple(raw)
    words = "a list of lists" if get_origin(kind) is tuple else "a list"
    require(isinstance(raw, list), f"{place}: expected {words}, got {raw!r:.80}")
    return tuple(_value(kind, item, place) for item in raw)
