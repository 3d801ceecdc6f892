"""`diffgdn mutants`: bugs that shipped elsewhere, put back and found again."""

from __future__ import annotations

import fnmatch
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffgdn.cli import operators_run
from diffgdn.cli.options import (
    CONTEXT,
    Duration,
    Problem,
    Workers,
    backend_option,
    chosen_backend,
    isolation_option,
    json_option,
    seed_option,
    writable_file,
)

if TYPE_CHECKING:
    from diffgdn.mutants.mutant import Mutant

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
@click.option(
    "--peers", is_flag=True, help="Also say whether the tests of FLA and SGLang, re-created, see each."
)
@click.option("--no-hunt", is_flag=True, help="With --peers: ask those tests alone, and hunt for none.")
@click.option("--markdown", is_flag=True, help="Print the table as Markdown at the end.")
@click.option(
    "--page",
    "page_file",
    type=click.Path(path_type=Path),
    help="Write the table and what it means to a page.",
)
@seed_option(f"Of every campaign.  [default: {DEFAULT_SEED}]")
@json_option("Write the table to this file; what it holds already is taken from it.")
@isolation_option
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
    peers: bool,
    no_hunt: bool,
    markdown: bool,
    page_file: Path | None,
    seed: int | None,
    json_file: Path | None,
    isolation: str | None,
    backend: str | None,
) -> int:
    """Put bugs that shipped elsewhere back into copies of the kernels, and look for each.

    Each is a change of a few lines of the project's own kernels, made one at a time. The campaign is that of
    `diffgdn fuzz` over all operations.

    With --operators the mutants are made from the sources of the kernels as they are now: a mask dropped,
    two strides swapped, a sum rounded, and more such, at every place where that can be done. Each is hunted
    by one worker, over the operations that it can change, until it is first found. Those that are known to
    change nothing are told of, not hunted. What --json holds already is not hunted again.

    Exit status: 0 all found, or all but those that are listed as not found yet, 1 others were not, 2 usage or
    set-up problem, 130 interrupted.
    """
    seed = DEFAULT_SEED if seed is None else seed
    if operators and isolation is not None:
        raise Problem("--isolation is not of --operators: each of those runs in a child")
    if operators:
        made = operators_run.choose(pattern, sample, seed, equivalent)
        if listed:
            return operators_run.show(made)
        from diffgdn.campaign.worker_pool import automatic_workers
        from diffgdn.mutants.hunts import Terms

        backend = chosen_backend(backend)
        seconds, again = max_time or FIRST_SECONDS, 0.0 if equivalent else again
        terms = Terms(backend, seed, seconds, again, jobs or automatic_workers(backend))
        return operators_run.hunt_all(made, terms, json_file, markdown, equivalent)
    if sample is not None or equivalent:
        raise Problem("--sample and --equivalent are of --operators")
    chosen = _named(pattern)
    if listed:
        for mutant in chosen:
            click.echo(f"{mutant.id:28} {mutant.source}: {mutant.about}")
        return 0
    if no_hunt and not peers:
        raise Problem("--no-hunt leaves nothing to do without --peers")
    for path, option in ((json_file, "--json"), (page_file, "--page")):
        if path is not None:
            writable_file(path, option)

    from diffgdn.campaign.worker_pool import automatic_workers
    from diffgdn.mutants import kill_record
    from diffgdn.mutants.catalogue import OPEN
    from diffgdn.mutants.hunt import hunt
    from diffgdn.mutants.peers import seen
    from diffgdn.report import kill_table, mutants_page

    try:
        table = kill_record.Record(json_file)
    except ValueError as error:
        raise Problem(f"--json {error}") from error
    backend = chosen_backend(backend)
    count, longest = workers or automatic_workers(backend), max_time or SECONDS
    for mutant in chosen if not no_hunt else ():
        if mutant.id not in table.kills:
            with tempfile.TemporaryDirectory(prefix="diffgdn-mutant-") as folder:
                where = Path(folder)
                kill = hunt(mutant, backend, seed, longest, count, where, not no_shrink, isolation=isolation)
                table.add(kill)
        click.echo(kill_table.line(table.kills[mutant.id]))
    unasked = [mutant for mutant in chosen if peers and mutant.id not in table.peers]
    for name, seen_by in seen.look_at_all(unasked, backend, count):
        table.add_peers(name, seen_by)
        click.echo(kill_table.peers_line(name, seen_by))
    kills = [table.kills[mutant.id] for mutant in chosen if mutant.id in table.kills]
    answers = {mutant.id: table.peers[mutant.id] for mutant in chosen if mutant.id in table.peers}
    for words in kill_table.summary(kills, answers):
        click.echo(words)
    about = {mutant.id: (mutant.source, mutant.about) for mutant in chosen}
    if markdown:
        click.echo("\n".join(kill_table.markdown(kills, about, answers)))
    if page_file is not None:
        command = mutants_page.command(pattern, longest, count, seed, bool(answers), no_hunt, isolation)
        page_file.write_text("\n".join(mutants_page.page(kills, about, answers, command, backend)))
    return 0 if all(kill.found or kill.mutant in OPEN for kill in kills) else 1


def _named(pattern: str) -> list[Mutant]:
    """List the mutants of the catalogue that a shell pattern names."""
    from diffgdn.mutants.catalogue import MUTANTS

    chosen = [mutant for name, mutant in MUTANTS.items() if fnmatch.fnmatchcase(name, pattern)]
    if not chosen:
        raise Problem(f"--id {pattern!r}: no such mutant; --list names them")
    return chosen
