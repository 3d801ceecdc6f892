"""Draw the times of a run as bars, against the floor of each row. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffgdn.bench.bench_records import Row, Run
from diffgdn.cases import target_names

ROW_INCHES = 0.55  # of width, for each row
LEAST_INCHES, MOST_INCHES = 6.0, 40.0
OPERATION_INCHES = 3.2  # of height, for each operation
FILLED = 0.8  # of a row's width, by bars


def draw(run: Run, path: Path) -> None:
    """Draw a picture for each operation, one below the other: a group of bars for each row, on a log scale,
    and across it a black line for the floor. Nothing is drawn where nothing was timed.

    Args:
        path: of the image, whose ending says its format: .svg, .png, .pdf.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    timed = [row for row in run.rows if any(cell.time for cell in row.cells)]
    by_op = {op: [row for row in timed if row.shape.op == op] for op in dict.fromkeys(_ops(timed))}
    if not by_op:
        return
    width = min(MOST_INCHES, max(LEAST_INCHES, ROW_INCHES * max(map(len, by_op.values())) + 2.0))
    figure = Figure(figsize=(width, OPERATION_INCHES * len(by_op)), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (op, rows) in enumerate(by_op.items()):
        axes = figure.add_subplot(len(by_op), 1, number + 1)
        _draw_operation(axes, op, rows, run.targets)
    figure.suptitle(f"{run.machine.device}, microseconds a call, black: the floor", fontsize="medium")
    figure.savefig(path, dpi=120)


def _ops(rows: list[Row]) -> list[str]:
    return [row.shape.op for row in rows]


def _draw_operation(axes: Any, op: str, rows: list[Row], targets: tuple[str, ...]) -> None:
    wide = FILLED / len(targets)
    for number, target in enumerate(targets):
        bars = [
            (place - FILLED / 2 + (number + 0.5) * wide, cell.time)
            for place, row in enumerate(rows)
            for cell in row.cells
            if cell.target == target and cell.time
        ]
        if bars:
            places, heights = zip(*bars, strict=True)
            axes.bar(places, heights, wide, color=f"C{number}", label=target_names.label(target))
    for place, row in enumerate(rows):
        if row.floor is not None:
            ends = place - FILLED / 2, place + FILLED / 2
            axes.hlines(row.floor.microseconds, *ends, color="black", linewidth=1.5)
    axes.set_yscale("log")
    words = ["\n".join(filter(None, (row.shape.label, row.shape.heads, row.shape.variant))) for row in rows]
    axes.set_xticks(range(len(rows)), words, fontsize="small")
    axes.set_title(op, loc="left")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize="small", ncols=len(targets))
