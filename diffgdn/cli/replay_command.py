"""`diffgdn replay` and `diffgdn show`: findings, seen again."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import click

from diffgdn.backend import selection as backends
from diffgdn.cli.corpus_option import corpus_option
from diffgdn.cli.options import (
    CONTEXT,
    Problem,
    backend_option,
    chosen_backend,
    crashes_option,
    from_option,
    hang_option,
    isolation_option,
    known_failures,
    placed,
    trust_option,
    workers_option,
)
from diffgdn.cli.report_options import Report, check_files, problems, report_options, reports, told
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import Finding
from diffgdn.findings.parse import CorpusError, read
from diffgdn.report import finding_lines as findings
from diffgdn.runner import sanitize

if TYPE_CHECKING:
    from diffgdn.campaign.events import Listener
    from diffgdn.campaign.replay_findings import Result
    from diffgdn.findings.known import KnownFailures
    from diffgdn.findings.known_seen import Seen

DEFAULT_REPEAT = 3
YELLOW = ("ERROR", "KNOWN", "SKIPPED")
MOST_WORKERS = 8  # each takes seconds to start, a finding rarely takes one to run

replay_workers_option = workers_option(f"Processes; auto: one a core, at most {MOST_WORKERS}.")


def located(name: str, corpus: Path, place: str | None = None) -> list[tuple[Finding, Path]]:
    """The findings that an argument names: an id, a file, or a folder of findings. Raises Problem.

    place: where the package of their target lies, in place of where it lay.
    """
    found = _located(name, corpus)
    return [(replace(finding, target=placed(finding.target, place)), path) for finding, path in found]


def _located(name: str, corpus: Path) -> list[tuple[Finding, Path]]:
    """The findings that an argument names, as they were found. Raises Problem."""
    path = Path(name)
    try:
        if path.is_dir():
            folder = Corpus(path)
            return [(folder.read(file), file) for file in folder.files()]
        if path.suffix in (".json", ".py") and path.exists():
            path = path.with_suffix(".json")
            return [(read(path), path)]
        folder = Corpus(corpus)
        path = folder.locate(name)
        return [(folder.read(path), path)]
    except CorpusError as error:
        raise Problem(str(error)) from None


def asked_backend(backend: str | None) -> str | None:
    """The backend of the command line or of the environment; None for the one of each finding."""
    return chosen_backend(backend) if backend or os.environ.get(backends.ENVIRONMENT) else None


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
@click.option(
    "--sanitizer",
    type=click.Choice(sanitize.TOOLS),
    help="Run each finding once on a GPU under this tool of compute-sanitizer, and tell what it says.",
)
@replay_workers_option
@report_options
@from_option
@trust_option
@hang_option
@crashes_option
@isolation_option
@backend_option
def replay(
    names: tuple[str, ...],
    corpus: Path,
    repeat: int,
    sanitizer: str | None,
    workers: int,
    html_file: Path | None,
    junit_file: Path | None,
    events_file: Path | None,
    place: str | None,
    trusted: bool,
    hang_seconds: float | None,
    run_known_crashes: bool,
    isolation: str | None,
    backend: str | None,
) -> int:
    """Run findings again: FIXED, FAILED, FLAKY n/m or ERROR for each.

    KNOWN stands for a known failure, SKIPPED for one that crashes or hangs.

    PATH is a finding's file or a folder of findings; without arguments the whole corpus is replayed, each
    finding on the backend it was found on. A target that is not built in is run if its code lies in this
    folder.

    Exit status: 0 none fails but as is known, 1 at least one does, or a known failure fails no more, 2 one
    could not be run.
    """
    from diffgdn.campaign import replay_findings as replays
    from diffgdn.campaign.worker_pool import automatic_workers

    check_files(html=html_file, junit=junit_file, events=events_file)
    backend, known = asked_backend(backend), known_failures(run_known_crashes)
    given = names or (str(corpus),)
    if not names and not corpus.is_dir():
        raise Problem(f"--corpus {corpus}: no such folder")
    entries = {
        finding.id: (finding, str(path)) for name in given for finding, path in located(name, corpus, place)
    }
    if not entries:
        click.echo("no findings to replay")
        return 0
    found = [finding for finding, _ in entries.values()]
    paths = {name: path for name, (_, path) in entries.items()}
    files = reports(html_file, junit_file, events_file)
    with Telling(told((), files), len(found), backend, 1 if sanitizer else repeat, paths) as tell:
        if sanitizer is not None:
            return _ended(_watched(found, sanitizer, trusted or place is not None, backend, tell), files)
        workers = workers or min(MOST_WORKERS, automatic_workers("interpret"))
        results = replays.run(
            found,
            backend,
            repeat,
            workers,
            done=lambda result: tell(result.finding, result.status, *_details(result, known)),
            isolation=isolation,
            trusted=trusted or place is not None,
            hang_seconds=hang_seconds,
            known=known,
        )
        status = _counted(result.status for result in results)
        tell.seen = tuple(replays.seen(results, known))
        mended = [one for one in tell.seen if one.mended]
        for one in mended:
            click.echo(findings.mended(one))
    return _ended(1 if mended else status, files)


class Telling:
    """Says what becomes of each finding, on the console and to a listener, which hears the end in any case.

    paths: of their files, by id. seen: of known failures, once all is done.
    """

    def __init__(
        self,
        emit: Listener,
        count: int,
        backend: str | None,
        repeat: int,
        paths: Mapping[str, str],
    ) -> None:
        self._emit, self._asked, self._paths = emit, (count, backend, repeat), paths
        self.seen: tuple[Seen, ...] = ()

    def __enter__(self) -> Telling:
        from diffgdn.campaign import events

        self._began = time.monotonic()
        self._emit(events.ReplayStarted(*self._asked))
        return self

    def __call__(self, finding: Finding, status: str, *details: str) -> None:
        """Say it."""
        from diffgdn.campaign import events

        _tell(status, finding, *details)
        reason = "\n".join(details) or None
        self._emit(events.FindingReplayed(finding, self._paths[finding.id], status, reason))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from diffgdn.campaign import events

        stopped = kind is not None and issubclass(kind, KeyboardInterrupt)
        self._emit(events.ReplayEnded(time.monotonic() - self._began, self.seen, stopped))


def _ended(status: int, files: list[Report]) -> int:
    """Say which reports could not be written; the exit status."""
    unable = problems(files)
    for problem in unable:
        click.echo(f"diffgdn: {problem}", err=True)
    return status or (2 if unable else 0)


def _counted(statuses: Iterable[str]) -> int:
    """Say how many there are of each; the exit status."""
    counts = Counter(status.split()[0] for status in statuses)
    click.echo(", ".join(f"{number} {status}" for status, number in counts.items()))
    if counts["FAILED"] or counts["FLAKY"]:
        return 1
    return 2 if counts["ERROR"] else 0


def _watched(found: list[Finding], tool: str, trusted: bool, backend: str | None, tell: Telling) -> int:
    """Each finding under a tool of compute-sanitizer. Raises Problem where there is no GPU or no tool."""
    if backend == "interpret":
        raise Problem(f"--sanitizer {tool}: it watches kernels on a GPU, and the backend is interpret")
    missing = backends.gpu_missing()
    if missing is not None:
        raise Problem(f"--sanitizer {tool}: {missing}")
    if sanitize.executable() is None:
        raise Problem(
            f"--sanitizer {tool}: {sanitize.COMMAND} is not installed; it comes with the CUDA toolkit"
        )
    told = []
    for finding in found:
        watched = sanitize.watch(finding, tool, trusted)
        tell(
            finding,
            watched.status,
            *watched.lines,
            *([f"checks: {watched.verdict}"] if watched.verdict else ()),
        )
        told.append(watched.status)
    return _counted(told)


def _details(result: Result, known: KnownFailures) -> list[str]:
    """Why a finding ended so, in lines."""
    details = [] if result.detail is None else [result.detail]
    return details + [
        f"known ({one.name}): {one.reason}" for one in known.entries if one.name == result.known
    ]


def _tell(status: str, finding: Finding, *details: str) -> None:
    color = {"FIXED": "green", "PASSED": "green", **dict.fromkeys(YELLOW, "yellow")}.get(status, "red")
    click.echo(f"{click.style(status, fg=color)}  {finding.id}")
    for detail in details:
        click.echo(f"    {detail}")


@click.command(context_settings=CONTEXT)
@click.argument("name", metavar="PATH or ID")
@corpus_option
@from_option
@trust_option
@isolation_option
@backend_option
def show(
    name: str, corpus: Path, place: str | None, trusted: bool, isolation: str | None, backend: str | None
) -> int:
    """Show a finding: the case, what was wrong, and, after running it once more, where."""
    from diffgdn.campaign import replay_findings as replays

    backend = asked_backend(backend)
    entries = located(name, corpus, place)
    if len(entries) != 1:
        raise Problem(f"{name}: expected one finding, this names {len(entries)}")
    finding, path = entries[0]
    for line in findings.lines(finding, path):
        click.echo(line)
    click.echo(f"  {findings.origin(finding)}")
    for line in findings.ran(finding):
        click.echo(f"  {line}")
    if finding.bisected:
        click.echo(f"  {findings.since(finding)}")
    entry = known_failures().of(finding, backend)
    if entry is not None:
        click.echo(f"  known ({entry.name}): {entry.reason}")
    (result,) = replays.run([finding], backend, picture=True, isolation=isolation, trusted=trusted)
    click.echo(f"\nRun again: {result.status}")
    if result.detail is not None:
        click.echo(f"  {result.detail}")
    if result.text is not None:
        click.echo()
        click.echo(result.text)
    return 2 if result.error is not None else 0
