"""`diffgdn serving`: the pool as a state machine, searched for a trace that fails."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffgdn.cases.operations import FAMILIES
from diffgdn.cli.options import (
    CONTEXT,
    Duration,
    Problem,
    backend_option,
    chosen_backend,
    hang_option,
    isolation_option,
    unreached_option,
    writable_folder,
)
from diffgdn.report import finding_lines as findings

if TYPE_CHECKING:
    from diffgdn.campaign.serving_session import Session
    from diffgdn.findings.corpus import Corpus
    from diffgdn.findings.finding import Finding

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
@hang_option
@unreached_option
@isolation_option
@backend_option
def serving(
    target: str,
    family: str,
    max_time: float | None,
    max_traces: int | None,
    seed: int | None,
    corpus: Path,
    hang_seconds: float | None,
    allow_unreached: bool,
    isolation: str | None,
    backend: str | None,
) -> int:
    """Serve requests over one pool of states, in random order, and check every request after every step.

    Requests arrive, prefill in pieces, decode in batches with padding, verify drafts, commit what is
    accepted, finish and leave their slot to others. What fails is made smaller and saved; `diffgdn replay`
    runs it again.

    Exit status: 0 every operation was called and nothing found, 1 findings, 2 usage or set-up problem, or no
    trace that called an operation which was asked for, 130 interrupted with nothing found. Of `both` families
    those are asked for that the target has.
    """
    backend = chosen_backend(backend)
    writable_folder(corpus, "--corpus")
    seed = secrets.randbelow(MOST_SEED) if seed is None else seed
    families = FAMILIES if family == "both" else (family,)
    if max_time is None and max_traces is None:
        max_time = DEFAULT_SECONDS

    from diffgdn.backend import selection as backends

    backends.enter(backend)
    from diffgdn.campaign import reach
    from diffgdn.campaign.serving_session import Session
    from diffgdn.findings.corpus import Corpus
    from diffgdn.runner.ways import RunnerError

    click.echo(f"serving {target} on backend {backend}, seed {seed}")
    found, asked, unreached, ended = 0, 0, dict[str, str](), 0
    with tempfile.TemporaryDirectory(prefix="diffgdn-") as folder:
        try:
            log = Path(folder) / "child.log"
            session = Session(target, backend, isolation, log, seed, hang_seconds)
            with session:
                served = _served(session, families)
                for number, name in served:
                    left = None if max_time is None else max_time / len(served)
                    finding = _family(session, name, number, left, max_traces, Corpus(corpus))
                    found, ended = found + finding, ended + session.traces
                    if session.interrupted:
                        raise KeyboardInterrupt
                    asked += len(session.operations(name))
                    unreached |= {} if finding else session.unreached(name, left)
        except RunnerError as error:
            raise Problem(str(error)) from None
        except KeyboardInterrupt:
            if not found:
                raise
            click.echo("diffgdn: interrupted", err=True)
            return 1
    problem = reach.problem(unreached, asked, None if ended else "trace")
    if problem is None or allow_unreached:
        return 1 if found else 0
    click.echo(f"diffgdn: {problem}", err=True)
    return 1 if found else 2


def _served(session: Session, families: Sequence[str]) -> list[tuple[int, str]]:
    """The families that the target has something of, with their numbers. Raises Problem if it has nothing."""
    missing = {name: session.missing(name) for name in families}
    if all(missing.values()):
        raise Problem("; ".join(filter(None, missing.values())))
    for name, reason in missing.items():
        if reason is not None:
            click.echo(f"{name}: skipped, {reason}")
    return [(number, name) for number, name in enumerate(families) if missing[name] is None]


def _family(
    session: Session, family: str, number: int, seconds: float | None, traces: int | None, corpus: Corpus
) -> bool:
    """Look for a trace of one family that fails; whether there is one."""
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
        f"{family}: {session.traces} traces, {session.steps} steps, "
        + (f"{session.refused} traces refused, " if session.refused else "")
        + f"{taken:.0f} s; {_word(session, finding)}"
    )
    if finding is not None:
        click.echo()
        for line in findings.lines(finding, corpus.path / f"{finding.id}.json"):
            click.echo(line)
    return finding is not None


def _word(session: Session, finding: Finding | None) -> str:
    """What came of a search."""
    if finding is not None:
        return "one finding"
    return "all right" if session.traces else "no trace ended"
