"""Tables as plain words, for reports that are no terminal."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class PlainTable:
    """Hold a table as words.

    Attributes:
        heads: of the columns; right: whether each holds numbers.
        rows: a word for each column.
    """

    heads: tuple[str, ...]
    right: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]


def plain(table: Table) -> PlainTable:
    """Take the words out of a table of rich."""
    columns = [[_words(cell) for cell in column.cells] for column in table.columns]
    return PlainTable(
        heads=tuple(_words(column.header) for column in table.columns),
        right=tuple(column.justify == "right" for column in table.columns),
        rows=tuple(zip(*columns, strict=True)),
    )


def _words(cell: RenderableType) -> str:
    return cell.plain if isinstance(cell, Text) else Text.from_markup(str(cell)).plain
