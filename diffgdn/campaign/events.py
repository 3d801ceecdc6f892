"""What happens in a campaign, as small immutable values. Who listens, the campaign does not know.

Events hold numbers, text and findings, never tensors, and travel between processes. In order: one
CampaignStarted; for each phase a PhaseStarted, whatever happens in it, a PhaseEnded; one CampaignEnded, also
after Ctrl-C. `diffgdn replay` has one ReplayStarted, a FindingReplayed for each finding, and one ReplayEnded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from diffgdn.campaign.config import Config
from diffgdn.campaign.coverage import Counts
from diffgdn.cases.case import Case
from diffgdn.findings.finding import Finding
from diffgdn.findings.known_seen import Seen
from diffgdn.verdict.failures import Errors

if TYPE_CHECKING:
    from diffgdn.strategies.domain import Domain

# Phases in their order; a campaign leaves out those that have nothing to do.
PHASES = {
    "start": "workers start",
    "replay": "findings of the corpus run again",
    "compile": "kernel variants compile",
    "geometries": "published model geometries run once each",
    "explore": "cases are generated",
}
COUNTED = ("geometries", "explore")  # whose cases count: a replay or a compilation explores nothing


@dataclass(frozen=True)
class Event:
    """Something that happened in a campaign."""


Listener = Callable[[Event], None]


@dataclass(frozen=True)
class CampaignStarted(Event):
    """A campaign begins, as it was configured."""

    config: Config


@dataclass(frozen=True)
class PhaseStarted(Event):
    """steps: how many tasks the phase has, 0 where it ends by a limit."""

    phase: str
    steps: int = 0


@dataclass(frozen=True)
class PhaseEnded(Event):
    phase: str
    seconds: float


@dataclass(frozen=True)
class WorkerStarted(Event):
    """A worker is ready for cases. device: what its kernels run on."""

    worker: int
    device: str
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkerDied(Event):
    """A worker process ended, or was ended, though it should not have. case_id: what it was running."""

    worker: int
    reason: str
    operation: str | None = None
    case_id: str | None = None


@dataclass(frozen=True)
class CompileProgress(Event):
    """One variant of a kernel was compiled, or found in Triton's cache, by running a case that needs it."""

    operation: str
    seconds: float


@dataclass(frozen=True)
class CaseRun(Event):
    """A case or a trace was run and checked.

    seconds: inputs, kernel, oracle and checks together; parts: each of them. share: the worst error as a
    share of its bound. exact: nothing to round, so the answer must match bit for bit. failure: the kind, if
    it failed. shrinking: run to make a finding smaller, not to explore. repeated: it fails as a known finding
    does. relation: the one asked; share is then of its worst disagreement, None where bits must agree.
    rejected, errors: as in the verdict. calls: operations of the target that it called. steps: of a trace.
    known: the entry of a known failure that it failed by; with `refused`, for which it was not run.
    """

    operation: str
    phase: str
    seconds: float
    share: float | None = None
    exact: bool = False
    failure: str | None = None
    refused: str | None = None
    shrinking: bool = False
    repeated: bool = False
    relation: str | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    case: Case | None = None
    rejected: Mapping[str, bool] = field(default_factory=dict)
    errors: tuple[Errors, ...] = ()
    calls: tuple[str, ...] = ()
    steps: int | None = None
    known: str | None = None


@dataclass(frozen=True)
class FindingFound(Event):
    """A check failed in a new way. The finding is saved, not yet shrunk; path: its file."""

    finding: Finding
    path: str


@dataclass(frozen=True)
class FindingShrunk(Event):
    """A finding became smaller. The new file takes the place of the one named by `before`, an id.

    seconds: what this shrink took. last: whether this campaign leaves it so.
    """

    finding: Finding
    path: str
    before: str
    seconds: float
    last: bool = True


@dataclass(frozen=True)
class FindingReplayed(Event):
    """A finding of the corpus was run again. status: FAILED, FIXED, KNOWN if it fails as is known, or REFUSED
    with a reason; of `diffgdn replay` one that it prints, too.
    """

    finding: Finding
    path: str
    status: str
    reason: str | None = None

    @property
    def fails(self) -> bool:
        """Tell whether it fails, if only by turns, and not as is known."""
        return self.status == "FAILED" or self.status.startswith("FLAKY ")


@dataclass(frozen=True)
class FindingPulled(Event):
    """Another machine has found it, and the storage that both share has brought it. path: its file."""

    finding: Finding
    path: str


@dataclass(frozen=True)
class StorageSaid(Event):
    """The storage of findings does not answer (gone), or does again, or holds what is none."""

    words: str
    gone: bool = False


@dataclass(frozen=True)
class SeatJoined(Event):
    """A part of a joint campaign is ready. seat: where, such as a node's GPU; part: which one, from 1."""

    seat: str
    device: str
    part: int


@dataclass(frozen=True)
class SeatLost(Event):
    """A part of a joint campaign is gone, with the cases that it was running."""

    seat: str
    reason: str


@dataclass(frozen=True)
class OperationSkipped(Event):
    """An operation takes no (further) part in the campaign."""

    operation: str
    reason: str


@dataclass(frozen=True)
class CasesLeftOut(Event):
    """Cases that a phase would have run are not run. reason: of the first of them."""

    phase: str
    count: int
    reason: str


@dataclass(frozen=True)
class CaseAwaited(Event):
    """The time is up, and a case is still running. seconds: so far; most: after which it counts as hung."""

    operation: str
    seconds: float
    most: float


@dataclass(frozen=True)
class DomainKnown(Event):
    """Coverage is counted. domain: what the cases of this campaign can reach."""

    domain: Domain


@dataclass(frozen=True)
class Covered(Event):
    """What a worker's cases have reached since it last said so."""

    counts: Counts


@dataclass(frozen=True)
class CampaignEnded(Event):
    """seconds: all phases.

    findings: as they stand in the corpus, shrunk where there was time. stopped: why it ended early, or did
    not do what it was asked. unreached: operations that were not run as asked, with the reason for each.
    known: known failures of the target's operations, with how often each was met.
    """

    seconds: float
    findings: tuple[Finding, ...]
    interrupted: bool = False
    stopped: str | None = None
    unreached: Mapping[str, str] = field(default_factory=dict)
    known: tuple[Seen, ...] = ()


@dataclass(frozen=True)
class ReplayStarted(Event):
    """Findings are to be run again, `repeat` times each. backend: None for the one that each was found on."""

    count: int
    backend: str | None
    repeat: int


@dataclass(frozen=True)
class ReplayEnded(Event):
    """known: known failures of which findings were run, with what came of them. interrupted: by Ctrl-C."""

    seconds: float
    known: tuple[Seen, ...] = ()
    interrupted: bool = False
