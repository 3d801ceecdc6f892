"""A finding: a failing case and all that is known about it, and the JSON form that its file holds.

`parse` reads that form back, strictly; `corpus` keeps a folder of them.
"""

from __future__ import annotations

import dataclasses
import datetime
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from diffgdn.cases import prelude as preludes
from diffgdn.cases import target_names
from diffgdn.cases.case import Case
from diffgdn.cases.prelude import Call
from diffgdn.cases.trace import Trace
from diffgdn.verdict.failures import DAMAGED, relation_of

FORMAT_VERSION = 2  # 2: `prelude` and `reproduced`; 1 is still read, and written where it will do
EXAMPLE = (
    "example"  # the kind of an entry that never failed: a case chosen by hand because it is easy to get wrong
)
BACKENDS = ("interpret", "gpu")
# How far a finding was made smaller: until nothing was left to try, until time was up, or not at all.
COMPLETE, OUT_OF_TIME, UNSHRUNK = SHRINKS = ("complete", "out of time", "none")
UNFINISHED = {OUT_OF_TIME: "its shrink ran out of time", UNSHRUNK: "not shrunk"}
MOST_OF_TARGET = 128  # letters of it in an id: a file name has 255 at most


@dataclass(frozen=True)
class Finding:
    """A failing case, and what is known about it.

    The failure: `kind`, `message`, `tensor` and `place` are those of the failed check
    (`failures.CheckFailure`), `target` and `backend` what it failed on and where that ran. If a serving loop
    failed, `trace` holds what it did and `case` is its last call.

    What it takes: `prelude` holds calls of the same target that must run before it in the same process for it
    to fail, none for most findings; the case may name such calls itself (`Case.before`). `reproduced` is
    False if it failed once and never again, neither alone nor after the calls that had run before it, which
    are then its prelude.

    Where it is from: `versions` of what ran it, by name; the `seed` of the campaign; `found`, the date in ISO
    form; `unshrunk`, the case on which the failure was first seen, if it was larger; `shrink`, one of
    SHRINKS, or None in older files, where nobody knows; `provenance`, what really ran of a released package,
    in words: package, from, function, kernels, stand-ins; `bisected`, since which version it fails, in words
    (`campaign.bisect`): first wrong, last right, or the other way round, among, not told.
    """

    case: Case
    target: str
    backend: str
    kind: str
    message: str
    tensor: str | None = None
    place: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    found: str = ""
    unshrunk: Case | None = None
    trace: Trace | None = None
    shrink: str | None = None
    prelude: tuple[Call, ...] = ()
    reproduced: bool = True
    provenance: Mapping[str, str] = field(default_factory=dict)
    bisected: Mapping[str, str] = field(default_factory=dict)

    @property
    def format_version(self) -> int:
        """Return the oldest version that holds this finding."""
        return 2 if self.prelude or not self.reproduced else 1

    @property
    def call(self) -> Call:
        """Return what fails: the case or the trace, and the relation that it is asked, if any."""
        return Call(self.trace or self.case, relation_of(self.kind))

    @property
    def operation(self) -> str:
        """Name the operation of the case, or what the trace serves."""
        return self.case.op if self.trace is None else self.trace.op

    @property
    def id(self) -> str:
        """Join target, operation, kind, what it comes after, and case id, in letters that are safe in a file
        name.
        """
        subject = self.trace or self.case
        parts = [
            _safe(target_names.label(self.target))[-MOST_OF_TARGET:],
            subject.op,
            _safe(self.kind),
            subject.id,
        ]
        if self.format_version > 1:
            word = "after" if self.reproduced else "once"
            parts.insert(3, f"{word}_{preludes.digest(self.prelude)}")
        return "-".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict with `format_version`; `parse.finding_from_json` reads it back."""
        # files have called the backend `lane` from the first
        names = {spec.name: spec.name for spec in dataclasses.fields(self)} | {"backend": "lane"}
        plain = {name: getattr(self, attribute) for attribute, name in names.items()}
        cases: dict[str, Any] = {
            "case": self.case.to_json(),
            "unshrunk": None if self.unshrunk is None else self.unshrunk.to_json(),
        }
        if self.trace is None:
            del plain["trace"]  # only findings of a serving loop have the field
        else:
            cases["trace"] = self.trace.to_json()
        if self.format_version == 1:
            del plain["prelude"], plain["reproduced"]
        else:
            cases["prelude"] = [call.to_json() for call in self.prelude]
        if self.shrink is None:
            del plain["shrink"]  # older findings have no such field
        for name in ("provenance", "bisected"):  # only findings of which there is something to say have them
            plain[name] = dict(plain[name])
            if not plain[name]:
                del plain[name]
        return {
            "format_version": self.format_version,
            "operation": self.operation,
            **plain,
            "versions": dict(self.versions),
            **cases,
        }


def shows_in_company(finding: Finding) -> bool:
    """Tell whether a finding shows only in a process of its own: after other calls, or in a later look at the
    heap.
    """
    others = finding.prelude or finding.case.before
    return bool(others) or not finding.reproduced or finding.message.startswith(DAMAGED)


def today() -> str:
    """Return today's date in UTC, in ISO form."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def versions(device: str | None = None) -> dict[str, str]:
    """Look up the versions of what a finding depends on, by name; "none" for a package that is not installed.

    They come from the installed packages' metadata, so nothing is imported. `device` names the GPU, None
    stands for the CPU's architecture.
    """
    known = {"python": platform.python_version(), "device": device or platform.machine()}
    for name in ("diffgdn", "torch", "triton", "numpy"):
        try:
            known[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            known[name] = "none"
    return known


def _safe(text: str) -> str:
    """Replace what separates paths or ids, and drop leading dots."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", text).strip("._") or "_"
