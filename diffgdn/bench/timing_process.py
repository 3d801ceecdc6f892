"""Has one target timed in a child process of its own, which may die over any row: the next row has a new one.

Each target has its own process: a crash takes no other's time with it, and versions of one package can be
timed side by side. Only one measures at a time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffgdn.bench.bench_records import CRASHED, HUNG, RAISED, Machine, Prepared, Turn, Untimed
from diffgdn.bench.floors import Limits
from diffgdn.bench.shapes import Shape
from diffgdn.runner.child_process import START_SECONDS, host_memory
from diffgdn.runner.in_child import MEMORY_SHARE
from diffgdn.runner.kernel_child import Ended, KernelChild, TimedOut
from diffgdn.runner.messages import Answer, Request, RunnerError

MODULE = "diffgdn.bench.timing_child"
# Several children prepare at once: with threads of their own, each on every core, they would only queue.
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}
PREPARE_SECONDS = 300.0  # for compiling, for a package's own tuning, and for the oracle
TURN_SECONDS = 120.0


class TimingProcess:
    """A child that times one target."""

    def __init__(self, target: str, backend: str, log: Path) -> None:
        """Start the child."""
        self._target, self._backend, self._log = target, backend, log
        self._memory = int(MEMORY_SHARE * host_memory())
        self._loading = False
        self._child = self._new()

    def _new(self) -> KernelChild:
        self._loading = False
        return KernelChild(self._backend, self._log, ENVIRONMENT, MODULE)

    def machine(self) -> Machine:
        """Say what there is to run on. Raises RunnerError."""
        found: Machine = self._asked("machine")
        return found

    def limits(self) -> Limits | None:
        """Measure what the machine does at most. Raises RunnerError."""
        found: Limits | None = self._asked("limits")
        return found

    def load(self) -> None:
        """Have the target imported, and do not wait for it."""
        self._child.send(Request("load", (self._target,)))
        self._loading = True

    def loaded(self) -> None:
        """Wait until the target is imported. Raises RunnerError where it cannot be had."""
        if self._loading:
            self._loading = False
            self._value(START_SECONDS)

    def begin(self, shape: Shape) -> None:
        """Have a row prepared, and do not wait for it. Raises RunnerError where there is no child for it."""
        if not self._child.alive:
            self._child = self._new()
            self.load()
        self.loaded()
        self._child.send(Request("prepare", (self._target, shape)))

    def prepared(self) -> Prepared | Untimed:
        """Wait for a row that is being prepared."""
        found: Prepared | Untimed = self._row_value(PREPARE_SECONDS)
        return found

    def turn(self) -> Turn | Untimed:
        """Measure the calls of the row once."""
        self._child.send(Request("turn", ()))
        found: Turn | Untimed = self._row_value(TURN_SECONDS)
        return found

    def release(self) -> None:
        """Let the tensors of the row go."""
        if self._child.alive:
            self._child.send(Request("release", ()))
            self._row_value(TURN_SECONDS)

    def close(self) -> None:
        """End the child."""
        self._child.end()

    def _asked(self, method: str) -> Any:
        self._child.send(Request(method, ()))
        return self._value(START_SECONDS)

    def _row_value(self, seconds: float) -> Any:
        """What the child answers about a row; why there is none if it ends over it."""
        try:
            answer = self._child.receive(seconds, self._memory)
        except TimedOut as end:
            return Untimed(HUNG, str(end))
        except Ended as end:
            return Untimed(CRASHED, f"the process that ran the kernel ended: {end.reason}")
        if answer.spent:
            self._child.end()
        return Untimed(RAISED, str(answer.error)) if answer.error is not None else answer.value

    def _value(self, seconds: float) -> Any:
        try:
            answer: Answer = self._child.receive(seconds, self._memory)
        except (Ended, TimedOut) as end:
            raise RunnerError(f"the child process of {self._target} ended: {end}") from None
        if answer.error is not None:
            raise answer.error
        return answer.value
