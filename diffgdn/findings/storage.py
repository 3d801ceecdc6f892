"""Findings in a place that many machines share: a URL of fsspec, such as s3, gs, ssh or file.

A file's name is its finding's id, which is made of its content: machines that put the same name put the same
thing, so none need know of another. What comes from there is as foreign as any finding: it is read by `parse`
alone, and no script of it is taken.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffgdn.findings.corpus import SIDE_FILES
from diffgdn.findings.parse import MAX_BYTES, CorpusError, printable, read

KINDS = (".json", *SIDE_FILES)
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.(json|py|png|txt)")
IN_PLACE = {"file", "local", "ssh", "sftp"}  # where a file that is being written can be seen half
MOST_LETTERS = 200  # of what a storage says went wrong


class StorageError(Exception):
    """The storage did not answer, or refused; one line."""


def is_url(place: str) -> bool:
    """Tell whether a place is a URL and not a path."""
    return re.match(r"[a-z][a-z0-9+.-]*://", place) is not None


def mirror(url: str, above: Path) -> Path:
    """Name the folder below another in which the findings of a URL lie on this machine."""
    words = re.sub(r"[^A-Za-z0-9.]+", "-", without_secrets(url)).strip("-.")[:60]
    return above / f"{words}-{hashlib.sha256(url.encode()).hexdigest()[:6]}"


def without_secrets(url: str) -> str:
    """Leave a user and a password out of a URL, so that it can be shown."""
    return re.sub(r"(?<=://)[^/@]*@", "", url)


@dataclass(frozen=True)
class Storage:
    """A folder of a file system of fsspec. Every method raises StorageError where that fails."""

    url: str
    system: Any
    folder: str

    @staticmethod
    def at(url: str) -> Storage:
        """Open a URL, without asking it anything yet. Raises ValueError for one that cannot be opened."""
        try:
            from fsspec.core import url_to_fs
        except ImportError:
            raise ValueError("fsspec is not installed: pip install 'diffgdn[storage]'") from None
        try:
            system, folder = url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            raise ValueError(f"{error}: pip install 'diffgdn[storage]'") from None
        except Exception as error:
            raise ValueError(printable(f"{type(error).__name__}: {error}"[:MOST_LETTERS])) from None
        return Storage(url, system, folder)

    def names(self) -> set[str]:
        """List the names of files that belong to findings; none where the folder does not exist yet."""
        try:
            entries = self._do("ls", self.folder, detail=False)
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return set()
            raise
        found = {posixpath.basename(str(entry).rstrip("/")) for entry in entries}
        return {name for name in found if NAME.fullmatch(name)}

    def get(self, name: str) -> bytes:
        """Return the content of a file; of a large one enough to show that it is too large for a finding."""
        content: bytes = self._do("cat_file", self._path(name), end=MAX_BYTES + 1)
        return content

    def put(self, name: str, content: bytes) -> None:
        """Write a file whole: who reads it meanwhile sees all of it or nothing."""
        self._do("makedirs", self.folder, exist_ok=True)
        protocols = self.system.protocol
        if IN_PLACE.isdisjoint({protocols} if isinstance(protocols, str) else protocols):
            self._do("pipe_file", self._path(name), content)
            return
        part = self._path(f".{name}.{uuid.uuid4().hex}.part")
        self._do("pipe_file", part, content)
        self._do("mv", part, self._path(name))

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""
        try:
            self._do("rm_file", self._path(name))
        except StorageError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise

    def _path(self, name: str) -> str:
        return f"{self.folder.rstrip('/')}/{name}"

    def _do(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Ask the file system, whose faults are of any class."""
        try:
            return getattr(self.system, method)(*arguments, **named)
        except Exception as error:
            said = str(error).strip().splitlines()
            reason = f"{type(error).__name__}: {said[0] if said else method}"
            raise StorageError(printable(reason[:MOST_LETTERS])) from error


def take(name: str, content: bytes, folder: Path) -> Path:
    """Put a finding from elsewhere into a folder, if it is one of this name. Raises CorpusError, OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{uuid.uuid4().hex}.part"
    try:
        part.write_bytes(content)
        finding = read(part)
        if f"{finding.id}.json" != name:
            raise CorpusError(f"it holds {finding.id}")
        part.replace(folder / name)
    except CorpusError as error:
        raise CorpusError(str(error).replace(str(part), printable(name))) from None
    finally:
        part.unlink(missing_ok=True)
    return folder / name
