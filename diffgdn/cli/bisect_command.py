"""`diffgdn bisect`: since which version a finding fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffgdn.backend import selection as backends
from diffgdn.cases import target_names
from diffgdn.cli.corpus_option import corpus_option
from diffgdn.cli.options import (
    CONTEXT,
    Problem,
    backend_option,
    hang_option,
    isolation_option,
    trust_option,
)
from diffgdn.cli.replay_command import asked_backend, located
from diffgdn.findings import corpus as corpora
from diffgdn.findings import trust
from diffgdn.findings.finding import EXAMPLE, Finding

if TYPE_CHECKING:
    from diffgdn.campaign.bisect import Asker, Change, Step, Version


@click.command(context_settings=CONTEXT)
@click.argument("name", metavar="PATH or ID")
@click.option("--from", "first", metavar="A", help="The oldest: a version, a wheel, a folder, or a commit.")
@click.option("--to", "last", metavar="B", help="The newest.  [default: the newest of --wheels; HEAD]")
@click.option(
    "--wheels",
    type=click.Path(path_type=Path),
    help="A folder with the wheels of a released package, or folders of them, one for each version.",
)
@click.option(
    "--git",
    "repository",
    type=click.Path(path_type=Path),
    help="The repository whose commits A and B are.  [default: the one that the current folder lies in]",
)
@click.option("--every", is_flag=True, help="Ask every version, not only as many as it takes.")
@click.option("--repeat", type=click.IntRange(1, 1000), default=1, show_default=True, help="Runs of each.")
@corpus_option
@trust_option
@hang_option
@isolation_option
@backend_option
def bisect(
    name: str,
    first: str | None,
    last: str | None,
    wheels: Path | None,
    repository: Path | None,
    every: bool,
    repeat: int,
    corpus: Path,
    trusted: bool,
    hang_seconds: float | None,
    isolation: str | None,
    backend: str | None,
) -> int:
    """Find the first version with which a finding fails, or the first with which it fails no more.

    Of a released package the versions are wheels or folders: those between A and B in --wheels, or A and B
    themselves. Of a target that is a file or a module they are commits in git, each unpacked into a folder of
    its own; the repository is left alone. Every step is a replay in its own process. What is found is stored
    in the finding, and `diffgdn report` says it.

    Exit status: 0 it was found, 2 it was not: all versions do the same, or cannot be run; 130 interrupted.
    """
    entries = located(name, corpus)
    if len(entries) != 1:
        raise Problem(f"{name}: expected one finding, this names {len(entries)}")
    finding, path = entries[0]
    for folder, option in ((wheels, "--wheels"), (repository, "--git")):
        if folder is not None and not folder.is_dir():
            raise Problem(f"{option} {folder}: no such folder")
    backend = asked_backend(backend) or finding.backend
    bare, _ = target_names.split(finding.target)
    released = bare in target_names.RELEASED and repository is None
    _check(finding, trusted or released, backend)
    if bare in target_names.OWN:
        raise Problem(f"{finding.id}: {bare} is diffgdn's own; `git bisect run diffgdn replay` does that")
    from diffgdn.campaign import bisect as bisects
    from diffgdn.campaign.bisect import Asker, BisectError

    options = {"repeat": repeat, "isolation": isolation, "hang_seconds": hang_seconds}
    asker = Asker(finding, backend, options)
    try:
        if released:
            versions, about = _released(bare, first, last, wheels), bare
            found = bisects.search(versions, lambda one: _told(_of_wheel(asker, one)), every)
        else:
            about = "commits"
            found = _in_git(asker, repository or Path(), first, last or "HEAD", every)
    except bisects.NoChange as same:
        _store(finding, path, same.words, about)
        raise Problem(f"{finding.id}: {same}") from None
    except BisectError as error:
        raise Problem(f"{finding.id}: {error}") from None
    _store(finding, path, found.words, about)
    return 0


def _check(finding: Finding, trusted: bool, backend: str) -> None:
    """Raise Problem for what is not run, or cannot be."""
    reason = None if trusted else trust.refusal(finding.target)
    if finding.kind == EXAMPLE:
        reason = "it is an example, which never failed"
    elif backend == "gpu":
        reason = reason or backends.gpu_missing()
    if reason is not None:
        raise Problem(f"{finding.id}: {reason}")


def _released(bare: str, first: str | None, last: str | None, wheels: Path | None) -> list[Version]:
    """The versions of a released package from A to B, the oldest first. Raises Problem."""
    from packaging.version import InvalidVersion
    from packaging.version import Version as Number

    from diffgdn.campaign.bisect import Version
    from diffgdn.targets.base import TargetError
    from diffgdn.targets.released import roster

    spec = roster.spec(bare)
    ends = [one for one in (first, last) if one is not None and Path(one).exists()]
    places = [*(sorted(str(one) for one in wheels.iterdir()) if wheels is not None else ()), *ends]
    found: dict[str, str] = {}
    for place in places:
        try:
            found.setdefault(spec.place(place).version, place)
        except TargetError:
            if place in ends:
                raise Problem(f"{place}: no wheel or folder of {spec.distribution}") from None
    try:
        numbers = {Number(version): version for version in found}
        low, high = (
            None if one is None else Number(spec.place(one).version if one in ends else one)
            for one in (first, last)
        )
    except InvalidVersion as error:
        raise Problem(f"{error}; a folder says its version in a .dist-info beside the package") from None
    chosen = [one for one in sorted(numbers) if (low or one) <= one <= (high or one)]
    if len(chosen) < 2:
        listed = ", ".join(map(str, sorted(numbers))) or "none"
        raise Problem(f"two versions of {spec.distribution} at least are needed; found: {listed}")
    return [Version(numbers[one], str(Path(found[numbers[one]]).resolve())) for one in chosen]


def _of_wheel(asker: Asker, version: Version) -> Step:
    return asker.step(version, target_names.at(asker.finding.target, version.place))


def _in_git(asker: Asker, near: Path, first: str | None, last: str, every: bool) -> Change:
    """Search among commits. Raises Problem and BisectError."""
    from diffgdn.campaign import bisect as bisects

    if first is None:
        raise Problem("--from: expected a commit that is older than --to")
    repository = Path(bisects.git(near, "rev-parse", "--show-toplevel")).resolve()
    here, target = Path.cwd().resolve(), asker.finding.target
    folder = here.relative_to(repository) if here.is_relative_to(repository) else Path()
    file, _, attribute = target.rpartition(":")
    if Path(file).is_absolute():
        if not Path(file).resolve().is_relative_to(repository):
            raise Problem(f"{asker.finding.id}: {file} does not lie in {repository}")
        target, folder = f"{Path(file).resolve().relative_to(repository)}:{attribute}", Path()
    versions = bisects.revisions(repository, first, last)
    return bisects.search(
        versions, lambda one: _told(bisects.of_commit(asker, repository, one, folder, target)), every
    )


def _told(step: Step) -> Step:
    """Print a step."""
    color = {"right": "green", "wrong": "red"}.get(step.status, "yellow")
    why = f"  {step.why}" if step.why else ""
    click.echo(f"{click.style(step.status, fg=color)}  {step.version.name}{why}")
    return step


def _store(finding: Finding, path: Path, said: dict[str, str], about: str) -> None:
    """Print what was found, and write it into the finding. Raises Problem."""
    click.echo("; ".join(f"{name}: {value}" for name, value in said.items()))
    words = {name: f"{about} {value}" if about != "commits" else value for name, value in said.items()}
    try:
        corpora.write(path, corpora.content(replace(finding, bisected=_short(words))))
    except OSError as error:
        raise Problem(f"{path}: {error.strerror or error}; it is not stored") from None


def _short(words: dict[str, str]) -> dict[str, str]:
    """Words as a finding may hold them: one line each, of so many letters."""
    return {name: "".join(one for one in value if one.isprintable())[:200] for name, value in words.items()}
