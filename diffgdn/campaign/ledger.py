"""One bug is one finding: what was found, by whom it is being shrunk, and what lies in the corpus.

A finding that the corpus cannot take (no space, no permission) is kept here and told of; the campaign goes
on. A file is deleted for one reason alone: a smaller finding stands for the same failure. One that passes
stays, and so does one that another campaign left in another bucket.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from diffgdn.campaign.tasks import Key, key
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import COMPLETE, SHRINKS, UNSHRUNK, Finding
from diffgdn.findings.parse import CorpusError


@dataclass
class Record:
    """A finding as it stands.

    owner: the worker that is shrinking it. small: it has been shrunk once. final: nothing is left to shrink.
    foreign: another machine found it, and this campaign has not met it.
    """

    finding: Finding
    path: Path
    owner: int | None = None
    small: bool = False
    final: bool = False
    foreign: bool = False


class Ledger:
    """The findings of a campaign.

    A second failure of the same bucket is no second finding. apart: shrinks are tasks of their own, so that
    every finding has its turn without being met again. problem: why a finding could not be saved, in one
    line, or None.
    """

    def __init__(self, corpus: Corpus, apart: bool = False) -> None:
        self._corpus, self._apart = corpus, apart
        self._records: dict[Key, Record] = {}
        self._alike: list[Finding] = []  # of the corpus, in a bucket with another
        self._saved: set[str] = set()  # ids of what was not there before
        self.problem: str | None = None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Each once, in the order they were found."""
        met = [record.finding for record in self._records.values() if not record.foreign]
        every = [*met, *self._alike]
        return tuple({finding.id: finding for finding in every}.values())

    @property
    def known(self) -> frozenset[Key]:
        """Failures that a batch need not attend to: shrunk, being shrunk, or with a turn to come."""
        return frozenset(
            key
            for key, record in self._records.items()
            if self._apart or record.final or record.owner is not None
        )

    @property
    def waiting(self) -> list[Record]:
        """What is to be shrunk (further) and is in nobody's hands, each once, in the order it was found."""
        every = {id(record): record for record in self._records.values()}
        return [record for record in every.values() if not record.final and record.owner is None]

    @property
    def bare(self) -> list[Finding]:
        """Findings that this campaign has saved, and beside which no script lies yet."""
        saved = [finding for finding in self.findings if finding.id in self._saved]
        return [finding for finding in saved if not (self._corpus.path / f"{finding.id}.py").exists()]

    def replayed(self, finding: Finding, path: Path) -> None:
        """A finding of the corpus still fails. One that had no time to be shrunk may yet be."""
        final = finding.shrink != UNSHRUNK if finding.shrink else finding.unshrunk is not None
        record = Record(finding, path, final=final)
        if self._records.setdefault(key(finding), record) is not record:
            self._alike.append(finding)

    def found(self, finding: Finding, owner: int | None, final: bool = False) -> Record | None:
        """Save a failure and return its record, if it is new, or has so far been another machine's.

        owner: the worker that will shrink it; it also takes over a failure that nobody has shrunk yet.
        """
        record = self._records.get(key(finding))
        if record is not None:
            if not record.final and record.owner is None:
                record.owner = owner
            met, record.foreign = record.foreign, False
            return record if met else None
        record = Record(finding, self._save(finding), owner, final)
        self._records[key(finding)] = record
        return record

    def adopt(self, finding: Finding, path: Path) -> Finding | None:
        """Take in what another machine has found: nobody here need attend to that failure any more.

        Returns the finding of this campaign that it replaces, as it is smaller; None where it is new, or what
        is here is in hand, or as small.
        """
        record = self._records.setdefault(key(finding), Record(finding, path, None, True, True, True))
        before = record.finding
        smaller = finding.shrink == COMPLETE != before.shrink
        if not smaller or record.owner is not None or before.id == finding.id:
            return None
        record.finding, record.path, record.small, record.final = finding, path, True, True
        if before.id in self._saved:
            self._remove(before, finding)
        return None if record.foreign else before

    def take(self, finding: Finding, owner: int) -> None:
        """A worker is about to make a finding smaller."""
        self._records[key(finding)].owner = owner

    def owner(self, finding: Finding) -> int | None:
        record = self._records.get(key(finding))
        return None if record is None else record.owner

    def tried(self, finding: Finding, owner: int, last: bool) -> None:
        """A worker's shrink has ended without a smaller finding. last: the finding gets no other."""
        record = self._records.get(key(finding))
        if record is not None and record.owner == owner:
            record.owner, record.small, record.final = None, True, record.final or last

    def shrunk(
        self, first: Finding, smaller: Finding, owner: int, last: bool = True
    ) -> list[tuple[Record, Finding]]:
        """Replace a finding by a smaller one, which may turn out to be in the bucket of another.

        last: it gets no other shrink. The record that now stands for each finding that is gone; none where
        another worker has it in hand.
        """
        record = self._records.get(key(first))
        if record is None or record.owner != owner:
            return []
        before, other = record.finding, self._records.get(key(smaller), record)
        record.owner, record.small, record.final = None, True, last or smaller.shrink == COMPLETE
        if other is not record:
            # Two places, one bug: one finding stands for both.
            other.foreign = False
            for bucket in [bucket for bucket, one in self._records.items() if one is record]:
                self._records[bucket] = other
        self._records[key(smaller)] = other
        gone = [] if other is record else [(other, before)]
        if other is record or not (other.final or other.small):
            gone.append((other, other.finding))
            other.small, other.final = record.small, record.final and other.owner is None
            other.path, other.finding = self._save(smaller), smaller
        for _, finding in gone:
            if finding.id in self._saved or key(finding) == key(smaller):
                self._remove(finding, other.finding)
        return gone

    def _save(self, finding: Finding) -> Path:
        """Where a finding lies, or would."""
        new = not (self._corpus.path / f"{finding.id}.json").exists()
        path, problem = self._corpus.keep(finding)
        if problem is None:
            if new:
                self._saved.add(finding.id)
            else:
                problem = self._bring_up_to_date(finding)
        self.problem = self.problem or problem
        return path

    def _bring_up_to_date(self, finding: Finding) -> str | None:
        """Note in the file of a finding how far it has been shrunk by now; why that failed, or None."""
        try:
            old = self._corpus.get(finding.id)
        except CorpusError as error:
            return str(error)
        if finding.shrink is None or not _further(finding.shrink, old.shrink):
            return None
        return self._corpus.keep(replace(old, shrink=finding.shrink), anew=True)[1]

    def _remove(self, finding: Finding, instead: Finding) -> None:
        """Delete a finding, unless the one that stands for it could not be saved."""
        try:
            if instead.id != finding.id and (self._corpus.path / f"{instead.id}.json").exists():
                self._corpus.remove(finding)
        except OSError as error:
            reason = f"{self._corpus.path}: {error.strerror or error}: {finding.id} is not removed"
            self.problem = self.problem or reason

    def release(self, owner: int) -> None:
        """A worker's task has ended: what it did not finish shrinking, another batch may try again."""
        for record in self._records.values():
            if record.owner == owner:
                record.owner = None


def _further(new: str, old: str | None) -> bool:
    """Whether a shrink went further than the one before. SHRINKS begins with the furthest."""
    return old is None or SHRINKS.index(new) < SHRINKS.index(old)
