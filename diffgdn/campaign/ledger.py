"""One bug is one finding: what was found, by whom it is being shrunk, and what lies in the corpus."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffgdn.campaign.tasks import Key, key
from diffgdn.corpus import Corpus, Finding

UNSHRINKABLE = ("crashed", "hung")  # each try would cost a worker


@dataclass
class Record:
    """A finding as it stands. owner: the worker that is shrinking it. final: nothing is left to shrink."""

    finding: Finding
    path: Path
    owner: int | None = None
    final: bool = False


class Ledger:
    """The findings of a campaign.

    A second failure of the same operation, kind and tensor is no second finding.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._records: dict[Key, Record] = {}

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Each once, in the order they were found."""
        return tuple({record.finding.id: record.finding for record in self._records.values()}.values())

    @property
    def known(self) -> frozenset[Key]:
        """Failures that need no further attention: shrunk, or being shrunk."""
        return frozenset(
            key for key, record in self._records.items() if record.final or record.owner is not None
        )

    @property
    def unfinished(self) -> list[Finding]:
        """Findings that have not been shrunk."""
        return [record.finding for record in self._records.values() if not record.final]

    def replayed(self, finding: Finding, path: Path) -> None:
        """A finding of the corpus still fails. One that had no time to be shrunk may yet be."""
        final = finding.unshrunk is not None or finding.kind in UNSHRINKABLE
        self._records.setdefault(key(finding), Record(finding, path, final=final))

    def found(self, finding: Finding, owner: int | None, final: bool = False) -> Record | None:
        """Save a failure and return its record, if it is new.

        owner: the worker that will shrink it; it also takes over a failure that nobody has shrunk yet.
        """
        record = self._records.get(key(finding))
        if record is not None:
            if not record.final and record.owner is None:
                record.owner = owner
            return None
        record = Record(finding, self._corpus.save(finding), owner, final)
        self._records[key(finding)] = record
        return record

    def owner(self, finding: Finding) -> int | None:
        record = self._records.get(key(finding))
        return None if record is None else record.owner

    def shrunk(self, first: Finding, smaller: Finding, owner: int) -> tuple[Record, Finding] | None:
        """Replace a finding by a smaller one.

        Its record and what it was before; None where another worker has it in hand.
        """
        record = self._records.get(key(first))
        if record is None or record.owner != owner:
            return None
        before = record.finding
        other = self._records.setdefault(key(smaller), record)
        record.owner = None
        record.final = True
        if other is record:
            record.path = self._corpus.save(smaller)
            record.finding = smaller
            if before.id != smaller.id:
                self._corpus.remove(before)
        return record, before

    def release(self, owner: int) -> None:
        """A worker's task has ended: what it did not finish shrinking, another batch may try again."""
        for record in self._records.values():
            if record.owner == owner:
                record.owner = None
