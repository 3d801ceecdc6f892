"""Known failures: what a target fails at and its users live with, so that it does not hide what is new.

An entry says which failures it is about (target, operation, kind, result) and on which cases (`conditions`).
`known_file` reads entries from diffgdn.toml or pyproject.toml; `known_seen` tells whether they still fail.
Imports no torch.
"""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion

from diffgdn.cases import conditions, target_names
from diffgdn.cases.case import Case
from diffgdn.cases.conditions import Conditions
from diffgdn.cases.json_record import require
from diffgdn.cases.operations import FAMILIES, OPERATIONS
from diffgdn.cases.trace import Trace, call_of
from diffgdn.findings import bucket
from diffgdn.findings.finding import BACKENDS, EXAMPLE, Finding
from diffgdn.verdict.failures import ALL, FAULT_KINDS, CheckFailure, RelationBroken
from diffgdn.verdict.relations import RELATIONS

KINDS = (
    *(cls.kind for cls in ALL if cls is not RelationBroken),
    *(f"{RelationBroken.kind}.{name}" for name in RELATIONS),
)
LOOPS = tuple(f"{family}.serving" for family in FAMILIES)
# Of a failure that comes in 1 case of 100, so many cases without one are met once in twenty times.
ENOUGH = 300
BASE = "the base"  # in place of an entry's name: what a campaign compares with fails in the same way
NEEDED = ("target", "operation", "kind", "reason")
TEXTS = (*NEEDED, "result", "says", "link", "backend")


@dataclass(frozen=True)
class Known:
    """An entry: failures that are known.

    name: where it is written. target: as it is given to --target, or what follows its colon. operation: a
    name, or a shell pattern. kind: of failure; wrong numbers are one kind, whether held to a bound or to the
    last bit. result: the tensor that is wrong; None for any. says: words that the message holds, as for
    exceptions the name of their class; None for any. where: what the case has. backend: where it fails; None
    for everywhere. versions: (package, comparisons) for which it holds (`is_of`). flaky: it need not
    fail, so that it is never said to be mended. cases: so many that ran under its conditions, none of which
    failed, tell that it is.
    """

    name: str
    target: str
    operation: str
    kind: str
    reason: str
    result: str | None = None
    says: str | None = None
    where: Conditions = ()
    link: str | None = None
    backend: str | None = None
    versions: tuple[tuple[str, str], ...] = ()
    flaky: bool = False
    cases: int = ENOUGH

    @property
    def ends_the_process(self) -> bool:
        """Whether it is a crash or a hang, which runs on request alone."""
        return self.kind in FAULT_KINDS

    @property
    def about(self) -> str:
        """Operation, kind and result in words."""
        return f"{self.operation}  {self.kind}{f' in {self.result}' if self.result else ''}"

    @property
    def words(self) -> str:
        """Say why something is no news, in one line."""
        if not self.ends_the_process:
            return f"known ({self.name}): {self.reason}"
        return f"known to have {'crashed' if self.kind == 'crashed' else 'hung'} ({self.name}): {self.reason}"

    def is_of(self, target: str, backend: str, operation: str) -> bool:
        """Tell whether it can be met where an operation of a target runs on a backend, with what is
        installed, or lies where the target takes its package from.
        """
        return (
            self.target in target_names.spellings(target)
            and self.backend in (None, backend)
            and self.takes_part(operation)
            and all(_fits(package, wanted, target) for package, wanted in self.versions)
        )

    @property
    def installed(self) -> bool:
        """Tell whether it is about the versions that are installed."""
        return all(_fits(package, wanted) for package, wanted in self.versions)

    def takes_part(self, operation: str) -> bool:
        """Tell whether it is about an operation, or about what a trace serves."""
        return fnmatch.fnmatchcase(operation, self.operation)

    def takes(self, failure: CheckFailure) -> bool:
        """Tell whether a failure is of its kind, in its result, and says its words."""
        return (
            bucket.fault(failure.kind) == bucket.fault(self.kind)
            and (self.result is None or _same_result(failure.tensor, self.result))
            and (self.says is None or self.says in failure.message)
        )

    def holds(self, case: Case) -> bool:
        """Tell whether a case meets its conditions."""
        return conditions.hold(self.where, case)


@dataclass(frozen=True)
class KnownFailures:
    """The entries that count. run_crashes: whether cases that are known to crash or hang are run."""

    entries: tuple[Known, ...] = ()
    run_crashes: bool = False

    def match(self, target: str, backend: str, subject: Case | Trace, failure: CheckFailure) -> Known | None:
        """Find the entry that a failure of a case, or of a trace's last step, is known by."""
        found = [one for one in self._of(target, backend, subject.op) if one.takes(failure)]
        case = call_of(subject) if found else None
        return next((one for one in found if case is not None and one.holds(case)), None)

    def crash(self, target: str, backend: str, subject: Case | Trace) -> Known | None:
        """Find the entry for which a case is not run; None where crashes are run, or none is known of it."""
        if self.run_crashes or not any(one.ends_the_process for one in self.entries):
            return None
        found = [one for one in self._of(target, backend, subject.op) if one.ends_the_process]
        case = call_of(subject) if found else None
        return next((one for one in found if case is not None and one.holds(case)), None)

    def of(self, finding: Finding, backend: str | None = None) -> Known | None:
        """Find the entry that a finding is known by, on its own backend unless another is given."""
        if finding.kind == EXAMPLE or not self.entries:
            return None
        failure = failure_of(finding)
        return self.match(finding.target, backend or finding.backend, finding.trace or finding.case, failure)

    def named(self, name: str) -> Known:
        """Look up an entry by its name."""
        return next(entry for entry in self.entries if entry.name == name)

    def _of(self, target: str, backend: str, operation: str) -> list[Known]:
        return [one for one in self.entries if one.is_of(target, backend, operation)]


NOTHING = KnownFailures()


def failure_of(finding: Finding) -> CheckFailure:
    """Make the failure that a finding holds. Raises ValueError for an example, which has none."""
    told = {"kind": finding.kind, "operation": finding.operation, "message": finding.message}
    return CheckFailure.from_json({**told, "tensor": finding.tensor, "place": finding.place})


def read(table: Any, name: str) -> Known:
    """Read an entry from its TOML form. Raises ValueError that names the entry and the field."""
    try:
        return _read(table, name)
    except ValueError as error:
        about = [table.get(key) for key in ("operation", "kind")] if isinstance(table, Mapping) else []
        shown = " ".join(one for one in about if isinstance(one, str) and one.isprintable())
        raise ValueError(f"{name}{f' ({shown:.60})' if shown else ''}: {error}") from None


def _read(table: Any, name: str) -> Known:
    require(isinstance(table, Mapping), f"expected a table, got {table!r:.80}")
    fields = (*TEXTS, "where", "versions", "flaky", "cases")
    unknown = [key for key in table if key not in fields]
    require(not unknown, f"unknown field {unknown[:1]!r:.60}; known: {', '.join(fields)}")
    for key in NEEDED:
        require(key in table, f"{key}: missing")
    for key in TEXTS:
        text = table.get(key, "-")
        right = isinstance(text, str) and text.strip() != ""
        require(right, f"{key}: expected text, got {text!r:.80}")
    flaky, cases, backend = table.get("flaky", False), table.get("cases", ENOUGH), table.get("backend")
    require(type(flaky) is bool, f"flaky: expected true or false, got {flaky!r:.80}")
    require(type(cases) is int and cases >= 1, f"cases: expected a number from 1 on, got {cases!r:.80}")
    kind, operation = table["kind"], table["operation"]
    require(kind in KINDS, f"kind: expected one of {', '.join(KINDS)}, got {kind!r:.80}")
    require(
        backend in (None, *BACKENDS), f"backend: expected one of {', '.join(BACKENDS)}, got {backend!r:.80}"
    )
    every = (*OPERATIONS, *LOOPS)
    some = fnmatch.filter(every, operation)
    require(bool(some), f"operation: expected one of {', '.join(every)}, or a pattern, got {operation!r:.80}")
    try:
        where = conditions.read(table.get("where", {}))
    except ValueError as error:
        raise ValueError(f"where: {error}") from None
    texts = {key: table[key] for key in TEXTS if key in table}
    versions = _versions(table.get("versions", {}))
    return Known(name, **texts, where=where, versions=versions, flaky=flaky, cases=cases)


def _versions(given: Any) -> tuple[tuple[str, str], ...]:
    """Check versions of packages. Raises ValueError."""
    require(isinstance(given, Mapping), f"versions: expected a table of packages, got {given!r:.80}")
    for package, wanted in given.items():
        expected = f"versions: {package}: expected text as '>=0.4, <0.6' or '0.5.*', got {wanted!r:.80}"
        require(isinstance(wanted, str) and wanted.strip() != "", expected)
        try:
            _comparisons(wanted)
        except InvalidSpecifier:
            raise ValueError(expected) from None
    return tuple(given.items())


@functools.cache
def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _fits(package: str, wanted: str, target: str = "") -> bool:
    """Tell whether a package has a version that is wanted: as it is installed, or, if it is the package of a
    target that lies in a wheel or a folder, as it is there.
    """
    version = None
    if target_names.split(target)[1] is not None:
        from diffgdn.targets.released import roster  # imports what such a target imports

        version = roster.version_at(target, package)
    version = version or _installed(package)
    if version is None:
        return False
    try:
        return _comparisons(wanted).contains(version, prereleases=True)
    except InvalidVersion:
        return False  # nothing says which it is


def _comparisons(wanted: str) -> SpecifierSet:
    """Read comparisons of versions, `==` where none is said. Raises InvalidSpecifier, a ValueError."""
    parts = [part.strip() for part in wanted.split(",")]
    return SpecifierSet(",".join(f"=={part}" if part[:1].isdigit() else part for part in parts))


def _same_result(one: str | None, other: str) -> bool:
    """Tell whether two names stand for one result: a state, in the pool or returned, is one."""
    return one == other or (one in bucket.STATES and other in bucket.STATES)
