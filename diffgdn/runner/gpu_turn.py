"""Give cases that take much of a GPU's memory their turns, one at a time on each GPU, across processes.

A far argument takes tens of gigabytes on a GPU. Several at once would fill it: they would wait for each
other for minutes, which looks like a hang, and cases beside them would find no memory, which looks like a
crash.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from diffgdn.cases import size_limits
from diffgdn.cases.trace import call_of
from diffgdn.verdict.question import Subject

LARGE_ELEMENTS = 1 << 28  # of one argument and its gaps: a gigabyte in fp32
MOST_SECONDS = 600.0  # to wait for a turn; after that a case goes on without


def needs_turn(subject: Subject, backend: str) -> bool:
    """Tell whether a case or a trace takes so much of a GPU's memory that it waits for its turn."""
    return backend == "gpu" and size_limits.reach(call_of(subject)) >= LARGE_ELEMENTS


@contextmanager
def gpu_turn(
    subject: Subject,
    backend: str,
    environment: Mapping[str, str] | None = None,
    most_seconds: float = MOST_SECONDS,
) -> Iterator[None]:
    """Hold the turn of the GPU while a large case runs on it; a small case needs none.

    environment: what the process that runs the case has beside this one's variables; they say on which GPU.
    most_seconds: how long to wait. A machine on which no lock can be had does without turns.
    """
    if not needs_turn(subject, backend):
        yield
        return
    lock = FileLock(_path({**os.environ, **(environment or {})}))
    try:
        lock.acquire(timeout=most_seconds)
    except (Timeout, OSError):
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _path(environment: Mapping[str, str]) -> Path:
    """Name the lock of the GPU that a process with these variables sees first."""
    seen = environment.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() or "0"
    user = str(os.getuid()) if hasattr(os, "getuid") else "all"
    name = re.sub(r"[^A-Za-z0-9-]", "_", seen)
    return Path(tempfile.gettempdir()) / f"diffgdn-{user}-gpu-{name}.lock"
