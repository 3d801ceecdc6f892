"""`diffgdn fuzz`: a campaign, watched. `diffgdn calibrate` is one too."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from diffgdn.cli.base_option import against_option, base_of
from diffgdn.cli.corpus_option import Corpora, Place, Shard, checked
from diffgdn.cli.options import (
    CONTEXT,
    Problem,
    backend_option,
    chosen_backend,
    crashes_option,
    from_option,
    hang_option,
    isolation_option,
    json_option,
    known_failures,
    max_cases_option,
    max_time_option,
    op_option,
    operations_matching,
    placed,
    seed_option,
    unreached_option,
    workers_option,
)
from diffgdn.cli.report_options import REPORT_OPTIONS, check_files, problems, reports, told
from diffgdn.report.finding_lines import DEFAULT_CORPUS

if TYPE_CHECKING:
    from diffgdn.campaign.config import Config, Outcome
    from diffgdn.campaign.events import Listener

DEFAULT_SECONDS = 60.0

CAMPAIGN_OPTIONS = (
    click.option(
        "--target",
        default="vk",
        show_default=True,
        help="vk, kv, eager, a released package (`diffgdn targets` lists them), or your own: module:name.",
    ),
    from_option,
    max_time_option("How long to explore: 30s, 10m, 8h.  [default: 60s, or no limit with --max-cases]"),
    max_cases_option("How many cases to explore; those that the target refuses do not count."),
    workers_option("Processes; auto: one a core, at most 16 a GPU."),
    seed_option("Explore the same cases as the campaign with this seed."),
    click.option(
        "--corpus",
        type=Corpora(),
        default=DEFAULT_CORPUS,
        show_default=True,
        help="Folder of findings, or a URL (s3://..., gs://..., ssh://...) that many machines share: "
        "replayed first, added to.",
    ),
    click.option(
        "--shard",
        type=Shard(),
        default="1/1",
        metavar="N/M",
        help="Explore the Nth of M parts of what --seed stands for: one for each of M machines.",
    ),
    json_option("Write the result of the campaign to this file."),
    *REPORT_OPTIONS,
    hang_option,
    unreached_option,
    crashes_option,
    isolation_option,
    backend_option,
)
coverage_option = click.option(
    "--coverage",
    is_flag=True,
    help="Count which values of each axis cases reach, and which pairs; say what is missed.",
)
Command = TypeVar("Command", bound=Callable[..., int])


def campaign_options(command: Command) -> Command:
    """Adds the options that every campaign has, which `explore` takes."""
    for option in reversed(CAMPAIGN_OPTIONS):
        command = option(command)
    return command


@click.command(context_settings=CONTEXT)
@op_option
@campaign_options
@click.option(
    "--relations",
    is_flag=True,
    help="Ask what must hold between calls (split, permuted, ...) instead of the oracle.",
)
@click.option(
    "--vacuity",
    is_flag=True,
    help="Run no kernel: ask which wrong results the checks would let pass on each case.",
)
@coverage_option
@against_option
@click.option(
    "--ray",
    "cluster",
    metavar="ADDRESS",
    help="Explore on every GPU of a Ray cluster at once: auto, HOST:PORT or ray://HOST:PORT.",
)
def fuzz(
    pattern: str, relations: bool, vacuity: bool, against: str | None, cluster: str | None, **asked: Any
) -> int:
    """Generate cases, run them on a target, check them against the oracle, shrink and save what fails.

    Start-up, replay and compilation do not count toward the limits; kernels are compiled ahead for --max-time
    at most. Ctrl-C ends early and keeps what was found. A case that runs when the time is up is waited for,
    until it answers or counts as hung.

    With --against every case that fails is run on the base too, in a process of its own. What fails there in
    the same way is counted apart, and no finding.

    With --ray each GPU of the cluster, or in the interpreter each node, explores a part of its own; nodes may
    join and go. Findings of all come here. --workers is then for each part.

    Exit status: 0 all that was asked for was run and nothing new found, 1 findings, or a known failure that
    fails no more, 2 usage or set-up problem, or operations of the target that were asked for and not reached,
    130 interrupted with nothing found.
    """
    if relations and vacuity:
        raise Problem("--vacuity: it asks no relation; leave out --relations")
    if vacuity and against is not None:
        raise Problem(
            "--vacuity: it runs no kernel, so that there is nothing to compare; leave out --against"
        )
    if cluster is not None:
        _check_joint(against, **asked)
    mode = "relations" if relations else "vacuity" if vacuity else "oracle"
    return explore(operations_matching(pattern), mode, against=against, cluster=cluster, **asked)


def _check_joint(against: str | None, *, max_cases: int | None, shard: tuple[int, int], **_: Any) -> None:
    """Raise Problem for what a joint campaign cannot take."""
    if max_cases is not None:
        raise Problem("--max-cases: parts on a cluster do not count together; give --max-time")
    if shard != (1, 1):
        raise Problem("--shard: each part on the cluster has a shard of its own; leave it out")
    if against is not None:
        raise Problem("--against: the base lies on this machine alone; leave out --ray")


def explore(
    selected: tuple[str, ...],
    mode: str,
    *,
    target: str,
    place: str | None,
    max_time: float | None,
    max_cases: int | None,
    workers: int,
    seed: int | None,
    corpus: Place,
    shard: tuple[int, int],
    json_file: Path | None,
    html_file: Path | None,
    junit_file: Path | None,
    events_file: Path | None,
    hang_seconds: float | None,
    allow_unreached: bool,
    run_known_crashes: bool,
    isolation: str | None,
    backend: str | None,
    coverage: bool = False,
    against: str | None = None,
    cluster: str | None = None,
    also: tuple[Listener, ...] = (),
) -> int:
    """Run a campaign over the selected operations with these options; its exit status.

    mode: one of question.MODES. coverage: whether to count what of the domain is reached. against: what else
    each failure is asked of. cluster: address of a Ray cluster to run on. also: who else listens. Raises
    Problem.
    """
    backend, known = chosen_backend(backend), known_failures(run_known_crashes)
    target = placed(target, place)
    checked(corpus)
    if shard != (1, 1) and seed is None:
        raise Problem("--shard: it is a part of what a seed stands for: give each machine the same --seed")
    check_files(json=json_file, html=html_file, junit=junit_file, events=events_file)

    from rich.console import Console

    from diffgdn import campaign
    from diffgdn.campaign.worker_pool import automatic_workers
    from diffgdn.findings.parse import CorpusError
    from diffgdn.report.console import ConsoleReport
    from diffgdn.report.jsonfile import JsonFile

    if max_time is None and max_cases is None:
        max_time = DEFAULT_SECONDS
    config = campaign.Config(
        target=target,
        operations=selected,
        backend=backend,
        seed=secrets.randbelow(2**32) if seed is None else seed,
        workers=workers or automatic_workers(backend),
        corpus=corpus.path,
        storage=corpus.url,
        shard=shard,
        max_time=max_time,
        max_cases=max_cases,
        hang_seconds=hang_seconds,
        allow_unreached=allow_unreached,
        isolation=isolation,
        mode=mode,
        coverage=coverage,
        known=known,
        cluster=None if cluster is None else f"Ray at {cluster}",
    )
    with base_of(target, against) as base, ConsoleReport(Console(highlight=False)) as console:
        config = replace(config, base=base)
        files = reports(html_file, junit_file, events_file)
        if json_file is not None:
            files.append(JsonFile(json_file))
        try:
            listener = told([console, *also], files)
            outcome = (
                campaign.run(config, listener)
                if cluster is None
                else _run_on(cluster, config, listener, own_workers=bool(workers))
            )
        except CorpusError as error:
            raise Problem(f"--corpus: {error}") from None
    unable = [*([outcome.problem] if outcome.problem else []), *problems(files)]
    for problem in unable:
        click.echo(f"diffgdn: {problem}", err=True)
    return outcome.exit_code or (2 if unable else 0)


def _run_on(address: str, config: Config, listener: Listener, own_workers: bool) -> Outcome:
    """Run a campaign on a Ray cluster. Raises Problem if there is none."""
    from diffgdn.campaign.joint import joint_campaign
    from diffgdn.campaign.joint.ray_seats import RayError, RaySeats

    try:
        seats = RaySeats(address, config.backend)
    except RayError as error:
        raise Problem(f"--ray {error}") from None
    return joint_campaign.run(config, listener, seats, own_workers)
