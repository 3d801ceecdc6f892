"""`diffgdn shrink`: findings made smaller that had no time for it, or not enough."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffgdn.cli.corpus_option import corpus_option
from diffgdn.cli.options import (
    CONTEXT,
    backend_option,
    from_option,
    hang_option,
    isolation_option,
    known_failures,
    max_time_option,
    trust_option,
)
from diffgdn.cli.replay_command import (
    MOST_WORKERS,
    asked_backend,
    located,
    replay_workers_option,
)
from diffgdn.report import finding_lines as findings

if TYPE_CHECKING:
    from diffgdn.campaign.reshrink import Result


@click.command(context_settings=CONTEXT)
@click.argument("names", nargs=-1, required=True, metavar="[PATH or ID]...")
@corpus_option
@max_time_option("How long to shrink each finding.  [default: 60s, 4m for one that crashes or hangs]")
@replay_workers_option
@from_option
@trust_option
@hang_option
@isolation_option
@backend_option
def shrink(
    names: tuple[str, ...],
    corpus: Path,
    max_time: float | None,
    workers: int,
    place: str | None,
    trusted: bool,
    hang_seconds: float | None,
    isolation: str | None,
    backend: str | None,
) -> int:
    """Take up the shrink of findings, also of those that were saved unshrunk.

    Each goes on from the case that is saved, on the backend it was found on. The smaller finding takes its
    place, with a script and a picture of its own. Ctrl-C keeps what has been reached.

    Exit status: 0 each is as small as it gets, 2 one ran out of time again, fails no more or could not be
    run, 130 interrupted.
    """
    from diffgdn.campaign import reshrink
    from diffgdn.campaign.worker_pool import automatic_workers

    backend = asked_backend(backend)
    entries = {path: finding for name in names for finding, path in located(name, corpus, place)}
    if not entries:
        click.echo("no findings to shrink")
        return 0
    results = reshrink.run(
        [(finding, path) for path, finding in entries.items()],
        backend,
        max_time,
        workers or min(MOST_WORKERS, automatic_workers("interpret")),
        done=_say,
        isolation=isolation,
        trusted=trusted or place is not None,
        hang_seconds=hang_seconds,
        known=known_failures(run_crashes=True),
    )
    return 0 if all(result.status == "SHRUNK" for result in results) else 2


def _say(result: Result) -> None:
    color = {"SHRUNK": "green", "ERROR": "red"}.get(result.status, "yellow")
    click.echo(f"{click.style(result.status, fg=color)}  {result.finding.id}")
    if result.error is not None or result.smaller is None or result.place is None:
        click.echo(f"    {result.error}")
        return
    if result.smaller.id == result.finding.id:
        click.echo(f"    no smaller case in {result.seconds:.0f} s")
    for line in findings.lines(result.smaller, result.place):
        click.echo(f"    {line}")
