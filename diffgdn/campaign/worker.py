"""A worker process: binds a GPU, enters the lane, then runs the cases it is asked to run.

The case that is about to run lies in a small file, so that whoever finds this process dead knows what it died
of. What the process prints goes to a log beside it, not to the screen.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from diffgdn import lane as lanes
from diffgdn.campaign import tasks
from diffgdn.case import Case

LAST_WORDS = 200  # characters of a dead worker's last line that are kept


@dataclass(frozen=True)
class Setup:
    """What a worker must know before its first task.

    target: the one to announce in Ready; None to announce none.
    """

    lane: str
    target: str | None
    seed: int | None
    folder: str


def main(index: int, setup: Setup, pipe: Connection) -> None:
    """Serve tasks until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the campaign, which then ends its workers
    folder = Path(setup.folder)
    log = os.open(_log(folder, index), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    # Hypothesis keeps caches in the current directory otherwise; it is told before it is imported.
    os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(folder / "hypothesis"))
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one worker a core: threads of their own would only queue
    try:
        lanes.bind(index)
        lanes.enter(setup.lane)
        from diffgdn.campaign.session import Session, SetupError

        try:
            session = Session(setup, pipe, CurrentCase(folder, index))
            ready = session.ready()
        except SetupError as error:
            pipe.send(tasks.SetupFailed(str(error)))
            return
        pipe.send(ready)
        while True:
            task = pipe.recv()
            if not isinstance(task, tasks.Known):  # one that came too late: the task it was for is done
                pipe.send(session.do(task))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the campaign is over
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


class CurrentCase:
    """The file that names the case being run; empty while none is."""

    def __init__(self, folder: Path, index: int) -> None:
        self._file = os.open(_case(folder, index), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def write(self, case: Case) -> None:
        os.pwrite(self._file, json.dumps(case.to_json()).encode(), 0)

    def clear(self) -> None:
        os.ftruncate(self._file, 0)


def current_case(folder: Path, index: int) -> Case | None:
    """The case that a worker was running when it was last heard of."""
    try:
        return Case.from_json(json.loads(_case(folder, index).read_bytes()))
    except (OSError, ValueError):
        return None


def running_since(folder: Path, index: int) -> float | None:
    """When (time.time()) a worker began the case it is running; None between cases."""
    try:
        status = _case(folder, index).stat()
    except OSError:
        return None
    return status.st_mtime if status.st_size else None


def last_words(folder: Path, index: int) -> str:
    """The last line that a worker printed."""
    try:
        lines = _log(folder, index).read_text(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:LAST_WORDS] for line in reversed(lines) if line.strip()), "")


def _case(folder: Path, index: int) -> Path:
    return folder / f"worker-{index}.json"


def _log(folder: Path, index: int) -> Path:
    return folder / f"worker-{index}.log"


def say(text: Any) -> None:
    """Into the log, past any buffer."""
    print(text, file=sys.stderr, flush=True)
