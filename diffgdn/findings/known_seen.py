"""How often known failures were met in a run, and which of them fail no more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from diffgdn.cases.case import Case
from diffgdn.findings.finding import Finding
from diffgdn.findings.known import Known
from diffgdn.verdict.failures import relation_of


@dataclass
class Seen:
    """What a run met of one entry.

    failed: cases that failed so; passed: cases under its conditions that passed; skipped: cases that were not
    run for it. replayed: ids of saved findings of it that pass now. alive: it failed, if only in a replay or
    a shrink.
    """

    entry: Known
    failed: int = 0
    passed: int = 0
    skipped: int = 0
    replayed: list[str] = field(default_factory=list)
    alive: bool = False

    @property
    def mended(self) -> bool:
        """Whether it fails no more: nothing failed so, and a saved finding, or enough cases, could have."""
        enough = bool(self.replayed) or self.passed >= self.entry.cases
        return enough and not self.alive and not self.entry.flaky

    @property
    def words(self) -> str:
        """Say in words what was met."""
        counts = ((self.failed, "fail"), (self.passed, "pass"), (self.skipped, "not run"))
        said = ", ".join(f"{count} {word}" for count, word in counts if count)
        return said or ("its saved finding fails" if self.alive else "not met")

    @property
    def why_mended(self) -> str:
        """Say what shows that it fails no more."""
        if self.replayed:
            return (
                f"{', '.join(self.replayed)} passes" if len(self.replayed) == 1 else "its saved findings pass"
            )
        return f"{self.passed} cases under its conditions pass, and none fails"


class SeenFailures:
    """Counts for each entry what a run meets."""

    def __init__(self, entries: Iterable[Known]) -> None:
        self._seen = {entry.name: Seen(entry) for entry in entries}

    def __iter__(self) -> Iterator[Seen]:
        return iter(self._seen.values())

    @property
    def mended(self) -> list[Seen]:
        """List the entries that fail no more."""
        return [one for one in self if one.mended]

    def met(self, name: str, counted: bool = True) -> None:
        """Note that an entry was met in a failure. counted: as a case, not in a replay or a shrink."""
        if name in self._seen:
            self._seen[name].alive = True
            self._seen[name].failed += counted

    def skipped(self, name: str) -> None:
        """Note that a case was not run for an entry."""
        if name in self._seen:
            self._seen[name].skipped += 1

    def passed(self, case: Case, operation: str, relation: str | None) -> None:
        """Note that a case passed what it was asked: a relation, or, with None, all checks."""
        for one in self:
            entry = one.entry
            if entry.takes_part(operation) and relation_of(entry.kind) == relation and entry.holds(case):
                one.passed += 1

    def replayed(self, entry: Known, finding: Finding) -> None:
        """Note that a saved finding of an entry passes. One that was seen once says nothing."""
        if finding.reproduced and entry.name in self._seen:
            self._seen[entry.name].replayed.append(finding.id)
