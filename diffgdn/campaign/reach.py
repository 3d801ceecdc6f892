"""Which operations a campaign has reached, and why it has not reached the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from diffgdn.campaign.events import COUNTED, CaseRun


class Reach:
    """Counts, for each operation, the cases or traces that ended with it and those that were refused.

    begun: how many there were: what a limit on their number counts. skipped: those that were not run because
    they are known to end their process, which the user accepts. left_out: operations that the campaign gave
    up, with the reason. word: what is counted.
    """

    def __init__(self, word: str = "case") -> None:
        self.word, self.begun = word, 0
        self.ended: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.left_out: dict[str, str] = {}
        self._refusals: dict[str, str] = {}

    def ran(self, event: CaseRun) -> None:
        """Count a case: one that failed or hung has ended too, one that was refused has not been run."""
        if event.phase not in COUNTED or event.shrinking:
            return
        self.begun += event.refused is None or event.relation is not None
        for operation in event.calls if event.steps is not None else (event.operation,):
            if event.refused is None:
                self.ended[operation] += 1
            elif event.known is not None:
                self.skipped[operation] += 1
            else:
                self.refused[operation] += 1
                self._refusals[operation] = event.refused

    def unreached(
        self, operations: Iterable[str], max_time: float | None, max_cases: int | None
    ) -> dict[str, str]:
        """The operations that were not run as they were asked for, with the reason for each.

        max_time: seconds that the campaign had, and max_cases: cases; None for no limit.
        """
        otherwise = f"no {self.word} of it ended"
        if self.word == "trace" and self.ended:
            otherwise = f"none of {self.begun} traces called it"
        elif max_cases is not None and self.begun >= max_cases:
            otherwise = f"the {max_cases} {self.word}s were used up before its turn"
        elif max_time is not None:
            otherwise += f" within {max_time:g} s"
        reasons = {operation: self._reason(operation, otherwise) for operation in operations}
        return {operation: reason for operation, reason in reasons.items() if reason is not None}

    def _reason(self, operation: str, otherwise: str) -> str | None:
        if operation in self.left_out:
            return f"left out: {self.left_out[operation]}"
        if self.ended[operation] or (self.skipped[operation] and not self.refused[operation]):
            return None
        if self.refused[operation]:
            return f"all {self.refused[operation]} {self.word}s refused: {self._refusals[operation]}"
        return otherwise


def grouped(unreached: Mapping[str, str]) -> list[str]:
    """One line a reason: `gdn.extend, kda.extend: no time was left`."""
    operations: dict[str, list[str]] = {}
    for operation, reason in unreached.items():
        operations.setdefault(reason, []).append(operation)
    return [f"{', '.join(names)}: {reason}" for reason, names in operations.items()]


def problem(unreached: Mapping[str, str], asked: int, nothing: str | None = None) -> str | None:
    """Why a campaign did not do what it was asked, in one line; None if it did.

    asked: the number of operations. nothing: what not a single one ended of, if so: "case" or "trace".
    """
    if not unreached:
        return None
    head = f"{len(unreached)} of {asked} operations not reached" if nothing is None else f"no {nothing} ended"
    return f"{head}: {'; '.join(grouped(unreached))} (--allow-unreached lets this pass)"
