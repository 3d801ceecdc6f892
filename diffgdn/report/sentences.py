"""Put a campaign into sentences: how long, how many, and what came of it. Every report says them alike."""

from __future__ import annotations

from collections.abc import Mapping

from diffgdn.campaign import events
from diffgdn.findings.parse import printable
from diffgdn.report.modes import REPORTS, taking_part
from diffgdn.report.table_style import percent
from diffgdn.report.tally import Tally


def duration(seconds: float) -> str:
    """Write seconds in the units of a person: 4.2 s, 1 min 05 s, 2 h 03 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def counted(number: int, word: str) -> str:
    """Write a number and a word, with an s unless it is one."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def reached(tally: Tally) -> str:
    """Write how many of the operations that take part had a case."""
    part = taking_part(tally)
    return f"{sum(one.cases > 0 for one in part.values())} of {counted(len(part), 'operation')}"


def unreached(event: events.CampaignEnded) -> list[str]:
    """Write one line a reason why operations were not reached; none after Ctrl-C, which is reason enough."""
    if event.interrupted:
        return []
    return [f"not reached: {line}" for line in by_reason(event.unreached)]


def by_reason(operations: Mapping[str, str]) -> list[str]:
    """Write operations, each of which has a reason, in one line a reason."""
    names: dict[str, list[str]] = {}
    for operation, reason in operations.items():
        names.setdefault(reason, []).append(operation)
    return [f"{', '.join(same)}: {reason}" for reason, same in names.items()]


def conclusion(tally: Tally, event: events.CampaignEnded) -> str:
    """Write the last line: how many cases, how fast, and what was found."""
    mode = REPORTS[tally.mode]
    exact = sum(one.exact for one in tally.operations.values())
    shrinking = sum(one.shrinking for one in tally.operations.values())
    parts = [
        f"{tally.cases} {mode.word}s in {duration(tally.explore_seconds)} ({tally.rate:.1f}/s)",
        f"{reached(tally)}",
        *([f"{exact} exact"] if mode.exact else []),
    ]
    if tally.oracle_share is not None:
        parts.append(f"oracle and noise {percent(tally.oracle_share)} of a case's time")
    if shrinking:
        parts.append(f"{shrinking} more {'traces' if mode.word == 'trace' else 'cases'} run while shrinking")
    if tally.deaths:
        parts.append(counted(len(tally.deaths), "worker death"))
    head = "Interrupted: " if event.interrupted else ""
    return f"{head}{', '.join(parts)}: {found(tally)}{_of_known(tally, event)}."


def known(event: events.CampaignEnded) -> list[str]:
    """Write what was met of each known failure, in a line each."""
    return [
        f"{one.entry.name}  {one.entry.about}: {one.words}: {printable(one.entry.reason)}"
        for one in event.known
    ]


def base(tally: Tally) -> list[str]:
    """Write what fails in the base too, in a line for each operation and kind."""
    return [
        f"{operation}  {kind}: {counted(cases, 'case')}"
        for (operation, kind), cases in sorted(tally.base.items())
    ]


def death(event: events.WorkerDied) -> str:
    """Write that a worker died, in one line."""
    case = f" in {event.operation}, case {event.case_id}" if event.case_id else ""
    return f"worker {event.worker} died{case}: {event.reason}"


def _of_known(tally: Tally, event: events.CampaignEnded) -> str:
    """Say how many known failures were met, in how many cases, and how many fail no more."""
    alive, mended = sum(one.alive for one in event.known), sum(one.mended for one in event.known)
    skipped = sum(one.skipped for one in event.known)
    base = tally.base.total()
    known = tally.known_cases - base
    said = [f"; {counted(alive, 'known failure')} in {counted(known, 'case')}"] if alive else []
    said += [f"; {counted(base, 'case')} failing in the base too"] if base else []
    said += [f"; {counted(skipped, 'case')} known to crash or hang not run"] if skipped else []
    said += [f"; {counted(mended, 'known failure')} no longer failing"] if mended else []
    return "".join(said)


def found(tally: Tally) -> str:
    """Say what came of it all."""
    mode = REPORTS[tally.mode]
    if tally.cases and (said := mode.found(tally)) is not None:
        return said
    if tally.findings:
        return counted(len(tally.findings), "finding")
    ended = "trace" if mode.word == "trace" else "case"
    new = "nothing new found" if tally.known_cases else "nothing found"
    return new if tally.cases else f"no {ended} ended, so nothing is known"
