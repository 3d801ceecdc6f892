"""The matrix of a probe on a console: a table, what is not right in it, and the promises that fit."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from diffgdn.probe.cells import DOUBTFUL, FAILED, NOT_REACHED, RIGHT, Cell, Matrix, Row
from diffgdn.probe.fitted_promises import fit
from diffgdn.report import promises_text
from diffgdn.report.table_style import empty_table

STYLES = {RIGHT: "green", "wrong": "red", "raises": "yellow", "crashes": "magenta", "hangs": "magenta"}
# Features that a short table lists below it, by what came of them in all operations.
FOLDED = (("right wherever there is such a thing", RIGHT), ("not reached here", NOT_REACHED))
COLUMNS = 6  # operations of a table
MOST_MESSAGE = 160  # characters of what a kernel raised


def show(console: Console, matrix: Matrix, every: bool) -> None:
    """Print a matrix. every: also the rows in which all is right."""
    for first in range(0, len(matrix.rows), COLUMNS):
        rows = matrix.rows[first : first + COLUMNS]
        console.print(_table(rows, every))
        console.print()
        for words, status in FOLDED if not every else ():
            folded = [name for name in names(rows) if _has_only(rows, name, status)]
            if folded:
                console.print(f"{words}: {_grouped(folded)}\n", markup=False)
    for words in details(matrix):
        console.print(words, markup=False, soft_wrap=True)
    console.print(summary(matrix), markup=False, soft_wrap=True)


def show_promises(console: Console, matrix: Matrix) -> None:
    """Print the promises that fit a matrix, in both forms."""
    fitted = fit(matrix)
    console.print("\nPromises that fit what was seen, in Python:\n", markup=False)
    console.print(promises_text.python(fitted), markup=False, soft_wrap=True)
    console.print("\nin diffgdn.toml ([tool.diffgdn.targets...] in pyproject.toml):\n", markup=False)
    console.print(promises_text.toml(fitted, matrix.target), markup=False, soft_wrap=True)


def names(rows: Sequence[Row]) -> list[str]:
    """List the features of these operations, each once, in the order in which they were asked about."""
    found: list[str] = []
    for row in rows:
        at = 0
        for cell in row.cells:
            if cell.name in found:
                at = found.index(cell.name) + 1
            else:
                found.insert(at, cell.name)
                at += 1
    return found


def cell_of(row: Row, name: str) -> Cell | None:
    """Return the cell of a feature; None where the operation has no such thing."""
    return next((cell for cell in row.cells if cell.name == name), None)


def word(cell: Cell | None) -> str:
    """Say what came of a cell, in parentheses if it is not promised; nothing where there is no such thing."""
    if cell is None:
        return ""
    said = "-" if cell.status == NOT_REACHED else cell.status
    said = f"{said}, known" if cell.known else said
    return said.upper() if cell.breaks_promise else said if cell.promised or said == "-" else f"({said})"


def _has_only(rows: Sequence[Row], name: str, *statuses: str) -> bool:
    """Tell whether all cells of a feature have one of these."""
    return all(cell is None or cell.status in statuses for cell in (cell_of(row, name) for row in rows))


def _grouped(found: list[str]) -> str:
    """List features, the values of an axis together."""
    axes: dict[str, list[str]] = {}
    for name in found:
        axis, _, value = name.rpartition("=")
        axes.setdefault(axis, []).append(value)
    return "; ".join(f"{axis}={', '.join(values)}" for axis, values in axes.items())


def _table(rows: Sequence[Row], every: bool) -> Table:
    table = empty_table()
    table.add_column("", no_wrap=True)
    for row in rows:
        table.add_column(row.op.replace(".", "\n").replace("_", "_\n"), no_wrap=True)
    table.add_row("plain", *(_styled(row.plain) for row in rows))
    for name in names(rows):
        if every or not any(_has_only(rows, name, status) for _, status in FOLDED):
            table.add_row(escape(name), *(_styled(cell_of(row, name)) for row in rows))
    return table


def _styled(cell: Cell | None) -> str:
    style = "" if cell is None else STYLES.get(cell.status, "dim")
    return f"[{style}]{word(cell)}[/]" if style else ""


def details(matrix: Matrix) -> Iterator[str]:
    """Iterate over what is not right, in words: each cell with its case and how to run it again."""
    for row in matrix.rows:
        if row.instead:
            yield f"{row.op}  plain here means {', '.join(row.instead)}: no usual case is taken"
    for cell in matrix.every:
        if cell.status in FAILED:
            yield from _lines(cell, matrix.target)
    for row in matrix.rows:
        if row.pairs_left:
            yield f"{row.op}  {row.pairs_left} pairs of features were not asked about: the time was up"


def _lines(cell: Cell, target: str) -> Iterator[str]:
    message = " ".join((cell.message or "no message").split())
    kind = "" if cell.status not in DOUBTFUL else f" ({cell.kind})"
    said = "known: " + cell.known if cell.known else "promised" if cell.promised else "not promised"
    yield f"{cell.op}  {cell.name}  {cell.status}{kind}, {said}"
    yield f"  {message if cell.status in DOUBTFUL else message[:MOST_MESSAGE]}"
    if cell.case is not None and (cell.status in DOUBTFUL or cell.promised):
        yield f"  {cell.case!r}"
    yield f"  Reproduce with: {command(cell, target)}"


def command(cell: Cell, target: str) -> str:
    """Write the command line that asks about a cell again; a pair is asked about with all others."""
    single = "" if cell.axis == "plain" or ", " in cell.name else f" --feature {shlex.quote(cell.name)}"
    return f"diffgdn probe {shlex.quote(target)} --op {cell.op}{single}"


def summary(matrix: Matrix) -> str:
    """Count the cells by what came of them, in one line."""
    counts: dict[str, int] = {}
    for row in matrix.rows:
        for cell in row.cells:
            counts[cell.status] = counts.get(cell.status, 0) + 1
    said = ", ".join(f"{count} {status}" for status, count in counts.items()) or "none"
    pairs, bad = sum(row.pairs_asked for row in matrix.rows), sum(len(row.pairs) for row in matrix.rows)
    end = f"{len(matrix.broken)} promised and not right" if matrix.broken else "nothing promised is wrong"
    return f"{said}; {bad} of {pairs} pairs not right; {end}; {matrix.seconds:.0f} s"
