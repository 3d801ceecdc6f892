"""The base of a comparison: another revision, another wheel, another target, in a child process of its own.

A change is to blame for what it has brought. So each case that fails is asked of the base too, and what fails
there in the same way is no news.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from diffgdn.backend.revision import Revision
from diffgdn.cases.prelude import Call
from diffgdn.cases.trace import call_of
from diffgdn.findings import bucket
from diffgdn.runner.in_child import InChild
from diffgdn.runner.messages import RunnerError
from diffgdn.verdict.failures import CheckFailure, Verdict, relation_of
from diffgdn.verdict.question import Subject, question_of

REMEMBERED = 1000  # answers
PROVENANCE = "base"  # under which a finding says what the base does


@dataclass(frozen=True)
class Base:
    """name: for people. target: what runs, as `targets.get` knows it. revision: at which it runs, if it is
    another one of the repository. commit: of that revision.
    """

    name: str
    target: str
    revision: Revision | None = None
    commit: str | None = None

    @property
    def words(self) -> str:
        """Name it, with the commit if it is one."""
        return self.name if self.commit is None else f"{self.name} ({self.commit[:10]})"


@dataclass(frozen=True)
class Said:
    """What the base does with a case. alike: it fails in the same way. words: what it does."""

    alike: bool
    words: str


class BaseRunner:
    """Asks a base about cases that fail. Its child is started when the first one does.

    log: where the child prints to. The limits are those of `InChild`.
    """

    def __init__(
        self,
        base: Base,
        backend: str,
        log: Path,
        hang_seconds: float | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        self.base = base
        self._place = backend, log, hang_seconds, memory_bytes
        self._runner: InChild | None = None
        self._answers: OrderedDict[tuple[str, str | None, str], Said] = OrderedDict()
        self._sure: set[tuple[str, str]] = set()

    def close(self) -> None:
        """End what was started."""
        if self._runner is not None:
            self._runner.close()

    def says(self, subject: Subject, failure: CheckFailure) -> Said:
        """Ask whether the base fails on a case or a trace as this failure says. One that cannot be run does
        not.
        """
        key = subject.id, relation_of(failure.kind), str(way(subject, failure))
        if key not in self._answers:
            self._answers[key] = self._asked(subject, failure)
            if len(self._answers) > REMEMBERED:
                self._answers.popitem(last=False)
        return self._answers[key]

    def _asked(self, subject: Subject, failure: CheckFailure) -> Said:
        call = Call(subject, relation_of(failure.kind))
        try:
            if self._runner is None:
                environment = {} if self.base.revision is None else self.base.revision.environment
                self._runner = InChild(*self._place, environment=environment)
            verdict = self._runner.run(subject, self.base.target, question_of(call))
            kind = subject.op, bucket.fault(failure.kind)
            doubtful = _alike(subject, verdict, failure) and kind not in self._sure
            if doubtful or not verdict.confirmed:
                # The first of its kind: what other calls have left must not pass for the base's failure. Or a
                # process that ended, and not again.
                _, verdict = self._runner.afresh((call,), self.base.target)
                if _alike(subject, verdict, failure):
                    self._sure.add(kind)
        except RunnerError as error:
            return Said(False, f"cannot be run: {error}")
        if verdict.refused is not None:
            return Said(False, f"does not take the case: {verdict.refused}")
        if verdict.failure is None:
            return Said(False, "passes")
        if _alike(subject, verdict, failure):
            return Said(True, "fails in the same way")
        line = verdict.failure.message.splitlines()[0]
        return Said(False, f"fails in another way: {verdict.failure.kind}: {line:.200}")


def way(subject: Subject, failure: CheckFailure) -> tuple[str, str]:
    """Say in which way a case fails: the kind, and the result that is wrong, or the class of an exception, or
    how a process ended.
    """
    kind, tensor = bucket.fault(failure.kind), failure.tensor
    if failure.kind in ("raised", "crashed"):
        return kind, bucket.region(call_of(subject), failure.kind, tensor, failure.place, failure.message)
    return kind, "state" if tensor in bucket.STATES else tensor or ""


def _alike(subject: Subject, verdict: Verdict, failure: CheckFailure) -> bool:
    """Tell whether a base fails as the head does.

    Of one stray read may come a number that is none or a wrong one, in this result or in that, by what lies
    there, which differs between two processes.
    """
    if verdict.failure is None:
        return False
    if way(subject, verdict.failure) == way(subject, failure):
        return True
    kinds = {verdict.failure.kind, failure.kind}
    return bool(kinds & set(bucket.STRAY)) and kinds <= {*bucket.STRAY, *bucket.ONE_FAULT}
