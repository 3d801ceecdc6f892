"""Write events as they happen, one JSON object a line; docs/run-reports.md says what each holds."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffgdn.campaign.config import Config
from diffgdn.campaign.coverage import Counts
from diffgdn.campaign.events import CampaignEnded, CaseRun, Event, ReplayEnded
from diffgdn.cases.case import Case
from diffgdn.cases.trace import Trace
from diffgdn.findings.finding import Finding
from diffgdn.findings.known_seen import Seen
from diffgdn.report.file_report import FileReport

if TYPE_CHECKING:
    from diffgdn.strategies.domain import Domain

FORMAT_VERSION = 1
FLUSH_SECONDS = 1.0  # so that a file can be followed, and little is lost where a machine is
LEFT_OUT = {"errors"}  # large, and counted elsewhere: `--json` of calibrate
CONFIG = ("target", "operations", "backend", "seed", "shard", "workers", "max_time", "max_cases", "mode")


class EventLines(FileReport):
    """Leave a file with a line for each event: a listener. A file that was there is begun anew."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Take the path of the file, and a clock that tells seconds since 1970."""
        super().__init__(path)
        self._clock, self._waiting, self._flushed = clock, list[str](), 0.0
        self._begun = False

    def __call__(self, event: Event) -> None:
        """Write an event, with those before it if none was written for a while."""
        now = self._clock()
        self._waiting.append(line(event, now))
        ends = isinstance(event, CampaignEnded | ReplayEnded)
        if ends or not isinstance(event, CaseRun) or now - self._flushed >= FLUSH_SECONDS:
            self._flushed = now
            self._flush()

    def _flush(self) -> None:
        if self.problem is not None:
            self._waiting.clear()
            return
        text, mode = "".join(self._waiting), "a" if self._begun else "w"
        self._waiting.clear()
        try:
            with self._path.open(mode, encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
            self._begun = True
        except OSError as error:
            self.failed(error)


def line(event: Event, now: float) -> str:
    """Write an event as a line. now: seconds since 1970."""
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat(timespec="milliseconds")
    named = {spec.name: getattr(event, spec.name) for spec in dataclasses.fields(event)}
    said = {name: value for name, value in named.items() if name not in LEFT_OUT and not _unsaid(value)}
    told = {name: _domain(value) if name == "domain" else _plain(value) for name, value in said.items()}
    data = {"event": type(event).__name__, "time": moment, **told}
    if type(event).__name__ in ("CampaignStarted", "ReplayStarted"):
        data["format_version"] = FORMAT_VERSION
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


def _unsaid(value: Any) -> bool:
    """Tell whether a value need not be written: absent, False, or empty."""
    return value is None or value is False or (isinstance(value, Mapping | tuple) and not value)


def _domain(domain: Domain) -> dict[str, list[str]]:
    return {"values": list(domain.values), "declared": list(domain.declared)}


def _plain(value: Any) -> Any:
    """Return a value of JSON's types. Numbers that JSON has not become strings: inf, -inf, nan."""
    match value:
        case float():
            return round(value, 6) if math.isfinite(value) else str(value)
        case str() | int():
            return value
        case Case() | Trace() | Finding():
            return value.to_json()
        case Config():
            told = {name: _plain(getattr(value, name)) for name in CONFIG}
            told["coverage"] = value.coverage
            return {**told, "corpus": str(value.corpus), "against": value.base and value.base.words}
        case Counts():
            return {"cases": value.cases, "values": dict(value.values)}
        case Seen():
            counts = {"failed": value.failed, "passed": value.passed, "skipped": value.skipped}
            return {"entry": value.entry.name, **counts, "alive": value.alive, "mended": value.mended}
        case Mapping():
            return {str(name): _plain(one) for name, one in value.items()}
        case tuple() | list():
            return [_plain(one) for one in value]
        case None:
            return None
    raise TypeError(f"no JSON for {type(value).__name__}")
