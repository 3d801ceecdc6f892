"""Findings on disk: one JSON file each, written at once or not at all, and readable without the version that
wrote it.

A file may come from a stranger. It is JSON and nothing else: read as plain data up to a size, every field
checked, no name in it used as a path. What it names as its target is for `trust` to judge.

Beside ID.json may lie what was made from it for people: ID.py, a standalone repro script, and ID.png or
ID.txt, a picture of the error. The JSON alone is the finding."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import platform
import re
import stat
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from diffgdn.cases import prelude as preludes
from diffgdn.cases.case import Case
from diffgdn.cases.prelude import Call
from diffgdn.cases.size_limits import refusal
from diffgdn.cases.trace import Trace
from diffgdn.verdict.failures import DAMAGED, relation_of

FORMAT_VERSION = 2  # 2: `prelude` and `reproduced`; 1 is still read, and written where it will do
MAX_BYTES = 1 << 20  # a case is a few kilobytes; anything near this is no finding
EXAMPLE = (
    "example"  # the kind of an entry that never failed: a case chosen by hand because it is easy to get wrong
)
BACKENDS = ("interpret", "gpu")
# How far a finding was made smaller: until nothing was left to try, until time was up, or not at all.
COMPLETE, OUT_OF_TIME, UNSHRUNK = SHRINKS = ("complete", "out of time", "none")
UNFINISHED = {OUT_OF_TIME: "its shrink ran out of time", UNSHRUNK: "not shrunk"}
SIDE_FILES = (".py", ".png", ".txt")
MOST_LETTERS = 300  # of a name, a place or a reason, which are one line each
MOST_DIGITS = 40
MOST_OF_TARGET = 128  # letters of it in an id: a file name has 255 at most


class CorpusError(ValueError):
    """A file that is no finding, or a name that leads to none. The message is one line and names the file."""


@dataclass(frozen=True)
class Finding:
    """A failing case, and what is known about it.

    kind, message, tensor and place are those of the failed check (`checks.CheckFailure`). versions: of what
    ran it, by name. seed: of the campaign. found: the date, in ISO form. unshrunk: the case on which the
    failure was first seen, if it was larger. trace: where a serving loop failed, what it did; case is then
    its last call. shrink: one of SHRINKS; None where nobody knows, as in older files. prelude: calls of the
    same target that have to run before it in the same process for it to fail; none for most. reproduced:
    False where it failed once and never again, alone or after the calls that had run before it, which are
    then its prelude."""

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

    @property
    def format_version(self) -> int:
        """The oldest version that holds this finding."""
        return 2 if self.prelude or not self.reproduced else 1

    @property
    def call(self) -> Call:
        """What fails: the case or the trace, and the relation that it is asked."""
        return Call(self.trace or self.case, relation_of(self.kind))

    @property
    def operation(self) -> str:
        return self.case.op if self.trace is None else self.trace.op

    @property
    def id(self) -> str:
        """Target, operation, kind, what it comes after, and case id, in letters that are safe in a file
        name."""
        subject = self.trace or self.case
        parts = [_safe(self.target)[-MOST_OF_TARGET:], subject.op, _safe(self.kind), subject.id]
        if self.format_version > 1:
            word = "after" if self.reproduced else "once"
            parts.insert(3, f"{word}_{preludes.digest(self.prelude)}")
        return "-".join(parts)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict with `format_version`."""
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
        return {
            "format_version": self.format_version,
            "operation": self.operation,
            **plain,
            "versions": dict(self.versions),
            **cases,
        }

    @classmethod
    def from_json(cls, data: Any) -> Finding:
        """The finding that `to_json` wrote. Raises CorpusError for an unknown version or field, or a wrong
        type.
        """
        return _parse(data)


def shows_in_company(finding: Finding) -> bool:
    """Whether a finding shows in a process of its own alone: with the calls before it, or with a look at the
    heap after it."""
    return bool(finding.prelude) or not finding.reproduced or finding.message.startswith(DAMAGED)


def today() -> str:
    """The date of a finding made now, in UTC."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def versions(device: str | None = None) -> dict[str, str]:
    """Versions of what a finding depends on, from the installed packages' metadata: nothing is imported."""
    known = {"python": platform.python_version(), "device": device or platform.machine()}
    for name in ("diffgdn", "torch", "triton", "numpy"):
        try:
            known[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            known[name] = "none"
    return known


@dataclass(frozen=True)
class Corpus:
    """A folder of findings. It need not exist before the first one is saved."""

    path: Path

    def save(self, finding: Finding) -> Path:
        """Write a finding, atomically; one that is already there is left as it was. The path of its JSON
        file.
        """
        target = self.path / f"{finding.id}.json"
        if not target.exists():
            write(target, content(finding))
        return target

    def keep(self, finding: Finding, anew: bool = False) -> tuple[Path, str | None]:
        """Save a finding if that can be done (anew: also over one that is already there): where it lies, or
        would, and in one line why it does not."""
        try:
            if anew:
                write(self.path / f"{finding.id}.json", content(finding))
            return self.save(finding), None
        except OSError as error:
            reason = f"{self.path}: {error.strerror or error}: {finding.id} is not saved"
            return self.path / f"{finding.id}.json", reason

    def remove(self, finding: Finding) -> None:
        """Delete a finding and what lies beside it, where it exists."""
        delete(self.path / f"{finding.id}.json")

    def files(self) -> list[Path]:
        """Where findings lie, by name; which of these files are findings, `read` tells."""
        return sorted(self.path.glob("*.json")) if self.path.is_dir() else []

    def read(self, path: Path) -> Finding:
        """The finding in a file of this folder. Raises CorpusError, also for a link that leads out of it."""
        self._require_inside(path, str(path))
        return read(path)

    def findings(self) -> list[Finding]:
        """All findings, sorted by id. Raises CorpusError for the first file that is none."""
        return sorted((self.read(path) for path in self.files()), key=lambda finding: finding.id)

    def get(self, name: str | os.PathLike[str]) -> Finding:
        """The finding that a name means, see `locate`."""
        return self.read(self.locate(name))

    def locate(self, name: str | os.PathLike[str]) -> Path:
        """The file of an id, of a file's name or path in this folder, or of a case's id where that names one
        finding only. Raises CorpusError.
        """
        text = os.fspath(name)
        path = Path(text)
        if path.suffix != ".json":
            path = self.path / f"{text}.json"
        elif path.parent == Path() or not path.exists():
            path = self.path / path
        self._require_inside(path, text)
        if not path.exists() and re.fullmatch(r"[0-9a-f]{12}", text):
            same = sorted(self.path.glob(f"*-{text}.json"))
            if len(same) > 1:
                raise CorpusError(f"{text}: several findings: {', '.join(one.stem for one in same)}")
            path = same[0] if same else path
        if not path.exists():
            raise CorpusError(f"{printable(text)}: no such finding in {self.path}")
        return path

    def _require_inside(self, path: Path, name: str) -> None:
        if os.path.dirname(os.path.realpath(path)) != os.path.realpath(self.path):
            raise CorpusError(f"{printable(name)}: not in {self.path}")


def read(path: Path) -> Finding:
    """The finding in a file, wherever it lies. Raises CorpusError, in one line that names the file."""
    try:
        data = json.loads(
            _bytes(path).decode(),
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_no_constant,
            object_pairs_hook=_no_twins,
        )
        return Finding.from_json(data)
    except OSError as error:
        reason = error.strerror or str(error)
    except CorpusError as error:
        reason = str(error)
    except (ValueError, RecursionError) as error:
        reason = f"not JSON: {error}"
    raise CorpusError(f"{printable(str(path))}: {printable(reason[:MOST_LETTERS])}")


def _bytes(path: Path) -> bytes:
    """What a plain file holds, up to a size."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe without a writer would block
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise CorpusError("not a plain file")
        with open(descriptor, "rb", closefd=False) as file:
            found = file.read(MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(found) > MAX_BYTES:
        raise CorpusError(f"larger than {MAX_BYTES} bytes")
    return found


def content(finding: Finding) -> bytes:
    """What a finding's file holds: the same bits for the same finding."""
    text = json.dumps(finding.to_json(), indent=1, allow_nan=False, ensure_ascii=False)
    return text.encode(errors="backslashreplace") + b"\n"  # for a lone surrogate, that is JSON's own escape


def beside(path: Path) -> list[Path]:
    """What was made from the finding in a file and lies there: plain files only."""
    made = (path.with_suffix(suffix) for suffix in SIDE_FILES)
    return [file for file in made if file.is_file() and not file.is_symlink()]


def delete(path: Path) -> None:
    """Delete a finding's file and what lies beside it, where it exists."""
    for suffix in (".json", *SIDE_FILES):
        path.with_suffix(suffix).unlink(missing_ok=True)


def printable(text: str) -> str:
    """Text in one line, with escapes for what could move a cursor or end a line."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape", "backslashreplace").decode()
        for one in text
    )


def write(path: Path, content: bytes) -> None:
    """Put a file in place whole: after a crash there is either all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's files are readable by their owner alone
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _safe(text: str) -> str:
    """No separators of paths or of ids, and no leading dot."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", text).strip("._") or "_"


def _integer(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise CorpusError(f"an integer of {len(text)} digits")
    return int(text)


def _number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise CorpusError(f"{text:.40} is more than a float holds")
    return number


def _no_constant(name: str) -> float:
    raise CorpusError(f"{name} is not JSON")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise CorpusError("a field is given twice")
    return data


_FIELDS: dict[str, tuple[type, ...]] = {
    "operation": (str,),
    "case": (dict,),
    "target": (str,),
    "lane": (str,),
    "kind": (str,),
    "message": (str,),
    "tensor": (str, type(None)),
    "place": (str, type(None)),
    "versions": (dict,),
    "seed": (int, type(None)),
    "found": (str,),
    "unshrunk": (dict, type(None)),
    "trace": (dict,),
    "shrink": (str,),
    "prelude": (list,),
    "reproduced": (bool,),
}
OPTIONAL = {"trace", "shrink"}
LATER = {"prelude", "reproduced"}  # fields of version 2
Subject = TypeVar("Subject", Case, Trace)
KIND = re.compile(r"[a-z][a-z_]{0,39}(\.[a-z_]{1,40})?")


def _parse(data: Any) -> Finding:
    if not isinstance(data, dict):
        raise CorpusError(f"a finding is a JSON object, got {type(data).__name__}")
    version = data.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise CorpusError(f"format_version: this diffgdn reads 1 to {FORMAT_VERSION}, got {version!r:.40}")
    body = {name: value for name, value in data.items() if name != "format_version"}
    fields = set(_FIELDS) - (LATER if version == 1 else set())
    missing = fields - set(body) - OPTIONAL
    for names, word in ((set(body) - fields, "unknown"), (missing, "missing")):
        if names:
            raise CorpusError(f"{word} field {', '.join(map(repr, sorted(names)))}")
    for name, kinds in _FIELDS.items():
        if name not in body:
            continue
        if type(body[name]) not in kinds:
            expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise CorpusError(f"{name}: expected {expected}, got {body[name]!r:.40}")
    if not all(isinstance(value, str) for value in body["versions"].values()):
        raise CorpusError(f"versions: expected strings, got {body['versions']!r:.40}")
    for name in ("target", "tensor", "place"):
        _one_line(name, body[name] or "")
    for pair in body["versions"].items():
        _one_line("versions", " ".join(pair))
    if not KIND.fullmatch(body["kind"]):
        raise CorpusError(f"kind: expected a word such as beyond_bound, got {body['kind']!r:.40}")
    if body["lane"] not in BACKENDS:
        raise CorpusError(f"lane: expected {' or '.join(BACKENDS)}, got {body['lane']!r:.40}")
    if body.get("shrink", COMPLETE) not in SHRINKS:
        raise CorpusError(f"shrink: expected {', '.join(SHRINKS)}, got {body['shrink']!r:.40}")
    if body["found"]:
        _date(body["found"])
    for name in ("case", "unshrunk"):
        if body[name] is not None:
            body[name] = _case(name, body[name])
    if "trace" in body:
        body["trace"] = _trace(body["trace"])
    if "prelude" in body:
        body["prelude"] = _prelude(body["prelude"])
    body["backend"] = body.pop("lane")
    operation, subject = body.pop("operation"), body.get("trace") or body["case"]
    if operation != subject.op:
        raise CorpusError(f"operation: {operation!r:.40}, but the case is of {subject.op}")
    if "trace" in body and body["case"] != body["trace"].last_call():
        raise CorpusError("case: not the last call of the trace")
    return Finding(**body)


def _one_line(name: str, text: str) -> None:
    if len(text) > MOST_LETTERS or not text.isprintable():
        raise CorpusError(f"{name}: expected up to {MOST_LETTERS} printable letters, got {text!r:.40}")


def _date(text: str) -> None:
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        raise CorpusError(f"found: expected a date like 2026-01-31, got {text!r:.40}") from None


def _trace(data: dict[str, Any]) -> Trace:
    return _sized("trace", lambda: Trace.from_json(data))


def _prelude(data: Any) -> tuple[Call, ...]:
    try:
        return preludes.parsed(data)
    except ValueError as error:
        raise CorpusError(str(error)) from None


def _case(name: str, data: dict[str, Any]) -> Case:
    return _sized(name, lambda: Case.from_json(data))


def _sized(name: str, parse: Callable[[], Subject]) -> Subject:
    """A case or a trace that a machine can be asked to run."""
    try:
        subject = parse()
    except (ValueError, TypeError) as error:
        raise CorpusError(f"{name}: {error}") from None
    reason = refusal(subject)
    if reason is not None:
        raise CorpusError(f"{name}: {reason}")
    return subject
