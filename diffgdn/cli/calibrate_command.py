"""`diffgdn calibrate`: a campaign that also says how many sigmas errors come to."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffgdn.cli.fuzz_command import campaign_options, explore
from diffgdn.cli.options import CONTEXT, Problem, op_option, operations_matching, writable_folder

if TYPE_CHECKING:
    from diffgdn.campaign.events import Listener


@click.command(context_settings=CONTEXT)
@op_option
@campaign_options
@click.option(
    "--plot",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder for a plot of each operation; needs matplotlib.",
)
def calibrate(folder: Path | None, pattern: str, **asked: Any) -> int:
    """Measure how large errors are, in sigmas, which is what the limit on them rests on.

    A campaign as `diffgdn fuzz` runs it, that also counts |error| / noise of every element and every row of
    every result: quantiles, the largest, and the margin to the limit. An error counts less the one rounding
    to the output's format; exact cases have no noise and are left out. --json keeps the counts.
    """
    also: list[Listener] = []
    if folder is not None:
        if find_spec("matplotlib") is None:
            raise Problem("--plot: matplotlib is not installed: pip install 'diffgdn[bench]'")
        writable_folder(folder, "--plot")

        from diffgdn.report.plot import Plots

        also.append(Plots(folder))
    return explore(operations_matching(pattern), "errors", **asked, also=tuple(also))
