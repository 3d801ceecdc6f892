"""The verdicts of one test: a case has one answer, and the test a limit to the time that it takes."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from diffgdn.cases.case import Case
from diffgdn.cases.prelude import Call
from diffgdn.cases.promises import EVERYTHING, Promises
from diffgdn.findings.finding import COMPLETE, OUT_OF_TIME, UNSHRUNK
from diffgdn.runner.confirm import Confirmed
from diffgdn.search import by_field
from diffgdn.verdict.failures import FAULTS, Verdict

SHRINK_SECONDS = 60.0  # for each class of failure; Hypothesis alone would take up to five minutes


class TimeUp(BaseException):
    """Leaves Hypothesis, and the test, at once. Not an Exception: Hypothesis would take that for a failing
    case.
    """


@dataclass
class Answers:
    """The verdicts of one test, so that a case has one answer, and an end to the time that it takes.

    confirm: asks a failure on a target again in fresh processes; shorter: makes what depends on others of
    less, until it is told to stop. first: called with the first failure of each class and the target, when it
    is seen and has been asked again. most_seconds: of exploration. ran_out: whether a shrink ran out of time.
    promises: those of a target, which no shrink here leaves.
    company: by case and target, the failures that need other calls before them, or did not come again. known:
    by entry of known failures, how many cases failed so, each of which passes here.
    """

    first: Callable[[Verdict, Confirmed, str], None] = lambda verdict, sure, target: None
    most_seconds: float = math.inf
    verdicts: dict[tuple[str, str], Verdict] = field(default_factory=dict)
    kinds: set[type] = field(default_factory=set)
    until: float = math.inf
    ran_out: bool = False
    confirm: Callable[[Call, Verdict, str], Confirmed] = lambda call, verdict, target: Confirmed(
        call, verdict
    )
    shorter: Callable[[Confirmed, str, Callable[[], bool]], Confirmed] = lambda sure, target, expired: sure
    promises: Callable[[str], Promises] = lambda target: EVERYTHING
    company: dict[tuple[str, str], Confirmed] = field(default_factory=dict)
    known: Counter[str] = field(default_factory=Counter)
    _began: float | None = None
    _error: Exception | None = None

    def verdict(
        self, case: Case, target: str, run: Callable[[Case], Verdict], relation: str | None = None
    ) -> Verdict | None:
        """The verdict on a case, remembered or new; None for a new case once the time for shrinking is up.

        Raises TimeUp when exploration has had its time. A crash or a hang comes back as that of the smallest
        case that has it: Hypothesis, which needs hundreds of runs, would cost as many processes.
        """
        key = (case.id, target)
        if key not in self.verdicts:
            now = time.monotonic()
            if now >= self.until:
                self.ran_out |= self.until > -math.inf
                return None
            self._began = now if self._began is None else self._began
            if not self.kinds and now >= self._began + self.most_seconds:
                raise TimeUp if self._error is None else self._error
            try:
                verdict = self._without_known(run(case))
            except Exception as error:  # Hypothesis asks again; time that is up must not hide it
                self._error = error
                raise
            if verdict.failure is not None and type(verdict.failure) not in self.kinds:
                sure = self.confirm(Call(case, relation), verdict, target)
                if sure.verdict.known is not None:
                    self.verdicts[key] = self._without_known(sure.verdict)
                    return self.verdicts[key]
                self.kinds.add(type(verdict.failure))
                self.until = time.monotonic() + SHRINK_SECONDS
                self.first(verdict, sure, target)
                if not sure.alone:
                    sure = self.shorter(sure, target, lambda: time.monotonic() >= self.until)
                    self.company[key] = sure
                    verdict, self.until = replace(verdict, failure=sure.failure), -math.inf
                elif isinstance(verdict.failure, FAULTS) and verdict.confirmed:
                    verdict = self._simplest(verdict, run, self.promises(target))
                    self.until = -math.inf
            self.verdicts[key] = replace(verdict, comparison=None)  # tensors, of which a shrink may see many
        return self.verdicts[key]

    def _without_known(self, verdict: Verdict) -> Verdict:
        """A verdict in which a failure that is known is none, and is counted."""
        if verdict.known is None or verdict.failure is None:
            return verdict
        self.known[verdict.known] += 1
        return replace(verdict, failure=None, comparison=None)

    @property
    def only_known(self) -> bool:
        """Whether each case was left out because it is known to end its process."""
        return all(verdict.refused and verdict.known for verdict in self.verdicts.values())

    @property
    def nothing(self) -> str | None:
        """Why no case has ended, in one line; None if one has."""
        refusals = [verdict.refused for verdict in self.verdicts.values()]
        if None in refusals:
            return None
        if not refusals:
            return "no case ended"
        return f"no case ended: all {len(refusals)} were refused, the last: {refusals[-1]}"

    def shrunk(self, verdict: Verdict, drawn: bool) -> str:
        """How far a failing case was shrunk, one of finding.SHRINKS. drawn: by Hypothesis, which shrinks."""
        if not verdict.confirmed or not (drawn or isinstance(verdict.failure, FAULTS)):
            return UNSHRUNK
        return OUT_OF_TIME if self.ran_out else COMPLETE

    def _simplest(self, verdict: Verdict, run: Callable[[Case], Verdict], promises: Promises) -> Verdict:
        verdicts = {verdict.case.id: verdict}

        def fails(case: Case) -> bool:
            again = run(case)
            if type(again.failure) is not type(verdict.failure) or not again.confirmed or again.known:
                return False
            verdicts[case.id] = again
            return True

        def expired() -> bool:
            self.ran_out |= time.monotonic() >= self.until
            return self.ran_out

        return verdicts[by_field.simplest(verdict.case, fails, expired, promises).id]
