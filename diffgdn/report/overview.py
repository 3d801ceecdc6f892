"""What a report of a run says, whatever it is written in: built once, laid out by pages and summaries."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from diffgdn.campaign.events import Event, FindingReplayed
from diffgdn.findings.known import BASE
from diffgdn.findings.parse import printable
from diffgdn.report import coverage_table, finding_lines, sentences
from diffgdn.report.finding_parts import Parts, parts
from diffgdn.report.modes import REPORTS
from diffgdn.report.plain_table import PlainTable, plain
from diffgdn.report.sentences import counted, duration
from diffgdn.report.tally import OperationTally, Tally

STAGES = ("inputs", "kernel", "oracle", "checks")  # the others follow


@dataclass(frozen=True)
class Overview:
    """What is said of a run that has ended.

    Attributes:
        conclusion: in a sentence; good: whether all that was asked for was run and nothing found.
        problem: why it was not run as asked, None if it was.
        facts: by name: target, backend, versions and the like.
        findings: what failed; replayed: all that was run again, with what became of it.
        tables: of the mode, as the console prints them.
        operations: those that had a case, for their distributions.
        coverage: of the domain, None where it was not counted; missed: in words.
        uncounted: it could have been counted.
        times: milliseconds a case, by operation and what was done.
        notes: what else happened, by heading.
    """

    title: str
    conclusion: str
    good: bool
    problem: str | None
    facts: dict[str, str]
    findings: tuple[Parts, ...]
    replayed: PlainTable | None
    tables: tuple[PlainTable, ...]
    operations: dict[str, OperationTally]
    coverage: PlainTable | None
    missed: tuple[str, ...]
    uncounted: bool
    times: PlainTable | None
    notes: dict[str, tuple[str, ...]]


class Watch:
    """Count a run's events, and the time of day: a listener, with what it needs for an overview."""

    def __init__(self, now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC)):
        """Take a clock, which tells the time of day in UTC."""
        self.tally = Tally()
        self._now, self._began = now, ""

    def __call__(self, event: Event) -> None:
        """Add an event up."""
        self._began = self._began or f"{self._now():%Y-%m-%d %H:%M} UTC"
        self.tally(event)

    def overview(self) -> Overview:
        """Say what came of a run that has ended."""
        return (
            _of_replay(self.tally, self._began)
            if self.tally.replay
            else _of_campaign(self.tally, self._began)
        )


def _of_campaign(tally: Tally, began: str) -> Overview:
    config, ended, mode = tally.config, tally.ended, REPORTS[tally.mode]
    assert ended is not None
    ran = tally.phase != "start"
    limits = [
        *([duration(config.max_time)] if config.max_time is not None else []),
        *([f"{config.max_cases} {mode.word}s"] if config.max_cases is not None else []),
    ]
    facts = {
        "target": config.target,
        "backend": config.backend,
        "device": tally.device or "none",
        "seed": str(config.seed),
        **({} if config.shard == (1, 1) else {"shard": "{} of {}".format(*config.shard)}),
        "workers": str(config.workers),
        "limit": " or ".join(limits) or "none",
        "began": began,
        "took": duration(ended.seconds),
        f"{mode.word}s a second": f"{tally.rate:.1f}",
        "corpus": str(config.corpus),
        **({} if config.base is None else {"against": config.base.words}),
        **{name: value for name, value in tally.versions.items() if name != "device"},
    }
    shown = {name: one for name, one in tally.operations.items() if one.cases}
    mended = any(one.mended for one in ended.known)
    return Overview(
        title=f"{mode.command} {config.target}",
        conclusion=sentences.conclusion(tally, ended) if ran else "It could not begin.",
        good=not (tally.findings or mended or ended.stopped or ended.interrupted) and tally.cases > 0,
        problem=ended.stopped,
        facts=facts,
        findings=_findings(tally),
        replayed=_replayed(tally.replayed),
        tables=tuple(plain(table) for table in mode.tables(tally)) if ran else (),
        operations={name: one for name, one in shown.items() if one.shares},
        coverage=None if tally.coverage is None else plain(coverage_table.table(tally.coverage)),
        missed=() if tally.coverage is None else tuple(coverage_table.lines(tally.coverage)),
        uncounted=ran and tally.coverage is None,
        times=_times(shown),
        notes={heading: tuple(lines) for heading, lines in _notes(tally) if lines},
    )


def _of_replay(tally: Tally, began: str) -> Overview:
    asked, ended = tally.replay, tally.replay_ended
    assert asked is not None
    assert ended is not None
    counts: dict[str, int] = {}
    for event in tally.replayed:
        word = event.status.split()[0]
        counts[word] = counts.get(word, 0) + 1
    said = ", ".join(f"{count} {word}" for word, count in counts.items()) or "nothing was run"
    bad = any(event.fails or event.status == "ERROR" for event in tally.replayed)
    known = [finding_lines.mended(one) for one in ended.known if one.mended]
    return Overview(
        title=f"replay of {counted(asked.count, 'finding')}",
        conclusion=f"{'Interrupted: ' if ended.interrupted else ''}{said}.",
        good=not bad and not known and not ended.interrupted,
        problem=None,
        facts={
            "backend": asked.backend or "the one that each was found on",
            "runs of each": str(asked.repeat),
            "began": began,
            "took": duration(ended.seconds),
        },
        findings=_findings(tally),
        replayed=_replayed(tally.replayed),
        tables=(),
        operations={},
        coverage=None,
        missed=(),
        uncounted=False,
        times=None,
        notes={"Known failures": tuple(known)} if known else {},
    )


def _findings(tally: Tally) -> tuple[Parts, ...]:
    now = {event.finding.id: event for event in tally.replayed}
    found = []
    for name, (finding, path) in tally.findings.items():
        again = now.get(name)
        status, reason = (None, None) if again is None else (again.status, again.reason)
        found.append(parts(finding, path, status, None if reason is None else printable(reason)))
    return tuple(found)


def _replayed(replayed: list[FindingReplayed]) -> PlainTable | None:
    rows = tuple((one.status, one.finding.id, _first_line(one.reason)) for one in replayed)
    return PlainTable(("status", "finding", "why"), (False,) * 3, rows) if rows else None


def _first_line(reason: str | None) -> str:
    if reason == BASE:
        return "the base fails in the same way"
    return printable(reason.splitlines()[0]) if reason else ""


def _times(operations: dict[str, OperationTally]) -> PlainTable | None:
    """Say how long a case takes, in milliseconds, and each thing that is done for it."""
    met = {part for one in operations.values() for part in one.parts}
    named = [*(part for part in STAGES if part in met), *sorted(met - set(STAGES))]
    if not named:
        return None
    rows = tuple(
        (name, *(f"{1000 * seconds / one.cases:.1f}" for seconds in _seconds(one, named)))
        for name, one in operations.items()
    )
    return PlainTable(("ms a case", "all", *named), (False, *(True,) * (len(named) + 1)), rows)


def _seconds(one: OperationTally, named: list[str]) -> Iterator[float]:
    yield one.seconds
    for part in named:
        yield one.parts.get(part, 0.0)


def _notes(tally: Tally) -> Iterator[tuple[str, list[str]]]:
    """List what else happened, by heading."""
    ended = tally.ended
    assert ended is not None
    yield "Not reached", [] if ended.interrupted else sentences.by_reason(ended.unreached)
    left_out = {name: one.skipped for name, one in tally.operations.items() if one.skipped}
    yield "Left out", sentences.by_reason(left_out)
    yield "Known failures", sentences.known(ended)
    yield "Fails in the base too", sentences.base(tally)
    yield "Worker deaths", [sentences.death(event) for event in tally.deaths]
    yield "Wrong results that pass", tally.vacuity.lines()
