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
    from diffgdn.mutants.hunts import Terms
    from diffgdn.mutants.mutant import Mutant


def choose(pattern: str, number: int | None, seed: int, equivalent: bool) -> tuple[Mutant, ...]:
    """Return the mutants of a pattern, in an order that a seed gives; all, or so many. Raises Problem.

    equivalent: those alone that are known to change nothing.
    """
    from diffgdn.mutants.equivalent import EQUIVALENT
    from diffgdn.mutants.generated import generated, sample

    made = {name: mutant for name, mutant in generated().items() if name in EQUIVALENT or not equivalent}
    named = [mutant for name, mutant in made.items() if fnmatch.fnmatchcase(name, pattern)]
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
    mutants: Sequence[Mutant], terms: Terms, path: Path | None, markdown: bool, equivalent: bool
) -> int:
    """Hunt mutants, telling and keeping what comes of each as it comes; the exit status.

    path: of what is known already, and is written to. equivalent: hunt those that are known to change nothing
    as well; none may be found. Raises Problem.
    """
    from diffgdn.mutants.equivalent import EQUIVALENT
    from diffgdn.mutants.hunts import entry, hunts
    from diffgdn.report import operator_table

    known = _kept(path)
    records = {m.id: known[m.id] for m in mutants if _tells_of(known.get(m.id), m)}
    asked = [m for m in mutants if equivalent or m.id not in EQUIVALENT]
    left = [m for m in asked if not records.get(m.id, {}).get("final")]
    second = frozenset(m.id for m in left if m.id in records)
    click.echo(f"{len(mutants)} mutants, {len(left)} to hunt")
    by_id = {mutant.id: mutant for mutant in mutants}
    with tempfile.TemporaryDirectory(prefix="diffgdn-hunts-") as folder:
        for number, hunted in enumerate(hunts(left, terms, Path(folder), second), 1):
            mutant = by_id[hunted.kill.mutant]
            records[mutant.id] = known[mutant.id] = entry(hunted, mutant)
            click.echo(f"{number:4} {operator_table.line(records[mutant.id])}")
            if path is not None:
                _keep(path, known)
    if equivalent:
        return _said_wrongly([m.id for m in asked if records[m.id]["found"]], len(asked))
    for words in operator_table.summary(mutants, records):
        click.echo(words)
    if markdown:
        click.echo("\n".join(operator_table.markdown(mutants, records)))
    return 0 if all(records[m.id]["found"] for m in asked) else 1


def _said_wrongly(found: list[str], hunted: int) -> int:
    """Say which of the mutants that are known to change nothing were found; the exit status."""
    for name in found:
        click.echo(f"WRONGLY SAID TO CHANGE NOTHING: {name}")
    if not found:
        click.echo(f"none of {hunted} found")
    return 1 if found else 0


def _tells_of(record: dict[str, Any] | None, mutant: Mutant) -> bool:
    """Whether a record is of the same change, and of a hunt that ran."""
    return record is not None and record["about"] == mutant.about and record["problem"] is None


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
