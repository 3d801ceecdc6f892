"""The table of mutants: what found each, after how long, and what it was shrunk to."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from diffgdn.mutants.hunt import Kill


def line(kill: Kill) -> str:
    """Say in a line what came of a mutant."""
    if not kill.found:
        return f"{kill.mutant:28} SURVIVED  {kill.cases} cases in {kill.seconds:.0f} s"
    shrunk = "not shrunk" if kill.shrunk is None else f"{kill.shrunk!r}"
    return f"{kill.mutant:28} {kill.seconds:5.1f} s, case {kill.cases:<5} {_found_by(kill)}: {shrunk}"


def _found_by(kill: Kill) -> str:
    """Name the operation, the kind of failure and the result that gave a mutant away."""
    return f"{kill.operation}, {kill.kind}" + (f" in {kill.result}" if kill.result else "")


def summary(kills: Sequence[Kill]) -> Iterator[str]:
    """Say how many were found, and after how long: the median and the slowest."""
    found = [kill.seconds for kill in kills if kill.found]
    yield f"{len(found)} of {len(kills)} mutants found"
    if found:
        slowest = max((kill for kill in kills if kill.found), key=lambda kill: kill.seconds)
        yield (
            f"time to find: median {statistics.median(found):.1f} s, "
            f"slowest {slowest.seconds:.1f} s ({slowest.mutant})"
        )


def markdown(kills: Sequence[Kill], about: dict[str, tuple[str, str]]) -> Iterator[str]:
    """Write the table of a documentation page. about: of each mutant, its source and what is wrong."""
    yield "| bug | from | put back as | found by | after | shrunk to |"
    yield "|---|---|---|---|---|---|"
    for kill in kills:
        source, wrong = about[kill.mutant]
        if not kill.found:
            yield f"| {kill.mutant} | {source} | {wrong} | not found | {kill.cases} cases | - |"
            continue
        case = "not shrunk" if kill.shrunk is None else f"`{kill.shrunk!r}`"
        after = f"{kill.seconds:.1f} s, case {kill.cases}"
        yield f"| {kill.mutant} | {source} | {wrong} | {_found_by(kill)} | {after} | {case} |"
