"""Frozen dataclasses that print short, evaluate back, and are read strictly from JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

Kind = TypeVar("Kind")


class Record:
    """Dataclass repr that leaves defaults out, so that a shrunk case is short and still evaluates back."""

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


def read(kind: type[Kind], data: Any, where: str, nested: Mapping[str, type] | None = None) -> Kind:
    """A record from a JSON object; `where` names it in messages.

    nested: for fields that are records, or lists of records where the annotation is a tuple, their class.
    JSON lists become tuples, whole numbers may stand for floats. Raises ValueError naming the field that is
    unknown, missing or of the wrong type.
    """
    require(isinstance(data, Mapping), f"{where}: expected an object, got {data!r:.80}")
    specs = {spec.name: spec for spec in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(specs))
    require(not unknown, f"{where}: unknown field {', '.join(map(repr, unknown)):.80}")
    values: dict[str, Any] = {}
    for name, raw in data.items():
        place, annotation = f"{where}.{name}", str(specs[name].type)
        inner = (nested or {}).get(name)
        if inner is not None and annotation.startswith("tuple"):
            require(isinstance(raw, list), f"{place}: expected a list, got {raw!r:.80}")
            values[name] = tuple(read(inner, item, place) for item in raw)
        elif inner is not None:
            values[name] = read(inner, raw, place)
        else:
            values[name] = _value(annotation, raw, place)
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from None


def _value(annotation: str, raw: Any, place: str) -> Any:
    """A plain value of the annotated type."""
    if annotation.endswith("| None"):
        return None if raw is None else _value(annotation.removesuffix("| None").strip(), raw, place)
    if annotation == "Kept":
        require(isinstance(raw, list), f"{place}: expected a list, got {raw!r:.80}")
        return tuple(item if type(item) is int else _integers(item, place) for item in raw)
    if annotation.startswith("tuple[tuple"):
        require(isinstance(raw, list), f"{place}: expected a list of lists, got {raw!r:.80}")
        return tuple(_integers(item, place) for item in raw)
    if annotation.startswith("tuple"):
        return _integers(raw, place)
    if annotation == "float":
        require(type(raw) in (int, float), f"{place}: expected a number, got {raw!r:.80}")
        try:
            return float(raw)
        except OverflowError:
            raise ValueError(f"{place}: expected a number, got one that no float holds") from None
    kinds = {"int": int, "str": str, "bool": bool}
    require(type(raw) is kinds[annotation], f"{place}: expected {annotation}, got {raw!r:.80}")
    return raw


def _integers(raw: Any, place: str) -> tuple[int, ...]:
    require(
        isinstance(raw, list) and all(type(item) is int for item in raw),
        f"{place}: expected a list of integers, got {raw!r:.80}",
    )
    return tuple(raw)
