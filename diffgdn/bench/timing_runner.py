"""Prepares, checks and times the calls of one target in this process, row by row."""

from __future__ import annotations

import math
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from diffgdn import targets
from diffgdn.backend import interpreter
from diffgdn.bench import direct_calls, row_check, timed_data
from diffgdn.bench.bench_records import (
    CRASHED,
    NO_ROOM,
    RAISED,
    REFUSED,
    WRONG,
    Machine,
    Prepared,
    Turn,
    Untimed,
)
from diffgdn.bench.direct_calls import Calls
from diffgdn.bench.floors import Limits
from diffgdn.bench.shapes import Shape, StackShape
from diffgdn.bench.stack import Stack
from diffgdn.bench.timers import CudaTimer, Graph, HostTimer, Timer
from diffgdn.cases.case import Case
from diffgdn.cases.target_names import RELEASED
from diffgdn.runner.messages import SetupError
from diffgdn.targets import FunctionTarget, Target
from diffgdn.tensors.arena import Arguments
from diffgdn.tensors.layout import arrange
from diffgdn.verdict.execute import device_of
from diffgdn.verdict.failures import CheckFailure, KernelRaised

TURN_MICROSECONDS = 8_000.0  # how long each of a turn's measurements takes, about
LEAST_CALLS, MOST_CALLS = 3, 200  # of a measurement
MOST_REPLAYS = 50
ADAPTER_CALLS = 3  # of a measurement of the whole call
# Of cu_seqlens and of slot indices: what is tried in turn, as some packages take one of them alone.
TABLE_DTYPES = (("int32", "int32"), ("int64", "int32"), ("int64", "int64"))


FULL = Untimed(NO_ROOM, "no room in the GPU's memory")


class TimingRunner:
    """A runner of the bench: one row at a time is prepared, measured in turns, and let go.

    A kernel that breaks the GPU context leaves a process in which nothing can be measured: `broken` says so
    from then on.
    """

    def __init__(self, backend: str, timer: Timer | None = None) -> None:
        """timer: None for that of the backend. Raises SetupError if torch cannot use the GPU."""
        if backend == "gpu" and not torch.cuda.is_available():
            raise SetupError("backend gpu: torch finds no usable GPU")
        if backend == "interpret":
            interpreter.repair()
        self._backend = backend
        self._timer = timer or (CudaTimer() if backend == "gpu" else HostTimer())
        self._targets: dict[str, Target] = {}
        self._judged: dict[tuple[str, str], Untimed | dict[str, float]] = {}
        self._row: _Row | None = None
        self._broken: str | None = None

    @property
    def broken(self) -> str | None:
        """Why nothing more can be measured in this process, or None."""
        return self._broken

    def machine(self) -> Machine:
        """Say what there is to run on, and which released targets are installed."""
        gpu = self._backend == "gpu"
        absent = {name: targets.missing(name, self._backend) for name in RELEASED}
        return Machine(
            torch.cuda.get_device_name() if gpu else "cpu",
            self._cache,
            tuple(name for name, reason in absent.items() if reason is None),
            {name: reason for name, reason in absent.items() if reason is not None},
        )

    @property
    def _cache(self) -> int:
        """Bytes of the GPU's L2 cache; 0 without a GPU."""
        if self._backend != "gpu":
            return 0
        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size)

    def limits(self) -> Limits | None:
        """Measure what the machine does at most, as `Timer.limits`."""
        found = self._timer.limits()
        self._let_go()
        return found

    def load(self, target: str) -> None:
        """Import a target. Raises SetupError where it cannot be had."""
        reason = targets.missing(target, self._backend)
        if reason is not None:
            raise SetupError(f"target {target}: {reason}")
        try:
            self._targets[target] = targets.get(target)
        except targets.TargetError as error:
            raise SetupError(str(error)) from None

    def prepare(self, target: str, shape: Shape) -> Prepared | Untimed:
        """Check a target on the case of a row, and make its calls ready to be timed."""
        self.release()
        loaded = self._targets[target]
        if isinstance(shape, StackShape) and type(loaded) is not FunctionTarget:
            return Untimed(REFUSED, "a stack calls functions, and has no use for an adapter")
        case, refused = _taken(loaded, shape.case, self._backend)
        if refused is not None:
            return Untimed(REFUSED, refused)
        try:
            found = self._prepared(target, loaded, replace(shape, case=case))
        except CheckFailure as failure:
            found = _failed(failure)
        except Exception as error:
            found = _raised(error)
        return self._ended(found) if isinstance(found, Untimed) else found

    def turn(self) -> Turn | Untimed:
        """Measure the calls of the row once."""
        assert self._row is not None
        try:
            return self._row.turn(self._timer)
        except Exception as error:
            return self._ended(_raised(error))

    def release(self) -> None:
        """Let the tensors of the row go."""
        self._row = None
        self._let_go()

    def _ended(self, found: Untimed) -> Untimed:
        """Let a row go that was not timed, and find out whether the GPU context has survived it."""
        self._row = None
        try:
            self._let_go()
        except Exception as error:
            self._broken = str(error).strip().splitlines()[0]
            return Untimed(CRASHED, f"the kernel broke its GPU context: {self._broken}")
        return found

    def _let_go(self) -> None:
        if self._backend == "gpu":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    def _prepared(self, name: str, target: Target, shape: Shape) -> Prepared | Untimed:
        case, device, spent = shape.case, device_of(self._backend), _Parts()
        with spent("cut case"):
            judged = self._judge(name, target, case)
        if isinstance(judged, Untimed):
            return judged
        with spent("tensors"):
            data = timed_data.draw(case, device)
            arguments = arrange(case, data, device, target.layout)
        with spent("lanes"):
            shares = row_check.judge_lanes(case, data, arguments, target, self._backend)
        with spent("calls"):
            del data
            calls = self._calls(target, shape, arguments)
            del arguments
            self._let_go()
            self._row = _Row.of(calls, self._timer)
        return Prepared(
            {result: max(share, judged.get(result, 0.0)) for result, share in shares.items()},
            row_check.lanes_of(case).words,
            len(calls.direct),
            calls.own,
            self._row.graph if isinstance(self._row.graph, str) else None,
            targets.provenance_of(target, case.op),
            spent.seconds,
        )

    def _calls(self, target: Target, shape: Shape, arguments: Arguments) -> Calls:
        """Make the calls of a row, over copies of its arguments."""
        if isinstance(shape, StackShape):
            assert isinstance(target, FunctionTarget), "as refused otherwise"
            return Calls((Stack(target, shape, arguments).step,), (), own=True)
        copies = timed_data.copies_for(shape.moved, self._cache)
        sets = [timed_data.copied(arguments) for _ in range(copies)]
        return direct_calls.of(target, shape.case, sets, tuned=self._backend == "gpu")

    def _judge(self, name: str, target: Target, case: Case) -> Untimed | dict[str, float]:
        """Reach the verdict on the cut case of a row: once, as many rows have the same one. Returns the worst
        shares of bounds by result, or what is the matter."""
        key = name, row_check.cut(case).id
        if key not in self._judged:
            verdict = row_check.judge_cut(case, target, self._backend)
            if verdict.refused is not None:
                return Untimed(REFUSED, verdict.refused)
            judged = dict(verdict.shares) if verdict.failure is None else _failed(verdict.failure)
            if isinstance(judged, Untimed) and judged.kind == NO_ROOM:
                return judged  # another time there may be
            self._judged[key] = judged
        return self._judged[key]


@dataclass(frozen=True)
class _Row:
    """The calls of a row, how many a measurement makes of them, and their graph, or why there is none."""

    calls: Calls
    count: int
    graph: Graph | str
    replays: int

    @classmethod
    def of(cls, calls: Calls, timer: Timer) -> _Row:
        """Warm the calls up, and see how long they take."""
        some = len(calls.direct)
        timer.between(calls.direct, some)  # compiles, and tunes
        wanted = TURN_MICROSECONDS / max(timer.between(calls.direct, some), 1e-3)
        count = max(some, LEAST_CALLS, min(MOST_CALLS, math.ceil(wanted)))
        timer.kernels(calls.direct, some)  # its first use takes long
        graph = timer.capture(calls.direct)
        return cls(calls, count, graph, max(1, min(MOST_REPLAYS, math.ceil(wanted / some))))

    def turn(self, timer: Timer) -> Turn:
        """Measure call to call, kernels and graph, once each."""
        direct = self.calls.direct
        timer.between(direct, len(direct))  # the clocks may have fallen while others had their turn
        call = timer.between(direct, self.count)
        kernels = timer.kernels(direct, self.count)
        graph = None if isinstance(self.graph, str) else self.graph.replay(self.replays)
        whole = timer.kernels(self.calls.whole, ADAPTER_CALLS) if self.calls.whole else {}
        return Turn(call, kernels, graph, sum(whole.values()) or None)


class _Parts:
    """Adds up the seconds of parts, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - began


def _taken(target: Target, case: Case, backend: str) -> tuple[Case, str | None]:
    """Find the dtypes of index tables with which a target takes a case, and why it takes none of them, as it
    says for the usual ones; None if it takes it."""
    first: str | None = None
    for bounds, indices in TABLE_DTYPES:
        one = replace(case, cu_dtype=bounds, index_dtype=indices)
        refused = targets.refusal(target, one, backend)
        if refused is None:
            return one, None
        first = first or refused
    return case, first


def _failed(failure: CheckFailure) -> Untimed:
    """Say what a check that a target has not passed means for its time."""
    if isinstance(failure, KernelRaised):
        full = failure.message.startswith(torch.OutOfMemoryError.__name__)
        return FULL if full else Untimed(RAISED, failure.message)
    return Untimed(WRONG, str(failure))


def _raised(error: Exception) -> Untimed:
    """Put what a call raised into a line; its traceback goes to the log."""
    if isinstance(error, torch.OutOfMemoryError):
        return FULL
    print("".join(traceback.format_exception(error)), file=sys.stderr, flush=True)
    line = (str(error).strip() or "no message").splitlines()[0]
    return Untimed(RAISED, f"{type(error).__name__}: {line}")
