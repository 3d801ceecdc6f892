"""Worker processes: started, fed one task each, watched, replaced when they die.

Each worker has a pipe of its own: a process that dies while it writes to a shared queue would leave the queue
locked for all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from diffgdn.backend import selection as backends
from diffgdn.campaign import tasks, worker
from diffgdn.campaign.config import Workers
from diffgdn.cases.case import Case
from diffgdn.cases.prelude import Call
from diffgdn.runner.child_process import START_SECONDS, ChildProcess, ending

GPU_WORKERS = (
    16  # per GPU: what a fuzz loop needs of the GPU is small, each context holds about half a gigabyte of it
)

MOST_RUNS = 3  # of a case that may hang: the first, and those that confirm it


def automatic_workers(backend: str) -> int:
    """As many workers as CPU cores this process may use; on a GPU at most 16 for each GPU."""
    cores = len(os.sched_getaffinity(0))
    return cores if backend == "interpret" else min(cores, GPU_WORKERS * max(1, len(backends.visible_gpus())))


@dataclass(frozen=True)
class Died:
    """A worker is gone.

    task: the one it was given; case: the one it was running itself. hung: it took too long over that case.
    calls: on the target of the pool that it had run itself, that case the last.
    """

    reason: str
    task: tasks.Task | None
    case: Case | None
    hung: bool = False
    calls: tuple[Call, ...] = ()


@dataclass
class _Worker:
    process: ChildProcess
    task: tasks.Task | None = None
    ready: bool = False


class Pool:
    """Worker processes 0 to count - 1. A context manager: leaving it ends all of them."""

    def __init__(self, workers: Workers, folder: Path) -> None:
        """folder: for what workers print and note."""
        hang = workers.hang_seconds
        self.hang_seconds = backends.HANG_SECONDS[workers.backend] if hang is None else hang
        self._config, self._folder = workers, folder
        self._workers: dict[int, _Worker] = {}

    def __enter__(self) -> Pool:
        for index in range(self._config.count):
            self.start(index)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, index: int) -> None:
        """Start a worker, or one in the place of a dead one."""
        process = ChildProcess("diffgdn.campaign.worker", [], worker.log(self._folder, index))
        process.send((index, self._config, self._folder))
        self._workers[index] = _Worker(process)

    def give(self, index: int, task: tasks.Task) -> None:
        self._workers[index].task = task
        self.tell(index, task)

    def tell(self, index: int, message: Any) -> None:
        """Send something; to a worker that has just died, nothing: `receive` will report its death."""
        self._workers[index].process.send(message)

    def finished(self, index: int) -> tasks.Task | None:
        """The task that a worker has answered with Done; from now on it is idle."""
        task, self._workers[index].task = self._workers[index].task, None
        return task

    def task(self, index: int) -> tasks.Task | None:
        """What a worker is doing."""
        return self._workers[index].task

    def idle(self) -> list[int]:
        return [index for index, entry in self._workers.items() if entry.ready and entry.task is None]

    def busy(self) -> list[int]:
        return [index for index, entry in self._workers.items() if entry.task is not None]

    def alive(self) -> list[int]:
        return list(self._workers)

    def wait(self, timeout: float) -> None:
        """Wait until a worker has sent something, or has died."""
        wait(list(self._connections()), timeout)

    def receive(self, timeout: float = 0.0) -> Iterator[tuple[int, Any]]:
        """What workers sent, waiting for the first to send: messages and, the last of a worker, `Died`."""
        waiting = self._connections()
        for index in sorted({waiting[one] for one in wait(list(waiting), timeout)}):
            yield from self._drain(index)
        yield from self._hung()

    def _connections(self) -> dict[Any, int]:
        """What tells of a worker, with its number."""
        return {entry.process.connection: index for index, entry in self._workers.items()}

    def running(self, index: int) -> float | None:
        """For how many seconds a worker's case has been running; None between cases, and where it is past all
        that a worker needs to find out that it hangs.
        """
        since = worker.running_since(self._folder, index)
        seconds = 0.0 if since is None else max(0.0, time.time() - since)
        return None if since is None or seconds > MOST_RUNS * self.hang_seconds + START_SECONDS else seconds

    def replace(self, index: int) -> None:
        """End a worker, whatever it is doing, and start one in its place."""
        self._workers.pop(index).process.end()
        self.start(index)

    def _drain(self, index: int) -> Iterator[tuple[int, Any]]:
        entry = self._workers[index]
        dead = not entry.process.alive  # asked first: what it sent before it died is then all in the pipe
        try:
            while entry.process.connection.poll():
                message = entry.process.connection.recv()
                entry.ready |= isinstance(message, tasks.Ready)
                yield index, message
        except (EOFError, OSError):
            dead = True
        if dead:
            entry.process.wait()
            yield index, self._bury(index, self._reason(entry.process))

    def _hung(self) -> Iterator[tuple[int, Any]]:
        for index in self.busy():
            since = worker.running_since(self._folder, index)
            late = since is not None and time.time() - since > self.hang_seconds
            if late and not worker.in_child(self._folder, index):  # which the worker itself watches
                reason = f"no answer within {self.hang_seconds:g} s"
                yield index, self._bury(index, reason, hung=True)

    def _bury(self, index: int, reason: str, hung: bool = False) -> Died:
        entry = self._workers.pop(index)
        entry.process.end()
        # A kernel in a child cannot have ended the worker.
        running = entry.task is not None and not worker.in_child(self._folder, index)
        case = worker.current_case(self._folder, index) if running else None
        target = self._config.target
        calls = () if case is None or target is None else worker.calls(self._folder, index, target)
        return Died(reason, entry.task, case, hung, calls)

    @staticmethod
    def _reason(process: ChildProcess) -> str:
        """How a process ended, and the last line it printed."""
        line = process.last_words()
        if process.status == tasks.POISONED:
            return f"the kernel broke its GPU context: {line}"
        return ending(process.status or 0, line)

    def stop(self) -> None:
        """End all workers; those in the middle of a task have no time to finish it."""
        for entry in self._workers.values():
            entry.process.end()
        self._workers.clear()
