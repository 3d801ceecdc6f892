"""`diffgdn scoreboard`: probe runs and defects as a page."""

from __future__ import annotations

from pathlib import Path

import click

from diffgdn.cli.options import CONTEXT, Problem, writable_file

RUNS, DEFECTS, PAGE = Path("docs/scoreboard"), Path("docs/defects.toml"), Path("docs/scoreboard.md")


@click.command(context_settings=CONTEXT)
@click.argument("probes", nargs=-1, metavar="[PROBE.json]...", type=click.Path(path_type=Path))
@click.option(
    "--runs", type=click.Path(path_type=Path), default=RUNS, show_default=True, help="The folder of runs."
)
@click.option(
    "--defects", type=click.Path(path_type=Path), default=DEFECTS, show_default=True, help="Defects, in TOML."
)
@click.option(
    "--to", type=click.Path(path_type=Path), default=PAGE, show_default=True, help="The page that is written."
)
@click.option("--check", is_flag=True, help="Write nothing; say whether the page is what would be written.")
def scoreboard(probes: tuple[Path, ...], runs: Path, defects: Path, to: Path, check: bool) -> int:
    """Write a page of released kernels, feature by feature, and of the defects found in them.

    PROBE.json is what `diffgdn probe --json` wrote: its counts and what is not right are kept in --runs, in
    the place of an older run of the same version and backend. Nothing is run.

    Exit status: 0, with --check 1 if the page is another, 2 if a file cannot be read.
    """
    from diffgdn.findings import defects as defect_file
    from diffgdn.report import scoreboard_page, scoreboard_runs

    if check and probes:
        raise Problem("--check: it adds no runs")
    try:
        if not check:
            writable_file(to, "--to")
        for probe in probes:
            click.echo(f"added {scoreboard_runs.add(probe, runs)}")
        known = defect_file.read(defects) if defects.exists() else []
        text = scoreboard_page.page(scoreboard_runs.read(runs), known)
    except (ValueError, OSError) as error:
        raise Problem(str(error)) from None
    if check:
        same = to.exists() and to.read_text() == text
        click.echo(f"{to} {'is up to date' if same else 'is not what diffgdn scoreboard would write'}")
        return 0 if same else 1
    to.write_text(text)
    click.echo(f"written to {to}")
    return 0
