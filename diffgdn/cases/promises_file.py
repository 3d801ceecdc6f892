"""Reads promises from pyproject.toml or diffgdn.toml, without importing the target that makes them.

Both files hold the same tables: `[tool.diffgdn.targets.NAME]` in pyproject.toml, `[targets.NAME]` in
diffgdn.toml.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from diffgdn.cases import target_names
from diffgdn.cases.json_record import require
from diffgdn.cases.promises import Promises

FILES = ("diffgdn.toml", "pyproject.toml")


def read(path: Path) -> dict[str, Promises]:
    """Return the promises that a file holds, by name of the target.

    Raises ValueError that names the file, the target and the field.
    """
    try:
        data: Any = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None
    if path.name == "pyproject.toml":
        data = data.get("tool", {}).get("diffgdn", {})
    tables: Any = data.get("targets", {}) if isinstance(data, dict) else None
    require(
        isinstance(tables, dict), f"{path}: targets: expected a table for each target, got {tables!r:.80}"
    )
    found = {}
    for name, table in tables.items():
        try:
            found[name] = Promises.from_table(table)
        except ValueError as error:
            raise ValueError(f"{path}: targets.{name}: {error}") from None
    return found


def declared(target: str, folder: Path | None = None) -> Promises | None:
    """Return what a file promises for a target, or None.

    Args:
        target: its name, as it is given to `--target`; a table may also be called what follows the
            colon, or without the place of a released package.
        folder: where it is looked for, and in the folders above; None for the current one. The nearest file
            that has a table for the target counts.

    Raises ValueError if a file cannot be read.

    """
    start = (folder or Path.cwd()).resolve()
    for place in (start, *start.parents):
        for path in (place / name for name in FILES):
            if path.is_file():
                found = read(path)
                for name in target_names.spellings(target):
                    if name in found:
                        return found[name]
    return None
