"""One child process as its parent sees it: started, asked, watched, ended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from diffgdn.cases.prelude import History
from diffgdn.runner.messages import Answer, Request

POLL_SECONDS = 0.25  # between looks at a silent child; an answer wakes its parent at once
LAST_WORDS = 200  # characters of a dead process's last line that are kept
START_SECONDS = 300.0  # for a child to import torch and a target, on a machine that is busy
END_SECONDS = 10.0  # for a killed process to be gone; a GPU driver may take some
PR_SET_PDEATHSIG = 1
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # options of glibc's mallopt
KEPT_BYTES = 32 << 20  # of the largest tensor whose memory is kept; glibc takes no more
FREE_BYTES = 512 << 20  # at the end of the heap that a process keeps


class Ended(Exception):
    """The process has ended, or was ended. status: as subprocess has it, if it ended by itself."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.status = reason, status


class TimedOut(Exception):
    """No answer within the limit; the process has been killed."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer within {seconds:g} s")


class Process:
    """A child that has been started, and will be ready when it has imported what it needs."""

    def __init__(self, backend: str, log: Path) -> None:
        self.cases = 0  # asked for so far
        self.history = History()
        self.loaded: set[str] = set()  # targets
        self._log, self._pending = log, 0
        ours, theirs = Pipe()
        with open(log, "ab") as output, _undisturbed():
            self._log_start = output.tell()
            place = [backend, str(theirs.fileno()), str(parent_to_end_with())]
            command = [sys.executable, "-m", "diffgdn.runner.child", *place]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                process_group=0,  # Ctrl-C in a terminal goes to the whole group of the parent
            )
        theirs.close()
        self._pipe: Connection = ours
        self._send(sys.path)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def prepare(self, request: Request) -> None:
        """Ask for something whose answer nobody waits for."""
        self._send(request)
        self._pending += 1

    def settle(self, seconds: float, most_bytes: int) -> None:
        """Wait for answers that nobody has waited for. Raises as `ask` does."""
        while self._pending:
            self._receive(seconds, most_bytes)
            self._pending -= 1

    def ask(self, request: Request, seconds: float, most_bytes: int) -> Answer:
        """The answer to a request. Raises Ended or TimedOut, and whatever interrupts the wait; the process is
        then gone.

        seconds: the limit; most_bytes: of host memory.
        """
        self._send(request)
        return self._receive(seconds, most_bytes)

    def end(self) -> None:
        """Kill the process, with what it started."""
        self._pipe.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)

    def _send(self, message: Any) -> None:
        with contextlib.suppress(OSError):  # to one that has just died: `_receive` finds out
            self._pipe.send(message)

    def _receive(self, seconds: float, most_bytes: int) -> Answer:
        try:
            return self._answer(seconds, most_bytes)
        except BaseException:
            self.end()
            raise

    def _answer(self, seconds: float, most_bytes: int) -> Answer:
        until = time.monotonic() + seconds
        while not self._pipe.poll(min(POLL_SECONDS, max(0.0, until - time.monotonic()))):
            if not self.alive and not self._pipe.poll():
                raise self._ended()
            if time.monotonic() >= until:
                raise TimedOut(seconds)
            if self._resident() > most_bytes:
                raise Ended(f"ended for its {self._resident() / 1e9:.1f} GB of host memory")
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        except (pickle.PickleError, ValueError, TypeError, AttributeError, ImportError, IndexError) as error:
            # What a process answers whose memory a kernel has overwritten.
            raise Ended(f"it sent what is no answer ({type(error).__name__})") from None
        if not isinstance(answer, Answer):
            raise Ended(f"it sent what is no answer ({type(answer).__name__})")
        return answer

    def _ended(self) -> Ended:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        status = self._process.returncode
        if status is None:
            return Ended("it closed its connection")
        return Ended(ending(status, last_words(self._log, self._log_start)), status)

    def _resident(self) -> int:
        """Bytes of host memory that the process occupies."""
        try:
            pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        except (OSError, IndexError):
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


def parent_to_end_with() -> int:
    """This process, for what it starts; 0 in a thread, with which that would end otherwise."""
    return os.getpid() if threading.current_thread() is threading.main_thread() else 0


def end_with(parent: int) -> None:
    """End this process when its parent does, also when that is killed while a kernel runs here that never
    returns. parent: 0 to live on.
    """
    if parent:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)


def keep_memory() -> None:
    """Keep what this process frees for its next tensors. Handed back to the system, memory has to be cleared
    page by page when it is wanted again, for every large tensor anew."""
    with contextlib.suppress(AttributeError, OSError):  # another C library has its own ways
        set_option = ctypes.CDLL(None).mallopt
        set_option(M_MMAP_THRESHOLD, KEPT_BYTES)
        set_option(M_TRIM_THRESHOLD, FREE_BYTES)


def ending(status: int, line: str = "") -> str:
    """How a process ended, and the last line it printed, in words. status: as subprocess has it."""
    reason = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    return f"{reason}: {line}" if line else reason


def last_words(log: Path, start: int = 0) -> str:
    """The last line that a process printed from a position in its log on."""
    try:
        with open(log, "rb") as file:
            file.seek(max(start, os.path.getsize(log) - 64 * LAST_WORDS))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:LAST_WORDS] for line in reversed(lines) if line.strip()), "")


def host_memory() -> int:
    """Bytes of memory that this machine, or what limits this process on it, has."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            sizes.append(int(Path("/sys/fs/cgroup", name).read_text()))
    return min(size for size in sizes if size > 0)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """While a process is started, signals to this one wait: one that arrived in between would leave a child
    that nobody knows.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    waiting = {signal.SIGINT, signal.SIGTERM} - before
    late: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _: late.append(number)) for number in waiting}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for arrived in late:
        os.kill(os.getpid(), arrived)
