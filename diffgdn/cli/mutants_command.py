"""`diffgdn mutants`: bugs that shipped elsewhere, put back and found again."""

from __future__ import annotations

import fnmatch
import tempfile
from pathlib import Path

import click

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
DEFAULT_SEED = 1


@click.command(context_settings=CONTEXT)
@click.option("--id", "pattern", default="*", show_default=True, help="Mutants, as a shell pattern.")
@click.option("--list", "listed", is_flag=True, help="Name the mutants, and run nothing.")
@click.option(
    "--max-time",
    type=Duration(),
    default=f"{SECONDS:g}s",
    show_default=True,
    help="How long to look for each.",
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
@backend_option
def mutants(
    pattern: str,
    listed: bool,
    max_time: float,
    no_shrink: bool,
    workers: int,
    peers: bool,
    no_hunt: bool,
    markdown: bool,
    page_file: Path | None,
    seed: int | None,
    json_file: Path | None,
    backend: str | None,
) -> int:
    """Put bugs that shipped elsewhere back into copies of the kernels, and look for each.

    Each is a change of a few lines of the project's own kernels, made one at a time. The campaign is that of
    `diffgdn fuzz` over all operations.

    Exit status: 0 all found, or all but those that are listed as not found yet, 1 others were not, 2 usage or
    set-up problem, 130 interrupted.
    """
    from diffgdn.mutants.catalogue import MUTANTS, OPEN

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

    if page_file is not None:
        writable_file(page_file, "--page")
    if no_hunt and not peers:
        raise Problem("--no-hunt leaves nothing to do without --peers")

    from diffgdn.campaign.worker_pool import automatic_workers
    from diffgdn.mutants import kill_record
    from diffgdn.mutants.hunt import hunt
    from diffgdn.mutants.peers import seen
    from diffgdn.report import kill_table, mutants_page

    try:
        table = kill_record.Record(json_file)
    except ValueError as error:
        raise Problem(f"--json {error}") from error
    count, seed = workers or automatic_workers(backend), DEFAULT_SEED if seed is None else seed
    for mutant in chosen if not no_hunt else ():
        if mutant.id not in table.kills:
            with tempfile.TemporaryDirectory(prefix="diffgdn-mutant-") as folder:
                table.add(hunt(mutant, backend, seed, max_time, count, Path(folder), not no_shrink))
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
        command = mutants_page.command(pattern, max_time, count, seed, bool(answers), no_hunt)
        page_file.write_text("\n".join(mutants_page.page(kills, about, answers, command, backend)))
    return 0 if all(kill.found or kill.mutant in OPEN for kill in kills) else 1
