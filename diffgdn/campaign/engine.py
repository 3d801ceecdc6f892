"""Runs a campaign: phase after phase, it gives tasks to workers and turns what they send into events."""

from __future__ import annotations

import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from diffgdn import strategies
from diffgdn.campaign import events, tasks
from diffgdn.campaign.config import GRACE_SECONDS, Config, Outcome, shrink_seconds
from diffgdn.campaign.depth import Shrinks
from diffgdn.campaign.events import Listener
from diffgdn.campaign.exchange import INTERRUPTED_SECONDS, LAST_SECONDS, Exchange, Pulled, Sharing
from diffgdn.campaign.inbox import Inbox, Unable
from diffgdn.campaign.overtime import LEEWAY_SECONDS
from diffgdn.campaign.reach import problem
from diffgdn.campaign.rotation import Rotation
from diffgdn.campaign.worker_pool import Pool
from diffgdn.cases.case import Case
from diffgdn.cases.promises import OUTSIDE
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import Finding
from diffgdn.findings.storage import Storage
from diffgdn.search import hypothesis_search
from diffgdn.search.seeds import derive_seed
from diffgdn.strategies.domain import Domain, domain, of_traces

CLOSING_SECONDS = 60.0  # for scripts that are missing when all else has ended
MOST_VARIANTS = 200  # compiled ahead of time


def _configurations(build: strategies.Build, configurations: int) -> Sequence[int]:
    """The entries of a foreign kernel's configuration list that a build may meet."""
    return range(configurations) if build.config is None else (build.config,)


def _in_turns(builds: list[tasks.RunCase]) -> list[tasks.RunCase]:
    """Order variants so that each operation has its turn, chunked ones first, each with its slowest first: no
    operation is left for the end, nor a worker with a slow one."""
    before: Counter[str] = Counter()
    turn: dict[int, tuple[int, bool]] = {}
    slowest = sorted(builds, key=lambda task: -task.case.K * task.case.V)
    for task in slowest:
        turn[id(task)] = before[task.case.op], not task.case.operation.is_chunked
        before[task.case.op] += 1
    return sorted(slowest, key=lambda task: turn[id(task)])


def findings_of(config: Config, corpus: Corpus) -> list[Finding]:
    """List the findings of a folder that a campaign replays. Raises CorpusError for a file that is none."""
    old = [finding for finding in corpus.findings() if finding.target == config.target]
    return [finding for finding in old if finding.operation in config.operations]


def run(config: Config, listener: Listener, sharing: Sharing | None = None) -> Outcome:
    """Run a campaign to its end, or to Ctrl-C. Kernel faults become findings; a set-up problem ends up in the
    outcome.

    sharing: how findings are shared, where that is not a storage that the configuration names.

    Raises CorpusError if the corpus holds a file that is no finding, before anything else happens.
    """
    corpus = Corpus(config.corpus)
    if config.storage is not None:
        sharing = exchange = Exchange(Storage.at(config.storage), corpus)
        exchange.start()
    old = findings_of(config, corpus)
    with tempfile.TemporaryDirectory(prefix="diffgdn-") as folder:
        return _Campaign(config, listener, corpus, Pool(config.pool, Path(folder)), sharing).run(old)


class _Campaign:
    """The phases of one campaign, and the tasks that its workers are given."""

    def __init__(
        self, config: Config, listener: Listener, corpus: Corpus, pool: Pool, exchange: Sharing | None = None
    ) -> None:
        self.config, self.listener, self.pool, self.exchange = config, listener, pool, exchange
        self.inbox = Inbox(config, self.emit, corpus, pool)
        seconds = shrink_seconds(config.max_time)
        self.shrinks = Shrinks(self.inbox.ledger, seconds, config.workers, config.max_time)
        self.asked: tuple[str, ...] = ()  # operations, of those that the target has

    def emit(self, event: events.Event) -> None:
        """Tell whoever listens, and the exchange."""
        self.listener(event)
        if self.exchange is not None:
            self.exchange(event)

    def run(self, old: list[Finding]) -> Outcome:
        config, inbox, begin = self.config, self.inbox, time.monotonic()
        interrupted, unable = False, None
        try:
            self.emit(events.CampaignStarted(config))
            with self.pool:
                try:
                    self._phases(old)
                except KeyboardInterrupt:
                    interrupted = True
                self._close()
        except KeyboardInterrupt:
            interrupted = True
        except Unable as error:
            unable = str(error)
        self._hear()
        try:
            unshared = self._close_exchange(interrupted)
        except KeyboardInterrupt:
            interrupted, unshared = True, None
        findings, reach = inbox.ledger.findings, inbox.reach
        unreached = reach.unreached(self.asked, config.max_time, config.max_cases)
        trouble = unable or inbox.fault or inbox.ledger.problem or unshared
        if trouble is None and not interrupted and not config.allow_unreached:
            trouble = problem(unreached, len(self.asked), None if reach.ended else reach.word)
        seconds = time.monotonic() - begin
        known = tuple(inbox.known)
        self.emit(events.CampaignEnded(seconds, findings, interrupted, trouble, unreached, known))
        return Outcome(findings, interrupted, trouble, unreached, known)

    def _phases(self, old: list[Finding]) -> None:
        config = self.config
        with self._phase("start"):
            while self.inbox.ready is None:
                self.inbox.receive()
        operations, question, has = self._operations(), config.question, self.inbox.ready.operations
        self.asked = tuple(name for op in operations for name in question.calls(op, has))
        if old and question.calls_kernel:
            with self._phase("replay", len(old)):
                inside = [finding for finding in old if not self._replay_is_outside(finding)]
                self._each([tasks.RunCase(f.case, config.target, "replay", finding=f) for f in inside])
        menu = None
        if config.backend == "gpu" and question.draws_cases:
            menu = self._menu(operations)
            if question.calls_kernel:
                self._prepare(menu, operations)
        if config.coverage:
            self.emit(events.DomainKnown(self._domain(menu, operations)))
        self.inbox.rotation = rotation = Rotation(
            operations,
            config.backend,
            config.seed,
            config.max_cases,
            shrink_seconds(config.max_time),
            menu,
            shard=config.shard,
            questions={op: question.asked_of(op, config.target, has) for op in operations},
            shrinks=not config.shrinks_apart,
        )
        for operation in self.inbox.reach.left_out:
            rotation.drop(operation)
        with self._phase("explore"):
            rotation.start(config.max_time, GRACE_SECONDS)
            self._drive(lambda: rotation.next(self.inbox.ledger.known))

    def _operations(self) -> tuple[str, ...]:
        """The operations asked for that the target has, or has something of; the others are skipped, with a
        word."""
        assert self.inbox.ready is not None
        config, has = self.config, self.inbox.ready.operations
        operations = tuple(op for op in config.operations if config.question.calls(op, has))
        for operation in config.operations:
            if operation not in operations:
                reason = f"not implemented by target {config.target}"
                self.emit(events.OperationSkipped(operation, reason))
        if not operations:
            raise Unable(
                f"target {self.config.target} implements none of {', '.join(self.config.operations)}; "
                f"it has {', '.join(self.inbox.ready.operations)}"
            )
        return operations

    def _menu(self, operations: tuple[str, ...]) -> strategies.Menu:
        """Draw what kernels are compiled for."""
        assert self.inbox.ready is not None
        promises = self.inbox.ready.promises
        menu = strategies.Menu.draw(self._menu_seed, operations, backend="gpu", promises=promises)
        if not self.inbox.ready.heads_compiled:
            return menu
        return strategies.specialised(menu, self.inbox.ready.configurations, promises)

    @property
    def _menu_seed(self) -> int:
        """Each shard compiles for a menu of its own, so that together they meet more builds."""
        seed, shard = self.config.seed, self.config.shard
        return seed if shard == (1, 1) else derive_seed(seed, "menu", *shard)

    def _domain(self, menu: strategies.Menu | None, operations: tuple[str, ...]) -> Domain:
        """What the cases of this campaign can reach."""
        ready = self.inbox.ready
        assert ready is not None
        if not self.config.question.draws_cases:
            return of_traces(self.asked)
        backend, configs = self.config.backend, ready.configurations
        return domain(operations, backend=backend, menu=menu, configs=configs, promises=ready.promises)

    def _prepare(self, menu: strategies.Menu, operations: tuple[str, ...]) -> None:
        """Compile each variant once, by one worker: Triton's cache on disk then serves the others.

        It takes no longer than the campaign may explore: what is left compiles when a case meets it.
        """
        assert self.inbox.ready is not None
        plain = self.config.question.plain()
        cases = [
            (config, case)
            for operation in operations
            for build in menu.entries(operation)
            for case in strategies.representatives(operation, build, self.inbox.ready.promises)
            for config in _configurations(build, self.inbox.ready.configurations[operation])
        ]
        # A foreign kernel's configurations multiply its variants: what is too much for now compiles when it
        # is met.
        cases = sorted(cases, key=lambda entry: entry[0])[:MOST_VARIANTS]
        builds = [
            tasks.RunCase(replace(case, config=config), self.config.target, "compile", plain)
            for config, case in cases
        ]
        with self._phase("compile", len(builds)):
            self._each(_in_turns(builds), self.config.max_time)
        shapes = [
            tasks.RunCase(case, self.config.target, "geometries", plain)
            for case in self._geometries(operations)
            if isinstance(plain, self.config.question)
        ]
        with self._phase("geometries", len(shapes)):
            self._each(shapes)

    def _geometries(self, operations: tuple[str, ...]) -> list[Case]:
        """The cases of published models that the target promises; the others are left out, with a word."""
        assert self.inbox.ready is not None
        found = [case for operation in operations for case in strategies.geometries.cases(operation)]
        broken = {case.id: self.inbox.ready.promises.broken_by(case) for case in found}
        outside = [reason for reason in broken.values() if reason is not None]
        if outside:
            self.emit(events.CasesLeftOut("geometries", len(outside), f"{OUTSIDE}{outside[0]}"))
        return [case for case in found if broken[case.id] is None]

    def _replay_is_outside(self, finding: Finding) -> bool:
        """Whether a finding asks what the target does not promise (any more): it is not run, with a word."""
        assert self.inbox.ready is not None
        broken = self.inbox.ready.promises.broken_by(finding.case)
        if broken is not None:
            self.inbox.replayed(finding, tasks.Done(refused=f"{OUTSIDE}{broken}"))
        return broken is not None

    @contextmanager
    def _phase(self, name: str, steps: int = 0) -> Iterator[None]:
        begin = time.monotonic()
        self.emit(events.PhaseStarted(name, steps))
        try:
            yield
        finally:
            self.emit(events.PhaseEnded(name, time.monotonic() - begin))

    def _each(self, work: list[tasks.RunCase], seconds: float | None = None) -> None:
        """Run each of the tasks, or those that begin within some seconds."""
        queue = [task for task in work if task.operation not in self.inbox.reach.left_out]
        end = math.inf if seconds is None else time.monotonic() + seconds
        self._drive(lambda: queue.pop(0) if queue and time.monotonic() < end else None)

    def _drive(self, source: Callable[[], tasks.Task | None]) -> None:
        """Give tasks to idle workers until there are none left and all are done."""
        while True:
            for index in self.pool.idle():
                task = self._confirm(index) or self.inbox.scripts.next() or self._shrink(index) or source()
                if task is None:
                    break
                self.pool.give(index, task)
            over = self.inbox.rotation is not None and self.inbox.rotation.out_of_time
            if not self.pool.busy() and (over or self.pool.idle()):
                return
            self.inbox.receive()
            self._hear()
            if over and self._given_up():
                return  # what is still being shrunk stays as it was found

    def _hear(self) -> None:
        """Take in what the storage has brought, and say what is wrong with it."""
        for news in self.exchange.news() if self.exchange is not None else ():
            if isinstance(news, Pulled):
                self.inbox.pulled(news.finding, news.path)
            else:
                self.emit(events.StorageSaid(news.words, news.gone))

    def _close_exchange(self, interrupted: bool) -> str | None:
        """Push what is left; why that was not possible, or None."""
        if self.exchange is None:
            return None
        unshared = self.exchange.close(INTERRUPTED_SECONDS if interrupted else LAST_SECONDS)
        self._hear()
        return unshared

    def _confirm(self, worker: int) -> tasks.Confirm | None:
        """What is to be asked again in fresh processes; once the time is up, it stays as it is."""
        give_up = None if self.inbox.rotation is None else self.inbox.rotation.give_up
        now = time.monotonic()
        until = now + hypothesis_search.FAULT_FACTOR * shrink_seconds(self.config.max_time)
        if give_up is not None and now >= give_up:
            self.inbox.unconfirmed.clear()  # their scripts are among those that are missing
        if not self.inbox.unconfirmed:
            return None
        finding = self.inbox.unconfirmed.pop(0)
        self.inbox.ledger.take(finding, worker)
        return tasks.Confirm(finding, until if give_up is None else min(until, give_up))

    def _shrink(self, worker: int) -> tasks.Shrink | None:
        """A finding that is to be made smaller now, where batches leave that to the campaign."""
        rotation = self.inbox.rotation
        if rotation is None or not self.config.shrinks_apart:
            return None
        task = self.shrinks.next(rotation)
        if task is not None:
            self.inbox.ledger.take(task.finding, worker)
        return task

    def _given_up(self) -> bool:
        """Whether the time is up for all that still runs: for shrinks after a while."""
        assert self.inbox.rotation is not None
        awaited, give_up = self.inbox.awaited.any(), self.inbox.rotation.give_up
        return not awaited and give_up is not None and time.monotonic() > give_up + LEEWAY_SECONDS

    def _close(self) -> None:
        """Lay a script beside every finding that has none. Workers let go of what they are doing; where none
        does within a while, one is replaced.
        """
        if not self.inbox.scripts.want_missing():
            return
        for index in self.pool.busy():
            self.pool.tell(index, tasks.Stop())
        begin, replaced = time.monotonic(), False
        while self.inbox.scripts.want_missing() or self._documenting():
            for index in self.pool.idle():
                if (task := self.inbox.scripts.next()) is not None:
                    self.pool.give(index, task)
            seconds, busy = time.monotonic() - begin, self.pool.busy()
            if seconds > LEEWAY_SECONDS and not replaced and busy and not self._documenting():
                self.pool.replace(busy[0])
                replaced = True
            if seconds > CLOSING_SECONDS:
                self.inbox.fault = self.inbox.fault or "there was no time for the script of each finding"
                return
            self.inbox.receive()

    def _documenting(self) -> bool:
        return any(isinstance(self.pool.task(index), tasks.Document) for index in self.pool.busy())
