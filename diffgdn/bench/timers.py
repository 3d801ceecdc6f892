"""Measure how long calls take: on a GPU by its own clocks, and, to try the command, on the host."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

import torch

from diffgdn.bench.direct_calls import Call
from diffgdn.bench.floors import Limits

LIMIT_BYTES = 1 << 30  # of the tensors by which bandwidth is measured: many times an L2 cache
LIMIT_MATRIX = 8192  # rows and columns of the matrices by which the matrix rate is measured
LIMIT_REPEATS = 20
WARM_SECONDS = 0.3  # of work before a limit is measured: clocks rise meanwhile


class Graph(Protocol):
    """All calls of a list in one CUDA graph."""

    def replay(self, times: int) -> float:
        """Replay it, and return the microseconds of each of its calls."""


class Timer(Protocol):
    """What measures calls, each time `count` of them, taken from the list in turn."""

    def between(self, calls: Sequence[Call], count: int) -> float:
        """Measure microseconds from call to call, host included."""

    def kernels(self, calls: Sequence[Call], count: int) -> dict[str, float]:
        """Measure GPU kernel time by kernel name, in microseconds a call; none where there is no GPU."""

    def capture(self, calls: Sequence[Call]) -> Graph | str:
        """Capture all calls in one graph, or say why they cannot be."""

    def limits(self) -> Limits | None:
        """Measure what this machine does at most; None where that means nothing."""


class CudaTimer:
    """The clocks of the current GPU."""

    def between(self, calls: Sequence[Call], count: int) -> float:
        start, end = _event(), _event()
        torch.cuda.synchronize()
        start.record()
        for i in range(count):
            calls[i % len(calls)]()
        end.record()
        torch.cuda.synchronize()
        return 1e3 * float(start.elapsed_time(end)) / count

    def kernels(self, calls: Sequence[Call], count: int) -> dict[str, float]:
        from torch.profiler import ProfilerActivity, profile

        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as seen:
            for i in range(count):
                calls[i % len(calls)]()
            torch.cuda.synchronize()
        found = {event.key: event.self_device_time_total / count for event in seen.key_averages()}
        return {name: float(value) for name, value in found.items() if value > 0}

    def capture(self, calls: Sequence[Call]) -> Graph | str:
        torch.cuda.synchronize()
        try:
            return _CudaGraph(calls)
        except Exception as error:
            torch.cuda.synchronize()
            return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"

    def limits(self) -> Limits:
        return Limits(*_bandwidths(), _matrix_rate())


class _CudaGraph:
    """All calls of a list, captured on a side stream after they were called there."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._graph, self._count = torch.cuda.CUDAGraph(), len(calls)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for call in calls:
                call()
            stream.synchronize()
            self._graph.capture_begin()
            try:
                for call in calls:
                    call()
            except BaseException:
                with suppress(RuntimeError):  # of a capture that a call has broken
                    self._graph.capture_end()
                raise
            self._graph.capture_end()

    def replay(self, times: int) -> float:
        start, end = _event(), _event()
        torch.cuda.synchronize()
        self._graph.replay()
        start.record()
        for _ in range(times):
            self._graph.replay()
        end.record()
        torch.cuda.synchronize()
        return 1e3 * float(start.elapsed_time(end)) / (times * self._count)


class HostTimer:
    """The host's clock, for Triton's interpreter: what it says is no measure of a kernel."""

    def between(self, calls: Sequence[Call], count: int) -> float:
        start = time.perf_counter()
        for i in range(count):
            calls[i % len(calls)]()
        return 1e6 * (time.perf_counter() - start) / count

    def kernels(self, calls: Sequence[Call], count: int) -> dict[str, float]:
        return {}

    def capture(self, calls: Sequence[Call]) -> Graph | str:
        return "no GPU"

    def limits(self) -> None:
        return None


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)


def _bandwidths() -> tuple[float, float]:
    """GB/s of a copy, and of an update in place, read and written bytes added."""
    source = torch.empty(LIMIT_BYTES // 4, dtype=torch.float32, device="cuda").normal_()
    target = torch.empty_like(source)
    moved = 2 * LIMIT_BYTES / 1e9
    copy = moved / _best_seconds(lambda: target.copy_(source))
    in_place = moved / _best_seconds(lambda: target.mul_(1.0))
    return copy, in_place


def _matrix_rate() -> float:
    """TFLOP/s of a product of bf16 matrices of normal random numbers."""
    a, b = (torch.randn(LIMIT_MATRIX, LIMIT_MATRIX, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    seconds = _best_seconds(lambda: torch.matmul(a, b, out=out))
    return 2 * LIMIT_MATRIX**3 / seconds / 1e12


def _best_seconds(call: Call) -> float:
    """The shortest of some calls, in seconds: a limit is what the machine can do."""
    until = time.monotonic() + WARM_SECONDS
    while time.monotonic() < until:
        call()
        torch.cuda.synchronize()
    pairs = [(_event(), _event()) for _ in range(LIMIT_REPEATS)]
    for start, end in pairs:
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return min(float(start.elapsed_time(end)) for start, end in pairs) / 1e3
