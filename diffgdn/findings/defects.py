"""Reads defects of released kernels from a TOML file: what is wrong, where it was run, and whose it is.

Such a file is written by hand, of causes that were read in their source. Each defect is a table `[[defect]]`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffgdn.cases import case_text, target_names
from diffgdn.cases.case import Case
from diffgdn.cases.json_record import require
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.trace import Trace
from diffgdn.findings.finding import BACKENDS
from diffgdn.findings.known import KINDS, LOOPS

THEIRS, OURS, ADAPTER, OPEN = WHOSE = ("theirs", "ours", "adapter", "open")
NEEDED = ("id", "target", "operations", "title", "kind", "case", "wrong_in", "right_in", "whose", "cause")
TEXTS = ("result", "mend", "promised", "tolerance", "backend", "link", "note")
LISTS = ("operations", "wrong_in", "right_in", "features")
FIELDS = (*NEEDED, *TEXTS, "features", "mended_by_patch")
ID = re.compile(r"[a-z0-9][a-z0-9-]{1,79}")


@dataclass(frozen=True)
class Defect:
    """A defect of a released kernel.

    id: unique, and the name of its heading. target, operations: which fail. kind, result: of the failure.
    case: that shows it. wrong_in, right_in: versions that were run. whose: one of WHOSE. cause: file,
    function and what happens there. mend: what to change; mended_by_patch: whether a patched copy passed.
    promised: what the package says about it, and where. tolerance: what the maintainers' own tests would say.
    backend: where it was seen. features: of a probe, as shell patterns, that fail for it; none for those that
    its case has. link, note: more.
    """

    id: str
    target: str
    operations: tuple[str, ...]
    title: str
    kind: str
    case: Case | Trace
    wrong_in: tuple[str, ...]
    right_in: tuple[str, ...]
    whose: str
    cause: str
    result: str = ""
    mend: str = ""
    promised: str = ""
    tolerance: str = ""
    backend: str = ""
    link: str = ""
    note: str = ""
    features: tuple[str, ...] = ()
    mended_by_patch: bool = False


def read(path: Path) -> list[Defect]:
    """Return the defects of a file, in their order.

    Raises ValueError, in one line, that names the file, the defect and the key.
    """
    try:
        return parse(path.read_bytes().decode(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None


def parse(text: str, name: str) -> list[Defect]:
    """Return the defects in the text of a file of this name. Raises ValueError."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{name}: {error}") from None
    unknown = sorted(set(data) - {"defect"})
    require(not unknown, f"{name}: {unknown[:1]}: expected [[defect]] tables alone")
    tables = data.get("defect", [])
    require(isinstance(tables, list), f"{name}: defect: expected [[defect]] tables, got {tables!r:.60}")
    found: dict[str, Defect] = {}
    for number, table in enumerate(tables, 1):
        about = f"{name}: defect {number}"
        if isinstance(table, Mapping) and isinstance(table.get("id"), str):
            about += f" ({table['id']!r:.90})"
        try:
            one = _defect(table)
            require(one.id not in found, "id: another defect has it")
        except ValueError as error:
            raise ValueError(f"{about}: {error}") from None
        found[one.id] = one
    return list(found.values())


def _defect(table: Any) -> Defect:
    """Read one table. Raises ValueError that names the key."""
    require(isinstance(table, Mapping), f"expected a table, got {table!r:.60}")
    unknown = [key for key in table if key not in FIELDS]
    require(not unknown, f"{unknown[:1]}: unknown; known: {', '.join(FIELDS)}")
    for key in NEEDED:
        require(key in table, f"{key}: missing")
    given: dict[str, Any] = dict(table)
    for key, value in table.items():
        if key in LISTS:
            right = isinstance(value, list) and all(isinstance(one, str) and one.strip() for one in value)
            require(right, f"{key}: expected a list of texts, got {value!r:.60}")
            given[key] = tuple(value)
        elif key == "mended_by_patch":
            require(type(value) is bool, f"{key}: expected true or false, got {value!r:.60}")
        else:
            right = isinstance(value, str) and (value.strip() != "" or key in TEXTS)
            require(right, f"{key}: expected text, got {value!r:.60}")
    _check_words(given)
    try:
        given["case"] = case_text.read(given["case"])
    except ValueError as error:
        raise ValueError(f"case: {error}") from None
    own = given["case"].op
    require(own in given["operations"], f"case: it is of {own}, which is not among operations")
    return Defect(**given)


def _check_words(given: Mapping[str, Any]) -> None:
    """Check what is one of a few words. Raises ValueError."""
    require(
        ID.fullmatch(given["id"]) is not None,
        f"id: expected small letters, digits and -, got {given['id']!r:.90}",
    )
    known = (*OPERATIONS, *LOOPS)
    require(len(given["operations"]) > 0, "operations: expected at least one")
    for op in given["operations"]:
        require(op in known, f"operations: expected some of {', '.join(known)}, got {op!r:.60}")
    targets = target_names.BUILT_IN
    expected = f"target: expected one of {', '.join(targets)}, got {given['target']!r:.60}"
    require(given["target"] in targets, expected)
    for key, words in (("kind", KINDS), ("whose", WHOSE), ("backend", ("", *BACKENDS))):
        value = given.get(key, "")
        right = value in words or key not in given
        require(right, f"{key}: expected one of {', '.join(filter(None, words))}, got {value!r:.60}")
    require(len(given["wrong_in"]) > 0, "wrong_in: expected at least one version")
    both = sorted(set(given["wrong_in"]) & set(given["right_in"]))
    require(not both, f"right_in: {both[:1]} is also in wrong_in")
