"""A child process as its parent sees it: started, watched, ended; and how a child ends with its parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

LAST_WORDS = 200  # characters of a dead process's last line that are kept
START_SECONDS = 300.0  # for a child to import torch and a target, on a machine that is busy
END_SECONDS = 10.0  # for a killed process to be gone; a GPU driver may take some
PR_SET_PDEATHSIG = 1
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # options of glibc's mallopt
KEPT_BYTES = 32 << 20  # of the largest tensor whose memory is kept; glibc takes no more
FREE_BYTES = 512 << 20  # at the end of the heap that a process keeps


class ChildProcess:
    """A process of this interpreter that has been started, as its parent sees it.

    `python -m MODULE ARGUMENTS... DESCRIPTOR PARENT`, in a process group of its own: DESCRIPTOR is its end of
    the connection, whose first message is the parent's sys.path; PARENT is the process to end with. What it
    prints goes to a log. environment: what it has beside this process's own.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._log = log
        ours, theirs = Pipe()
        with open(log, "ab") as output, undisturbed():
            self._log_start = output.tell()
            place = [*arguments, str(theirs.fileno()), str(parent_to_end_with())]
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *place],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                env=None if not environment else {**os.environ, **environment},
                process_group=0,  # Ctrl-C in a terminal goes to the whole group of the parent
            )
        theirs.close()
        self.connection: Connection = ours
        self.send(sys.path)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def status(self) -> int | None:
        """How it ended, as subprocess has it; None if it has not."""
        return self._process.returncode

    def send(self, message: Any) -> None:
        """Send something; to a process that has just died, nothing: whoever reads finds out."""
        with contextlib.suppress(OSError):
            self.connection.send(message)

    def wait(self) -> None:
        """Wait a while for a process that is about to end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)

    def end(self) -> None:
        """Kill the process, with what it started."""
        self.connection.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self.wait()

    def last_words(self) -> str:
        """The last line that it printed."""
        return last_words(self._log, self._log_start)

    def resident(self) -> int:
        """Bytes of host memory that it occupies."""
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


def say(text: Any) -> None:
    """Print to the log of this process, past any buffer."""
    print(text, file=sys.stderr, flush=True)


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
def undisturbed() -> Iterator[None]:
    """Let signals to this process wait: one that arrives while a child is started would leave a child that
    nobody knows, one that arrives while messages are handled a message half handled."""
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
