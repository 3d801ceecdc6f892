"""`diffgdn resolution`: how small an error the verdict still finds, and the tolerances in use elsewhere."""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path

import click

from diffgdn.cases.case_checks import DTYPES
from diffgdn.cli.options import (
    CONTEXT,
    Problem,
    json_option,
    max_cases_option,
    max_time_option,
    op_option,
    operations_matching,
    seed_option,
    workers_option,
    writable_file,
)

DEFAULT_CASES = 30


@click.command(context_settings=CONTEXT)
@op_option
@max_time_option("How long to measure; batches that have begun are finished.")
@max_cases_option(
    f"How many cases in all.  [default: {DEFAULT_CASES} an operation, or no limit with --max-time]"
)
@click.option(
    "--cases", type=click.IntRange(min=1), hidden=True
)  # of each operation, as it was asked for at first
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    default="bfloat16",
    show_default=True,
    help="Of q, k, v and the output. The tolerances compared with are those for bfloat16.",
)
@workers_option("Processes; auto: one a core.")
@seed_option("Measure the same cases again.")
@json_option("Write all figures to this file.")
def resolution(
    pattern: str,
    max_time: float | None,
    max_cases: int | None,
    cases: int | None,
    dtype: str,
    workers: int,
    seed: int | None,
    json_file: Path | None,
) -> int:
    """Measure how small an error in correct results is still found, by our verdict and by others.

    No kernel runs, and no GPU is used. Errors of eight kinds are put into the results of random cases: a
    wrong element, row or token, a gain, a bias, a stale slot, a state rounded too often.
    """
    selected = operations_matching(pattern)
    if cases is not None and max_cases is not None:
        raise Problem("--max-cases: of all operations together; leave out --cases, which is of each")
    if max_cases is not None:
        cases = _of_each(max_cases, len(selected))
    elif cases is None and max_time is None:
        cases = DEFAULT_CASES
    if json_file is not None:
        writable_file(json_file, "--json")

    from rich.console import Console
    from rich.progress import Progress

    from diffgdn.campaign.worker_pool import automatic_workers
    from diffgdn.findings import corpus
    from diffgdn.selftest.resolution import result_table, study, summary

    asked = study.Study(
        operations=selected,
        cases=cases,
        seed=secrets.randbelow(2**32) if seed is None else seed,
        dtype=dtype,
        workers=workers or automatic_workers("interpret"),
    )
    console, start = Console(highlight=False), time.monotonic()
    console.print(
        f"resolution: {_many(len(selected), 'operation')}, {dtype}, {_many(asked.workers, 'worker')}, "
        f"seed {asked.seed}"
    )
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=asked.number_of_batches)
        measured = study.run(asked, lambda done: progress.update(task, completed=done), max_time)
    seconds = time.monotonic() - start
    console.print(result_table.table(measured))
    for line in result_table.words(measured):
        console.print(line)
    console.print(f"{seconds:.0f} s")
    if json_file is not None:
        text = json.dumps(summary.summary(asked, measured, seconds), indent=1, allow_nan=False)
        corpus.write(json_file, text.encode() + b"\n")
    return 0


def _of_each(max_cases: int, operations: int) -> int:
    """Cases of each operation. Raises Problem where there is not one for each."""
    if max_cases < operations:
        raise Problem(f"--max-cases {max_cases}: fewer than {operations} operations; choose some with --op")
    return max_cases // operations


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"
