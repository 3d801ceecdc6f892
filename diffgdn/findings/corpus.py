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
