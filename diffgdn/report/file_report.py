"""What listeners that leave a file have in common: a file that cannot be written stops no campaign."""

from __future__ import annotations

from pathlib import Path

from diffgdn.findings import corpus


class FileReport:
    """Leave a file.

    Attributes:
        problem: why it could not be written, in one line; None if it was, or nothing has been yet.
    """

    def __init__(self, path: Path) -> None:
        """Take the path of the file, whose folder exists."""
        self._path = path
        self.problem: str | None = None

    def write(self, text: str) -> None:
        """Put the file in place whole. Raises nothing for a disk that refuses."""
        try:
            corpus.write(self._path, text.encode(errors="backslashreplace"))
        except OSError as error:
            self.failed(error)

    def failed(self, error: OSError) -> None:
        """Note why the file could not be written."""
        self.problem = f"{self._path}: {error.strerror or error}"
