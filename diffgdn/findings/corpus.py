"""A folder of findings: one JSON file each, written whole or not at all, and read by `parse` alone.

Beside ID.json may lie what was made from it for people: ID.py, a standalone repro script, and ID.png or
ID.txt, a picture of the error. The JSON alone is the finding.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from diffgdn.findings.finding import Finding
from diffgdn.findings.parse import CorpusError, printable, read

SIDE_FILES = (".py", ".png", ".txt")


@dataclass(frozen=True)
class Corpus:
    """Keep findings in a folder, which need not exist before the first one is saved."""

    path: Path

    def save(self, finding: Finding) -> Path:
        """Write a finding, whole or not at all, and return the path of its JSON file.

        A finding that is already there is left as it was. Raises OSError.
        """
        target = self.path / f"{finding.id}.json"
        if not target.exists():
            write(target, content(finding))
        return target

    def keep(self, finding: Finding, anew: bool = False) -> tuple[Path, str | None]:
        """Save a finding if that can be done, and return the path of its JSON file and, if it could not, why,
        in one line.

        With `anew` a finding that is already there is written again. Raises nothing for a folder or disk that
        refuses.
        """
        try:
            if anew:
                write(self.path / f"{finding.id}.json", content(finding))
            return self.save(finding), None
        except OSError as error:
            reason = f"{self.path}: {error.strerror or error}: {finding.id} is not saved"
            return self.path / f"{finding.id}.json", reason

    def remove(self, finding: Finding) -> None:
        """Delete a finding and what lies beside it, as far as they exist. Raises OSError."""
        delete(self.path / f"{finding.id}.json")

    def files(self) -> list[Path]:
        """List the JSON files of the folder by name; whether they hold findings only `read` can tell."""
        return sorted(self.path.glob("*.json")) if self.path.is_dir() else []

    def read(self, path: Path) -> Finding:
        """Read the finding in a file of this folder. Raises CorpusError, also for a link that leads out of
        it.
        """
        self._require_inside(path, str(path))
        return read(path)

    def findings(self) -> list[Finding]:
        """Read all findings, sorted by id. Raises CorpusError for the first file that holds none."""
        return sorted((self.read(path) for path in self.files()), key=lambda finding: finding.id)

    def get(self, name: str | os.PathLike[str]) -> Finding:
        """Read the finding that a name means (see `locate`). Raises CorpusError."""
        return self.read(self.locate(name))

    def locate(self, name: str | os.PathLike[str]) -> Path:
        """Find the file that a name means.

        A name is an id, a file's name or path in this folder, or a case's id if one finding only has that
        case. Raises CorpusError for a name that leads to no file, to several, or out of the folder.
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
        """Raise CorpusError unless a path, links followed, lies in this folder itself."""
        if os.path.dirname(os.path.realpath(path)) != os.path.realpath(self.path):
            raise CorpusError(f"{printable(name)}: not in {self.path}")


def content(finding: Finding) -> bytes:
    """Return what a finding's file holds: equal findings give equal bytes."""
    text = json.dumps(finding.to_json(), indent=1, allow_nan=False, ensure_ascii=False)
    return text.encode(errors="backslashreplace") + b"\n"  # for a lone surrogate, that is JSON's own escape


def beside(path: Path) -> list[Path]:
    """List the plain files that were made from the finding in a file and lie beside it."""
    made = (path.with_suffix(suffix) for suffix in SIDE_FILES)
    return [file for file in made if file.is_file() and not file.is_symlink()]


def delete(path: Path) -> None:
    """Delete a finding's JSON file and what lies beside it, as far as they exist. Raises OSError."""
    for suffix in (".json", *SIDE_FILES):
        path.with_suffix(suffix).unlink(missing_ok=True)


def write(path: Path, content: bytes) -> None:
    """Put a file in place whole: after a crash there is either all of it or nothing.

    Folders on the way are made. Raises OSError, and then leaves no part of the file.
    """
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
