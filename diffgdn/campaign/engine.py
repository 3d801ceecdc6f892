"""Runs a campaign: phase after phase, it gives tasks to workers and turns what they send into events."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffgdn import strategies
from diffgdn.campaign import events, tasks
from diffgdn.campaign.config import GRACE_SECONDS, Config, Outcome, shrink_seconds
from diffgdn.campaign.events import Listener
from diffgdn.campaign.ledger import Ledger
from diffgdn.campaign.overtime import LEEWAY_SECONDS, Awaited, Scripts
from diffgdn.campaign.reach import Reach, problem
from diffgdn.campaign.rotation import Rotation
from diffgdn.campaign.worker_pool import Died, Pool, undisturbed
from diffgdn.cases.case import Case
from diffgdn.cases.prelude import fitting
from diffgdn.cases.trace import Trace
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import UNSHRUNK, Finding, today
from diffgdn.search import hypothesis_search

POLL_SECONDS = 0.2
CLOSING_SECONDS = 60.0  # for scripts that are missing when all else has ended
MOST_DEATHS = 3  # workers that an operation may cost before it is left out
MOST_HANGS = 5  # cases of an operation that may hang before it is left out
MOST_FAILED_STARTS = 3
MOST_VARIANTS = 200  # compiled ahead of time


class _Unable(Exception):
    """The campaign cannot go on; one line for the user."""


def run(config: Config, listener: Listener) -> Outcome:
    """Run a campaign to its end, or to Ctrl-C. Kernel faults become findings; a set-up problem ends up in the
    outcome.

    Raises CorpusError if the corpus holds a file that is no finding, before anything else happens.
    """
    corpus = Corpus(config.corpus)
    old = [finding for finding in corpus.findings() if finding.target == config.target]
    old = [finding for finding in old if finding.operation in config.operations]
    return _Campaign(config, listener, corpus).run(old)


class _Campaign:
    def __init__(self, config: Config, listener: Listener, corpus: Corpus) -> None:
        self.config, self.emit, self.corpus = config, listener, corpus
        self.ledger = Ledger(corpus)
        self.ready: tasks.Ready | None = None
        self.rotation: Rotation | None = None
        self.scripts = Scripts(self.ledger, str(corpus.path))
        self.unconfirmed: list[Finding] = []
        self.deaths: Counter[str] = Counter()
        self.hangs: Counter[str] = Counter()
        self.failed_starts = 0
        self.reach = Reach("case" if config.question.draws_cases else "trace")
        self.asked: tuple[str, ...] = ()  # operations, of those that the target has
        # Of the framework, not of a kernel: the campaign did not do what it was asked.
        self.fault: str | None = None
        self.phase = "start"

    def run(self, old: list[Finding]) -> Outcome:
        config, begin = self.config, time.monotonic()
        interrupted, unable = False, None
        with tempfile.TemporaryDirectory(prefix="diffgdn-") as name:
            try:
                self.emit(events.CampaignStarted(config))
                with Pool(config.pool, Path(name)) as self.pool:
                    self.awaited = Awaited(self.pool, self.emit)
                    try:
                        self._phases(old)
                    except KeyboardInterrupt:
                        interrupted = True
                    self._close()
            except KeyboardInterrupt:
                interrupted = True
            except _Unable as error:
                unable = str(error)
        findings = self.ledger.findings
        unreached = self.reach.unreached(self.asked, config.max_time, config.max_cases)
        trouble = unable or self.fault or self.ledger.problem
        if trouble is None and not interrupted and not config.allow_unreached:
            trouble = problem(unreached, len(self.asked), None if self.reach.ended else self.reach.word)
        seconds = time.monotonic() - begin
        self.emit(events.CampaignEnded(seconds, findings, interrupted, trouble, unreached))
        return Outcome(findings, interrupted, trouble, unreached)

    def _phases(self, old: list[Finding]) -> None:
        config = self.config
        with self._phase("start"):
            while self.ready is None:
                self._receive()
        operations = self._operations()
        question = config.question
        self.asked = tuple(name for op in operations for name in question.calls(op, self.ready.operations))
        if old and question.calls_kernel:
            with self._phase("replay", len(old)):
                self._each([tasks.RunCase(f.case, config.target, "replay", finding=f) for f in old])
        menu = None
        if config.backend == "gpu" and question.draws_cases:
            menu = strategies.Menu.draw(config.seed, operations, backend="gpu")
            if question.calls_kernel:
                self._prepare(menu, operations)
        self.rotation = rotation = Rotation(
            operations,
            config.backend,
            config.seed,
            config.max_cases,
            shrink_seconds(config.max_time),
            menu,
            questions={op: question.asked_of(op, config.target, self.ready.operations) for op in operations},
        )
        for operation in self.reach.left_out:
            rotation.drop(operation)
        with self._phase("explore"):
            rotation.start(config.max_time, GRACE_SECONDS)
            self._drive(lambda: rotation.next(self.ledger.known))

    def _operations(self) -> tuple[str, ...]:
        """The operations asked for that the target has, or has something of; the others are skipped, with a
        word."""
        assert self.ready is not None
        config, has = self.config, self.ready.operations
        operations = tuple(op for op in config.operations if config.question.calls(op, has))
        for operation in config.operations:
            if operation not in operations:
                reason = f"not implemented by target {config.target}"
                self.emit(events.OperationSkipped(operation, reason))
        if not operations:
            raise _Unable(
                f"target {self.config.target} implements none of {', '.join(self.config.operations)}; "
                f"it has {', '.join(self.ready.operations)}"
            )
        return operations

    def _prepare(self, menu: strategies.Menu, operations: tuple[str, ...]) -> None:
        """Compile each variant once, by one worker: Triton's cache on disk then serves the others."""
        assert self.ready is not None
        plain = self.config.question.plain()
        cases = [
            (config, case)
            for operation in operations
            for build in menu.entries(operation)
            for case in strategies.representatives(operation, build)
            for config in range(self.ready.configurations[operation])
        ]
        # A foreign kernel's configurations multiply its variants: what is too much for now compiles when it
        # is met.
        cases = sorted(cases, key=lambda entry: entry[0])[:MOST_VARIANTS]
        builds = [
            tasks.RunCase(replace(case, config=config), self.config.target, "compile", plain)
            for config, case in cases
        ]
        # The slowest to compile first, so that no worker is left with one at the end.
        builds.sort(key=lambda task: (not task.case.operation.is_chunked, -task.case.K * task.case.V))
        with self._phase("compile", len(builds)):
            self._each(builds)
        shapes = [
            tasks.RunCase(case, self.config.target, "geometries", plain)
            for operation in operations
            for case in strategies.geometries.cases(operation)
            if isinstance(plain, self.config.question)
        ]
        with self._phase("geometries", len(shapes)):
            self._each(shapes)

    @contextmanager
    def _phase(self, name: str, steps: int = 0) -> Iterator[None]:
        self.phase = name
        begin = time.monotonic()
        self.emit(events.PhaseStarted(name, steps))
        try:
            yield
        finally:
            self.emit(events.PhaseEnded(name, time.monotonic() - begin))

    def _each(self, work: list[tasks.RunCase]) -> None:
        queue = [task for task in work if task.operation not in self.reach.left_out]
        self._drive(lambda: queue.pop(0) if queue else None)

    def _drive(self, source: Callable[[], tasks.Task | None]) -> None:
        """Give tasks to idle workers until there are none left and all are done."""
        while True:
            for index in self.pool.idle():
                task = self._confirm(index) or self.scripts.next() or source()
                if task is None:
                    break
                self.pool.give(index, task)
            over = self.rotation is not None and self.rotation.out_of_time
            if not self.pool.busy() and (over or self.pool.idle()):
                return
            self._receive()
            if over and self._given_up():
                return  # what is still being shrunk stays as it was found

    def _confirm(self, worker: int) -> tasks.Confirm | None:
        """What is to be asked again in fresh processes; once the time is up, it stays as it is."""
        give_up = None if self.rotation is None else self.rotation.give_up
        now = time.monotonic()
        until = now + hypothesis_search.FAULT_FACTOR * shrink_seconds(self.config.max_time)
        if give_up is not None and now >= give_up:
            self.unconfirmed.clear()  # their scripts are among those that are missing
        if not self.unconfirmed:
            return None
        finding = self.unconfirmed.pop(0)
        self.ledger.take(finding, worker)
        return tasks.Confirm(finding, until if give_up is None else min(until, give_up))

    def _given_up(self) -> bool:
        """Whether the time is up for all that still runs: for shrinks after a while."""
        assert self.rotation is not None
        awaited, give_up = self.awaited.any(), self.rotation.give_up
        return not awaited and give_up is not None and time.monotonic() > give_up + LEEWAY_SECONDS

    def _close(self) -> None:
        """Lay a script beside every finding that has none. Workers let go of what they are doing; where none
        does within a while, one is replaced.
        """
        if not self.scripts.want_missing():
            return
        for index in self.pool.busy():
            self.pool.tell(index, tasks.Stop())
        begin, replaced = time.monotonic(), False
        while self.scripts.want_missing() or self._documenting():
            for index in self.pool.idle():
                if (task := self.scripts.next()) is not None:
                    self.pool.give(index, task)
            seconds, busy = time.monotonic() - begin, self.pool.busy()
            if seconds > LEEWAY_SECONDS and not replaced and busy and not self._documenting():
                self.pool.replace(busy[0])
                replaced = True
            if seconds > CLOSING_SECONDS:
                self.fault = self.fault or "there was no time for the script of each finding"
                return
            self._receive()

    def _documenting(self) -> bool:
        return any(isinstance(self.pool.task(index), tasks.Document) for index in self.pool.busy())

    def _receive(self) -> None:
        """Handle what workers send. Ctrl-C waits until that is done: else a message could be lost, or a
        finding half replaced.
        """
        self.pool.wait(POLL_SECONDS)
        with undisturbed():
            for worker, message in self.pool.receive():
                self._handle(worker, message)

    def _handle(self, worker: int, message: Any) -> None:
        match message:
            case events.CaseRun():
                self.emit(message)
                self.reach.ran(message)
                self._ran(message)
            case tasks.Ready():
                self.ready = self.ready or message
                self.emit(events.WorkerStarted(worker, message.device, message.versions))
            case tasks.Failed():
                self._failed(worker, message)
            case tasks.Shrunk():
                self._shrunk(worker, message)
            case tasks.Done():
                self._done(worker, message)
            case tasks.SetupFailed():
                raise _Unable(message.message)
            case Died():
                self._died(worker, message)

    def _ran(self, message: events.CaseRun) -> None:
        """An operation that hangs again and again takes the time of all others."""
        if message.failure == "hung" and not message.shrinking and message.phase == "explore":
            self.hangs[message.operation] += 1
            if self.hangs[message.operation] == MOST_HANGS:
                self._leave_out(message.operation, f"it hung in {MOST_HANGS} cases")

    def _failed(self, worker: int, message: tasks.Failed) -> None:
        if message.shrinks:
            self.awaited.shrinks(worker, True)
        once = not message.finding.reproduced
        record = self.ledger.found(
            message.finding, worker if message.shrinks else None, final=message.again or once
        )
        if record is not None:
            self.emit(events.FindingFound(record.finding, str(record.path)))
            self.unconfirmed += [record.finding] if message.again else []
            if once:
                self.scripts.want(record.finding)
            if message.again or once:
                for index in self.pool.busy():
                    self.pool.tell(index, tasks.Known(tasks.key(message.finding)))
        if message.shrinks:
            if self.ledger.owner(message.finding) == worker:
                others = [index for index in self.pool.busy() if index != worker]
            else:
                others = [worker]  # it need not bother
            for index in others:
                self.pool.tell(index, tasks.Known(tasks.key(message.finding)))

    def _shrunk(self, worker: int, message: tasks.Shrunk) -> None:
        self.awaited.shrinks(worker, False)
        for record, before in self.ledger.shrunk(message.first, message.finding, worker):
            if record.finding == message.finding:
                self.scripts.want(record.finding)
            self.emit(events.FindingShrunk(record.finding, str(record.path), before.id, message.seconds))

    def _done(self, worker: int, done: tasks.Done) -> None:
        task = self.pool.finished(worker)
        self.awaited.shrinks(worker, False)
        if isinstance(task, tasks.Explore):
            self.ledger.release(worker)
            assert self.rotation is not None
            used_up = self.rotation.done(task, done.cases, done.findings > 0)
            if used_up is not None:
                self.emit(events.OperationSkipped(task.operation, used_up))
            if done.error is not None:
                self._error(task.operation, done.error)
        elif isinstance(task, tasks.RunCase):
            if done.error is not None:
                self._error(task.operation, done.error)
            if task.phase == "compile" and done.error is None and done.refused is None:
                self.emit(events.CompileProgress(task.operation, done.seconds))
            elif task.finding is not None:
                self._replayed(task.finding, done)
        elif isinstance(task, tasks.Confirm):
            self.ledger.release(worker)
            if done.error is not None:
                self._error(task.finding.operation, done.error)
        elif isinstance(task, tasks.Document):
            self.scripts.written(task.finding)
            if done.error is not None:
                self.fault = self.fault or f"{task.finding.id}: no script or picture: {done.error}"

    def _replayed(self, finding: Finding, done: tasks.Done) -> None:
        path = self.corpus.path / f"{finding.id}.json"
        if done.error is None and done.refused is None and done.failure is not None:
            self.ledger.replayed(finding, path)
            self.emit(events.FindingReplayed(finding, str(path), "FAILED", done.failure["message"]))
        elif done.error is None and done.refused is None:
            self.emit(events.FindingReplayed(finding, str(path), "FIXED" if finding.reproduced else "FLAKY"))
        else:
            self.emit(events.FindingReplayed(finding, str(path), "REFUSED", done.error or done.refused))

    def _died(self, worker: int, died: Died) -> None:
        """Report it, keep the case it died of as a finding, and put a new worker in its place."""
        task, case = died.task, died.case
        self.awaited.shrinks(worker, False)
        operation = case.op if case is not None else None
        if isinstance(task, tasks.RunCase) and case is not None:
            operation = task.operation
        if isinstance(task, tasks.Explore):
            operation = task.operation
            self.ledger.release(worker)
            assert self.rotation is not None
            self.rotation.done(task, task.cases)
        self.emit(events.WorkerDied(worker, died.reason, operation, None if case is None else case.id))
        if operation is None:
            self.failed_starts += 1
            if self.failed_starts >= MOST_FAILED_STARTS:
                raise _Unable(f"workers end before their first case: {died.reason}")
        elif case is not None:
            self._crashed(task, case, died)
        if operation is not None:
            self.deaths[operation] += 1
            if self.deaths[operation] == MOST_DEATHS:
                self._leave_out(operation, f"it cost {MOST_DEATHS} workers, the last: {died.reason}")
        self.pool.start(worker)

    def _crashed(self, task: tasks.Task | None, case: Case, died: Died) -> None:
        if isinstance(task, tasks.RunCase) and task.finding is not None:
            self._replayed(task.finding, tasks.Done(failure={"message": died.reason}))
            return
        if isinstance(task, tasks.Document | tasks.Confirm):
            return  # it is about a finding already
        trace = died.calls[-1].subject if died.calls else None
        finding = Finding(
            case=case,
            target=self.config.target,
            backend=self.config.backend,
            kind="hung" if died.hung else "crashed",
            message=died.reason if died.hung else f"the process that ran the kernel ended: {died.reason}",
            versions={} if self.ready is None else self.ready.versions,
            seed=self.config.seed,
            found=today(),
            trace=trace if isinstance(trace, Trace) else None,
            prelude=fitting(died.calls[:-1]),
            reproduced=False,  # so far
            shrink=UNSHRUNK,
        )
        self.reach.ended[case.op] += 1
        record = self.ledger.found(finding, None, final=True)
        if record is not None:
            self.unconfirmed.append(finding)
            self.emit(events.FindingFound(record.finding, str(record.path)))

    def _leave_out(self, operation: str, reason: str) -> None:
        """No more of this operation."""
        if operation not in self.reach.left_out:
            assert self.ready is not None
            called = self.config.question.calls(operation, self.ready.operations)
            self.reach.left_out |= dict.fromkeys((operation, *called), reason)
            self.emit(events.OperationSkipped(operation, reason))
            if self.rotation is not None:
                self.rotation.drop(operation)

    def _error(self, operation: str, message: str) -> None:
        """Something else than a kernel went wrong: say so in the end, and go on with the other operations."""
        self.fault = self.fault or f"{operation}: {message}"
        self._leave_out(operation, message)
