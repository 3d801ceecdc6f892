"""`diffgdn serving`: the pool as a state machine, searched for a trace that fails."""

from __future__ import annotations

import secrets
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffgdn.cli.options import (
    CONTEXT,
    Duration,
    Problem,
    chosen_lane,
    isolation_option,
    lane_option,
    writable_folder,
)
from diffgdn.operations import FAMILIES
from diffgdn.report import finding as findings

if TYPE_CHECKING:
    from diffgdn.corpus import Corpus
    from diffgdn.serving.session import Session

DEFAULT_SECONDS = 60.0
MOST_SEED = 2**32 - 1


@click.command(context_settings=CONTEXT)
@click.option(
    "--target", default="vk", show_default=True, help="vk, kv, eager, fla, or your own: module:name."
)
@click.option(
    "--family",
    type=click.Choice((*FAMILIES, "both")),
    default="both",
    show_default=True,
    help="Whose operations the loop calls.",
)
@click.option("--max-time", type=Duration(), help="How long to look in all.  [default: 60s]")
@click.option("--max-traces", type=click.IntRange(min=1), help="How many traces of a family to play.")
@click.option(
    "--seed", type=click.IntRange(0, MOST_SEED), help="Play the same traces as the run with this seed."
)
@click.option(
    "--corpus",
    type=click.Path(path_type=Path),
    default=findings.DEFAULT_CORPUS,
    show_default=True,
    help="Folder that findings are saved to.",
)
@isolation_option
@lane_option
def serving(
    target: str,
    family: str,
    max_time: float | None,
    max_traces: int | None,
    seed: int | None,
    corpus: Path,
    isolation: str | None,
    lane: str | None,
) -> int:
    """Serve requests over one pool of states, in random order, and check every request after every step.

    Requests arrive, prefill in pieces, decode in batches with padding, verify drafts, commit what is
    accepted, finish and leave their slot to others. What fails is made smaller and saved; `diffgdn replay`
    runs it again.

    Exit status: 0 nothing found, 1 findings, 2 usage or set-up problem.
    """
    lane = chosen_lane(lane)
    writable_folder(corpus, "--corpus")
    seed = secrets.randbelow(MOST_SEED) if seed is None else seed
    families = FAMILIES if family == "both" else (family,)
    if max_time is None and max_traces is None:
        max_time = DEFAULT_SECONDS

    from diffgdn import lane as lanes

    lanes.enter(lane)
    from diffgdn.corpus import Corpus
    from diffgdn.isolate import RunnerError
    from diffgdn.serving.session import Session

    click.echo(f"serving {target} on lane {lane}, seed {seed}")
    found = 0
    with tempfile.TemporaryDirectory(prefix="diffgdn-") as folder:
        try:
            session = Session(target, lane, isolation, Path(folder) / "child.log", seed)
            with session:
                for number, name in enumerate(families):
                    left = None if max_time is None else max_time / len(families)
                    found += _family(session, name, number, left, max_traces, Corpus(corpus))
        except RunnerError as error:
            raise Problem(str(error)) from None
    return 1 if found else 0


def _family(
    session: Session, family: str, number: int, seconds: float | None, traces: int | None, corpus: Corpus
) -> bool:
    """Look for a trace of one family that fails; whether there is one."""
    missing = session.missing(family)
    if missing is not None:
        click.echo(f"{family}: skipped, {missing}")
        return False
    began = time.monotonic()
    finding = session.search(
        family,
        session.seed + number,
        max_seconds=seconds,
        max_traces=traces,
        save=corpus,
        say=click.echo,
    )
    taken = time.monotonic() - began
    click.echo(
        f"{family}: {session.traces} traces, {session.steps} steps, {taken:.0f} s; "
        + ("all right" if finding is None else "one finding")
    )
    if finding is not None:
        click.echo()
        for line in findings.lines(finding, corpus.path / f"{finding.id}.json"):
            click.echo(line)
    return finding is not None
