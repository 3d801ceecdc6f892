"""Add events up: the numbers that every report shows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from diffgdn.campaign import events
from diffgdn.campaign.config import Config
from diffgdn.campaign.coverage import Coverage
from diffgdn.campaign.events import Event
from diffgdn.findings.finding import Finding
from diffgdn.findings.known import BASE
from diffgdn.report import share_bins
from diffgdn.report.calibration_table import CalibrationTally
from diffgdn.report.vacuity_table import VacuityTally
from diffgdn.verdict.failures import relation_of
from diffgdn.verdict.question import AskRelation, AskVacuity, CompareWithOracle, MeasureErrors
from diffgdn.verdict.relations import RELATIONS


@dataclass
class OperationTally:
    """Count one operation's part.

    Attributes:
        worst: the largest error as a share of its bound, None if there was none.
        shares: how many cases had their worst error in each of `share_bins`, those that failed too.
        seconds: of its cases; parts: of these, by what was done.
        reached: seconds from the start of the campaign until its first case, None before that.
        skipped: why it was left out.
        refusal: why the target refused its latest case.
        steps: of its traces.
        known: cases that failed as is known, which `failed` does not count.
        skipped_known: cases that were not run, as they are known to crash or hang.
    """

    cases: int = 0
    steps: int = 0
    exact: int = 0
    failed: int = 0
    repeated: int = 0
    refused: int = 0
    shrinking: int = 0
    worst: float | None = None
    shares: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    reached: float | None = None
    skipped: str | None = None
    refusal: str | None = None
    known: int = 0
    skipped_known: int = 0


@dataclass
class RelationTally:
    """Count one relation's part.

    Attributes:
        pairs: cases of which it was asked.
        worst: the largest disagreement as a share of its bound, None if only bits were compared.
    """

    pairs: int = 0
    refused: int = 0
    failed: int = 0
    seconds: float = 0.0
    worst: float | None = None


@dataclass
class Tally:
    """Count what a campaign's events tell: a listener.

    Attributes:
        clock: seconds, for the parts of a campaign that are under way.
        seconds: of the phases that have ended, by name.
        coverage: what of the domain cases have reached, where that is counted.
        findings: by id, with the path of their file.
        base: cases that fail in the base too, by operation and kind of failure.
    """

    clock: Callable[[], float] = time.monotonic
    started: events.CampaignStarted | None = None
    ended: events.CampaignEnded | None = None
    replay: events.ReplayStarted | None = None
    replay_ended: events.ReplayEnded | None = None
    phase: str = ""
    steps: int = 0
    steps_done: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    operations: dict[str, OperationTally] = field(default_factory=dict)
    relations: dict[str, RelationTally] = field(default_factory=dict)
    vacuity: VacuityTally = field(default_factory=VacuityTally)
    calibration: CalibrationTally = field(default_factory=CalibrationTally)
    coverage: Coverage | None = None
    findings: dict[str, tuple[Finding, str]] = field(default_factory=dict)
    replayed: list[events.FindingReplayed] = field(default_factory=list)
    deaths: list[events.WorkerDied] = field(default_factory=list)
    device: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    base: Counter[tuple[str, str]] = field(default_factory=Counter)
    compiled: int = 0
    explored: int = 0
    _begin: float = 0.0
    _phase_begin: float = 0.0

    def __call__(self, event: Event) -> None:
        """Add an event up."""
        match event:
            case events.CampaignStarted():
                self.started, self._begin = event, self.clock()
                self.operations = {operation: OperationTally() for operation in event.config.operations}
                if self.mode == AskRelation.mode:
                    self.relations = {relation: RelationTally() for relation in RELATIONS}
            case events.PhaseStarted():
                self.phase, self.steps, self.steps_done = event.phase, event.steps, 0
                self._phase_begin = self.clock()
            case events.PhaseEnded():
                self.seconds[event.phase] = event.seconds
            case events.WorkerStarted():
                self.device, self.versions = event.device, dict(event.versions)
            case events.WorkerDied():
                self.deaths.append(event)
            case events.CompileProgress():
                self.compiled += 1
            case events.CaseRun():
                self._case(event)
            case events.FindingFound():
                self.findings[event.finding.id] = event.finding, event.path
            case events.FindingShrunk():
                self._replace(event)
            case events.FindingReplayed():
                self.replayed.append(event)
                if event.fails:
                    self.findings[event.finding.id] = event.finding, event.path
            case events.OperationSkipped():
                self.operations[event.operation].skipped = event.reason
            case events.DomainKnown():
                self.coverage = Coverage(event.domain)
            case events.Covered() if self.coverage is not None:
                self.coverage.counts.merge(event.counts)
            case events.CampaignEnded():
                self.ended = event
            case events.ReplayStarted():
                self.replay = event
            case events.ReplayEnded():
                self.replay_ended = event

    def _case(self, event: events.CaseRun) -> None:
        """Add up a case that was run in a phase that counts."""
        self.steps_done += 1
        tally = self.operations[event.operation]
        if event.phase not in events.COUNTED:
            return
        if event.relation is not None and not event.shrinking:
            self._asked(self.relations[event.relation], event)
        if event.refused is not None and event.known is not None:
            tally.skipped_known += 1
            return
        if event.refused is not None:
            tally.refused += 1
            tally.refusal = event.refused
            return
        if event.shrinking:
            tally.shrinking += 1
            return
        tally.cases += 1
        tally.exact += event.exact
        tally.failed += event.failure is not None and event.known is None
        tally.known += event.known is not None
        if event.known == BASE and event.failure is not None:
            self.base[event.operation, event.failure] += 1
        tally.repeated += event.repeated
        tally.seconds += event.seconds
        for part, seconds in event.parts.items():
            tally.parts[part] = tally.parts.get(part, 0.0) + seconds
        tally.steps += event.steps or 0
        if self.mode == AskVacuity.mode:
            self.vacuity.add(event)
        elif self.mode == MeasureErrors.mode:
            self.calibration.add(event)
        self.explored += event.phase == "explore"
        if tally.reached is None:
            tally.reached = self.clock() - self._begin
        if event.share is not None and event.known is None:
            tally.worst = event.share if tally.worst is None else max(tally.worst, event.share)
            tally.shares[share_bins.index(event.share)] += 1

    def _asked(self, tally: RelationTally, event: events.CaseRun) -> None:
        """Add up a relation that was asked of a case."""
        if event.refused is not None:
            tally.refused += 1
            return
        tally.pairs += 1
        tally.failed += event.failure is not None and event.known is None
        tally.seconds += event.seconds
        if event.share is not None and event.known is None:
            tally.worst = event.share if tally.worst is None else max(tally.worst, event.share)

    def _replace(self, event: events.FindingShrunk) -> None:
        """Put the smaller finding in the place of the larger, so that they stay in the order they were
        found."""
        new = event.finding.id, (event.finding, event.path)
        self.findings = dict(
            new if name == event.before else (name, entry) for name, entry in self.findings.items()
        )

    @property
    def config(self) -> Config:
        """Return what the campaign was asked for; it has begun."""
        assert self.started is not None
        return self.started.config

    @property
    def mode(self) -> str:
        """Return how cases are asked about, one of question.MODES."""
        return CompareWithOracle.mode if self.started is None else self.started.config.mode

    @property
    def oracle_share(self) -> float | None:
        """Give the fraction of total case time spent in the oracle and the noise model; None if neither
        ran."""
        seconds = sum(tally.seconds for tally in self.operations.values())
        oracle = sum(tally.parts.get("oracle", 0.0) for tally in self.operations.values())
        return oracle / seconds if oracle else None

    @property
    def cases(self) -> int:
        """Give how many cases counted, of all operations."""
        return sum(tally.cases for tally in self.operations.values())

    @property
    def known_cases(self) -> int:
        """Give how many cases failed as is known."""
        return sum(one.known for one in self.operations.values())

    @property
    def phase_seconds(self) -> float:
        """Give the seconds of the phase that is under way, or of the last one."""
        return self.seconds.get(self.phase, self.clock() - self._phase_begin)

    @property
    def explore_seconds(self) -> float:
        """Give the seconds of exploration so far, or of all of it."""
        if "explore" in self.seconds:
            return self.seconds["explore"]
        return self.phase_seconds if self.phase == "explore" else 0.0

    @property
    def rate(self) -> float:
        """Give cases a second of exploration, over all workers."""
        return self.explored / self.explore_seconds if self.explore_seconds > 0 else 0.0

    def findings_about(self, relation: str) -> list[str]:
        """List the ids of findings that broke a relation."""
        return [name for name, (finding, _) in self.findings.items() if relation_of(finding.kind) == relation]

    def findings_of(self, operation: str) -> list[str]:
        """List the ids of findings of an operation."""
        return [name for name, (finding, _) in self.findings.items() if finding.operation == operation]
