"""The verdict on a case, and one class for each way to fail.

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
    """Raised by a check that a run does not pass.

    kind: the name of the check, as findings carry it. operation, tensor, place: where, as far as known.
    message: what is wrong there.
    """

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
        """Write the failure as a dict of strings and None."""
        return {
            "kind": self.kind,
            "operation": self.operation,
            "tensor": self.tensor,
            "place": self.place,
            "message": self.message,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> CheckFailure:
        """Read what `to_json` wrote. Raises ValueError for an unknown kind."""
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


class NotReturned(CheckFailure):
    """A result that a keyword asks for was not returned."""

    kind = "not_returned"


class NotAsked(CheckFailure):
    """A result came that nothing asks for, where a target promises to return none such."""

    kind = "not_asked"


class WrongShape(CheckFailure):
    """A result came in another shape than the contract's."""

    kind = "wrong_shape"


class WrongDtype(CheckFailure):
    """A result came in a dtype that the contract, or what the target promises, does not name."""

    kind = "wrong_dtype"


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


class TailNotZero(CheckFailure):
    """An output row of a padding token, behind the last sequence, is not zero, which the target promises."""

    kind = "tail_not_zero"


class SlotChanged(CheckFailure):
    """A pool slot or buffer row that the operation must leave alone was written."""

    kind = "slot_changed"


class NotRepeatable(CheckFailure):
    """The same call twice gave different bits."""

    kind = "not_repeatable"


class NotCaptured(CheckFailure):
    """A CUDA graph cannot hold the call: it waits for the GPU, reads from it, or allocates otherwise than
    through torch."""

    kind = "not_captured"


class ExecutionDiffers(CheckFailure):
    """Replayed from a graph, on a side stream or on a second device, the call left other bits than called
    plainly."""

    kind = "execution_differs"


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
    """Name the relation that a kind of failure is about; None for other kinds."""
    head, _, relation = (kind or "").partition(".")
    return relation if head == RelationBroken.kind and relation else None


ALL: tuple[type[CheckFailure], ...] = (
    KernelRaised,
    KernelCrashed,
    KernelHung,
    NotReturned,
    NotAsked,
    WrongShape,
    WrongDtype,
    InputChanged,
    GuardWritten,
    NeverWritten,
    PoisonLeaked,
    NotFinite,
    NotExact,
    BeyondBound,
    TailNotZero,
    SlotChanged,
    NotRepeatable,
    NotCaptured,
    ExecutionDiffers,
    RelationBroken,
)

# Of a result as a whole, whatever it holds.
FORMS: tuple[type[CheckFailure], ...] = (NotReturned, NotAsked, WrongShape, WrongDtype)
FORM_KINDS = tuple(form.kind for form in FORMS)

# What ends the process that runs the kernel, or leaves it good for nothing.
FAULTS: tuple[type[CheckFailure], ...] = (KernelCrashed, KernelHung)
FAULT_KINDS = tuple(fault.kind for fault in FAULTS)


class Errors(NamedTuple):
    """Distribution of error / sigma for one result, per element and per row."""

    result: str
    elements: Histogram
    rows: Histogram


@dataclass(frozen=True)
class Verdict:
    """The answer for one case.

    failure: of the first check that failed; None if every check passed. refused: why nothing was run, or
    None. exact: nothing in the case rounds, so that results had to be equal. shares: worst error of each
    result as a share of its bound, by name. seconds: that each part took (inputs, kernel, oracle, checks).
    comparison: the result that failed beside the oracle's, in the process that ran the case. picture: the
    comparison as text, if it was asked for. confirmed: False for a crash or a hang that did not come again
    when the case ran alone in a fresh process. step: of a trace, the number of the step that failed; `case`
    is then the trace's last call. rejected: whether the checks reject each wrong result that applies, if
    asked for (`verdict.vacuity`). errors: of each result that has a bound, if asked for
    (`verdict.error_counts`). before: of a failure, the target's calls that its process had run before, as far
    as it remembers. known: the entry of known failures (`findings.known`) that the failure is known by, or
    for which nothing was run. provenance: of a failure, what ran, where the target says so
    (`targets.provenance_of`).
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
    known: str | None = None
    provenance: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether no check failed; true of a refused case as well."""
        return self.failure is None

    @property
    def execution(self) -> str:
        """How the case was executed: in the interpreter plainly, whatever it says."""
        return Case.execution if self.backend == "interpret" else self.case.execution
