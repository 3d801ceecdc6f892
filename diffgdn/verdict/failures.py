"""What becomes of a case: its verdict, and one class for each way to fail.

Imports no torch: a process that only passes verdicts on need not wait for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from diffgdn.cases.case import Case
from diffgdn.verdict.histogram import Histogram

if TYPE_CHECKING:
    from diffgdn.cases.prelude import Call
    from diffgdn.verdict.comparison import Comparison


DAMAGED = "it damages the heap of the process"  # how the message of such a crash begins


class CheckFailure(AssertionError):
    """A check that a run did not pass."""

    kind: str = ""

    def __init__(self, operation: str, tensor: str | None, place: str | None, message: str) -> None:
        super().__init__(message)
        self.operation, self.tensor, self.place, self.message = operation, tensor, place, message

    def __str__(self) -> str:
        where = " ".join(part for part in (self.operation, self.tensor, self.place) if part)
        return f"{where}: {self.message}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.operation, self.tensor, self.place, self.message)

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "operation": self.operation,
            "tensor": self.tensor,
            "place": self.place,
            "message": self.message,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> CheckFailure:
        """The failure that `to_json` wrote. Raises ValueError for an unknown kind."""
        relation = relation_of(str(data.get("kind")))
        if relation is not None:
            return RelationBroken(data["operation"], data["tensor"], data["place"], data["message"], relation)
        for cls in ALL:
            if cls.kind == data.get("kind"):
                return cls(data["operation"], data["tensor"], data["place"], data["message"])
        raise ValueError(
            f"unknown kind of failure {data.get('kind')!r}; known: {', '.join(cls.kind for cls in ALL)}"
        )


class KernelRaised(CheckFailure):
    """The kernel raised on a case that the contract allows."""

    kind = "raised"


class KernelCrashed(CheckFailure):
    """The process that ran the kernel died."""

    kind = "crashed"


class KernelHung(CheckFailure):
    """The kernel did not return within its time limit."""

    kind = "hung"


class InputChanged(CheckFailure):
    """A tensor that the caller passed to be read was written."""

    kind = "input_changed"


class GuardWritten(CheckFailure):
    """Memory beside a tensor, or between the rows of a view, was written."""

    kind = "guard_written"


class NeverWritten(CheckFailure):
    """An element of a result still holds the poison that its memory started with."""

    kind = "never_written"


class PoisonLeaked(CheckFailure):
    """Memory that must not be read (guards, padding tokens, unnamed slots, fresh workspaces) reached a
    result."""

    kind = "poison_leaked"


class NotFinite(CheckFailure):
    """A result is infinite or NaN where the oracle is finite."""

    kind = "not_finite"


class NotExact(CheckFailure):
    """The case leaves nothing to round, and yet a result differs."""

    kind = "not_exact"


class BeyondBound(CheckFailure):
    """An error is larger than the roundings of the precision contract explain."""

    kind = "beyond_bound"


class SlotChanged(CheckFailure):
    """A pool slot or buffer row that the operation must leave alone was written."""

    kind = "slot_changed"


class NotRepeatable(CheckFailure):
    """The same call twice gave different bits."""

    kind = "not_repeatable"


class RelationBroken(CheckFailure):
    """Calls whose results a relation ties together disagree. Each relation is a kind of its own:
    `relation_broken.split`."""

    kind = "relation_broken"

    def __init__(
        self, operation: str, tensor: str | None, place: str | None, message: str, relation: str
    ) -> None:
        super().__init__(operation, tensor, place, message)
        self.relation = relation
        self.kind = f"{RelationBroken.kind}.{relation}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.operation, self.tensor, self.place, self.message, self.relation)


def relation_of(kind: str | None) -> str | None:
    """The relation that a kind of failure is about, None for the others."""
    head, _, relation = (kind or "").partition(".")
    return relation if head == RelationBroken.kind and relation else None


ALL: tuple[type[CheckFailure], ...] = (
    KernelRaised,
    KernelCrashed,
    KernelHung,
    InputChanged,
    GuardWritten,
    NeverWritten,
    PoisonLeaked,
    NotFinite,
    NotExact,
    BeyondBound,
    SlotChanged,
    NotRepeatable,
    RelationBroken,
)

# What ends the process that runs the kernel, or leaves it good for nothing.
FAULTS: tuple[type[CheckFailure], ...] = (KernelCrashed, KernelHung)


class Errors(NamedTuple):
    """How many sigmas the errors of one result come to: of each element, and of each row."""

    result: str
    elements: Histogram
    rows: Histogram


@dataclass(frozen=True)
class Verdict:
    """The answers for one case. failure is None where every check passed; refused says why nothing was run.

    shares: worst error of each result as a share of its bound. seconds: inputs, kernel, oracle, checks.
    comparison: the result that failed, beside the oracle's, where a comparison failed, in the process that
    ran the case; picture: the same as text, if it was asked for. confirmed: False for a crash or a hang that
    did not come again when the case was run alone in a fresh process. step: of a trace, the one that failed;
    case is then the trace's last call. rejected: of each wrong result that could apply, whether the checks
    reject it; errors: of each result that has a bound; both only where they were asked for
    (`diffgdn.verdict.vacuity`, `diffgdn.verdict.error_counts`). before: of a failure, the calls of the same
    target that its process had run, as far as it remembers.
    """

    case: Case
    target: str
    backend: str
    failure: CheckFailure | None = None
    refused: str | None = None
    exact: bool = False
    shares: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    comparison: Comparison | None = None
    picture: str | None = None
    confirmed: bool = True
    step: int | None = None
    rejected: dict[str, bool] = field(default_factory=dict)
    errors: tuple[Errors, ...] = ()
    before: tuple[Call, ...] = ()

    @property
    def ok(self) -> bool:
        return self.failure is None
