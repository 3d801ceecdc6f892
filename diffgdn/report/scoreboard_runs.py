"""Probe runs as a scoreboard keeps them: counts, and by name what is not right. A few kilobytes each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from diffgdn.cases import target_names
from diffgdn.cases.json_record import require
from diffgdn.findings import corpus
from diffgdn.probe.cells import RIGHT, STATUSES

FORMAT_VERSION = 1
LISTED = tuple(status for status in STATUSES if status != RIGHT)


@dataclass(frozen=True)
class Score:
    """An operation in a run.

    plain: the status of its plain case. right: how many cells are. others: the names of all other cells, by
    status. promised: those that are promised, of these. pairs: asked about; pairs_not_right: their names.
    """

    plain: str
    right: int
    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    promised: tuple[str, ...] = ()
    pairs: int = 0
    pairs_not_right: tuple[str, ...] = ()

    def count(self, status: str) -> int:
        """Count the cells of a status."""
        return self.right if status == RIGHT else len(self.others.get(status, ()))


@dataclass(frozen=True)
class ProbeRun:
    """A probe of one version of a target: where it ran, when, and what came of each operation.

    target: its name alone; places on a machine are nobody's business. package: with its version, or "".
    """

    target: str
    package: str
    backend: str
    device: str
    date: str
    versions: Mapping[str, str]
    operations: Mapping[str, Score]

    @property
    def version(self) -> str:
        """The version of the package; its target's place where nobody said."""
        return (
            self.package.rpartition(" ")[2] if self.package else self.target.partition("@")[2] or "installed"
        )

    @property
    def name(self) -> str:
        """A name for its file."""
        return re.sub(r"[^A-Za-z0-9_.-]+", "_", f"{self.target}-{self.version}-{self.backend}")

    def count(self, status: str) -> int:
        """Count the cells of a status in all operations."""
        return sum(score.count(status) for score in self.operations.values())


def of_probe(data: Any) -> ProbeRun:
    """Summarise what `diffgdn probe --json` wrote. Raises ValueError."""
    try:
        versions = dict(data["versions"])
        return ProbeRun(
            target_names.split(str(data["target"]))[0],
            str(data.get("package", "")),
            str(data["backend"]),
            str(versions.pop("device")),
            str(data.get("date", "")),
            {name: str(value) for name, value in versions.items()},
            {str(op): _score(row) for op, row in data["operations"].items()},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no probe: {type(error).__name__} {error}") from None


def _score(row: Mapping[str, Any]) -> Score:
    others: dict[str, tuple[str, ...]] = {}
    for cell in row["cells"]:
        status = str(cell["status"])
        require(status in STATUSES, f"no status of a cell: {status!r:.40}")
        if status != RIGHT:
            others[status] = (*others.get(status, ()), str(cell["feature"]))
    right = sum(cell["status"] == RIGHT for cell in row["cells"])
    promised = [str(cell["feature"]) for cell in row["cells"] if cell["status"] != RIGHT and cell["promised"]]
    pairs = row["pairs"]
    wrong = tuple(str(cell["feature"]) for cell in pairs["not_right"])
    return Score(str(row["plain"]["status"]), right, others, tuple(promised), int(pairs["asked"]), wrong)


def to_json(run: ProbeRun) -> str:
    """Write a run as its file holds it; operations that are all right take a line or two."""
    data = {"format_version": FORMAT_VERSION, **asdict(run)}
    return json.dumps(data, indent=1) + "\n"


def from_json(text: str) -> ProbeRun:
    """Read what `to_json` wrote. Raises ValueError."""
    data = json.loads(text)
    version = data.pop("format_version", None) if isinstance(data, dict) else None
    require(version == FORMAT_VERSION, f"format_version: expected {FORMAT_VERSION}, got {version!r:.40}")
    try:
        data["operations"] = {op: _read_score(score) for op, score in data["operations"].items()}
        return ProbeRun(**data)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no run: {type(error).__name__} {error}") from None


def _read_score(data: dict[str, Any]) -> Score:
    others = {status: tuple(names) for status, names in data.pop("others").items()}
    require(set(others) <= set(LISTED), f"others: expected some of {', '.join(LISTED)}, got {list(others)}")
    promised, wrong = tuple(data.pop("promised")), tuple(data.pop("pairs_not_right"))
    return Score(**data, others=others, promised=promised, pairs_not_right=wrong)


def read(folder: Path) -> list[ProbeRun]:
    """Read the runs of a folder, by target, the newest version first. Raises ValueError that names a file."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(from_json(path.read_text()))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from None
    newest = sorted(found, key=lambda run: (number(run.version), run.backend), reverse=True)
    return sorted(newest, key=lambda run: run.target)


def number(version: str) -> list[int]:
    """Numbers of a version, to sort by."""
    return [int(part) for part in re.findall(r"\d+", version)][:6]


def add(probe: Path, folder: Path) -> Path:
    """Put a probe's summary into a folder of runs, beside other operations of the same one.

    Raises ValueError that names the file, and OSError.
    """
    try:
        run = of_probe(json.loads(probe.read_text()))
    except (OSError, ValueError) as error:
        raise ValueError(f"{probe}: {error}") from None
    path = folder / f"{run.name}.json"
    if path.exists():
        run = merged(from_json(path.read_text()), run)
    corpus.write(path, to_json(run).encode())
    return path


def merged(before: ProbeRun, now: ProbeRun) -> ProbeRun:
    """Return a run with the operations of an earlier one that it has not itself, if both ran in one place."""
    same = (before.target, before.package, before.device) == (now.target, now.package, now.device)
    kept: Iterable[tuple[str, Score]] = before.operations.items() if same else ()
    return replace(now, operations={**dict(kept), **now.operations})
