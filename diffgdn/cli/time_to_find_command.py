"""`diffgdn selftest time-to-find`: how soon a campaign has its first true finding, over the mutants."""

from __future__ import annotations

import fnmatch
import tempfile
from pathlib import Path

import click

from diffgdn.cli.options import (
    CONTEXT,
    Duration,
    Problem,
    backend_option,
    chosen_backend,
    json_option,
    seed_option,
    workers_option,
    writable_file,
)

SECONDS, SEEDS, FIRST_SEED = 60.0, 3, 1


@click.command("time-to-find", context_settings=CONTEXT)
@click.option("--id", "pattern", default="*", show_default=True, help="Mutants, as a shell pattern.")
@click.option(
    "--seeds",
    "count",
    type=click.IntRange(min=1),
    default=SEEDS,
    show_default=True,
    help="How many campaigns for each mutant.",
)
@click.option(
    "--max-time", type=Duration(), default=f"{SECONDS:g}s", show_default=True, help="How long each looks."
)
@workers_option("Processes of each; auto: one a core.")
@seed_option(f"Of the first campaign of each; the others have those after it.  [default: {FIRST_SEED}]")
@json_option("Write each search to this file; what it holds already is taken from it.")
@backend_option
def time_to_find(
    pattern: str,
    count: int,
    max_time: float,
    workers: int,
    seed: int | None,
    json_file: Path | None,
    backend: str | None,
) -> int:
    """Measure how long a campaign takes to find a bug, and how many cases, over the mutants.

    Each mutant of `diffgdn mutants` is looked for by the campaign of `diffgdn fuzz` over all operations, with
    several seeds, until the first finding. Start-up does not count, nor does compilation ahead on a GPU.

    Exit status: 0 every mutant was found with one seed at least, or is known not to be, 1 others were not,
    2 usage or set-up problem, 130 interrupted.
    """
    if json_file is not None:
        writable_file(json_file, "--json")
    first, backend = FIRST_SEED if seed is None else seed, chosen_backend(backend)

    from diffgdn.campaign.worker_pool import automatic_workers
    from diffgdn.mutants.catalogue import MUTANTS, OPEN
    from diffgdn.mutants.hunt import Kill, hunt
    from diffgdn.mutants.time_to_find import Study

    names = [name for name in MUTANTS if fnmatch.fnmatchcase(name, pattern)]
    if not names:
        raise Problem(f"--id {pattern!r}: no such mutant; `diffgdn mutants --list` names them")
    workers = workers or automatic_workers(backend)
    try:
        study = Study(json_file, backend, max_time, workers)
    except ValueError as error:
        raise Problem(f"--json {error}") from error

    def look(mutant: str, seed: int) -> Kill:
        with tempfile.TemporaryDirectory(prefix="diffgdn-mutant-") as folder:
            return hunt(MUTANTS[mutant], backend, seed, max_time, workers, Path(folder), shrink=False)

    for one in study.run(names, range(first, first + count), look):
        what = "found" if one.found else "not found"
        click.echo(f"{one.mutant:28} seed {one.seed}: {what} in {one.seconds:.1f} s, {one.cases} cases")
    for line in study.words():
        click.echo(line)
    missed = set(names) - {one.mutant for one in study.searches if one.found}
    return 1 if missed - set(OPEN) else 0
