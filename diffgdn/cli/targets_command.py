"""`diffgdn targets`: the released packages that are targets, what is there of each and what is missing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from diffgdn.backend import selection as backends
from diffgdn.cases import target_names
from diffgdn.cli.options import CONTEXT, Problem, from_option, json_option, writable_file


@click.command(name="targets", context_settings=CONTEXT)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@from_option
@json_option("Write the list to this file.")
def targets(names: tuple[str, ...], place: str | None, json_file: Path | None) -> int:
    """List targets: found or what is missing, version, operations, and where they run.

    What is installed, or lies in --from, is imported. Without NAME all are listed.

    Exit status: 0, or 2 if a target that is named cannot be had.
    """
    if json_file is not None:
        writable_file(json_file, "--json")
    if place is not None and len(names) != 1:
        raise Problem("--from: name the one target whose package lies there")
    backends.enter("gpu" if backends.gpu_missing() is None else "interpret")

    from diffgdn import targets as known

    unknown = [name for name in names if name not in (*known.names(), *known.registered())]
    if unknown:
        raise Problem(
            f"unknown target {unknown[0]!r}; known: {', '.join((*known.names(), *known.registered()))}"
        )
    found = [_described(name, place) for name in names or (*known.names(), *known.registered())]
    for one in found:
        _say(one, whole=bool(names))
    if json_file is not None:
        json_file.write_text(json.dumps({"targets": found}, indent=2) + "\n")
    return 2 if names and any(one["absent"] for one in found) else 0


def _described(name: str, place: str | None) -> dict[str, Any]:
    """What is there of a target, as plain data."""
    from diffgdn import targets as known
    from diffgdn.targets.released import roster

    if name in target_names.RELEASED:
        return dataclasses.asdict(roster.status(name, place))
    if place is not None:
        raise Problem(f"--from {place}: {name} is no released package")
    try:
        target = known.get(name)
    except known.TargetError as error:
        return dataclasses.asdict(roster.Status(name, place="registered", absent=str(error)))
    where = "built in" if name in target_names.OWN else "registered"
    plain = roster.Status(name, "", where, tuple(target.operations), backends.BACKENDS)
    return dataclasses.asdict(plain)


def _say(one: dict[str, Any], whole: bool) -> None:
    """A target in a few lines. whole: with why each operation is missing, and what stands in."""
    about = " ".join(filter(None, (one["version"], f"({one['place']})" if one["place"] else "")))
    lanes = ", ".join(one["backends"])
    click.echo(f"{one['name']:<13} {'not found' if one['absent'] else 'found'}  {about}".rstrip())
    if one["absent"]:
        click.echo(f"{'':<13} {one['absent']}")
        return
    click.echo(f"{'':<13} {', '.join(one['operations'])}")
    click.echo(f"{'':<13} runs on: {lanes}")
    reasons: dict[str, list[str]] = {}
    for op, reason in one["missing"].items():
        reasons.setdefault(reason, []).append(op)
    for reason, ops in reasons.items() if whole else ():
        click.echo(f"{'':<13} without {', '.join(ops)}: {reason}")
    if one["missing"] and not whole:
        click.echo(f"{'':<13} without {', '.join(one['missing'])}")
    if one["stood_in"]:
        click.echo(f"{'':<13} stand-ins for {', '.join(one['stood_in'])}")
