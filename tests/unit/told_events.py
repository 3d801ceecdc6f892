"""A campaign as its events tell it, without one: for tests of what listens.

Its texts are as hostile as a target could make them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from diffgdn.campaign import events
from diffgdn.campaign.config import Config
from diffgdn.campaign.events import Event
from diffgdn.cases.case import Case
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import Finding

HOSTILE = "</pre><script>alert('x')</script> & \"it\" ]]> \x1b[31m \x00 |a|b| `code` %0A::error:: é"
SCRIPT = "print('</script><b>not bold</b>')\n"
WORDS = "1 of 2 elements of o are wrong <b>\n"


def finding(tokens: int = 3, target: str = "my_kernel.py:decode") -> Finding:
    """A finding on a case of so many tokens."""
    case = Case("gdn.decode", lens=(tokens,))
    return Finding(case, target, "interpret", "beyond_bound", HOSTILE, "o", "at token 2", seed=7)


def png() -> bytes:
    """An image of one pixel."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0\xff\0\0")), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def saved(folder: Path, found: Finding) -> str:
    """Save a finding, with all that may lie beside it; the path of its file."""
    path = Corpus(folder).save(found)
    path.with_suffix(".py").write_text(SCRIPT)
    path.with_suffix(".txt").write_text(WORDS)
    path.with_suffix(".png").write_bytes(png())
    return str(path)


def case_run(operation: str, share: float | None, failure: str | None = None) -> events.CaseRun:
    """A case of a few milliseconds."""
    parts = {"inputs": 0.001, "kernel": 0.002, "oracle": 0.003, "checks": 0.004}
    case = Case(operation, lens=(2,)) if operation == "gdn.decode" else None
    return events.CaseRun(operation, "explore", 0.01, share, failure=failure, parts=parts, case=case)


def campaign(
    folder: Path,
    found: int = 1,
    target: str = "my_kernel.py:decode",
    stopped: str | None = None,
    begins: bool = True,
) -> Iterator[Event]:
    """The events of a campaign with so many findings. stopped: why it did not do as asked. begins: whether
    its workers start.
    """
    config = Config(
        target, ("gdn.decode", "kda.decode", "gdn.verify"), "interpret", 7, 2, folder, max_time=30.0
    )
    yield events.CampaignStarted(config)
    yield events.PhaseStarted("start")
    if not begins:
        yield events.CampaignEnded(0.5, (), stopped=stopped)
        return
    yield events.WorkerStarted(0, "cpu", {"torch": "2.13.0", "device": "cpu"})
    yield events.PhaseEnded("start", 1.0)
    yield events.OperationSkipped("gdn.verify", f"not implemented by target {target}")
    yield events.PhaseStarted("replay", 1)
    old = finding(9, target)
    yield events.FindingReplayed(old, str(folder / f"{old.id}.json"), "FIXED")
    yield events.PhaseEnded("replay", 0.5)
    yield events.PhaseStarted("explore")
    for share in (0.0, 0.1, 0.1, 0.25, 3.0, float("inf")):
        failure = "beyond_bound" if share > 1 else None
        yield case_run("gdn.decode", share, failure)
    yield case_run("kda.decode", 0.5)
    every = tuple(finding(3 + number, target) for number in range(found))
    for one in every:
        yield events.FindingFound(one, saved(folder, one))
    yield events.WorkerDied(1, "signal 11", "kda.decode", "0123456789ab")
    yield events.PhaseEnded("explore", 30.0)
    unreached = {} if stopped is None else {"kda.update": "no time", "kda.verify": "no time"}
    yield events.CampaignEnded(31.0, every, stopped=stopped, unreached=unreached)


def replay(folder: Path) -> Iterator[Event]:
    """The events of a replay: one fails, one by turns, one cannot be run, one is fixed."""
    outcomes = ["FAILED", "FLAKY 1/3", "ERROR", "FIXED"]
    yield events.ReplayStarted(len(outcomes), None, 3)
    for number, status in enumerate(outcomes):
        one = finding(3 + number)
        yield events.FindingReplayed(one, saved(folder, one), status, None if status == "FIXED" else HOSTILE)
    yield events.ReplayEnded(2.0)
