"""Draws panels of error / bound as an image: whole numbers, light where all is well, lines where parts end.

Needs matplotlib. An image is made for 600 pixels of width, as in a pull request, and holds twice as many.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INCHES, DPI = 6.0, 200
PANEL_INCHES, LINE_INCHES = 2.4, 0.16
TITLE_WIDTH, TITLE_LINES = 84, 12  # characters of the smallest font over the width, and lines at most
MOST_LINES = 64  # across a panel: more would hide what they divide
COLOURS = ("#f2f5f2", "#fdd49e", "#fc8d59", "#d7301f", "#67000d")
LEVELS = ("passes", "> 1", "> 2", "> 8", "> 64")
LINE_COLOUR = "#2a8fd0"  # seen on the lightest and on the darkest of COLOURS
STYLES: dict[str, dict[str, Any]] = {
    "sequence": {"linestyle": "-", "linewidth": 1.2},
    "chunk": {"linestyle": "--", "linewidth": 0.8},
    "tile": {"linestyle": ":", "linewidth": 1.0},
}
DRAWN = {"sequence": "solid", "chunk": "dashed", "tile": "dotted"}


@dataclass(frozen=True)
class Panel:
    """One picture.

    values: error / bound [rows, columns]. mask: the wrong elements. rows, columns: words for both axes.
    starts_down, starts_across: of "sequence", "chunk" or "tile", where in an axis one begins, 0 left out.
    """

    values: Tensor
    mask: Tensor
    title: str
    rows: str
    columns: str
    starts_down: dict[str, list[int]] = field(default_factory=dict)
    starts_across: dict[str, list[int]] = field(default_factory=dict)


def figure(panels: list[tuple[Panel, Tensor, int, int]], title: list[str]) -> Figure:
    """Draw panels one below another.

    panels: each with its levels [cells down, cells across], indices into LEVELS, and how many rows and
    columns a cell stands for.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = [part for line in title for part in textwrap.wrap(line, TITLE_WIDTH)]
    if len(lines) > TITLE_LINES:
        lines = [*lines[: TITLE_LINES - 1], "..."]
    height = PANEL_INCHES * len(panels) + LINE_INCHES * len(lines)
    # Without pyplot: no global state, no window, and no warning about a display.
    drawn = Figure(figsize=(INCHES, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(drawn)
    grid = drawn.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axes, (panel, levels, down, across) in zip(grid, panels, strict=True):
        image = _panel(axes, panel, levels, down, across)
    bar = drawn.colorbar(image, ax=list(grid), ticks=range(len(LEVELS)), aspect=40)
    bar.set_label("error / bound", fontsize=8)
    bar.ax.set_yticklabels(LEVELS, fontsize=8)
    drawn.suptitle("\n".join(lines), fontsize=8, x=0.01, ha="left")
    return drawn


def _panel(axes: Any, panel: Panel, levels: Tensor, down: int, across: int) -> Any:
    from matplotlib.colors import ListedColormap
    from matplotlib.ticker import MaxNLocator

    (high, wide), (rows, columns) = levels.shape, panel.values.shape
    image = axes.imshow(
        levels.numpy(), cmap=ListedColormap(COLOURS), vmin=-0.5, vmax=len(LEVELS) - 0.5, aspect="auto",
        interpolation="nearest", origin="upper", extent=(-0.5, wide * across - 0.5, high * down - 0.5, -0.5),
    )  # fmt: skip
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.tick_params(labelsize=8)
    axes.set_title(panel.title.strip("()"), fontsize=9, loc="left")
    axes.set_xlabel(_label(panel.columns, _lines(axes.axvline, panel.starts_across)), fontsize=8)
    axes.set_ylabel(_label(panel.rows, _lines(axes.axhline, panel.starts_down)), fontsize=8)
    return image


def _lines(line: Any, starts: dict[str, list[int]]) -> list[str]:
    """Draw a line before the start of each part. Returns the kinds of parts drawn."""
    kinds = [kind for kind, places in starts.items() if 0 < len(places) <= MOST_LINES]
    for kind in kinds:
        for place in starts[kind]:
            line(place - 0.5, color=LINE_COLOUR, **STYLES[kind])
    return kinds


def _label(word: str, kinds: list[str]) -> str:
    return f"{word} ({', '.join(f'{DRAWN[kind]}: a {kind} ends' for kind in kinds)})" if kinds else word
