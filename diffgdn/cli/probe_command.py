"""`diffgdn probe`: what a target supports, feature by feature."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import click

from diffgdn.cli.options import (
    CONTEXT,
    Duration,
    Problem,
    backend_option,
    chosen_backend,
    crashes_option,
    from_option,
    hang_option,
    json_option,
    known_failures,
    op_option,
    operations_matching,
    placed,
    workers_option,
    writable_file,
)

SECONDS = 120.0
LINE_SECONDS = 5.0  # between lines, where there is no terminal
NOT_ASKED = "what had not been asked is not reached, and no promises are fitted"


@click.command(context_settings=CONTEXT)
@click.argument("target")
@from_option
@op_option
@click.option("--feature", default="*", show_default=True, help="Features, as a shell pattern: 'K=*'.")
@click.option("--no-pairs", is_flag=True, help="Ask about each feature alone.")
@click.option("--all", "every", is_flag=True, help="Also print the rows in which all is right.")
@click.option(
    "--max-time",
    type=Duration(),
    default=f"{SECONDS:g}s",
    show_default=True,
    help="After how long no more pairs and smaller cases are looked for; features are all asked about.",
)
@workers_option("Children that run kernels; auto: one a core, at most 16 a GPU.")
@json_option("Write the matrix and the promises to this file.")
@click.option(
    "--html", "html_file", type=click.Path(path_type=Path), help="Write them as a page to this file."
)
@hang_option
@crashes_option
@backend_option
def probe(
    target: str,
    place: str | None,
    pattern: str,
    feature: str,
    no_pairs: bool,
    every: bool,
    max_time: float,
    workers: int,
    json_file: Path | None,
    html_file: Path | None,
    hang_seconds: float | None,
    run_known_crashes: bool,
    backend: str | None,
) -> int:
    """Find out what a target supports, feature by feature, and print the promises that fit.

    For each feature and operation: right, wrong, raises, crashes, hangs, refused or not reached. Cases that
    differ from a plain one in that feature alone decide it, whether TARGET promises it or not. What is wrong
    is never taken for a promise not made: that is yours to say. After Ctrl-C it tells what it knows.

    Exit status: 0 all that the target promises is right, 1 some of it is not, 2 usage or set-up problem, or
    no plain case of an operation can be run, 130 interrupted.
    """
    selected = operations_matching(pattern)
    backend, known = chosen_backend(backend), known_failures(run_known_crashes)
    target = placed(target, place)
    for path, option in ((json_file, "--json"), (html_file, "--html")):
        if path is not None:
            writable_file(path, option)

    from rich.console import Console

    from diffgdn.campaign.worker_pool import automatic_workers
    from diffgdn.probe.matrix import Config
    from diffgdn.probe.matrix import probe as made
    from diffgdn.report import probe_files, probe_table
    from diffgdn.runner.messages import RunnerError

    console = Console(highlight=False)
    config = Config(
        target,
        backend,
        selected,
        pattern=feature,
        workers=workers or automatic_workers(backend),
        max_seconds=max_time,
        hang_seconds=hang_seconds,
        with_pairs=not no_pairs,
        known=known,
    )
    with console.status(f"probing {target}") as status:
        try:
            matrix = made(config, _told(status.update) if console.is_terminal else _in_lines(console.print))
        except RunnerError as error:
            raise Problem(str(error)) from None
    if not matrix.rows:
        raise Problem(f"target {target} has no operation {pattern!r}")
    if all(not row.cells for row in matrix.rows):
        raise Problem(f"--feature {feature!r}: no such feature; --feature '*' --all names them")
    probe_table.show(console, matrix, every)
    if feature == "*" and not matrix.interrupted:
        probe_table.show_promises(console, matrix)
    if json_file is not None:
        json_file.write_text(probe_files.text(matrix))
    if html_file is not None:
        html_file.write_text(probe_files.html(matrix))
    if matrix.interrupted:
        click.echo(f"diffgdn: interrupted: {NOT_ASKED}", err=True)
    return matrix.exit_code


def _in_lines(
    line: Callable[[str], None], seconds: Callable[[], float] = time.monotonic
) -> Callable[[str, int, int], None]:
    """Return a listener that says every LINE_SECONDS how far a probe is, for a log."""
    began = last = seconds()

    def told(words: str, done: int, known: int) -> None:
        nonlocal last
        now = seconds()
        if now - last >= LINE_SECONDS:
            last = now
            escaped = words.replace("[", r"\[")
            line(f"probing, {now - began:.0f} s: {done} of {known} cells; {escaped}")

    return told


def _told(update: Callable[[str], None]) -> Callable[[str, int, int], None]:
    def told(words: str, done: int, known: int) -> None:
        update(f"{done} of {known} cells; {words}".replace("[", r"\["))

    return told
