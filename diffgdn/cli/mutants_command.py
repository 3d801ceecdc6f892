"""`diffgdn mutants`: bugs that shipped elsewhere, put back and found again."""

from __future__ import annotations

import fnmatch
import json
import tempfile
from pathlib import Path

import click

from diffgdn.cli import operators_run
from diffgdn.cli.options import (
    CONTEXT,
    Duration,
    Problem,
    Workers,
    backend_option,
    chosen_backend,
    json_option,
    seed_option,
    writable_file,
)

SECONDS = 60.0
FIRST_SECONDS, AGAIN_SECONDS = 30.0, 120.0  # for each mutant of an operator
DEFAULT_SEED = 1


@click.command(context_settings=CONTEXT)
@click.option("--id", "pattern", default="*", show_default=True, help="Mutants, as a shell pattern.")
@click.option("--list", "listed", is_flag=True, help="Name the mutants, and run nothing.")
@click.option(
    "--operators", is_flag=True, help="Hunt mutants made from the kernels' sources by operators, not these."
)
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    help="With --operators: so many, spread over operators and files; which, says the seed.",
)
@click.option(
    "--equivalent",
    is_flag=True,
    help="With --operators: hunt those alone that are known to change nothing, once.",
)
@click.option(
    "--jobs",
    type=Workers(),
    default="auto",
    show_default=True,
    help="With --operators: hunts at a time, a worker each; auto: one a core.",
)
@click.option(
    "--again",
    type=Duration(),
    default=f"{AGAIN_SECONDS:g}s",
    show_default=True,
    help="With --operators: how long to look a second time for what was not found.",
)
@click.option(
    "--max-time",
    type=Duration(),
    help=f"How long to look for each.  [default: {SECONDS:g}s, with --operators {FIRST_SECONDS:g}s]",
)
@click.option("--no-shrink", is_flag=True, help="Go on to the next one as soon as one is found.")
@click.option(
    "--workers", type=Workers(), default="auto", show_default=True, help="Processes; auto: one a core."
)
@click.option("--markdown", is_flag=True, help="Print the table as Markdown at the end.")
@seed_option(f"Of every campaign.  [default: {DEFAULT_SEED}]")
@json_option("Write the table to this file; with --operators, take up what it holds.")
@backend_option
def mutants(
    pattern: str,
    listed: bool,
    operators: bool,
    sample: int | None,
    equivalent: bool,
    jobs: int,
    again: float,
    max_time: float | None,
    no_shrink: bool,
    workers: int,
    markdown: bool,
    seed: int | None,
    json_file: Path | None,
    backend: str | None,
) -> int:
    """Put bugs that shipped elsewhere back into copies of the kernels, and look for each.

    Each is a change of a few lines of the project's own kernels, made one at a time. The campaign is that of
    `diffgdn fuzz` over all operations.

    With --operators the mutants are made from the sources of the kernels as they are now: a mask dropped,
    two strides swapped, a sum rounded, and more such, at every place where that can be done. Each is hunted
    by one worker, over the operations that it can change, until it is first found. Those that are known to
    change nothing are told of, not hunted. What --json holds already is not hunted again.

    Exit status: 0 all found, 1 some were not, 2 usage or set-up problem, 130 interrupted.
    """
    seed = DEFAULT_SEED if seed is None else seed
    if operators:
        chosen_ones = operators_run.choose(pattern, sample, seed, equivalent)
        if listed:
            return operators_run.show(chosen_ones)
        backend = chosen_backend(backend)
        from diffgdn.campaign.worker_pool import automatic_workers
        from diffgdn.mutants.hunts import Terms

        seconds = FIRST_SECONDS if max_time is None else max_time
        terms = Terms(
            backend, seed, seconds, 0.0 if equivalent else again, jobs or automatic_workers(backend)
        )
        return operators_run.hunt_all(chosen_ones, terms, json_file, markdown, equivalent)
    if sample is not None or equivalent:
        raise Problem("--sample and --equivalent are of --operators")

    from diffgdn.mutants.catalogue import MUTANTS

    chosen = [mutant for name, mutant in MUTANTS.items() if fnmatch.fnmatchcase(name, pattern)]
    if not chosen:
        raise Problem(f"--id {pattern!r}: no such mutant; --list names them")
    if listed:
        for mutant in chosen:
            click.echo(f"{mutant.id:28} {mutant.source}: {mutant.about}")
        return 0
    backend = chosen_backend(backend)
    if json_file is not None:
        writable_file(json_file, "--json")

    from diffgdn.campaign.worker_pool import automatic_workers
    from diffgdn.mutants.hunt import hunt
    from diffgdn.report import kill_table

    kills, count = [], workers or automatic_workers(backend)
    for mutant in chosen:
        with tempfile.TemporaryDirectory(prefix="diffgdn-mutant-") as folder:
            kills.append(hunt(mutant, backend, seed, max_time or SECONDS, count, Path(folder), not no_shrink))
        click.echo(kill_table.line(kills[-1]))
        if json_file is not None:
            json_file.write_text(json.dumps([kill.to_json() for kill in kills], indent=1))
    for words in kill_table.summary(kills):
        click.echo(words)
    if markdown:
        about = {mutant.id: (mutant.source, mutant.about) for mutant in chosen}
        click.echo("\n".join(kill_table.markdown(kills, about)))
    return 0 if all(kill.found for kill in kills) else 1
