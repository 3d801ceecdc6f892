"""The table of mutants: what found each, after how long, and what it was shrunk to."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from diffgdn.mutants.hunt import Kill
from diffgdn.mutants.known_smallest import FURTHER, KNOWN_SMALLEST, ONE_STEP, SMALLEST, nearest
from diffgdn.mutants.peers.peer_test import PEERS
from diffgdn.mutants.peers.seen import Seen


def line(kill: Kill) -> str:
    """Say in a line what came of a mutant."""
    if not kill.found:
        return f"{kill.mutant:28} SURVIVED  {kill.cases} cases in {kill.seconds:.0f} s"
    shrunk = "not shrunk" if kill.shrunk is None else f"{kill.shrunk!r}"
    return f"{kill.mutant:28} {kill.seconds:5.1f} s, case {kill.cases:<5} {_found_by(kill)}: {shrunk}"


def _found_by(kill: Kill) -> str:
    """Name the operation, the kind of failure and the result that gave a mutant away."""
    return f"{kill.operation}, {kill.kind}" + (f" in {kill.result}" if kill.result else "")


def peers_line(mutant: str, seen: Mapping[str, Seen]) -> str:
    """Say in a line what peers' tests make of a mutant."""
    words = (f"{name}'s tests: {one.answer}{f' ({one.by})' if one.by else ''}" for name, one in seen.items())
    return f"{mutant:28} {'; '.join(words)}"


def summary(kills: Sequence[Kill], peers: Mapping[str, Mapping[str, Seen]] | None = None) -> Iterator[str]:
    """Say how many were found, after how long, the median and the slowest, how small they were made, and of
    how many each peer's tests tell."""
    found = [kill.seconds for kill in kills if kill.found]
    if kills:
        yield f"{len(found)} of {len(kills)} mutants found"
    if found:
        slowest = max((kill for kill in kills if kill.found), key=lambda kill: kill.seconds)
        yield (
            f"time to find: median {statistics.median(found):.1f} s, "
            f"slowest {slowest.seconds:.1f} s ({slowest.mutant})"
        )
    sizes = sizes_summary(kills)
    if sizes is not None:
        yield sizes
    yield from peers_summary(peers or {})


def markdown(
    kills: Sequence[Kill],
    about: Mapping[str, tuple[str, str]],
    peers: Mapping[str, Mapping[str, Seen]] | None = None,
) -> Iterator[str]:
    """Write the table of a documentation page.

    about: of each mutant, its source and what is wrong; one that is not of kills was not hunted. peers: of
    each mutant, what each peer's tests make of it; with them a column for each peer.
    """
    names = tuple(PEERS) if peers else ()
    columns = (
        *("bug", "from", "put back as", "found by", "cases", "seconds"),
        *("shrink: cases", "seconds", "shrunk to", "known smallest"),
        *(f"{name}'s tests" for name in names),
    )
    yield _row(columns)
    yield _row(["---"] * len(columns), "")
    hunted = {kill.mutant: kill for kill in kills}
    for mutant, words in about.items():
        answers = (peers or {}).get(mutant, {})
        seen = [answers[name].answer if name in answers else "-" for name in names]
        yield _row((mutant, *words, *_found(hunted.get(mutant)), *seen))


def _row(cells: Sequence[str], pad: str = " ") -> str:
    return "|" + "|".join(f"{pad}{cell}{pad}" for cell in cells) + "|"


def _found(kill: Kill | None) -> tuple[str, ...]:
    """Return the cells of what a hunt says; None if there was none."""
    if kill is None:
        return ("-",) * 7
    if not kill.found:
        return ("not found", str(kill.cases), f"{kill.seconds:.0f}", "-", "-", "-", "-")
    shrink = (
        ("-", "-") if kill.shrink_seconds is None else (str(kill.shrink_steps), f"{kill.shrink_seconds:.1f}")
    )
    case = "not shrunk" if kill.shrunk is None else f"`{kill.shrunk!r}`"
    return (_found_by(kill), str(kill.cases), f"{kill.seconds:.1f}", *shrink, case, graded(kill) or "-")


def graded(kill: Kill) -> str | None:
    """Say how the shrunk case compares with the smallest that is known; None if there is no such case."""
    if kill.shrunk is None or kill.mutant not in KNOWN_SMALLEST:
        return None
    return nearest(kill.mutant, kill.shrunk, kill.kind)


def sizes_summary(kills: Sequence[Kill]) -> str | None:
    """Count how near shrunk cases come to the smallest ones that are known; None without any."""
    grades = [grade for grade in map(graded, kills) if grade is not None]
    counts = [f"{grades.count(name)} {words}" for name, words in _GRADES.items() if name in grades]
    return f"of {len(grades)} shrunk cases: {', '.join(counts)}" if grades else None


_GRADES = {
    SMALLEST: "as small as the smallest known",
    ONE_STEP: "one step from it",
    FURTHER: "further from it",
}


def peers_summary(peers: Mapping[str, Mapping[str, Seen]]) -> Iterator[str]:
    """Count what each peer's tests see."""
    for name in PEERS if peers else ():
        answers = [seen[name].answer for seen in peers.values()]
        yield (
            f"{name}'s tests see {answers.count('yes')} of {len(answers)}, not {answers.count('no')};"
            f" {answers.count('not covered')} are of what they do not call"
        )
