"""Records from JSON: each type that a field may have, and what is said of a value of another."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest

from diffgdn.cases.json_record import Record, read
from diffgdn.cases.sparsity import Kept


@dataclass(frozen=True, repr=False)
class Point(Record):
    x: int = 0


@dataclass(frozen=True, repr=False)
class Everything(Record):
    count: int
    name: str = ""
    flag: bool = False
    factor: float = 1.0
    limit: float | None = None
    lens: tuple[int, ...] = ()
    words: tuple[str, ...] = ()
    trees: tuple[tuple[int, ...], ...] = ()
    places: Kept | None = None
    point: Point = Point()
    points: tuple[Point, ...] = ()


@dataclass(frozen=True, repr=False)
class Odd(Record):
    table: dict[str, int]


def test_every_type_of_field_is_read() -> None:
    data = {"count": 3, "name": "n", "flag": True, "factor": 2, "limit": 0.5, "lens": [1, 2], "words": ["a"]}
    data |= {"trees": [[-1, 0], []], "places": [0, [2, 4]], "point": {"x": 1}, "points": [{}, {"x": 2}]}
    found = read(Everything, data, "all")
    assert found == Everything(
        3, "n", True, 2.0, 0.5, (1, 2), ("a",), ((-1, 0), ()), (0, (2, 4)), Point(1), (Point(), Point(2))
    )
    assert type(found.factor) is float
    assert read(Everything, {"count": 1, "limit": None, "places": None}, "all") == Everything(1)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("count", True, "all.count: expected int, got True"),
        ("count", 1.0, "all.count: expected int, got 1.0"),
        ("count", None, "all.count: expected int, got None"),
        ("name", 1, "all.name: expected str, got 1"),
        ("flag", 1, "all.flag: expected bool, got 1"),
        ("factor", True, "all.factor: expected a number, got True"),
        ("factor", "1", "all.factor: expected a number, got '1'"),
        ("factor", 10**400, "all.factor: expected a number, got one that no float holds"),
        ("limit", "1", "all.limit: expected a number, got '1'"),
        ("lens", 1, "all.lens: expected a list of integers, got 1"),
        ("lens", [1, 2.0], "all.lens: expected a list of integers, got [1, 2.0]"),
        ("words", [1], "all.words: expected str, got 1"),
        ("trees", {}, "all.trees: expected a list of lists, got {}"),
        ("trees", [1], "all.trees: expected a list of integers, got 1"),
        ("places", 1, "all.places: expected a list, got 1"),
        ("places", [True], "all.places: expected a list of integers, got True"),
        ("places", [[1, "a"]], "all.places: expected a list of integers, got [1, 'a']"),
        ("point", [], "all.point: expected an object, got []"),
        ("point", {"x": 1.5}, "all.point.x: expected int, got 1.5"),
        ("points", {}, "all.points: expected a list, got {}"),
        ("points", [{"y": 1}], "all.points: unknown field 'y'"),
        ("other", 1, "all: unknown field 'other'"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read(Everything, {"count": 1, field: value}, "all")


def test_a_field_without_a_default_must_be_there() -> None:
    with pytest.raises(ValueError, match=r"all: .*missing .*'count'"):
        read(Everything, {}, "all")


def test_a_type_that_has_no_reader_is_a_fault_of_the_record() -> None:
    with pytest.raises(NotImplementedError, match=r"odd\.table"):
        read(Odd, {"table": {}}, "odd")
