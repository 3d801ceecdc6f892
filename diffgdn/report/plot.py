"""Draw how errors are distributed, one image an operation. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path

from diffgdn.campaign import events
from diffgdn.campaign.events import Event
from diffgdn.reference.limit import MAX_SIGMAS
from diffgdn.report.calibration_table import LEVELS
from diffgdn.report.tally import Tally
from diffgdn.verdict.histogram import Histogram

INCHES = (7.0, 4.5)
LEAST = 0.01  # sigmas: where the axis begins
STYLES = dict(zip(LEVELS, ("-", ":"), strict=True))


class Plots:
    """Leave an image of each operation, <operation>.png, in a folder: a listener."""

    def __init__(self, folder: Path) -> None:
        """Take the folder, which is made at the end of the campaign."""
        self._folder = folder
        self._tally = Tally()

    def __call__(self, event: Event) -> None:
        """Add an event up; draw when the campaign ends, unless it never began."""
        self._tally(event)
        if isinstance(event, events.CampaignEnded) and self._tally.phase != "start":
            groups = self._tally.calibration.grouped(lambda key: (key.operation, key.dtype, key.level))
            self._folder.mkdir(parents=True, exist_ok=True)
            for operation in dict.fromkeys(operation for operation, _, _ in groups):
                mine = {key[1:]: found for key, found in groups.items() if key[0] == operation}
                draw(operation, mine, self._folder / f"{operation}.png")


def draw(operation: str, groups: dict[tuple[str, ...], Histogram], path: Path) -> None:
    """Draw the share of elements, and of rows, whose error is x sigmas or more, and the limit.

    Args:
        groups: histograms by (dtype, level).
        path: of the image, whose ending says its format.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colours = {dtype: f"C{number}" for number, dtype in enumerate(sorted({key[0] for key in groups}))}
    for (dtype, level), found in sorted(groups.items()):
        points = [(x, share) for x, share in found.beyond() if x >= LEAST]
        if points:
            x, share = zip(*points, strict=True)
            axes.plot(x, share, STYLES[level], color=colours[dtype], label=f"{dtype} {level}")
    axes.axvline(MAX_SIGMAS, color="black", linewidth=1.0)
    axes.text(
        MAX_SIGMAS, 0.98, f"limit {MAX_SIGMAS:g} ", ha="right", va="top", transform=axes.get_xaxis_transform()
    )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="|error| / noise, less the final rounding",
        ylabel="share of this or more",
    )
    axes.set_title(operation, loc="left")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    figure.savefig(path, dpi=120)
