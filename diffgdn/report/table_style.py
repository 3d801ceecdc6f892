"""Style the tables of a report, and the numbers in them."""

from __future__ import annotations

from rich.table import Table

UNITS = ("", " k", " M", " G", " T")


def empty_table(padding: int = 2) -> Table:
    """Make a table without a frame and without columns; padding: blanks between columns."""
    return Table(box=None, pad_edge=False, padding=(0, padding), header_style="bold")


def compact(number: int) -> str:
    """Write a count in five characters or so: 812, 10.7 k, 234 k, 1.5 M."""
    power = min(len(UNITS) - 1, (len(str(number)) - 1) // 3)
    value = number / 1000**power
    return f"{value:.{1 if power and value < 100 else 0}f}{UNITS[power]}"


def percent(share: float, digits: int = 0) -> str:
    """Write a share of 1 in percent, rounded down: 100 % is only said of all."""
    scale = 10**digits
    return f"{int(share * 100 * scale + 1e-9) / scale:.{digits}f} %"
