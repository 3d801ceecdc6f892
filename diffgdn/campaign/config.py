"""What a campaign is asked for, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from diffgdn.findings.finding import Finding
from diffgdn.findings.known import NOTHING, Known, KnownFailures
from diffgdn.findings.known_seen import Seen
from diffgdn.runner.baseline import Base
from diffgdn.verdict.question import MODES, Question

SHRINK_SHARE = 6  # a shrink takes at most this part of the campaign's time, ...
SHRINK_SECONDS = (3.0, 30.0)  # ... but within these limits
GRACE_SECONDS = 10.0  # that shrinks under way may go on after the time is up


def shrink_seconds(max_time: float | None) -> float:
    """How long one finding may be shrunk in a campaign of this length."""
    least, most = SHRINK_SECONDS
    return most if max_time is None else min(most, max(least, max_time / SHRINK_SHARE))


@dataclass(frozen=True)
class Workers:
    """How worker processes run, whatever they are given to do.

    count: how many there are. target: the one whose operations they announce, if they serve one alone. seed:
    noted in findings. hang_seconds: after which a case counts as hung; memory_bytes: of host memory, that a
    child may occupy; None for the usual. isolation: one of ways.WAYS; None for what suits the target and the
    backend. coverage: they count which values and pairs of values of the domain their cases reach. known:
    failures that are no news. base: what fails there too is none either.
    """

    backend: str
    count: int
    target: str | None = None
    seed: int | None = None
    hang_seconds: float | None = None
    memory_bytes: int | None = None
    isolation: str | None = None
    coverage: bool = False
    known: KnownFailures = NOTHING
    base: Base | None = None


@dataclass(frozen=True)
class Config:
    """A campaign to be run.

    mode: how each case is asked about, one of question.MODES. max_time: seconds of exploration, for which
    start-up, replay and compilation do not count; max_cases: cases explored, without those of shrinks and
    those that the target refuses. None: no such limit. corpus: the folder of findings; it need not exist.
    shard: which part of the seed's stream to explore, and of how many. storage: URL of what the folder is
    exchanged with, so that many machines share their findings. cluster: of a joint campaign, where its parts
    run, in words. hang_seconds, memory_bytes, isolation, coverage, known, base: as of `Workers`.
    allow_unreached: operations that no case reached, or that were given up, are no problem.
    """

    target: str
    operations: tuple[str, ...]
    backend: str
    seed: int
    workers: int
    corpus: Path
    max_time: float | None = None
    max_cases: int | None = None
    hang_seconds: float | None = None
    memory_bytes: int | None = None
    isolation: str | None = None
    mode: str = "oracle"
    allow_unreached: bool = False
    coverage: bool = False
    known: KnownFailures = NOTHING
    base: Base | None = None
    shard: tuple[int, int] = (1, 1)
    storage: str | None = None
    cluster: str | None = None

    def __post_init__(self) -> None:
        for name, value in (
            ("workers", self.workers),
            ("max_cases", self.max_cases),
            ("max_time", self.max_time),
            ("hang_seconds", self.hang_seconds),
        ):
            if value is not None and not value > 0:
                raise ValueError(f"{name}: expected more than 0, got {value}")
        if self.mode not in MODES:
            raise ValueError(f"mode: expected one of {', '.join(MODES)}, got {self.mode!r}")
        part, parts = self.shard
        if not 1 <= part <= parts:
            raise ValueError(f"shard: expected 1 to {parts} of {parts}, got {part}")
        if not self.operations:
            raise ValueError("operations: expected at least one")

    @property
    def question(self) -> type[Question]:
        """The questions that the campaign asks."""
        return MODES[self.mode]

    @property
    def shrinks_apart(self) -> bool:
        """Whether shrinks are tasks of their own, in two stages. Not of a loop's traces; nor on a GPU, where
        a batch shrinks by Hypothesis, on the menu of what is compiled.
        """
        return self.question.draws_cases and self.backend == "interpret"

    @property
    def pool(self) -> Workers:
        """How its workers run."""
        return Workers(
            self.backend,
            self.workers,
            self.target,
            self.seed,
            self.hang_seconds,
            self.memory_bytes,
            self.isolation,
            self.coverage,
            self.known,
            self.base,
        )

    @property
    def known_here(self) -> tuple[Known, ...]:
        """The known failures that the campaign may meet."""
        return tuple(
            entry
            for entry in self.known.entries
            if self.question.calls_kernel
            and any(entry.is_of(self.target, self.backend, operation) for operation in self.operations)
        )


@dataclass(frozen=True)
class Outcome:
    """findings: as they stand in the corpus.

    problem: why the campaign could not be run, or not as asked, in one line. unreached: operations that were
    asked for and not run as asked, with the reason for each; a problem unless it was allowed. known: the
    known failures that it might have met, with how often it did.
    """

    findings: tuple[Finding, ...] = ()
    interrupted: bool = False
    problem: str | None = None
    unreached: Mapping[str, str] = field(default_factory=dict)
    known: tuple[Seen, ...] = ()

    @property
    def exit_code(self) -> int:
        """1 with findings, or a known failure that fails no more, else 2 with a problem, else 130 after
        Ctrl-C, else 0: it ran what it was asked to and found nothing.
        """
        if self.findings or any(one.mended for one in self.known):
            return 1
        if self.problem is not None:
            return 2
        return 130 if self.interrupted else 0
