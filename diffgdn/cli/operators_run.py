"""What `diffgdn mutants --operators` does: chooses mutants, names them, hunts them, adds them up."""

from __future__ import annotations

import fnmatch
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffgdn.cli.options import Problem, writable_file

if TYPE_CHECKING:
    from diffgdn.mutants.mutant import Mutant


def choose(pattern: str, number: int | None, seed: int) -> tuple[Mutant, ...]:
    """Return the mutants of a pattern, in an order that a seed gives; all, or so many. Raises Problem."""
    from diffgdn.mutants.generated import generated, sample

    named = [mutant for name, mutant in generated().items() if fnmatch.fnmatchcase(name, pattern)]
    if not named:
        raise Problem(f"--id {pattern!r}: no operator makes such a mutant; --list names them")
    return sample(named, number or len(named), seed)


def show(mutants: Sequence[Mutant]) -> int:
    """Name mutants, and count them by operator and by file; the exit status."""
    from diffgdn.report import operator_table

    for mutant in sorted(mutants, key=lambda one: one.id):
        click.echo(f"{mutant.id:44} {mutant.source}: {mutant.about}")
    click.echo()
    for words in operator_table.numbers(mutants):
        click.echo(words)
    return 0


def hunt_all(
    mutants: Sequence[Mutant],
    backend: str,
    seed: int,
    max_time: float,
    again: float,
    jobs: int,
    path: Path | None,
    markdown: bool,
) -> int:
    """Hunt mutants, telling and keeping what comes of each as it comes; the exit status.

    path: of what is known already, and is written to. Raises Problem.
    """
    from diffgdn.campaign.worker_pool import automatic_workers
    from diffgdn.mutants.equivalent import EQUIVALENT
    from diffgdn.mutants.hunts import Terms, entry, hunts
    from diffgdn.report import operator_table

    known = _kept(path)
    records = {m.id: known[m.id] for m in mutants if known.get(m.id, {}).get("about") == m.about}
    left = [m for m in mutants if m.id not in EQUIVALENT and not records.get(m.id, {}).get("final")]
    second = frozenset(m.id for m in left if m.id in records)
    click.echo(f"{len(mutants)} mutants, {len(left)} to hunt")
    terms = Terms(backend, seed, max_time, again, jobs or automatic_workers(backend))
    by_id = {mutant.id: mutant for mutant in mutants}
    with tempfile.TemporaryDirectory(prefix="diffgdn-hunts-") as folder:
        for number, hunted in enumerate(hunts(left, terms, Path(folder), second), 1):
            mutant = by_id[hunted.kill.mutant]
            records[mutant.id] = known[mutant.id] = entry(hunted, mutant)
            click.echo(f"{number:4} {operator_table.line(records[mutant.id])}")
            if path is not None:
                _keep(path, known)
    for words in operator_table.summary(mutants, records):
        click.echo(words)
    if markdown:
        click.echo("\n".join(operator_table.markdown(mutants, records)))
    return 0 if all(records[m.id]["found"] for m in mutants if m.id not in EQUIVALENT) else 1


def _kept(path: Path | None) -> dict[str, dict[str, Any]]:
    """What a file of an earlier run holds, by mutant. Raises Problem."""
    if path is None:
        return {}
    writable_file(path, "--json")
    if not path.exists():
        return {}
    try:
        return {record["mutant"]: record for record in json.loads(path.read_text())}
    except (ValueError, TypeError, KeyError) as error:
        raise Problem(f"--json {path}: it holds no table of mutants ({error})") from None


def _keep(path: Path, records: dict[str, dict[str, Any]]) -> None:
    """Write a file anew, so that it is whole whenever this process ends."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(list(records.values()), indent=1))
    beside.replace(path)
