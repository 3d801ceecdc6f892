"""What workers send, turned into events, findings and counts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from diffgdn.campaign import events, tasks
from diffgdn.campaign.config import Config
from diffgdn.campaign.events import Listener
from diffgdn.campaign.ledger import Ledger
from diffgdn.campaign.overtime import Awaited, Scripts
from diffgdn.campaign.reach import Reach
from diffgdn.campaign.rotation import Rotation
from diffgdn.campaign.worker_pool import Died, Pool
from diffgdn.cases.case import Case
from diffgdn.cases.prelude import fitting
from diffgdn.cases.trace import Trace
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import UNSHRUNK, Finding, today
from diffgdn.findings.known_seen import SeenFailures
from diffgdn.runner.child_process import undisturbed
from diffgdn.verdict.failures import CheckFailure

POLL_SECONDS = 0.2
MOST_DEATHS = 3  # workers that an operation may cost before it is left out
MOST_HANGS = 5  # cases of an operation that may hang before it is left out
MOST_FAILED_STARTS = 3


class Unable(Exception):
    """The campaign cannot go on; one line for the user."""


class Inbox:
    """Handles the messages of a campaign's workers, and keeps what they amount to.

    ready: what the first worker has told of the target. rotation: that hands out batches, once there is one.
    unconfirmed: findings that are to be asked again in fresh processes. known: how often known failures were
    met. fault: of the framework, not of a kernel: why the campaign did not do what it was asked.
    """

    def __init__(self, config: Config, emit: Listener, corpus: Corpus, pool: Pool) -> None:
        self.config, self.emit, self.corpus, self.pool = config, emit, corpus, pool
        self.awaited = Awaited(pool, emit)
        self.ledger = Ledger(corpus, config.shrinks_apart)
        self.scripts = Scripts(self.ledger, str(corpus.path))
        self.reach = Reach("case" if config.question.draws_cases else "trace")
        self.ready: tasks.Ready | None = None
        self.rotation: Rotation | None = None
        self.unconfirmed: list[Finding] = []
        self.known = SeenFailures(config.known_here)
        self.fault: str | None = None
        self._deaths: Counter[str] = Counter()
        self._hangs: Counter[str] = Counter()
        self._failed_starts = 0

    def receive(self) -> None:
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
                raise Unable(message.message)
            case Died():
                self._died(worker, message)

    def _ran(self, message: events.CaseRun) -> None:
        """An operation that hangs again and again takes the time of all others; it may, if it is known to."""
        self._count_known(message)
        news = message.known is None and not message.shrinking
        if message.failure == "hung" and news and message.phase == "explore":
            self._hangs[message.operation] += 1
            if self._hangs[message.operation] == MOST_HANGS:
                self._leave_out(message.operation, f"it hung in {MOST_HANGS} cases")

    def _count_known(self, message: events.CaseRun) -> None:
        """Count what a case says of known failures."""
        counted = not message.shrinking and message.phase in events.COUNTED
        passed = message.failure is None and message.refused is None and self.config.question.calls_kernel
        if message.known is not None and message.refused is None:
            self.known.met(message.known, counted)
        elif message.known is not None:
            self.known.skipped(message.known)
        elif passed and counted and message.case is not None:
            self.known.passed(message.case, message.operation, message.relation)

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
            if message.again or once or self.config.shrinks_apart:
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
        task = self.pool.task(worker)
        last = not isinstance(task, tasks.Shrink) or task.last
        for record, before in self.ledger.shrunk(message.first, message.finding, worker, last):
            if record.finding == message.finding and record.final:
                self.scripts.want(record.finding)
            self.emit(
                events.FindingShrunk(
                    record.finding, str(record.path), before.id, message.seconds, record.final
                )
            )

    def _done(self, worker: int, done: tasks.Done) -> None:
        task = self.pool.finished(worker)
        if done.coverage is not None:
            self.emit(events.Covered(done.coverage))
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
                self.replayed(task.finding, done)
        elif isinstance(task, tasks.Confirm | tasks.Shrink):
            if isinstance(task, tasks.Shrink):
                self.ledger.tried(task.finding, worker, task.last)
            self.ledger.release(worker)
            if done.error is not None:
                self._error(task.finding.operation, done.error)
        elif isinstance(task, tasks.Document):
            self.scripts.written(task.finding)
            if done.error is not None:
                self.fault = self.fault or f"{task.finding.id}: no script or picture: {done.error}"

    def replayed(self, finding: Finding, done: tasks.Done) -> None:
        """Note what came of a finding that was run again, or why it was not."""
        path = self.corpus.path / f"{finding.id}.json"
        entry = self.config.known.of(finding, self.config.backend)
        if done.known is not None and done.refused is None:
            self.emit(events.FindingReplayed(finding, str(path), "KNOWN", done.known))
        elif done.error is None and done.refused is None and done.failure is not None:
            self.ledger.replayed(finding, path)
            self.emit(events.FindingReplayed(finding, str(path), "FAILED", done.failure["message"]))
        elif done.error is None and done.refused is None:
            if entry is not None:
                self.known.replayed(entry, finding)
            self.emit(events.FindingReplayed(finding, str(path), "FIXED" if finding.reproduced else "FLAKY"))
        else:
            self.emit(events.FindingReplayed(finding, str(path), "REFUSED", done.error or done.refused))

    def pulled(self, finding: Finding, path: Path) -> None:
        """Take in what another machine has found, if it is of what this campaign tests."""
        config = self.config
        if (finding.target, finding.backend) != (config.target, config.backend):
            return
        if finding.operation not in config.operations or not finding.reproduced:
            return
        before = self.ledger.adopt(finding, path)
        self.emit(events.FindingPulled(finding, str(path)))
        if before is not None:
            self.emit(events.FindingShrunk(finding, str(path), before.id, 0.0))
            self.scripts.want(finding)
        for index in self.pool.busy():
            self.pool.tell(index, tasks.Known(tasks.key(finding)))

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
        if isinstance(task, tasks.Shrink):
            self.ledger.tried(task.finding, worker, last=True)
        self.emit(events.WorkerDied(worker, died.reason, operation, None if case is None else case.id))
        if operation is None:
            self._failed_starts += 1
            if self._failed_starts >= MOST_FAILED_STARTS:
                raise Unable(f"workers end before their first case: {died.reason}")
        elif case is not None and self._is_known(case, died):
            operation = None  # which may cost workers: that is known
        elif case is not None:
            self._crashed(task, case, died)
        if operation is not None:
            self._deaths[operation] += 1
            if self._deaths[operation] == MOST_DEATHS:
                self._leave_out(operation, f"it cost {MOST_DEATHS} workers, the last: {died.reason}")
        self.pool.start(worker)

    def _is_known(self, case: Case, died: Died) -> bool:
        """Whether a worker's death is a known failure, which is counted then."""
        subject = died.calls[-1].subject if died.calls else case
        failure = CheckFailure.from_json(
            _failure(died) | {"operation": subject.op, "tensor": None, "place": None}
        )
        entry = self.config.known.match(self.config.target, self.config.backend, subject, failure)
        if entry is not None:
            self.known.met(entry.name)
            self.reach.ended[case.op] += 1
        if entry is not None and isinstance(died.task, tasks.RunCase) and died.task.finding is not None:
            self.replayed(died.task.finding, tasks.Done(failure=_failure(died), known=entry.name))
        return entry is not None

    def _crashed(self, task: tasks.Task | None, case: Case, died: Died) -> None:
        if isinstance(task, tasks.RunCase) and task.finding is not None:
            self.replayed(task.finding, tasks.Done(failure={"message": died.reason}))
            return
        if isinstance(task, tasks.Document | tasks.Confirm | tasks.Shrink):
            return  # it is about a finding already
        trace = died.calls[-1].subject if died.calls else None
        finding = Finding(
            case=case,
            target=self.config.target,
            backend=self.config.backend,
            kind=_failure(died)["kind"],
            message=_failure(died)["message"],
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


def _failure(died: Died) -> dict[str, str]:
    """Kind and message of the failure that a worker's death is."""
    if died.hung:
        return {"kind": "hung", "message": died.reason}
    return {"kind": "crashed", "message": f"the process that ran the kernel ended: {died.reason}"}
