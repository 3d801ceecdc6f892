"""Reads known failures from diffgdn.toml or pyproject.toml, and adds entries to one.

Both files hold the same tables: `[[known]]` in diffgdn.toml, `[[tool.diffgdn.known]]` in pyproject.toml. The
nearest file that has an entry counts, alone. What is added is text at the end: nothing else of a file
changes.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffgdn.cases.json_record import require
from diffgdn.cases.promises_file import FILES
from diffgdn.findings import corpus, known
from diffgdn.findings.known import Known, KnownFailures

NAMED = re.compile(r"[A-Za-z0-9_-]+")
OURS, THEIRS = FILES


def declared(folder: Path | None = None, run_crashes: bool = False) -> KnownFailures:
    """Return the known failures that count in a folder; None for the current one.

    Raises ValueError, in one line, if a file cannot be read; it names the file and the entry.
    """
    path = located(folder)
    return KnownFailures(() if path is None else tuple(read(path)), run_crashes)


def located(folder: Path | None = None) -> Path | None:
    """Find the file whose entries count: the nearest that has one, here or in the folders above."""
    return next((path for path in _files(folder) if read(path)), None)


def read(path: Path) -> list[Known]:
    """Return the entries of a file, in their order.

    Raises ValueError, in one line, that names the file and the entry.
    """
    try:
        return parse(path.read_bytes().decode(), path)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None


def parse(text: str, path: Path) -> list[Known]:
    """Return the entries in the text of a file. Raises ValueError."""
    try:
        data: Any = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: {error}") from None
    if path.name == THEIRS:
        data = data.get("tool", {}).get("diffgdn", {})
    tables: Any = data.get("known", []) if isinstance(data, dict) else None
    require(isinstance(tables, list), f"{path}: known: expected [[known]] tables, got {tables!r:.80}")
    heads = re.compile(rf"[ \t]*{re.escape(_head(path))}", re.MULTILINE)
    lines = [number for number, line in enumerate(text.splitlines(), 1) if heads.match(line)]
    sure = len(lines) == len(tables)  # not where a text of several lines looks like a head
    names = [
        f"{_shown(path)}:{lines[n]}" if sure else f"{_shown(path)}, known {n + 1}" for n in range(len(tables))
    ]
    return [known.read(table, name) for table, name in zip(tables, names, strict=True)]


def home(folder: Path | None = None) -> Path:
    """Choose the file that a new entry goes to.

    The one whose entries count, else the nearest diffgdn.toml, else the nearest pyproject.toml that has a
    table of ours, else a new diffgdn.toml. Raises ValueError if a file cannot be read.
    """
    first = located(folder)
    files = list(_files(folder))
    ours = [path for path in files if path.name == OURS]
    theirs = [path for path in files if path.name == THEIRS and "[tool.diffgdn" in path.read_text()]
    return next((path for path in (first, *ours, *theirs) if path is not None), _start(folder) / OURS)


def add(path: Path, table: Mapping[str, Any], note: str = "") -> tuple[str, Known]:
    """Add an entry to the end of a file, which need not exist; return its text, and it as it is read back.

    note: a comment above it. What is in the file stays as it is, to the byte. Raises ValueError, and OSError;
    nothing is written then.
    """
    before = path.read_bytes().decode() if path.exists() else ""
    entries = parse(before, path)
    block = written(table, _head(path), note)
    end = "\r\n" if "\r\n" in before else "\n"
    gap = "" if not before else end if before.endswith("\n") else 2 * end
    after = before + gap + block.replace("\n", end)
    try:
        again = parse(after, path)
    except ValueError as error:
        raise ValueError(
            f"{error}; an entry cannot be added at the end of {path}: write it by hand"
        ) from None
    assert len(again) == len(entries) + 1  # and the one that was added is the last
    real = Path(os.path.realpath(path))  # a link stays one
    mode = stat.S_IMODE(real.stat().st_mode) if real.exists() else None
    corpus.write(real, after.encode())
    if mode is not None:
        real.chmod(mode)
    return block, again[-1]


def written(table: Mapping[str, Any], head: str, note: str = "") -> str:
    """Write an entry as TOML. Raises ValueError for text that TOML does not hold."""
    lines = [f"# {note}"] if note else []
    lines += [head, *(f"{_key(name)} = {_value(value)}" for name, value in table.items())]
    return "\n".join(lines) + "\n"


def _head(path: Path) -> str:
    return "[[tool.diffgdn.known]]" if path.name == THEIRS else "[[known]]"


def _key(name: str) -> str:
    return name if NAMED.fullmatch(name) else _value(name)


def _value(value: Any) -> str:
    """Write a value in one line."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(name)} = {_value(one)}" for name, one in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):
        if any(0xD800 <= ord(letter) < 0xE000 for letter in value):
            raise ValueError("text with a lone surrogate cannot be written")
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _start(folder: Path | None) -> Path:
    return (folder or Path.cwd()).resolve()


def _files(folder: Path | None) -> list[Path]:
    """The files of a folder and those above it that there are, the nearest first."""
    start = _start(folder)
    return [
        path
        for place in (start, *start.parents)
        for path in (place / name for name in FILES)
        if path.is_file()
    ]


def _shown(path: Path) -> str:
    """Write a path as a person who is here would."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
