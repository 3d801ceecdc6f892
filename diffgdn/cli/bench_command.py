"""`diffgdn bench`: how fast kernels are on a GPU."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import click

from diffgdn.bench import bench_plot, bench_run, bench_table, shapes
from diffgdn.bench.bench_records import Run
from diffgdn.bench.shapes import Shape
from diffgdn.bench.timing_process import TimingProcess
from diffgdn.cases.target_names import OWN
from diffgdn.cli.options import (
    CONTEXT,
    Problem,
    backend_option,
    chosen_backend,
    json_option,
    max_time_option,
    op_option,
    operations_matching,
    writable_file,
)
from diffgdn.findings import corpus
from diffgdn.findings.finding import versions
from diffgdn.runner.messages import RunnerError

DEFAULT = ("vk", "kv")  # and released targets that are installed
# It is fla again, but for a backend that its dispatch may find: to be asked for by name.
NOT_BY_ITSELF = ("fla-dispatch",)
PICTURES = (".svg", ".png", ".pdf")


@click.command(context_settings=CONTEXT)
@op_option
@click.option(
    "--target",
    "targets",
    multiple=True,
    help="A target to time, the first being the base of ratios; may be given again.  "
    "[default: vk, kv and every released target that is installed]",
)
@click.option(
    "--set",
    "chosen",
    type=click.Choice(list(shapes.SETS)),
    help="Which shapes: those of the page of measurements, many more, or tiny ones to try the command.  "
    "[default: short; in the interpreter tiny]",
)
@click.option(
    "--stack",
    is_flag=True,
    help="Steps of a stack of layers as Qwen3-Next has them instead: decode, and prefill of a first token.",
)
@click.option("--shape", "labels", multiple=True, help="Only this shape, such as 1x8192; may be given again.")
@click.option("--heads", multiple=True, help="Only these heads, such as 16/32; may be given again.")
@max_time_option(
    "Begin no row after this time, counted from the end of the first; the first of each operation always."
)
@backend_option
@json_option("Write the figures to this file, after each row.")
@click.option(
    "--plot",
    "plot_file",
    type=click.Path(path_type=Path),
    help="Draw bars against the floor into this file: .svg, .png or .pdf (needs matplotlib).",
)
def bench(
    pattern: str,
    targets: tuple[str, ...],
    chosen: str | None,
    stack: bool,
    labels: tuple[str, ...],
    heads: tuple[str, ...],
    max_time: float | None,
    backend: str | None,
    json_file: Path | None,
    plot_file: Path | None,
) -> int:
    """Time kernels of targets side by side on the shapes that serving sees.

    A target's results are checked on each row before its time counts. What a target does not take is left
    out and named.

    Exit status: 0 all that was timed was right, 1 a target was wrong, raised or crashed on a row, 2 nothing
    could be timed, 130 interrupted.
    """
    operations = operations_matching(pattern)
    _check_filters(labels, heads)
    _check_files(json_file, plot_file)
    where = _backend(backend)
    chosen = _set(chosen, where)
    every = shapes.stacks(where == "interpret") if stack else None
    rows = [
        shape
        for op in operations
        for shape in (shapes.shapes(op, chosen) if every is None else every)
        if shape.case.op == op and _kept(shape, labels, heads)
    ]
    if not rows:
        raise Problem("bench: none of these operations is timed on any of these shapes")
    with tempfile.TemporaryDirectory(prefix="diffgdn-bench-") as folder:
        return _run(rows, targets, where, max_time, json_file, plot_file, Path(folder))


def _check_filters(labels: tuple[str, ...], heads: tuple[str, ...]) -> None:
    """Raise Problem for a shape or heads that no set has."""
    every = [
        shape
        for chosen in shapes.SETS
        for op in operations_matching("*")
        for shape in shapes.shapes(op, chosen)
    ]
    for option, given, known in (
        ("--shape", labels, sorted({shape.label for shape in every})),
        ("--heads", heads, sorted({shape.heads for shape in every})),
    ):
        for one in given:
            if one not in known:
                raise Problem(f"{option}: no {option[2:]} {one!r}; known: {', '.join(known)}")


def _check_files(json_file: Path | None, plot_file: Path | None) -> None:
    """Raise Problem for files that cannot be written."""
    if json_file is not None:
        writable_file(json_file, "--json")
    if plot_file is None:
        return
    writable_file(plot_file, "--plot")
    if plot_file.suffix not in PICTURES:
        raise Problem(f"--plot {plot_file}: expected a name that ends in {', '.join(PICTURES)}")
    if find_spec("matplotlib") is None:
        raise Problem("--plot: matplotlib is not installed: pip install 'diffgdn[bench]'")


def _backend(asked: str | None) -> str:
    """The backend, which the interpreter is only if it is asked for. Raises Problem."""
    where = chosen_backend(asked)
    if where != "gpu" and asked is None:
        raise Problem(
            "bench: timing kernels needs a GPU; --backend interpret tries the command, and measures nothing"
        )
    return where


def _set(chosen: str | None, where: str) -> str:
    """The set of shapes. Raises Problem for one that the interpreter would take days for."""
    if where == "interpret" and chosen not in (None, "tiny"):
        raise Problem("--backend interpret: only --set tiny")
    return chosen or ("short" if where == "gpu" else "tiny")


def _kept(shape: Shape, labels: tuple[str, ...], heads: tuple[str, ...]) -> bool:
    return (not labels or shape.label in labels) and (not heads or shape.heads in heads)


def _run(
    rows: list[Shape],
    targets: tuple[str, ...],
    where: str,
    max_time: float | None,
    json_file: Path | None,
    plot_file: Path | None,
    folder: Path,
) -> int:
    """Time the rows; the exit status."""
    with contextlib.ExitStack() as stack:
        run, workers = _begun(targets, where, folder, stack)
        click.echo(f"{run.machine.device}, {_versions(run)}\n{bench_table.limits_line(run.limits)}")
        click.echo(bench_table.head(run.targets))
        _write(run, json_file)
        enough = _Clock(max_time)
        try:
            for row in bench_run.rows(rows, workers, run.limits, enough):
                run = replace(run, rows=(*run.rows, row))
                click.echo("\n".join(bench_table.row_lines(row)))
                _write(run, json_file)
                enough.start()
        except KeyboardInterrupt:
            run = replace(run, interrupted=True)
    done = {row.shape.name for row in run.rows}
    run = replace(run, left=tuple(shape.name for shape in rows if shape.name not in done))
    _write(run, json_file)
    for line in bench_table.end_lines(run):
        click.echo(line)
    if plot_file is not None:
        bench_plot.draw(run, plot_file)
    return _status(run)


class _Clock:
    """Says whether the time is up, which runs from the end of the first row on: before it, children are
    started and kernels compiled."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds, self._began = seconds, 0.0

    def start(self) -> None:
        self._began = self._began or time.monotonic()

    def __call__(self) -> bool:
        if self._seconds is None or not self._began:
            return False
        return time.monotonic() - self._began >= self._seconds


def _status(run: Run) -> int:
    """The exit status of a run that has ended."""
    if any(row.faulty for row in run.rows):
        return 1
    if run.interrupted:
        return 130
    if not any(cell.time for row in run.rows for cell in row.cells):
        raise Problem("bench: nothing could be timed")
    return 0


def _begun(
    targets: tuple[str, ...], where: str, folder: Path, stack: contextlib.ExitStack
) -> tuple[Run, dict[str, TimingProcess]]:
    """Start a process for each target, and measure what the machine does at most. Raises Problem.

    stack: ends the processes.
    """
    names = dict.fromkeys(targets or DEFAULT)
    workers = {name: _started(name, where, folder, stack) for name in names}
    first = next(iter(workers.values()))
    try:
        machine = first.machine()
        if not targets:
            found = [name for name in machine.targets if name not in NOT_BY_ITSELF]
            workers |= {name: _started(name, where, folder, stack) for name in found}
        for worker in workers.values():
            worker.load()
        for name, reason in _failed_loads(workers):
            if targets or name in OWN:
                raise Problem(reason)
            click.echo(f"{name} is left out: {reason}")
            workers.pop(name).close()
        limits = first.limits()
    except RunnerError as error:
        raise Problem(str(error)) from None
    run = Run(machine, versions(machine.device), where, tuple(workers), limits)
    return run, workers


def _started(name: str, where: str, folder: Path, stack: contextlib.ExitStack) -> TimingProcess:
    worker = TimingProcess(name, where, folder / "children.log")
    stack.callback(worker.close)
    return worker


def _failed_loads(workers: dict[str, TimingProcess]) -> Iterator[tuple[str, str]]:
    """Wait for all targets; list those that cannot be had, and why."""
    for name, worker in list(workers.items()):
        try:
            worker.loaded()
        except RunnerError as error:
            yield name, str(error)


def _versions(run: Run) -> str:
    return ", ".join(f"{name} {run.versions[name]}" for name in ("torch", "triton", "python"))


def _write(run: Run, json_file: Path | None) -> None:
    """Put the figures so far in place, whole."""
    if json_file is not None:
        text = json.dumps(run.to_json(), indent=1, allow_nan=False)
        corpus.write(json_file, (text + "\n").encode())
