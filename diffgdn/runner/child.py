"""The child process: answers one request after another until its parent is gone.

    python -m diffgdn.runner.child BACKEND DESCRIPTOR PARENT

DESCRIPTOR: of the connection. PARENT: the process with which this one is to end, 0 for none. The GPU and the
number of threads come with the environment. What a kernel prints goes where the parent has put stdout and
stderr.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Protocol

from diffgdn.backend import revision
from diffgdn.backend import selection as backends
from diffgdn.runner.child_process import end_with, keep_memory
from diffgdn.runner.messages import Answer, RunnerError
from diffgdn.verdict.failures import Verdict


class Serving(Protocol):
    """What requests are put to: each names a method. broken: why nothing more can be asked of it, or None."""

    @property
    def broken(self) -> str | None: ...


def main(backend: str, descriptor: int, parent: int) -> None:
    """Answer the requests to a runner in this process."""

    def runner() -> Serving:
        from diffgdn.runner.in_process import InProcess

        return InProcess(backend)

    serve(backend, descriptor, parent, runner)


def serve(backend: str, descriptor: int, parent: int, make: Callable[[], Serving]) -> None:
    """Answer requests to what `make` makes once the backend has been entered, until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    end_with(parent)
    keep_memory()
    _first_to_go()
    pipe = Connection(descriptor)
    try:
        sys.path += [entry for entry in pipe.recv() if entry not in sys.path]
        revision.enter()
        backends.enter(backend)
        try:
            runner = make()
        except RunnerError as error:
            pipe.recv()
            pipe.send(Answer(error=error, spent=True))
            return
        while True:
            request = pipe.recv()
            try:
                answer = Answer(getattr(runner, request.method)(*request.arguments))
            except RunnerError as error:
                answer = Answer(error=error)
            if runner.broken is not None:
                pipe.send(replace(_portable(answer), spent=True))
                os._exit(0)  # a broken context may hang in its own clean-up
            pipe.send(_portable(answer))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent is gone


def _portable(answer: Answer) -> Answer:
    """Without tensors, which stay here, and without what the parent knows itself."""
    if isinstance(answer.value, Verdict):
        return replace(answer, value=replace(answer.value, comparison=None, before=()))
    return answer


def _first_to_go() -> None:
    """Where the machine's memory runs out, the kernel under test is to be killed for it, not its parent."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        pass


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
