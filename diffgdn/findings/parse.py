"""The strict reading of finding files, which may come from a stranger.

Such a file is JSON and nothing else: read as plain data up to a size, every field checked, no name in it used
as a path. What it names as its target is for `trust` to judge. Files of older versions are read too.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from diffgdn.cases import prelude as preludes
from diffgdn.cases.case import Case
from diffgdn.cases.prelude import Call
from diffgdn.cases.size_limits import refusal
from diffgdn.cases.trace import Trace
from diffgdn.findings.finding import BACKENDS, COMPLETE, FORMAT_VERSION, SHRINKS, Finding

MAX_BYTES = 1 << 20  # a case is a few kilobytes; anything near this is no finding
MOST_LETTERS = 300  # of a name, a place or a reason, which are one line each
MOST_DIGITS = 40

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
    "provenance": (dict,),
    "bisected": (dict,),
}
WORDS = ("versions", "provenance", "bisected")  # fields that hold text by name
OPTIONAL = {"trace", "shrink", "provenance", "bisected"}
LATER = {"prelude", "reproduced"}  # fields of version 2
Subject = TypeVar("Subject", Case, Trace)
KIND = re.compile(r"[a-z][a-z_]{0,39}(\.[a-z_]{1,40})?")


class CorpusError(ValueError):
    """Raised for a file that is no finding and for a name that leads to none, in one line that names the
    file.
    """


def read(path: Path) -> Finding:
    """Read the finding in a file, wherever it lies. Raises CorpusError, in one line that names the file."""
    try:
        data = json.loads(
            _bytes(path).decode(),
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_no_constant,
            object_pairs_hook=_no_twins,
        )
        return finding_from_json(data)
    except OSError as error:
        reason = error.strerror or str(error)
    except CorpusError as error:
        reason = str(error)
    except (ValueError, RecursionError) as error:
        reason = f"not JSON: {error}"
    raise CorpusError(f"{printable(str(path))}: {printable(reason[:MOST_LETTERS])}")


def _bytes(path: Path) -> bytes:
    """Read a plain file of up to MAX_BYTES. Raises CorpusError for others, OSError if it cannot be read."""
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


def printable(text: str) -> str:
    """Put text on one line, with escapes for whatever could move a cursor or end a line."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape", "backslashreplace").decode()
        for one in text
    )


def _integer(text: str) -> int:
    """Read an integer of up to MOST_DIGITS digits; Python's own limit is larger."""
    if len(text) > MOST_DIGITS:
        raise CorpusError(f"an integer of {len(text)} digits")
    return int(text)


def _number(text: str) -> float:
    """Read a number that a float holds."""
    number = float(text)
    if math.isinf(number):
        raise CorpusError(f"{text:.40} is more than a float holds")
    return number


def _no_constant(name: str) -> float:
    """Refuse NaN and infinities, which Python reads but JSON does not have."""
    raise CorpusError(f"{name} is not JSON")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object whose fields have different names."""
    data = dict(pairs)
    if len(data) != len(pairs):
        raise CorpusError("a field is given twice")
    return data


def finding_from_json(data: Any) -> Finding:
    """Build the finding that `Finding.to_json` wrote.

    Raises CorpusError for a version or a field that is unknown, and for a value of the wrong type or beyond
    what a finding may hold.
    """
    body = _body(data)
    _check_types(body)
    _check_words(body)
    return _built(body)


def _body(data: Any) -> dict[str, Any]:
    """Take the fields of a finding of a known version. Raises CorpusError unless all that it must have are
    there, and no others.
    """
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
    return body


def _check_types(body: Mapping[str, Any]) -> None:
    """Check the JSON type of every field."""
    for name, kinds in _FIELDS.items():
        if name not in body:
            continue
        if type(body[name]) not in kinds:
            expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise CorpusError(f"{name}: expected {expected}, got {body[name]!r:.40}")
    for name in WORDS:
        if not all(isinstance(value, str) for value in body.get(name, {}).values()):
            raise CorpusError(f"{name}: expected strings, got {body[name]!r:.40}")


def _check_words(body: Mapping[str, Any]) -> None:
    """Check what is printed or compared as a word: one printable line, or one of a few values."""
    for name in ("target", "tensor", "place"):
        _one_line(name, body[name] or "")
    for name in WORDS:
        for key, value in body.get(name, {}).items():
            _one_line(name, f"{key} {value}")
    if not KIND.fullmatch(body["kind"]):
        raise CorpusError(f"kind: expected a word such as beyond_bound, got {body['kind']!r:.40}")
    if body["lane"] not in BACKENDS:
        raise CorpusError(f"lane: expected {' or '.join(BACKENDS)}, got {body['lane']!r:.40}")
    if body.get("shrink", COMPLETE) not in SHRINKS:
        raise CorpusError(f"shrink: expected {', '.join(SHRINKS)}, got {body['shrink']!r:.40}")
    if body["found"]:
        _date(body["found"])


def _built(body: dict[str, Any]) -> Finding:
    """Build the finding of checked fields: read its cases, and check that they belong together."""
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
    """Check that text is short and printable."""
    if len(text) > MOST_LETTERS or not text.isprintable():
        raise CorpusError(f"{name}: expected up to {MOST_LETTERS} printable letters, got {text!r:.40}")


def _date(text: str) -> None:
    """Check that text is a date in ISO form."""
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
    """Read a case or a trace that a machine can be asked to run."""
    try:
        subject = parse()
    except (ValueError, TypeError) as error:
        raise CorpusError(f"{name}: {error}") from None
    reason = refusal(subject)
    if reason is not None:
        raise CorpusError(f"{name}: {reason}")
    return subject
