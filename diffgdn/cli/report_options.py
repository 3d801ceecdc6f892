"""The options by which a run is told of in files, and what listens for them. GitHub is told unasked."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from diffgdn.cli.options import writable_file

if TYPE_CHECKING:
    from diffgdn.campaign.events import Event, Listener

PATH = click.Path(path_type=Path)
REPORT_OPTIONS = (
    click.option("--html", "html_file", type=PATH, help="Write a page that stands alone to this file."),
    click.option("--junit", "junit_file", type=PATH, help="Write JUnit XML to this file."),
    click.option(
        "--events", "events_file", type=PATH, help="Write what happens to this file, one JSON object a line."
    ),
)
Command = TypeVar("Command", bound=Callable[..., int])


class Report(Protocol):
    """A listener that may fail at its own work. problem: why, in one line."""

    problem: str | None

    def __call__(self, event: Event) -> None: ...


def report_options(command: Command) -> Command:
    """Adds the options, which `reports` takes."""
    for option in reversed(REPORT_OPTIONS):
        command = option(command)
    return command


def check_files(**files: Path | None) -> None:
    """Raise Problem for a file, by the name of its option, that cannot be written."""
    for option, path in files.items():
        if path is not None:
            writable_file(path, f"--{option}")


def reports(html_file: Path | None, junit_file: Path | None, events_file: Path | None) -> list[Report]:
    """What listens, for the files that are asked for and for the workflow of GitHub that this runs in."""
    from diffgdn.report import github

    found: list[Report] = []
    if events_file is not None:
        from diffgdn.report.event_lines import EventLines

        found.append(EventLines(events_file))
    if junit_file is not None:
        from diffgdn.report.junit import JUnitFile

        found.append(JUnitFile(junit_file))
    if html_file is not None:
        from diffgdn.report.page.html_file import HtmlFile

        found.append(HtmlFile(html_file))
    workflow = github.from_environment(click.echo)
    return [*found, *([] if workflow is None else [workflow])]


def told(listeners: Sequence[Callable[[Event], Any]], files: Sequence[Report] = ()) -> Listener:
    """One listener that passes each event on to all of these, in turn.

    files: of these one that raises hears nothing more, and has that as its problem: a fault of a report ends
    no campaign.
    """
    broken: set[int] = set()

    def listen(event: Event) -> None:
        for listener in listeners:
            listener(event)
        for file in files:
            if id(file) in broken:
                continue
            try:
                file(event)
            except Exception as error:
                traceback.print_exc()
                broken.add(id(file))
                file.problem = f"internal error in {type(file).__name__}: {error}"

    return listen


def problems(found: Sequence[Report]) -> list[str]:
    """Say why reports could not be written, in a line each."""
    return [report.problem for report in found if report.problem is not None]
