"""Looks after a corpus: groups findings by bucket, says which may go, and copies them to hand on."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from diffgdn.cases.size_limits import elements
from diffgdn.findings import bucket, corpus
from diffgdn.findings.bucket import Bucket
from diffgdn.findings.finding import EXAMPLE, Finding

ARCHIVE = ".zip"
NO_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a ZIP file holds: the same content, the same bits


class Entry(NamedTuple):
    """A finding and its file."""

    finding: Finding
    path: Path


class Replayed(NamedTuple):
    """An entry and what its replay said: `status` as in `campaign.replay_findings`, `kind` of the failure if
    it failed.
    """

    entry: Entry
    status: str
    kind: str | None = None


def grouped(entries: Iterable[Entry]) -> dict[Bucket, list[Entry]]:
    """Group entries by bucket, in the order of buckets, the smallest entry of each bucket first."""
    groups: dict[Bucket, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(bucket.of(entry.finding), []).append(entry)
    return {about: sorted(groups[about], key=_size) for about in sorted(groups)}


def _size(entry: Entry) -> tuple[int, int, int, str]:
    """Order entries by the steps of a trace, then by the elements of the call, then by length in print."""
    finding = entry.finding
    subject = finding.trace or finding.case
    steps = 0 if finding.trace is None else len(finding.trace.steps)
    return steps, elements(finding.case), len(repr(subject)), entry.path.name


def dispensable(replayed: Sequence[Replayed]) -> list[tuple[Entry, str]]:
    """List which entries may go and why: those that are FIXED, and larger ones of a bug that a smaller one
    still shows.

    Examples stay, and so does what is flaky, could not be run, or fails in another way than it did.
    """
    found = [one for one in replayed if one.entry.finding.kind != EXAMPLE]
    gone = [(one.entry, "FIXED") for one in found if one.status == "FIXED"]
    still = [one.entry for one in found if one.status == "FAILED" and _as_it_did(one)]
    for smallest, *larger in grouped(still).values():
        gone += [(entry, f"the same bug as {smallest.path.stem}, which is smaller") for entry in larger]
    return gone


def _as_it_did(one: Replayed) -> bool:
    """Tell whether the replay failed with the kind of failure that the finding has."""
    return one.kind is not None and bucket.fault(one.kind) == bucket.fault(one.entry.finding.kind)


def export(entries: Iterable[Entry], to: Path) -> list[str]:
    """Copy findings, with the script and the picture beside each, into a folder or a new ZIP file.

    Equal findings give equal bytes. Returns the names of the files, sorted. Raises OSError, also if the ZIP
    file is already there, or if the folder has a file of that name and other content.
    """
    files: dict[str, bytes] = {}
    for finding, path in entries:
        files[f"{finding.id}.json"] = corpus.content(finding)
        files |= {f"{finding.id}{made.suffix}": made.read_bytes() for made in corpus.beside(path)}
    if to.suffix == ARCHIVE:
        _require_new(to)
        corpus.write(to, _archive(files))
    else:
        for name, content in files.items():
            _require_new(to / name, content)
        for name, content in files.items():
            corpus.write(to / name, content)
    return sorted(files)


def _require_new(path: Path, content: bytes | None = None) -> None:
    """Raise FileExistsError if a file is there, unless it has this content."""
    if path.exists() and (content is None or path.read_bytes() != content):
        raise FileExistsError(17, "it is there already", str(path))


def _archive(files: dict[str, bytes]) -> bytes:
    """Return a ZIP file of these contents, without dates."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, NO_DATE)
            entry.create_system, entry.external_attr = 3, 0o644 << 16  # as Unix writes it, on any system
            archive.writestr(entry, files[name])
    return memory.getvalue()
