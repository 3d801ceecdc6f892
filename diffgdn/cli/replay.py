"""`diffgdn replay` and `diffgdn show`: findings, seen again."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffgdn.cli.options import CONTEXT, Problem, chosen_lane, isolation_option, lane_option
from diffgdn.corpus import Corpus, CorpusError, Finding, read
from diffgdn.lane import ENVIRONMENT
from diffgdn.report import finding as findings

if TYPE_CHECKING:
    from diffgdn.campaign.replay import Result

DEFAULT_REPEAT = 3
MOST_WORKERS = 8  # each takes seconds to start, a finding rarely takes one to run

corpus_option = click.option(
    "--corpus",
    type=click.Path(path_type=Path),
    default=findings.DEFAULT_CORPUS,
    show_default=True,
    help="The folder that IDs belong to.",
)


def located(name: str, corpus: Path) -> list[tuple[Finding, Path]]:
    """The findings that an argument names: an id, a file, or a folder of findings. Raises Problem."""
    path = Path(name)
    try:
        if path.is_dir():
            return [(finding, path / f"{finding.id}.json") for finding in Corpus(path).findings()]
        if path.suffix in (".json", ".py") and path.exists():
            path = path.with_suffix(".json")
            return [(read(path), path)]
        finding = Corpus(corpus).get(name)
        return [(finding, corpus / f"{finding.id}.json")]
    except CorpusError as error:
        raise Problem(str(error)) from None


def asked_lane(lane: str | None) -> str | None:
    """The lane of the command line or of the environment; None for the one of each finding."""
    return chosen_lane(lane) if lane or os.environ.get(ENVIRONMENT) else None


@click.command(context_settings=CONTEXT)
@click.argument("names", nargs=-1, metavar="[PATH or ID]...")
@corpus_option
@click.option(
    "--repeat",
    type=click.IntRange(1, 1000),
    default=DEFAULT_REPEAT,
    show_default=True,
    help="Runs of each finding.",
)
@isolation_option
@lane_option
def replay(names: tuple[str, ...], corpus: Path, repeat: int, isolation: str | None, lane: str | None) -> int:
    """Run findings again: FIXED, FAILED, FLAKY n/m or ERROR for each.

    PATH is a finding's file or a folder of findings; without arguments the whole corpus is replayed, each
    finding on the lane it was found on.

    Exit status: 0 none fails any more, 1 at least one does, 2 one could not be run.
    """
    from diffgdn.campaign import automatic_workers
    from diffgdn.campaign import replay as replays

    lane = asked_lane(lane)
    given = names or (str(corpus),)
    if not names and not corpus.is_dir():
        raise Problem(f"--corpus {corpus}: no such folder")
    entries = {finding.id: finding for name in given for finding, _ in located(name, corpus)}
    if not entries:
        click.echo("no findings to replay")
        return 0
    workers = min(MOST_WORKERS, automatic_workers("interpret"))
    results = replays.run(list(entries.values()), lane, repeat, workers, done=_say, isolation=isolation)
    counts = Counter(result.status.split()[0] for result in results)
    click.echo(", ".join(f"{number} {status}" for status, number in counts.items()))
    if counts["FAILED"] or counts["FLAKY"]:
        return 1
    return 2 if counts["ERROR"] else 0


def _say(result: Result) -> None:
    color = {"FIXED": "green", "PASSED": "green", "ERROR": "yellow"}.get(result.status, "red")
    click.echo(f"{click.style(result.status, fg=color)}  {result.finding.id}")
    if result.detail is not None:
        click.echo(f"    {result.detail}")


@click.command(context_settings=CONTEXT)
@click.argument("name", metavar="PATH or ID")
@corpus_option
@isolation_option
@lane_option
def show(name: str, corpus: Path, isolation: str | None, lane: str | None) -> int:
    """Show a finding: the case, what was wrong, and, after running it once more, where."""
    from diffgdn.campaign import replay as replays

    lane = asked_lane(lane)
    entries = located(name, corpus)
    if len(entries) != 1:
        raise Problem(f"{name}: expected one finding, this names {len(entries)}")
    finding, path = entries[0]
    for line in findings.lines(finding, path):
        click.echo(line)
    versions = ", ".join(f"{key} {value}" for key, value in finding.versions.items())
    seed = "" if finding.seed is None else f", seed {finding.seed}"
    click.echo(f"  found {finding.found or 'by hand'}{seed}{f'; {versions}' if versions else ''}")
    (result,) = replays.run([finding], lane, picture=True, isolation=isolation)
    click.echo(f"\nRun again: {result.status}")
    if result.detail is not None:
        click.echo(f"  {result.detail}")
    if result.text is not None:
        click.echo()
        click.echo(result.text)
    return 2 if result.error is not None else 0
