"""`diffgdn corpus causes`: findings of one cause put together, by replays."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffgdn.backend import selection as backends
from diffgdn.cli.options import (
    CONTEXT,
    Problem,
    backend_option,
    from_option,
    hang_option,
    isolation_option,
    trust_option,
)
from diffgdn.cli.replay_command import MOST_WORKERS, asked_backend, located, replay_workers_option
from diffgdn.findings import trust
from diffgdn.findings.finding import EXAMPLE, UNFINISHED, Finding
from diffgdn.findings.parse import printable
from diffgdn.report import finding_lines, issue_text

if TYPE_CHECKING:
    from diffgdn.campaign.causes import Cause, Member


@click.command(context_settings=CONTEXT)
@click.argument("names", nargs=-1, metavar="[PATH or ID]...")
@click.option("--no-run", is_flag=True, help="Go by the cases alone, and run nothing: all is likely at most.")
@replay_workers_option
@from_option
@trust_option
@hang_option
@isolation_option
@backend_option
def causes(
    names: tuple[str, ...],
    no_run: bool,
    workers: int,
    place: str | None,
    trusted: bool,
    hang_seconds: float | None,
    isolation: str | None,
    backend: str | None,
) -> int:
    """Put the findings of a folder together that are of one cause, and say how sure that is.

    Of each finding it is asked which features of its case it needs: without one of them it passes. Findings
    that hang on the same features in one function are of one cause: confirmed, if replays show it for each,
    else likely. Two faults that hang on the same features count as one.

    Exit status: 0, or 2 if a finding cannot be run.
    """
    given = names or (finding_lines.DEFAULT_CORPUS,)
    backend = asked_backend(backend)
    entries = [one for name in given for one in located(name, Path(finding_lines.DEFAULT_CORPUS), place)]
    found = [finding for finding, _ in entries if finding.kind != EXAMPLE]
    found = [replace(finding, backend=backend or finding.backend) for finding in found]
    if not found:
        click.echo("no findings")
        return 0
    from diffgdn.campaign import causes as grouping

    errors: dict[str, str] = {}
    if no_run:
        told = grouping.grouped([grouping.by_case(finding) for finding in found], None)
    else:
        _check(found, trusted or place is not None)
        told, errors = _run(found, workers, isolation, hang_seconds)
    for number, cause in enumerate(told, 1):
        _say(number, cause)
    count = sum(not cause.gone for cause in told)
    click.echo(f"{len(found)} findings of {count} cause{'' if count == 1 else 's'}")
    for name, error in errors.items():
        click.echo(f"{name}: {error}", err=True)
    return 2 if errors else 0


def _run(
    found: list[Finding], workers: int, isolation: str | None, hang_seconds: float | None
) -> tuple[list[Cause], dict[str, str]]:
    """Group by replays; what could not be run, and why, by id. Raises Problem."""
    from diffgdn.campaign import causes as grouping
    from diffgdn.campaign.worker_pool import automatic_workers
    from diffgdn.runner.messages import RunnerError

    clash = grouping.clash(found)
    if clash is not None:
        raise Problem(f"{clash}: another version of it is among the findings; one at a time")
    workers = min(len(found), workers or min(MOST_WORKERS, automatic_workers("interpret")))
    with tempfile.TemporaryDirectory(prefix="diffgdn-") as folder:
        replays = grouping.Replays(Path(folder), isolation, hang_seconds)
        try:
            return grouping.find(found, replays, workers), replays.errors
        except RunnerError as error:
            raise Problem(str(error)) from None
        finally:
            replays.close()


def _check(found: list[Finding], trusted: bool) -> None:
    """Raise Problem for what is not run, or cannot be."""
    for finding in found:
        reason = None if trusted else trust.refusal(finding.target)
        if reason is None and finding.backend == "gpu":
            reason = backends.gpu_missing()
        if reason is not None:
            raise Problem(f"{finding.id}: {reason}")


def _say(number: int, cause: Cause) -> None:
    """Print a cause and its findings."""
    color = {"same cause, confirmed": "green", "does not fail here": "yellow"}.get(cause.status)
    head = cause.members[0]
    about = "" if cause.gone else f"  hangs on {_features(head)}"
    click.echo(f"{number}  {click.style(cause.status, fg=color)}{about}")
    for member in cause.members:
        finding = member.finding
        tensor = f" in {finding.tensor}" if finding.tensor else ""
        also = {word: value for word, value in member.needed.features.items() if word not in head.core}
        more = f"  (and {_said(also)})" if also and not cause.gone else ""
        click.echo(f"     {printable(finding.id)}  {finding.operation}  {finding.kind}{tensor}{more}")
        if finding.shrink in UNFINISHED:
            click.echo(f"       {UNFINISHED[finding.shrink]}")
    if len(cause.members) > 1:
        for doubt in cause.doubts:
            click.echo(f"     not shown: {doubt}")
    for other, between in cause.likely.items():
        click.echo(f"     likely the same as {other}, but {'; '.join(between)}")


def _features(member: Member) -> str:
    return _said(member.core) or "nothing: the plainest case fails so"


def _said(features: dict[str, object]) -> str:
    return ", ".join(issue_text.said(word, value) for word, value in features.items())
