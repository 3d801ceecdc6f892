"""`diffgdn corpus`: what lies in a folder of findings, what of it may go, and copies to hand on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from diffgdn.cli.causes_command import causes
from diffgdn.cli.corpus_option import corpus_option
from diffgdn.cli.options import CONTEXT, Problem, isolation_option, known_failures, trust_option
from diffgdn.cli.replay_command import MOST_WORKERS, located, replay_workers_option
from diffgdn.findings import bucket, corpus, prune_export
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import Finding
from diffgdn.findings.parse import CorpusError, printable
from diffgdn.findings.prune_export import Entry, Replayed
from diffgdn.report import finding_lines as findings

WIDEST = 160  # letters of a line; a case that is longer is cut
PRUNE_REPEAT = 10  # a finding that fails in one run of four still passes three in a row four times in ten

folder_argument = click.argument(
    "folder", type=click.Path(path_type=Path), default=findings.DEFAULT_CORPUS, required=False
)


@click.group("corpus", context_settings=CONTEXT)
def commands() -> None:
    """Look after a folder of findings. Nothing is ever removed but by `prune --yes`."""


@commands.command("list", context_settings=CONTEXT)
@folder_argument
def list_(folder: Path) -> int:
    """List the findings of a folder, by what they are about, the smallest first. Nothing is run.

    Exit status: 0, or 2 if a file is no finding.
    """
    entries, problems = _read(folder)
    for about, group in prune_export.grouped(entries).items():
        click.echo(str(about))
        for finding, path in group:
            case = repr(finding.trace or finding.case)
            line = f"  {printable(path.stem)}  {finding.kind}  {finding.found or 'by hand'}  {case}"
            click.echo(line if len(line) <= WIDEST else f"{line[: WIDEST - 3]}...")
    for problem in problems:
        click.echo(f"no finding: {problem}")
    click.echo(f"{_findings(len(entries))} in {folder}" + (f", {len(problems)} other" if problems else ""))
    return 2 if problems else 0


@commands.command(context_settings=CONTEXT)
@click.argument("name", metavar="PATH or ID")
@corpus_option
def show(name: str, corpus: Path) -> int:
    """Say what a finding's file says. Nothing is run; `diffgdn show` also runs it once."""
    finding, path = _one(name, corpus)
    for line in findings.lines(finding, path):
        click.echo(line)
    click.echo(f"  {findings.origin(finding)}")
    click.echo(f"  bucket: {bucket.of(finding)}")
    click.echo(f"  files: {', '.join(str(file) for file in _files(path))}")
    return 0


@commands.command(context_settings=CONTEXT)
@folder_argument
@click.option("--yes", is_flag=True, help="Remove them. Without it, say only what would be removed.")
@click.option(
    "--repeat",
    type=click.IntRange(1, 1000),
    default=PRUNE_REPEAT,
    show_default=True,
    help="Runs that a finding must pass to be fixed.",
)
@replay_workers_option
@trust_option
@isolation_option
def prune(folder: Path, yes: bool, repeat: int, workers: int, trusted: bool, isolation: str | None) -> int:
    """Replay the findings of a folder, and remove those that are fixed or that a smaller one stands for.

    Each runs on the backend it was found on. One that is FLAKY or cannot be run stays, and so do examples.
    """
    from diffgdn.campaign import replay_findings as replays
    from diffgdn.campaign.worker_pool import automatic_workers

    entries, problems = _read(folder)
    if problems:
        raise Problem(problems[0])
    results = replays.run(
        [entry.finding for entry in entries],
        repeat=repeat,
        workers=workers or min(MOST_WORKERS, automatic_workers("interpret")),
        isolation=isolation,
        trusted=trusted,
        known=known_failures(),
    )
    replayed = [
        Replayed(
            entry, result.status, next((failure["kind"] for failure in result.failures if failure), None)
        )
        for entry, result in zip(entries, results, strict=True)
    ]
    gone = prune_export.dispensable(replayed)
    for entry, reason in gone:
        if yes:
            _delete(entry.path)
        click.echo(f"{'removed' if yes else 'would remove'}  {printable(entry.path.stem)}: {reason}")
    going = {entry.path for entry, _ in gone}
    counts = Counter(one.status.split()[0] for one in replayed if one.entry.path not in going)
    stay = ", ".join(f"{number} {status}" for status, number in counts.items())
    click.echo(
        f"{_findings(len(going))} of {len(entries)} "
        + ("removed" if yes else "would be removed, --yes does it")
    )
    if stay:
        click.echo(f"kept: {stay}")
    return 0


@commands.command(context_settings=CONTEXT)
@click.argument("names", nargs=-1, required=True, metavar="[PATH or ID]...")
@click.option(
    "--to", type=click.Path(path_type=Path), required=True, help="A new file ending in .zip, or a folder."
)
@corpus_option
def export(names: tuple[str, ...], to: Path, corpus: Path) -> int:
    """Copy findings, with the script and the picture of each, to a ZIP file or a folder.

    The same findings give the same bits. `diffgdn replay FOLDER` replays a folder as it is, also one that
    came out of a ZIP file.
    """
    entries = [Entry(*one) for name in names for one in located(name, corpus)]
    try:
        written = prune_export.export(entries, to)
    except OSError as error:
        raise Problem(f"--to {to}: {error.filename or to}: {error.strerror or error}") from None
    for name in written:
        click.echo(name)
    click.echo(f"{_findings(len({entry.finding.id for entry in entries}))} in {to}")
    return 0


@commands.command(context_settings=CONTEXT)
@click.argument("names", nargs=-1, required=True, metavar="[PATH or ID]...")
@click.option("--reason", required=True, help="Why it stays as it is, for who meets it.")
@click.option("--link", help="An address where more is said.")
@click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A diffgdn.toml or pyproject.toml.  "
    "[default: the one whose entries count, else the nearest, else a new diffgdn.toml here]",
)
@corpus_option
def accept(names: tuple[str, ...], reason: str, link: str | None, path: Path | None, corpus: Path) -> int:
    """Enter findings as known failures: they still run, are counted apart, and fail nothing until they pass.

    The entry is added to the end of the file, and shown. Its conditions are a guess at what the shrunk case
    needs, for you to change. The finding stays in the corpus: its replay tells whether it still fails.
    """
    from diffgdn.cases import promises_file
    from diffgdn.findings import known_file

    for text, option in ((reason, "--reason"), (link, "--link")):
        if text is not None and not text.strip():
            raise Problem(f"{option}: expected text, got none")
    try:
        path = path or known_file.home()
        if path.name not in promises_file.FILES:
            raise Problem(f"--file {path}: expected a file named {' or '.join(promises_file.FILES)}")
        for name in names:
            for finding, _ in located(name, corpus):
                _accept(finding, reason, link, path)
    except (ValueError, OSError) as error:
        raise Problem(str(error)) from None
    counted = known_file.located()
    if counted is None or not counted.samefile(path):
        click.echo(f"diffgdn: the entries that count here are those of {counted}, not of {path}", err=True)
    return 0


def _accept(finding: Finding, reason: str, link: str | None, path: Path) -> None:
    """Write an entry for a finding, unless one stands for it, and say what it is. Raises ValueError."""
    from diffgdn.findings import known_file
    from diffgdn.search import acceptance

    known = known_failures().of(finding)
    if known is not None:
        click.echo(f"{finding.id}: known already ({known.name}): {known.reason}")
        return
    block, entry = known_file.add(path, acceptance.entry(finding, reason, link), f"from {finding.id}")
    click.echo(f"added to {path}:\n")
    click.echo("".join(f"    {line}\n" for line in block.splitlines()))
    for line in acceptance.remarks(finding, entry):
        click.echo(line)


@commands.command(context_settings=CONTEXT)
@folder_argument
def known(folder: Path) -> int:
    """List the known failures that count here, and how many findings of the folder each stands for.

    Nothing is run.
    """
    entries = _read(folder)[0] if folder.is_dir() else []
    every = known_failures()
    stands = Counter(one.name for entry in entries if (one := every.of(entry.finding)) is not None)
    for one in every.entries:
        click.echo(f"{one.name}  {one.target}  {one.about}: {_findings(stands[one.name])}")
        click.echo(f"    {one.reason}{f' ({one.link})' if one.link else ''}")
        if not one.installed:
            click.echo("    not for what is installed: " + ", ".join(" ".join(pair) for pair in one.versions))
    click.echo(f"{len(every.entries)} known failure{'' if len(every.entries) == 1 else 's'}")
    return 0


commands.add_command(causes)


def _read(folder: Path) -> tuple[list[Entry], list[str]]:
    """The findings of a folder, and what is wrong with the other files. Raises Problem if there is none."""
    if not folder.is_dir():
        raise Problem(f"{folder}: no such folder")
    found, entries, problems = Corpus(folder), [], []
    for path in found.files():
        try:
            entries.append(Entry(found.read(path), path))
        except CorpusError as error:
            problems.append(str(error))
    return entries, problems


def _one(name: str, folder: Path) -> Entry:
    entries = located(name, folder)
    if len(entries) != 1:
        raise Problem(f"{name}: expected one finding, this names {len(entries)}")
    return Entry(*entries[0])


def _files(path: Path) -> list[Path]:
    return [path, *corpus.beside(path)]


def _delete(path: Path) -> None:
    try:
        corpus.delete(path)
    except OSError as error:
        raise Problem(f"{path}: {error.strerror or error}") from None


def _findings(count: int) -> str:
    return "1 finding" if count == 1 else f"{count} findings"
