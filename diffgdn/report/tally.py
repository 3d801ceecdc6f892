"""Adds events up: the numbers that every report shows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from diffgdn.campaign import events
from diffgdn.campaign.config import Config
from diffgdn.campaign.events import Event
from diffgdn.findings.finding import Finding
from diffgdn.report.calibration_table import CalibrationTally
from diffgdn.report.vacuity_table import VacuityTally
from diffgdn.verdict.failures import relation_of
from diffgdn.verdict.question import AskRelation, AskVacuity, CompareWithOracle, MeasureErrors
from diffgdn.verdict.relations import RELATIONS


@dataclass
class OperationTally:
    """One operation's part.

    worst: the largest error as a share of its bound. parts: of the seconds. reached: seconds until its first
    case. steps: of its traces.
    """

    cases: int = 0
    steps: int = 0
    exact: int = 0
    failed: int = 0
    repeated: int = 0
    refused: int = 0
    shrinking: int = 0
    worst: float | None = None
    seconds: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    reached: float | None = None
    skipped: str | None = None
    refusal: str | None = None


@dataclass
class RelationTally:
    """One relation's part.

    pairs: cases of which it was asked. worst: the largest disagreement as a share of its bound, None where
    only bits were compared.
    """

    pairs: int = 0
    refused: int = 0
    failed: int = 0
    seconds: float = 0.0
    worst: float | None = None


@dataclass
class Tally:
    """A listener that counts.

    seconds: of the phases that have ended. findings: by id, with the path of their file.
    """

    clock: Callable[[], float] = time.monotonic
    started: events.CampaignStarted | None = None
    ended: events.CampaignEnded | None = None
    phase: str = ""
    steps: int = 0
    steps_done: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    operations: dict[str, OperationTally] = field(default_factory=dict)
    relations: dict[str, RelationTally] = field(default_factory=dict)
    vacuity: VacuityTally = field(default_factory=VacuityTally)
    calibration: CalibrationTally = field(default_factory=CalibrationTally)
    findings: dict[str, tuple[Finding, str]] = field(default_factory=dict)
    replayed: list[events.FindingReplayed] = field(default_factory=list)
    deaths: list[events.WorkerDied] = field(default_factory=list)
    device: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    compiled: int = 0
    explored: int = 0
    _begin: float = 0.0
    _phase_begin: float = 0.0

    def __call__(self, event: Event) -> None:
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
                if event.status == "FAILED":
                    self.findings[event.finding.id] = event.finding, event.path
            case events.OperationSkipped():
                self.operations[event.operation].skipped = event.reason
            case events.CampaignEnded():
                self.ended = event

    def _case(self, event: events.CaseRun) -> None:
        self.steps_done += 1
        tally = self.operations[event.operation]
        if event.phase not in events.COUNTED:
            return
        if event.relation is not None and not event.shrinking:
            self._asked(self.relations[event.relation], event)
        if event.refused is not None:
            tally.refused += 1
            tally.refusal = event.refused
            return
        if event.shrinking:
            tally.shrinking += 1
            return
        tally.cases += 1
        tally.exact += event.exact
        tally.failed += event.failure is not None
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
        if event.share is not None:
            tally.worst = event.share if tally.worst is None else max(tally.worst, event.share)

    def _asked(self, tally: RelationTally, event: events.CaseRun) -> None:
        if event.refused is not None:
            tally.refused += 1
            return
        tally.pairs += 1
        tally.failed += event.failure is not None
        tally.seconds += event.seconds
        if event.share is not None:
            tally.worst = event.share if tally.worst is None else max(tally.worst, event.share)

    def _replace(self, event: events.FindingShrunk) -> None:
        """The smaller finding in the place of the larger, so that they stay in the order they were found."""
        new = event.finding.id, (event.finding, event.path)
        self.findings = dict(
            new if name == event.before else (name, entry) for name, entry in self.findings.items()
        )

    @property
    def config(self) -> Config:
        """What the campaign was asked for; once it has begun."""
        assert self.started is not None
        return self.started.config

    @property
    def mode(self) -> str:
        """How cases are asked about, one of question.MODES."""
        return CompareWithOracle.mode if self.started is None else self.started.config.mode

    @property
    def oracle_share(self) -> float | None:
        """Of the time of all cases, what the oracle took, with the noise that it is asked for; None where it
        was not asked."""
        seconds = sum(tally.seconds for tally in self.operations.values())
        oracle = sum(tally.parts.get("oracle", 0.0) for tally in self.operations.values())
        return oracle / seconds if oracle else None

    @property
    def cases(self) -> int:
        return sum(tally.cases for tally in self.operations.values())

    @property
    def phase_seconds(self) -> float:
        """Time in the phase that is under way, or of the last one."""
        return self.seconds.get(self.phase, self.clock() - self._phase_begin)

    @property
    def explore_seconds(self) -> float:
        if "explore" in self.seconds:
            return self.seconds["explore"]
        return self.phase_seconds if self.phase == "explore" else 0.0

    @property
    def rate(self) -> float:
        """Cases a second of exploration, over all workers."""
        return self.explored / self.explore_seconds if self.explore_seconds > 0 else 0.0

    def findings_about(self, relation: str) -> list[str]:
        return [name for name, (finding, _) in self.findings.items() if relation_of(finding.kind) == relation]

    def findings_of(self, operation: str) -> list[str]:
        return [name for name, (finding, _) in self.findings.items() if finding.operation == operation]
