"""`diffgdn bench`: how fast kernels are on a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import click

from diffgdn.bench import shapes
from diffgdn.bench.kernel_times import Refused, Row, rows
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cli.options import (
    CONTEXT,
    Problem,
    chosen_backend,
    json_option,
    op_option,
    operations_matching,
    writable_file,
)

LABELS = sorted({shape.label for op in OPERATIONS for shape in shapes.shapes(op)})


@click.command(context_settings=CONTEXT)
@op_option
@click.option(
    "--target",
    "targets",
    multiple=True,
    default=("vk",),
    show_default=True,
    help="Targets to time; give it twice to compare.",
)
@click.option("--shape", "labels", multiple=True, help="Only this shape, such as 1x8192; may be given again.")
@json_option("Write the figures to this file.")
def bench(
    pattern: str,
    targets: tuple[str, ...],
    labels: tuple[str, ...],
    json_file: Path | None,
) -> int:
    """Time kernels of targets side by side on the shapes that serving sees.

    Needs a GPU. Shown are microseconds of GPU kernel time a call; ratios are to the last target named.
    """
    operations = operations_matching(pattern)
    for label in labels:
        if label not in LABELS:
            raise Problem(f"--shape: no shape {label!r}; known: {', '.join(LABELS)}")
    if json_file is not None:
        writable_file(json_file, "--json")
    if chosen_backend(None) != "gpu":
        raise Problem("bench: timing kernels needs a GPU")

    from diffgdn.backend import selection

    selection.enter("gpu")
    import torch

    from diffgdn.targets.base import TargetError

    device = torch.cuda.get_device_name()
    click.echo(f"{device}, torch {torch.__version__}; microseconds of GPU kernel time a call")
    timed = []
    try:
        for row in rows(operations, targets, labels):
            click.echo(_line(row))
            timed.append(row)
    except (Refused, TargetError) as error:
        raise Problem(f"--target: {error}") from None
    if not timed:
        raise Problem("bench: none of these operations is timed on any of these shapes")
    if json_file is not None:
        json_file.write_text(json.dumps({"device": device, "rows": [vars(row) for row in timed]}, indent=1))
    return 0


def _line(row: Row) -> str:
    times = list(row.microseconds.values())
    shown = "  ".join(f"{name} {value:9.1f}" for name, value in row.microseconds.items())
    ratio = "" if len(times) == 1 else f"  ratio {times[0] / times[-1]:.2f}"
    return f"{row.operation:18s} {row.shape:>9s}  {shown}{ratio}"
