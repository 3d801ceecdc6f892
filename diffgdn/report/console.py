"""Show the campaign on a screen: a live table on a terminal, lines elsewhere, and the final table."""

from __future__ import annotations

import math
import threading
import time
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from diffgdn.campaign import events
from diffgdn.campaign.events import Event
from diffgdn.findings.finding import OUT_OF_TIME
from diffgdn.findings.known import BASE
from diffgdn.report import coverage_table, sentences
from diffgdn.report import finding_lines as findings
from diffgdn.report.modes import REPORTS
from diffgdn.report.sentences import counted, duration, reached
from diffgdn.report.tally import Tally

LINE_SECONDS = 5.0
FRAMES_PER_SECOND = 4.0
PHASE_WORDS = {
    "start": "starting workers",
    "replay": "replaying the corpus",
    "compile": "compiling",
    "geometries": "model geometries",
    "explore": "exploring",
}


class ConsoleReport:
    """Print what happens: a listener, and a context manager whose exit restores the terminal."""

    def __init__(self, console: Console) -> None:
        """Take the console that is printed to."""
        self._console = console
        self._tally = Tally()
        self._lock = threading.Lock()  # the live table is drawn from a thread of its own
        self._live: Live | None = None
        self._next_line = math.inf
        self._skipped: dict[str, list[str]] = {}

    def __enter__(self) -> ConsoleReport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def __call__(self, event: Event) -> None:
        """Add an event up, and print what a person should know of it."""
        with self._lock:
            self._tally(event)
        if not isinstance(event, events.OperationSkipped):
            self._say_skipped()
        match event:
            case events.CampaignStarted():
                self._begin()
            case events.PhaseStarted():
                self._next_line = time.monotonic() + LINE_SECONDS
            case events.PhaseEnded(phase="compile"):
                self._print(_compiled(self._tally, event.seconds), style="dim")
            case events.FindingFound():
                self._found(event)
            case events.FindingShrunk():
                self._print(f"{_shrunk(event)}: {findings.headline(event.finding)}", style="red")
            case events.FindingReplayed():
                self._replayed(event)
            case events.FindingPulled():
                self._print(f"from another machine: {findings.headline(event.finding)}", style="yellow")
            case events.StorageSaid():
                self._print(event.words, style="yellow")
            case events.SeatJoined():
                self._print(f"joined: {event.seat} on {event.device}, part {event.part}", style="dim")
            case events.SeatLost():
                self._print(f"lost: {event.seat}, {event.reason}; what it had found is kept", style="red")
            case events.OperationSkipped():
                self._skipped.setdefault(event.reason, []).append(event.operation)
                return
            case events.CasesLeftOut():
                self._print(
                    f"{event.phase}: {counted(event.count, 'case')} left out, {event.reason}",
                    style="yellow",
                )
            case events.WorkerDied():
                self._print(sentences.death(event), style="red")
            case events.CaseAwaited():
                self._print(
                    f"the time is up: waiting for a case of {event.operation} that has run for "
                    f"{duration(event.seconds)}; after {duration(event.most)} it counts as hung",
                    style="yellow",
                )
            case events.CampaignEnded():
                self._end(event)
                return
        self._line()

    def _begin(self) -> None:
        """Print what is asked for; on a terminal, start the live table."""
        config, mode = self._tally.config, REPORTS[self._tally.mode]
        limits = [
            *([duration(config.max_time)] if config.max_time is not None else []),
            *([f"{config.max_cases} {mode.word}s"] if config.max_cases is not None else []),
        ]
        workers = "1 worker" if config.workers == 1 else f"{config.workers} workers"
        workers = workers if config.cluster is None else f"parts on {config.cluster}"
        self._print(
            f"{mode.command} {config.target} on backend {config.backend}: "
            f"{' or '.join(limits) or 'no limit'}, {workers}, seed {config.seed}"
            f"{'' if config.shard == (1, 1) else ', shard {} of {}'.format(*config.shard)}"
            f"{'' if config.base is None else f', against {config.base.words}'}"
        )
        if self._console.is_terminal:
            self._live = Live(
                console=self._console,
                get_renderable=self._frame,
                refresh_per_second=FRAMES_PER_SECOND,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()

    def _found(self, event: events.FindingFound) -> None:
        self._print(f"found: {findings.headline(event.finding)}", style="bold red")

    def _say_skipped(self) -> None:
        """Print the operations left out for one reason in one line: they come in a row."""
        for reason, operations in self._skipped.items():
            self._print(f"left out: {', '.join(operations)}: {reason}", style="yellow")
        self._skipped.clear()

    def _replayed(self, event: events.FindingReplayed) -> None:
        """Print the status of a finding that was replayed."""
        style = {"FAILED": "red", "FIXED": "green"}.get(event.status, "yellow")
        reason = f": {event.reason}" if event.reason and event.status != "FAILED" else ""
        reason = ": the base fails in the same way" if event.reason == BASE else reason
        self._print(f"replayed {event.finding.id}: {event.status}{reason}", style=style)

    def _line(self) -> None:
        """Print a line now and then where nobody can watch a table move."""
        if self._live is not None or self._tally.phase == "start":
            return
        now = time.monotonic()
        if now >= self._next_line:
            self._next_line = now + LINE_SECONDS
            self._print(_status(self._tally))

    def _frame(self) -> RenderableType:
        """Draw the live table; called by a thread of rich."""
        with self._lock:
            return Group(_progress(self._tally), *REPORTS[self._tally.mode].tables(self._tally)[:1])

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _end(self, event: events.CampaignEnded) -> None:
        """Print tables, findings and the conclusion."""
        self._stop()
        if self._tally.phase == "start":
            return  # nothing was run: the command says why
        for number, table in enumerate(REPORTS[self._tally.mode].tables(self._tally)):
            if number:
                self._console.print()
            self._console.print(table)
        for line in self._tally.vacuity.lines():
            self._print(line)
        if self._tally.coverage is not None:
            self._console.print()
            self._console.print(coverage_table.table(self._tally.coverage))
            for line in coverage_table.lines(self._tally.coverage):
                self._print(line)
        for finding, path in self._tally.findings.values():
            self._console.print()
            first, *rest = findings.lines(finding, path)
            self._print(f"FINDING  {first}", style="bold red")
            for line in rest:
                self._print(line)
        self._known(event)
        self._base()
        self._console.print()
        for line in sentences.unreached(event):
            self._print(line, style="yellow")
        style = "yellow" if event.stopped is not None or not self._tally.cases else "bold green"
        bad = bool(self._tally.findings) or any(one.mended for one in event.known)
        self._print(sentences.conclusion(self._tally, event), style="bold red" if bad else style)

    def _known(self, event: events.CampaignEnded) -> None:
        """Print what was met of each known failure, and which fail no more."""
        if event.known:
            self._console.print()
            self._print("known failures, and cases under their conditions:")
        for line in sentences.known(event):
            self._print(f"  {line}", style="yellow")
        for one in event.known:
            if one.mended:
                self._print(findings.mended(one), style="bold red")

    def _base(self) -> None:
        """Print what fails in the base too."""
        base = self._tally.config.base
        if base is not None and self._tally.base:
            self._console.print()
            self._print(f"fails in {base.words} too, and so is no finding:")
            for line in sentences.base(self._tally):
                self._print(f"  {line}", style="yellow")

    def _print(self, text: str, style: str = "") -> None:
        """Print text as it is: no markup, no colours by content, no line breaks in a command to be copied."""
        self._console.print(Text(text, style=style), soft_wrap=True)


def _words(tally: Tally) -> str:
    """Say what is being done."""
    limit = None if tally.started is None else tally.config.max_time
    if tally.phase == "explore" and limit is not None and tally.phase_seconds > limit:
        return "finishing what was begun"
    return PHASE_WORDS.get(tally.phase, "")


def _status(tally: Tally) -> str:
    """Write how far the phase has come, in one line."""
    words, mode = _words(tally), REPORTS[tally.mode]
    found = counted(len(tally.findings), "finding")
    if tally.phase != "explore":
        return f"{words}: {tally.steps_done} of {tally.steps}, {found}"
    return (
        f"{words}, {duration(tally.phase_seconds)}: {tally.cases} {mode.word}s, {tally.rate:.1f}/s, "
        f"{reached(tally)}, {found}"
    )


def _progress(tally: Tally) -> RenderableType:
    """Draw the bar above the live table."""
    config = tally.config
    done, total = float(tally.steps_done), float(tally.steps)
    if tally.phase == "explore":
        shares = [
            *([tally.phase_seconds / config.max_time] if config.max_time else []),
            *([tally.explored / config.max_cases] if config.max_cases else []),
        ]
        done, total = max(shares, default=0.0), 1.0
    row = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=total or None, completed=min(done, total), width=24, pulse=total == 0)
    if tally.phase == "explore":
        limit = f" of {duration(config.max_time)}" if config.max_time else ""
        word = REPORTS[tally.mode].word
        text = f"{duration(tally.phase_seconds)}{limit}  {tally.cases} {word}s  {tally.rate:.1f}/s"
    else:
        text = f"{tally.steps_done} of {tally.steps}" if tally.steps else duration(tally.phase_seconds)
    row.add_row(_words(tally), bar, text)
    return row


def _compiled(tally: Tally, seconds: float) -> str:
    """Say how many kernel variants were compiled ahead, and of how many where the time ended that."""
    most = tally.config.max_time
    cut = most is not None and seconds >= most
    of, rest = (f" of {tally.steps}", "; others compile when a case meets them") if cut else ("", "")
    return f"compiled {tally.compiled}{of} variants in {duration(seconds)}, shared by all workers{rest}"


def _shrunk(event: events.FindingShrunk) -> str:
    """Say how a shrink ended."""
    if event.finding.shrink != OUT_OF_TIME:
        return f"shrunk in {duration(event.seconds)}"
    if not event.last:
        return f"shrunk for {duration(event.seconds)}, to go on later"
    if event.finding.id == event.before:
        return "not shrunk, the time was up"
    return f"shrunk for {duration(event.seconds)}, then out of time"
