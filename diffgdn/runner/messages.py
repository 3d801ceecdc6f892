"""What a runner answers, and what passes between a child and its parent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from diffgdn.cases.promises import EVERYTHING, Promises
from diffgdn.verdict.failures import CheckFailure, Verdict
from diffgdn.verdict.question import Question, Subject

if TYPE_CHECKING:
    from diffgdn.findings.finding import Finding


class RunnerError(Exception):
    """The machinery, not a kernel, went wrong; one line."""


class SetupError(RunnerError):
    """A target cannot be had, or nothing can be run here at all; one line for the user."""


@dataclass(frozen=True)
class About:
    """What a runner knows of itself and of a target. configurations: of a foreign kernel, per operation.
    promises: what the target supports. provenance: what runs, per operation, where the target says so.
    heads_compiled: whether its kernels are compiled anew for other numbers of heads.
    """

    device: str
    operations: tuple[str, ...] = ()
    layout: str = "vk"
    configurations: Mapping[str, int] = field(default_factory=dict)
    promises: Promises = EVERYTHING
    provenance: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    heads_compiled: bool = False


Familiar = Callable[[CheckFailure], bool]


def unfamiliar(failure: CheckFailure) -> bool:
    """Nothing is known yet."""
    return False


class Runner(Protocol):
    """Runs cases. Targets go by name. Every method raises SetupError where the target cannot be had, and
    RunnerError where the machinery fails.
    """

    def about(self, target: str | None) -> About:
        """The device, and the target if one is named."""

    def run(
        self,
        subject: Subject,
        target: str,
        question: Question | None = None,
        picture: bool = False,
        familiar: Familiar = unfamiliar,
    ) -> Verdict:
        """Ask a question about a case or a trace; None asks whether it is right.

        picture: with where the error is, as text, and which memory leaked. familiar: whether a crash or a
        hang is known, and needs no confirmation in a fresh process.
        """

    def document(self, finding: Finding, folder: Path, picture: bool) -> list[Path]:
        """Write a finding's script and, with `picture`, where the error is; the files written."""

    @property
    def broken(self) -> str | None:
        """Why nothing that this process runs from now on can be trusted, or None."""

    def close(self) -> None:
        """End what was started."""


@dataclass(frozen=True)
class Request:
    """A method of the child's runner, and its arguments."""

    method: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Answer:
    """What the method returned, or the error that it raised. spent: the child must not be used again."""

    value: Any = None
    error: RunnerError | None = None
    spent: bool = False
