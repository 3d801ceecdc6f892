"""The case that is being run, on disk before its launch: whoever finds the process dead knows what it died
of.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from diffgdn.case import Case


class CurrentCase:
    """A file that names the case being run; empty while none is."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def write(self, case: Case, **about: Any) -> None:
        """about: what else a reader should know, of JSON's types."""
        os.pwrite(self._file, json.dumps({"case": case.to_json(), **about}).encode(), 0)

    def clear(self) -> None:
        os.ftruncate(self._file, 0)


def current(path: Path) -> tuple[Case, dict[str, Any]] | None:
    """The case that was running when the file's writer was last heard of, and what was told about it."""
    try:
        about = json.loads(path.read_bytes())
        return Case.from_json(about.pop("case")), about
    except (OSError, ValueError, KeyError, AttributeError):
        return None
