"""Runs one campaign in many seats: each explores a shard, and one stream of events tells of all.

Which shard a seat explores follows from the order in which parts are started, and there are more shards than
parts will ever be: so a seat that joins late, or anew after it was lost, explores what nobody else does.
Findings are saved here as soon as a part tells of them; what is lost with a machine is the cases that it ran.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from diffgdn.campaign import events
from diffgdn.campaign.config import Config, Outcome
from diffgdn.campaign.engine import findings_of
from diffgdn.campaign.events import Listener
from diffgdn.campaign.exchange import INTERRUPTED_SECONDS, LAST_SECONDS, Exchange, Pulled
from diffgdn.campaign.inbox import Unable
from diffgdn.campaign.joint.part_messages import Ended, Files, Lost, Start
from diffgdn.campaign.joint.seats import Seats
from diffgdn.campaign.reach import problem
from diffgdn.campaign.tasks import Key, key
from diffgdn.findings.corpus import SIDE_FILES, Corpus, write
from diffgdn.findings.finding import COMPLETE, Finding
from diffgdn.findings.known_seen import Seen
from diffgdn.findings.storage import Storage
from diffgdn.runner.child_process import undisturbed

SHARDS = 1 << 20
POLL_SECONDS = 0.2
LEAST_SECONDS = 10.0  # that must be left for a part to be started
MOST_LOST = 3  # parts that a seat may lose before it is left alone
AGAIN_SECONDS = 10.0  # before a seat is tried again that lost its part: that its node is gone is noticed late
SEATS_SECONDS = 60.0  # that a campaign without a seat waits for one
CLOSING_SECONDS = 60.0  # for parts to end once they are told to
OVERTIME_SECONDS = 600.0  # past the end of the time, for shrinks and cases that hang


@dataclass
class _Part:
    """One part under way. number: its shard. workers: numbers of its workers that were told of begin here."""

    number: int
    workers: int


def run(config: Config, listener: Listener, seats: Seats, own_workers: bool = False) -> Outcome:
    """Run a campaign in the seats to its end, or to Ctrl-C. It has a limit of time, and no shard.

    own_workers: whether `config.workers` is for each part; else each has as many as suit its machine.
    Raises CorpusError if the corpus holds a file that is no finding, before anything else happens.
    """
    corpus = Corpus(config.corpus)
    exchange = None if config.storage is None else Exchange(Storage.at(config.storage), corpus)
    if exchange is not None:
        exchange.start()
    old = findings_of(config, corpus)
    return _Joint(config, listener, corpus, seats, exchange, own_workers).run(old)


class _Joint:
    """The state of a joint campaign: its parts, and what they have found together."""

    def __init__(
        self,
        config: Config,
        listener: Listener,
        corpus: Corpus,
        seats: Seats,
        exchange: Exchange | None,
        own_workers: bool,
    ) -> None:
        assert config.max_time is not None
        self.config, self.listener, self.corpus = config, listener, corpus
        self.seats, self.exchange, self.own_workers = seats, exchange, own_workers
        self.max_time: float = config.max_time
        self.parts: dict[str, _Part] = {}
        self.started = self.workers = 0
        self.lost: Counter[str] = Counter()
        self.again: dict[str, float] = {}  # when a seat that lost its part may be tried again
        self.done: set[str] = set()  # seats whose part has come to its end
        self.outcomes: list[Outcome] = []
        self.findings: dict[Key, Finding] = {}
        self.deadline: float | None = None
        self.seatless = time.monotonic()  # since when there has been no part
        self.said: set[tuple[str, ...]] = set()  # what is told once, whichever part says it
        self.unsaved: str | None = None
        self.last_loss = ""
        self.old: list[Finding] = []
        self.phase, self.phase_began = "start", time.monotonic()

    def run(self, old: list[Finding]) -> Outcome:
        begin, interrupted, unable = time.monotonic(), False, None
        self.old = old
        try:
            self.emit(events.CampaignStarted(self.config))
            self.emit(events.PhaseStarted(self.phase))
            try:
                self._drive()
            except KeyboardInterrupt:
                interrupted = True
                self._end_parts()
            finally:
                self.emit(events.PhaseEnded(self.phase, time.monotonic() - self.phase_began))
        except KeyboardInterrupt:
            interrupted = True
        except Unable as error:
            unable = str(error)
        finally:
            self.seats.close()
        unshared = self._close_exchange(interrupted)
        return self._outcome(begin, interrupted, unable, unshared)

    def emit(self, event: events.Event) -> None:
        """Tell whoever listens, and the exchange."""
        self.listener(event)
        if self.exchange is not None:
            self.exchange(event)

    def _drive(self) -> None:
        """Keep each seat busy until the time is up and all parts have ended."""
        while True:
            self._start_parts()
            if not self.parts and not self._is_waiting():
                return
            self._receive()
            self._hear()
            if self.deadline is not None and time.monotonic() > self.deadline + OVERTIME_SECONDS:
                raise Unable(f"parts in {', '.join(sorted(self.parts))} do not come to their end")

    def _is_waiting(self) -> bool:
        """Whether a seat may yet come, without which nothing goes on. Raises Unable if none ever was."""
        if self.outcomes or not self._has_time():
            return False
        if time.monotonic() - self.seatless < SEATS_SECONDS:
            return True
        if not self.started:
            raise Unable(f"no seat for a part within {SEATS_SECONDS:.0f} s")
        raise Unable(f"no seat is left: {self.last_loss}")

    def _seconds_left(self) -> float:
        return self.max_time if self.deadline is None else self.deadline - time.monotonic()

    def _has_time(self) -> bool:
        """Whether enough is left to start a part; a campaign that is as short as that has it at first."""
        return self._seconds_left() >= min(LEAST_SECONDS, self.max_time)

    def _start_parts(self) -> None:
        """Start a part in each seat that is free, with what is left of the time."""
        left = self._seconds_left()
        if not self._has_time():
            return
        for seat in self.seats.free():
            spent = seat in self.parts or seat in self.done or self.lost[seat] >= MOST_LOST
            if spent or time.monotonic() < self.again.get(seat, 0.0):
                continue
            self.started += 1
            self.workers += 1000
            self.parts[seat] = _Part(self.started, self.workers)
            shard = self.started, SHARDS
            config = replace(self.config, shard=shard, max_time=left, storage=None, allow_unreached=True)
            old = tuple(self.old) if self.started == 1 else ()
            self.seats.start(seat, Start(config, self.own_workers, old))
            for finding in self.findings.values():
                self.seats.tell(seat, finding)

    def _receive(self) -> None:
        """Handle what parts have sent; Ctrl-C waits until that is done."""
        messages = self.seats.receive(POLL_SECONDS)
        with undisturbed():
            for seat, message in messages:
                if seat in self.parts:
                    self._handle(seat, message)

    def _handle(self, seat: str, message: Any) -> None:
        part = self.parts[seat]
        match message:
            case events.WorkerStarted():
                if (seat, "joined", str(part.number)) not in self.said:
                    self.said.add((seat, "joined", str(part.number)))
                    self.emit(events.SeatJoined(seat, message.device, part.number))
                self.emit(replace(message, worker=part.workers + message.worker))
            case events.WorkerDied():
                self.emit(replace(message, worker=part.workers + message.worker))
            case events.PhaseStarted(phase="explore") if self.deadline is None:
                self._explores()
            case events.FindingFound():
                self._found(seat, message)
            case events.FindingShrunk():
                self._shrunk(seat, message)
            case events.FindingReplayed():
                if message.fails:
                    self.findings[key(message.finding)] = message.finding
                self.emit(replace(message, path=str(self._path(message.finding))))
            case events.OperationSkipped() | events.CasesLeftOut() | events.DomainKnown():
                self._once(message)
            case events.CaseRun() | events.CaseAwaited() | events.Covered() | events.CompileProgress():
                self.emit(message)
            case Files():
                self._lay(message)
            case Ended():
                self.outcomes.append(message.outcome)
                self.done.add(seat)
                self._leave(seat)
            case Lost():
                self.lost[seat] += 1
                self.again[seat] = time.monotonic() + AGAIN_SECONDS
                self.last_loss = f"{seat}: {message.reason}"
                self.emit(events.SeatLost(seat, message.reason))
                self._leave(seat)

    def _leave(self, seat: str) -> None:
        """Take the part of a seat off the list."""
        del self.parts[seat]
        if not self.parts:
            self.seatless = time.monotonic()

    def _explores(self) -> None:
        """The first part explores: from now on the time counts."""
        now = time.monotonic()
        self.emit(events.PhaseEnded("start", now - self.phase_began))
        self.emit(events.PhaseStarted("explore"))
        self.deadline, self.phase, self.phase_began = now + self.max_time, "explore", now

    def _once(self, event: events.Event) -> None:
        """Tell what all parts say alike only once."""
        words = (value for value in vars(event).values() if isinstance(value, str))
        mark = (type(event).__name__, *words)
        if mark not in self.said:
            self.said.add(mark)
            self.emit(event)

    def _path(self, finding: Finding) -> Any:
        return self.corpus.path / f"{finding.id}.json"

    def _save(self, finding: Finding, anew: bool = False) -> str:
        path, reason = self.corpus.keep(finding, anew)
        self.unsaved = self.unsaved or reason
        return str(path)

    def _found(self, seat: str, event: events.FindingFound) -> None:
        """Keep what a part has found, and tell the others, so that nobody shrinks it once more."""
        if key(event.finding) in self.findings:
            return  # two parts have met it before one could be told
        self.findings[key(event.finding)] = event.finding
        self.emit(replace(event, path=self._save(event.finding)))
        self._tell_others(seat, event.finding)

    def _shrunk(self, seat: str, event: events.FindingShrunk) -> None:
        """Put a smaller finding in the place of what it stands for; of two parts' the first complete one."""
        ours = next((one for one in self.findings.values() if one.id == event.before), None)
        if ours is None:
            ours = self.findings.get(key(event.finding))
            if ours is None or ours.shrink == COMPLETE:
                return
        self.findings = {k: one for k, one in self.findings.items() if one is not ours}
        self.findings[key(event.finding)] = event.finding
        path = self._save(event.finding, anew=True)
        if ours.id != event.finding.id:
            self.corpus.remove(ours)
        self.emit(replace(event, path=path, before=ours.id))
        self._tell_others(seat, event.finding)

    def _tell_others(self, seat: str | None, finding: Finding) -> None:
        for other in self.parts:
            if other != seat:
                self.seats.tell(other, finding)

    def _lay(self, files: Files) -> None:
        """Lay a script or a picture beside a finding that is kept here."""
        if any(one.id == files.finding for one in self.findings.values()):
            for suffix, content in files.contents.items():
                if suffix in SIDE_FILES:
                    write(self.corpus.path / f"{files.finding}{suffix}", content)

    def _hear(self) -> None:
        """Take in what a storage has brought, and pass it on."""
        for news in self.exchange.news() if self.exchange is not None else ():
            if isinstance(news, Pulled):
                self.emit(events.FindingPulled(news.finding, str(news.path)))
                self._tell_others(None, news.finding)
            else:
                self.emit(events.StorageSaid(news.words, news.gone))

    def _end_parts(self) -> None:
        """Have all parts end, and take what they still send; a second Ctrl-C waits for nothing."""
        self.seats.interrupt()
        end = time.monotonic() + CLOSING_SECONDS
        while self.parts and time.monotonic() < end:
            self._receive()

    def _close_exchange(self, interrupted: bool) -> str | None:
        if self.exchange is None:
            return None
        unshared = self.exchange.close(INTERRUPTED_SECONDS if interrupted else LAST_SECONDS)
        self._hear()
        return unshared

    def _outcome(self, begin: float, interrupted: bool, unable: str | None, unshared: str | None) -> Outcome:
        """Add up what parts came to."""
        findings = tuple({one.id: one for one in self.findings.values()}.values())
        known = tuple(_together(outcome.known for outcome in self.outcomes))
        every = [outcome.unreached for outcome in self.outcomes]
        unreached = {
            op: every[0][op] for op in (every[0] if every else ()) if all(op in one for one in every)
        }
        failed = [outcome.problem for outcome in self.outcomes]
        trouble = unable or (failed[0] if failed and all(failed) else None) or self.unsaved or unshared
        if trouble is None and not interrupted and not self.config.allow_unreached:
            trouble = problem(unreached, len(self.config.operations), None if self.outcomes else "case")
        seconds = time.monotonic() - begin
        self.emit(events.CampaignEnded(seconds, findings, interrupted, trouble, unreached, known))
        return Outcome(findings, interrupted, trouble, unreached, known)


def _by_nobody(unreached: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Keep the operations that no part has reached, each with the reason that the first gives."""
    first = unreached[0] if unreached else {}
    return {op: reason for op, reason in first.items() if all(op in one for one in unreached)}


def _together(seen: Iterable[Iterable[Seen]]) -> list[Seen]:
    """Add up what parts have met of known failures."""
    added: dict[str, Seen] = {}
    for one in (entry for some in seen for entry in some):
        all_of_it = added.setdefault(one.entry.name, Seen(one.entry))
        all_of_it.failed += one.failed
        all_of_it.passed += one.passed
        all_of_it.skipped += one.skipped
        all_of_it.alive |= one.alive
        all_of_it.replayed += [name for name in one.replayed if name not in all_of_it.replayed]
    return list(added.values())
