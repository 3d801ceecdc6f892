"""`diffgdn selftest`: how good the verdicts are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffgdn.cli.options import (
    CONTEXT,
    backend_option,
    chosen_backend,
    json_option,
    seed_option,
    writable_file,
)
from diffgdn.cli.resolution_command import resolution
from diffgdn.cli.time_to_find_command import time_to_find

if TYPE_CHECKING:
    from diffgdn.cases.case import Case

FEWEST, DEFAULT_CASES = 100, 10_000
DEFAULT_SEED = 1


@click.group(context_settings=CONTEXT)
def selftest() -> None:
    """Measure how good the verdicts are: planted faults, the smallest error that is found, time to find."""


@selftest.command(context_settings=CONTEXT)
@click.option("--target", type=click.Choice(["vk", "eager"]), default="eager", show_default=True)
@click.option(
    "--max-cases",
    type=click.IntRange(min=FEWEST),
    default=DEFAULT_CASES,
    show_default=True,
    help="How many cases to run; a fault is planted in 1 % of them.",
)
@click.option("--cases", type=click.IntRange(min=FEWEST), hidden=True)  # as --max-cases was called at first
@seed_option(f"Run the same cases as with this seed.  [default: {DEFAULT_SEED}]")
@json_option("Write the figures to this file.")
@backend_option
def faults(
    target: str,
    max_cases: int,
    cases: int | None,
    seed: int | None,
    json_file: Path | None,
    backend: str | None,
) -> int:
    """Plant faults in 1 % of the cases, and see whether each is found, and nothing else.

    Exit status: 0 so it is, 1 one was lost, or found where there is none, 2 usage or set-up problem.
    """
    backend, count = chosen_backend(backend), cases or max_cases
    if json_file is not None:
        writable_file(json_file, "--json")

    from diffgdn.backend import selection

    selection.enter(backend)
    from diffgdn.selftest import planted_faults

    def watched(cases: Iterable[Case], doing: str) -> Iterator[Case]:
        with click.progressbar(cases, count, label=doing) as bar:
            yield from bar

    study = planted_faults.run(backend, count, target, DEFAULT_SEED if seed is None else seed, watched)
    for line in study.words():
        click.echo(line)
    if json_file is not None:
        json_file.write_text(json.dumps(study.report(), indent=1))
    return 1 if study.surprises else 0


selftest.add_command(resolution)
selftest.add_command(time_to_find)
