"""What the campaign asks of its workers, and what they answer, apart from events.

Imports neither torch nor Hypothesis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diffgdn.campaign.coverage import Counts
from diffgdn.cases.case import Case
from diffgdn.cases.promises import EVERYTHING, Promises
from diffgdn.findings import bucket
from diffgdn.findings.finding import Finding
from diffgdn.verdict.question import ORACLE, Question

# Two failures with the same key are the same finding.
Key = bucket.Bucket

# Exit status of a worker whose GPU context a kernel has broken: nothing run in it later can be trusted.
POISONED = 70


def key(finding: Finding) -> Key:
    return bucket.of(finding)


@dataclass(frozen=True)
class Task:
    """Something a worker is to do."""


@dataclass(frozen=True)
class Explore(Task):
    """Generate cases of an operation; shrink what fails in a way that is not `known`.

    cases: how many to run at most; those of shrinks do not count. deadline: when to stop generating;
    shrink_until: when to stop shrinking; both on time.monotonic, which on Linux all processes share.
    shrink_seconds: for one shrink. shrink: False tells of failures and goes on. again: a batch that was run
    so, and failed, now to be shrunk. question: to ask of each case.
    """

    operation: str
    cases: int
    seed: int
    shrink_seconds: float
    deadline: float | None = None
    shrink_until: float | None = None
    known: frozenset[Key] = frozenset()
    menu: Any = None  # strategies.Menu
    shrink: bool = True
    again: bool = False
    question: Question = ORACLE


@dataclass(frozen=True)
class RunCase(Task):
    """Run one case.

    phase: as in the events. question: to ask of it. finding: what is being replayed, asked as it was found.
    picture: answer with where the error is, in text. fresh: in a process that has run nothing else, which
    some findings need in any case.
    """

    case: Case
    target: str
    phase: str
    question: Question = ORACLE
    finding: Finding | None = None
    picture: bool = False
    fresh: bool = False

    @property
    def operation(self) -> str:
        """What the campaign counts it under: of a trace its loop, not the operation that it called last."""
        return self.case.op if self.finding is None else self.finding.operation


@dataclass(frozen=True)
class Confirm(Task):
    """Run a finding again in fresh processes: whether it comes alone or after its prelude, of how few calls,
    and which of them is to blame. until: when to stop, on time.monotonic. The answer is a Shrunk.
    """

    finding: Finding
    until: float


@dataclass(frozen=True)
class Shrink(Task):
    """Take up the shrink of a finding: answer with Shrunk, unless it does not fail any more, and Done.

    last: whether this campaign will make it no smaller after that.
    """

    finding: Finding
    seconds: float
    last: bool = True


@dataclass(frozen=True)
class Document(Task):
    """Write the repro script, and where there is one the picture, beside a finding's file in the folder."""

    finding: Finding
    folder: str


@dataclass(frozen=True)
class Known:
    """Sent to a worker in the middle of a task: another worker has this failure in hand."""

    key: Key


@dataclass(frozen=True)
class Stop:
    """Sent to a worker in the middle of a task: answer with what there is, as soon as the case that runs has
    ended.
    """


@dataclass(frozen=True)
class Ready:
    """A worker has imported what it needs, and this is what it found.

    configurations: of a foreign kernel, per operation. promises: what the target supports. heads_compiled:
    whether its kernels are compiled anew for other numbers of heads.
    """

    device: str
    versions: Mapping[str, str]
    operations: tuple[str, ...]
    layout: str
    configurations: Mapping[str, int] = field(default_factory=dict)
    promises: Promises = EVERYTHING
    heads_compiled: bool = False


@dataclass(frozen=True)
class SetupFailed:
    """A worker cannot work at all: an unknown target, a missing package. message: one line for the user."""

    message: str


@dataclass(frozen=True)
class Failed:
    """A case failed. unshrunk, as far as this worker knows; `shrinks`: it will now try. again: it takes a
    process of its own to show, so that it is for a Confirm to make it smaller.
    """

    finding: Finding
    shrinks: bool
    again: bool = False


@dataclass(frozen=True)
class Shrunk:
    """The finding announced as `first` has become `finding`."""

    first: Finding
    finding: Finding
    seconds: float


@dataclass(frozen=True)
class Done:
    """A task is finished.

    cases: explored ones; findings: among them. failure: of a RunCase, `CheckFailure.to_json()`; text: its
    picture. error: the machinery, not a kernel, went wrong; one line. coverage: of the cases that count,
    where that is asked for. known: of a RunCase, as in its verdict.
    """

    cases: int = 0
    findings: int = 0
    seconds: float = 0.0
    failure: Mapping[str, Any] | None = None
    refused: str | None = None
    text: str | None = None
    error: str | None = None
    coverage: Counts | None = None
    known: str | None = None
