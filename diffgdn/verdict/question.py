"""What is asked about a case or a trace. Each mode of asking is one class here.

A new mode is a class in MODES, how a campaign shows it (`report.modes`), and their tests; whoever passes
questions on need not know it. Imports no torch: what answers a question is imported when it is asked.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from diffgdn.cases.case import Case
from diffgdn.cases.prelude import Call
from diffgdn.cases.trace import Trace
from diffgdn.cases.trace_steps import CALLS
from diffgdn.verdict import relations
from diffgdn.verdict.failures import Verdict

if TYPE_CHECKING:
    from diffgdn.targets import Target

Subject = Case | Trace


@dataclass(frozen=True)
class Question:
    """A question about one subject, the same for every target.

    mode: what a campaign that asks it is called in its configuration. calls_kernel: whether answering calls
    the target. most_cases: of a batch that a campaign asks it of; None for what suits the backend.
    draws_cases: whether it is asked of cases; else of traces.
    """

    mode: ClassVar[str]
    calls_kernel: ClassVar[bool] = True
    most_cases: ClassVar[int | None] = None
    draws_cases: ClassVar[bool] = True

    @property
    def relation(self) -> str | None:
        """The relation that is asked, if it is one."""
        return None

    def answer(self, subject: Subject, target: Target, backend: str, explain: bool = False) -> Verdict:
        """Answer for a case or a trace on a target, in this process, which has entered the backend.

        explain: also say which memory a leak comes from, which takes a second call. Lets through what is no
        fault of the kernel, out of memory among it.
        """
        raise NotImplementedError

    @classmethod
    def asked_of(cls, operation: str, target: str, has: Collection[str]) -> tuple[Question, ...]:
        """List the questions of this mode that a campaign asks of an operation in turn, one a batch.

        target: its name; has: the operations that it implements.
        """
        return (cls(),)

    @classmethod
    def plain(cls) -> Question:
        """The question to ask of a case that runs for another reason, such as to have a kernel compiled."""
        return cls()

    @classmethod
    def calls(cls, operation: str, has: Collection[str]) -> tuple[str, ...]:
        """List the operations of the target that subjects of an operation may call."""
        return (operation,) if operation in has else ()


@dataclass(frozen=True)
class CompareWithOracle(Question):
    """Are the results right: does every check pass?"""

    mode = "oracle"

    def answer(self, subject: Subject, target: Target, backend: str, explain: bool = False) -> Verdict:
        from diffgdn.verdict import execute

        assert isinstance(subject, Case)
        return execute.run(subject, target, backend, explain)


@dataclass(frozen=True)
class AskBeyondPromises(CompareWithOracle):
    """Are the results right, on a case that the target need not promise? No mode of a campaign."""

    def answer(self, subject: Subject, target: Target, backend: str, explain: bool = False) -> Verdict:
        from diffgdn.targets.base import Unbound

        return super().answer(subject, cast("Target", Unbound(target)), backend, explain)


@dataclass(frozen=True)
class MeasureErrors(Question):
    """Are the results right, and how are their errors distributed, in sigmas?"""

    mode = "errors"

    def answer(self, subject: Subject, target: Target, backend: str, explain: bool = False) -> Verdict:
        from diffgdn.verdict import execute

        assert isinstance(subject, Case)
        return execute.run(subject, target, backend, explain, errors=True)


@dataclass(frozen=True)
class AskVacuity(Question):
    """Which wrong results would the checks let pass? No kernel is called."""

    mode = "vacuity"
    calls_kernel = False

    def answer(self, subject: Subject, target: Target, backend: str, explain: bool = False) -> Verdict:
        from diffgdn.verdict import vacuity

        assert isinstance(subject, Case)
        return vacuity.run(subject, target, backend)


@dataclass(frozen=True)
class AskRelation(Question):
    """Does a relation hold between the call of a case and calls made of it?"""

    name: str
    mode = "relations"
    most_cases = 6  # a dozen relations take turns: with small batches all are soon asked

    @property
    def relation(self) -> str:
        return self.name

    def answer(self, subject: Subject, target: Target, backend: str, explain: bool = False) -> Verdict:
        assert isinstance(subject, Case)
        return relations.run(subject, target, backend, self.name)

    @classmethod
    def asked_of(cls, operation: str, target: str, has: Collection[str]) -> tuple[Question, ...]:
        """List the relations that can apply to an operation on this target."""
        return tuple(cls(name) for name in relations.applicable(operation, target, tuple(has)))

    @classmethod
    def plain(cls) -> Question:
        """Compare with the oracle: a relation would take several calls."""
        return ORACLE


@dataclass(frozen=True)
class PlayTrace(Question):
    """Does a serving loop find pool, outputs and states right after every step?"""

    mode = "serving"
    draws_cases = False

    def answer(self, subject: Subject, target: Target, backend: str, explain: bool = False) -> Verdict:
        from diffgdn.verdict.serving.play import play

        assert isinstance(subject, Trace)
        return play(subject, target, backend).verdict()

    @classmethod
    def calls(cls, operation: str, has: Collection[str]) -> tuple[str, ...]:
        """List the operations that the loop of a family calls, of those that the target has."""
        family = operation.partition(".")[0]
        return tuple(name for kind in CALLS if (name := f"{family}.{kind}") in has)


MODES: dict[str, type[Question]] = {
    kind.mode: kind for kind in (CompareWithOracle, MeasureErrors, AskVacuity, AskRelation, PlayTrace)
}


ORACLE = CompareWithOracle()


def question_of(call: Call) -> Question:
    """Say how a call of a finding, or of its prelude, is asked about."""
    if call.relation is not None:
        return AskRelation(call.relation)
    return PlayTrace() if isinstance(call.subject, Trace) else ORACLE
