"""A worker process: binds a GPU, enters the backend, then does the tasks it is given.

The case that is about to run lies in a small file, so that whoever finds this process dead knows what it died
of. What the process prints goes to a log beside it, not to the screen.
"""

from __future__ import annotations

import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from diffgdn.backend import selection as backends
from diffgdn.campaign import tasks
from diffgdn.cases.case import Case
from diffgdn.cases.prelude import Call
from diffgdn.runner import child_process
from diffgdn.runner.running_case import calls as current_calls
from diffgdn.runner.running_case import current


def main(descriptor: int, parent: int) -> None:
    """Serve tasks until the pipe closes, or the parent ends: a kernel that never returns closes no pipe.

    The first messages say how: the parent's sys.path, then the worker's number, its configuration, and the
    folder for what it notes.
    """
    child_process.end_with(parent)
    child_process.keep_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the campaign, which then ends its workers
    pipe = Connection(descriptor)
    sys.path += [entry for entry in pipe.recv() if entry not in sys.path]
    index, workers, folder = pipe.recv()
    # Hypothesis keeps caches in the current directory otherwise; it is told before it is imported.
    os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(folder / "hypothesis"))
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one worker a core: threads of their own would only queue
    session = None
    try:
        backends.bind(index)
        backends.enter(workers.backend)
        from diffgdn.campaign.worker_session import Session, SetupError

        try:
            session = Session(workers, pipe, _case(folder, index), child_log(folder, index))
            ready = session.ready()
        except SetupError as error:
            pipe.send(tasks.SetupFailed(str(error)))
            return
        pipe.send(ready)
        while True:
            task = pipe.recv()
            if not isinstance(task, tasks.Known | tasks.Stop):  # too late: the task it was for is done
                pipe.send(session.do(task))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the campaign is over
    finally:
        if session is not None:
            session.close()
        sys.stdout.flush()
        sys.stderr.flush()


def current_case(folder: Path, index: int) -> Case | None:
    """The case that a worker was running when it was last heard of."""
    found = current(_case(folder, index))
    return None if found is None else found[0]


def calls(folder: Path, index: int, target: str) -> tuple[Call, ...]:
    """What a worker has run itself on a target, the call that it was running last."""
    return current_calls(_case(folder, index), target)


def running_since(folder: Path, index: int) -> float | None:
    """When (time.time()) a worker began the case that is running, here or in its child; None between
    cases.
    """
    try:
        status = _case(folder, index).stat()
    except OSError:
        return None
    return status.st_mtime if status.st_size else None


def in_child(folder: Path, index: int) -> bool:
    """Whether the case that a worker is running runs in a child, which the worker watches."""
    found = current(_case(folder, index))
    return found is not None and bool(found[1].get("in_child"))


def child_log(folder: Path, index: int) -> Path:
    """Where a worker's children print to."""
    return folder / f"child-{index}.log"


def _case(folder: Path, index: int) -> Path:
    return folder / f"worker-{index}.json"


def log(folder: Path, index: int) -> Path:
    """Where a worker prints to."""
    return folder / f"worker-{index}.log"


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
