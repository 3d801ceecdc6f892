"""A child process that runs kernels, as its parent sees it: asked, within limits of time and memory."""

from __future__ import annotations

import pickle
import time
from collections.abc import Mapping
from pathlib import Path

from diffgdn.cases.prelude import History
from diffgdn.runner.child_process import ChildProcess, ending
from diffgdn.runner.messages import Answer, Request

POLL_SECONDS = 0.25  # between looks at a silent child; an answer wakes its parent at once


class Ended(Exception):
    """The process has ended, or was ended. status: as subprocess has it, if it ended by itself."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.status = reason, status


class TimedOut(Exception):
    """No answer within the limit; the process has been killed."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer within {seconds:g} s")


class KernelChild(ChildProcess):
    """A child that runs kernels: it answers requests to a runner, within limits of time and memory.

    It will be ready when it has imported what it needs. module: what it runs; it answers
    requests as `runner.child` does. cases: asked for so far; history: the calls among them; loaded: targets.
    """

    def __init__(
        self,
        backend: str,
        log: Path,
        environment: Mapping[str, str] | None = None,
        module: str = "diffgdn.runner.child",
    ) -> None:
        self.cases = 0
        self.history = History()
        self.loaded: set[str] = set()
        self._pending = 0
        super().__init__(module, [backend], log, environment)

    def prepare(self, request: Request) -> None:
        """Ask for something whose answer nobody waits for."""
        self.send(request)
        self._pending += 1

    def settle(self, seconds: float, most_bytes: int) -> None:
        """Wait for answers that nobody has waited for. Raises as `ask` does."""
        while self._pending:
            self.receive(seconds, most_bytes)
            self._pending -= 1

    def ask(self, request: Request, seconds: float, most_bytes: int) -> Answer:
        """The answer to a request. Raises Ended or TimedOut, and whatever interrupts the wait; the process is
        then gone.

        seconds: the limit; most_bytes: of host memory.
        """
        self.send(request)
        return self.receive(seconds, most_bytes)

    def receive(self, seconds: float, most_bytes: int) -> Answer:
        """Return the answer to a request that was sent. Raises as `ask` does, and then ends the process."""
        try:
            return self._answer(seconds, most_bytes)
        except BaseException:
            self.end()
            raise

    def _answer(self, seconds: float, most_bytes: int) -> Answer:
        until = time.monotonic() + seconds
        while not self.connection.poll(min(POLL_SECONDS, max(0.0, until - time.monotonic()))):
            if not self.alive and not self.connection.poll():
                raise self._ended()
            if time.monotonic() >= until:
                raise TimedOut(seconds)
            if self.resident() > most_bytes:
                raise Ended(f"ended for its {self.resident() / 1e9:.1f} GB of host memory")
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        except (pickle.PickleError, ValueError, TypeError, AttributeError, ImportError, IndexError) as error:
            # What a process answers whose memory a kernel has overwritten.
            raise Ended(f"it sent what is no answer ({type(error).__name__})") from None
        if not isinstance(answer, Answer):
            raise Ended(f"it sent what is no answer ({type(answer).__name__})")
        return answer

    def _ended(self) -> Ended:
        self.wait()
        if self.status is None:
            return Ended("it closed its connection")
        return Ended(ending(self.status, self.last_words()), self.status)
