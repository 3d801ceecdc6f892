"""Write the result of a campaign for machines: one JSON file, when the campaign ends."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from diffgdn.campaign import events
from diffgdn.campaign.events import Event
from diffgdn.report import coverage_table
from diffgdn.report.file_report import FileReport
from diffgdn.report.modes import REPORTS
from diffgdn.report.tally import Tally

FORMAT_VERSION = 2  # 2: `backend`, which was `lane`


class JsonFile(FileReport):
    """Leave a file with the result of a campaign: a listener."""

    def __init__(self, path: Path) -> None:
        """Take the path of the file."""
        super().__init__(path)
        self._tally = Tally()

    def __call__(self, event: Event) -> None:
        """Add an event up; write the file when the campaign ends, unless it never began."""
        self._tally(event)
        if isinstance(event, events.CampaignEnded) and self._tally.phase != "start":
            text = json.dumps(summary(self._tally), indent=1, allow_nan=False, ensure_ascii=False)
            self.write(text + "\n")


def summary(tally: Tally) -> dict[str, Any]:
    """Return the result of a campaign that has ended, ready for JSON.

    Times are in seconds; a share is an error over its bound, null if there was none or it is not finite.
    """
    config, ended = tally.config, tally.ended
    assert ended is not None
    return {
        "format_version": FORMAT_VERSION,
        "target": config.target,
        "mode": config.mode,
        "backend": config.backend,
        "device": tally.device,
        "seed": config.seed,
        "shard": list(config.shard),
        "workers": config.workers,
        "max_time": config.max_time,
        "max_cases": config.max_cases,
        "corpus": str(config.corpus),
        "versions": tally.versions,
        "interrupted": ended.interrupted,
        "problem": ended.stopped,
        "unreached": dict(ended.unreached),
        "totals": {
            "cases": tally.cases,
            "cases_per_second": round(tally.rate, 3),
            "variants_compiled": tally.compiled,
            "findings": len(tally.findings),
            "known": tally.known_cases,
            "worker_deaths": len(tally.deaths),
            "oracle_share": None if tally.oracle_share is None else round(tally.oracle_share, 4),
            "seconds": {
                **{name: round(value, 3) for name, value in tally.seconds.items()},
                "all": round(ended.seconds, 3),
            },
        },
        "operations": {
            name: {
                "cases": one.cases,
                "exact": one.exact,
                "failed": one.failed,
                "known": one.known,
                "skipped_known": one.skipped_known,
                "refused": one.refused,
                "shrinking": one.shrinking,
                "worst_share": one.worst if one.worst is not None and math.isfinite(one.worst) else None,
                "seconds": round(one.seconds, 3),
                "parts": {part: round(seconds, 3) for part, seconds in one.parts.items()},
                "reached": None if one.reached is None else round(one.reached, 3),
                "skipped": one.skipped,
                "findings": tally.findings_of(name),
            }
            for name, one in tally.operations.items()
        },
        **REPORTS[tally.mode].to_json(tally),
        **({} if tally.coverage is None else {"coverage": coverage_table.to_json(tally.coverage)}),
        "findings": [
            {"id": name, "path": path, **finding.to_json()}
            for name, (finding, path) in tally.findings.items()
        ],
        "against": _against(tally),
        "known": [
            {
                "entry": one.entry.name,
                "operation": one.entry.operation,
                "kind": one.entry.kind,
                "result": one.entry.result,
                "reason": one.entry.reason,
                "link": one.entry.link,
                "failed": one.failed,
                "passed": one.passed,
                "skipped": one.skipped,
                "alive": one.alive,
                "mended": one.mended,
            }
            for one in ended.known
        ],
        "replayed": [
            {"id": one.finding.id, "status": one.status, "reason": one.reason} for one in tally.replayed
        ],
    }


def _against(tally: Tally) -> dict[str, Any] | None:
    """Return what the campaign compared with, and what failed there too; None if it did not compare."""
    base = tally.config.base
    if base is None:
        return None
    return {
        "ref": base.name,
        "target": base.target if base.revision is None else tally.config.target,
        "commit": base.commit,
        "fails_there_too": [
            {"operation": operation, "kind": kind, "cases": cases}
            for (operation, kind), cases in sorted(tally.base.items())
        ],
    }
