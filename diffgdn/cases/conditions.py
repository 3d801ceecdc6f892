"""Conditions on cases, as data: for a word, the values that a case must have.

A word is an axis of promises (`K`, `padding`, `state_dtype`; what a case has on it says `promise_axes`),
`sequences`, or a field of a case (`pool.pitch`, `gates.law`, `pool.indices`). A value is one value, a list,
a span ({least = 1}), or what it must not be ({not = "zero"}). Imports no torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from diffgdn.cases import promise_axes
from diffgdn.cases.case import Case
from diffgdn.cases.case_checks import BETA_LAWS, DTYPES, GATE_LAWS, PROGRAM_ORDERS, VALUE_LAWS
from diffgdn.cases.json_record import require
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.promise_axes import Flag, Floats, Whole, Words
from diffgdn.cases.promises import AS_Q, AXES

SEQUENCES = "sequences"  # how many there are, empty ones included: no promise is about it
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
SPAN, NOT = ("least", "most", "multiple"), "not"
FIELD_WORDS: dict[str, tuple[str, ...]] = {  # of fields that take a few words
    "op": tuple(OPERATIONS),
    "gates.law": GATE_LAWS,
    "gates.beta": BETA_LAWS,
    "gates.dtype": DTYPES,
    "values.law": VALUE_LAWS,
    "values.state": ("law", "zero", "none"),
    "pool.dtype": DTYPES,
    "order": PROGRAM_ORDERS,
}


@dataclass(frozen=True)
class Condition:
    """One word and what is asked of it.

    values: of which the case has one, unless they are `negated`: then it has another. least, most, multiple:
    of a number, where `values` is empty. Where a case has several values on a word (the lengths of its
    sequences, its slots), one that fits is enough.
    """

    word: str
    values: tuple[Any, ...] = ()
    negated: bool = False
    least: float | None = None
    most: float | None = None
    multiple: int | None = None

    def holds(self, case: Case) -> bool:
        """Tell whether a case has what is asked; one that has nothing to say about the word has not."""
        return any(self._takes(value, case.dtype) for value in values_of(case, self.word))

    def _takes(self, value: Any, dtype: str) -> bool:
        if self.values:
            asked = [dtype if one == AS_Q and self.word in _AS_Q else one for one in self.values]
            return (value in asked) is not self.negated
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        low, high = self.least is None or value >= self.least, self.most is None or value <= self.most
        return low and high and (self.multiple is None or value % self.multiple == 0)


Conditions = tuple[Condition, ...]


def hold(conditions: Conditions, case: Case) -> bool:
    """Tell whether a case meets all of these; one meets none at all."""
    return all(condition.holds(case) for condition in conditions)


def values_of(case: Case, word: str) -> list[Any]:
    """List what a case has on a word: several values where it has several, none where it has nothing to
    say.
    """
    if word == SEQUENCES:
        return [len(case.lens)]
    if word in _AXIS:
        return [value for name, value in promise_axes.asked(case) if name == word]
    found: list[Any] = [case]
    for name in word.split("."):
        found = [part for record in found for part in _parts(getattr(record, name))]
    return found


def _parts(value: Any) -> Iterator[Any]:
    """Iterate over the elements of tuples, or over a value that is none."""
    if isinstance(value, tuple):
        for one in value:
            yield from _parts(one)
    else:
        yield value


def read(table: Any) -> Conditions:
    """Read the TOML form. Raises ValueError that names the word, what was expected and what came."""
    require(isinstance(table, Mapping), f"expected a table of words and values, got {table!r:.80}")
    return tuple(_condition(word, given) for word, given in table.items())


def _condition(word: str, given: Any) -> Condition:
    """Read one word. Raises ValueError."""
    kinds = _kinds(word)
    if isinstance(given, Mapping) and NOT not in given:
        unknown = sorted(set(given) - set(SPAN))
        expected = f"{word}: expected least, most and multiple, or not, got {dict(given)!r:.80}"
        require(not unknown and len(given) > 0, expected)
        require(not {int, float}.isdisjoint(kinds), f"{word}: it is no number, got {dict(given)!r:.80}")
        require(all(type(number) in (int, float) for number in given.values()), expected)
        step = given.get("multiple", 1)
        require(type(step) is int and step >= 1, expected)
        axis = _AXIS.get(word)
        ends = (axis.least, axis.most) if isinstance(axis, Whole | Floats) else (-math.inf, math.inf)
        low, high = max(given.get("least", ends[0]), ends[0]), min(given.get("most", ends[1]), ends[1])
        require(low <= high, f"{word}: no number that it has is in {dict(given)!r:.80}")
        return Condition(word, **given)
    negated = isinstance(given, Mapping)
    if negated:
        require(len(given) == 1, f"{word}: expected not alone, got {dict(given)!r:.80}")
        given = given[NOT]
    values = tuple(given) if isinstance(given, list) else (given,)
    require(len(values) > 0, f"{word}: expected values, got none")
    for value in values:
        _check(word, value, kinds)
    return Condition(word, values, negated)


def _check(word: str, value: Any, kinds: frozenset[type]) -> None:
    """Check a value of a word. Raises ValueError."""
    axis = _AXIS.get(word)
    known = axis.known if isinstance(axis, Words) else FIELD_WORDS.get(word)
    if known is not None:
        listed = ", ".join(map(promise_axes.shown, known))
        right = any(type(value) is type(one) and value == one for one in known)
        require(right, f"{word}: expected one of {listed}, got {value!r:.80}")
        return
    names = " or ".join(sorted(KINDS[kind] for kind in kinds))
    right = type(value) in kinds or (float in kinds and type(value) is int)
    require(right, f"{word}: expected {names}, got {value!r:.80}")
    if isinstance(axis, Whole | Floats):
        ends = f"{axis.least:g} to {axis.most:g}"
        require(axis.least <= value <= axis.most, f"{word}: expected {ends}, got {value!r}")


@functools.cache
def _kinds(word: str) -> frozenset[type]:
    """The types that values of a word have. Raises ValueError for what is no word."""
    if word == SEQUENCES:
        return frozenset({int})
    if word in _AXIS:
        axis = _AXIS[word]
        if isinstance(axis, Words):
            return frozenset(type(value) for value in axis.known)
        return frozenset({bool if isinstance(axis, Flag) else int if isinstance(axis, Whole) else float})
    known = _fields(Case)
    if word not in known:
        near = difflib.get_close_matches(word, [*_AXIS, *known, SEQUENCES], n=1)
        hint = f"; near it: {near[0]}" if near else f"; axes: {', '.join(_AXIS)}"
        raise ValueError(f"{word}: no axis of promises and no field of a case{hint}")
    return known[word]


@functools.cache
def _fields(record: Any, ahead: str = "") -> dict[str, frozenset[type]]:
    """The types of each field of a record that holds plain values, by its path."""
    found: dict[str, frozenset[type]] = {}
    hints = get_type_hints(record)
    for spec in dataclasses.fields(record):
        name = f"{ahead}{spec.name}"
        leaves = set(_leaves(hints[spec.name]))
        for inner in leaves:
            if dataclasses.is_dataclass(inner):
                found |= _fields(cast(Any, inner), f"{name}.")
        if leaves <= {int, float, str, bool, type(None)}:
            found[name] = frozenset(leaves - {type(None)})
    return found


def _leaves(hint: Any) -> Iterator[Any]:
    """The types that a type is made of, tuples and unions taken apart."""
    if get_origin(hint) in (Union, UnionType, tuple):
        for part in get_args(hint):
            if part is not ...:
                yield from _leaves(part)
    else:
        yield hint


_AXIS: dict[str, Any] = {spec.name: spec.metadata["axis"] for spec in AXES}
_AS_Q = {name for name, axis in _AXIS.items() if isinstance(axis, Words) and AS_Q in axis.known}
