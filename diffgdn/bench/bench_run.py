"""Goes through the rows: has every target prepared and checked, then measured in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from diffgdn.bench import floors
from diffgdn.bench.bench_records import CRASHED, Cell, Prepared, Row, Turn, Untimed
from diffgdn.bench.floors import Limits
from diffgdn.bench.shapes import Shape
from diffgdn.runner.messages import RunnerError

REPEATS = 5  # turns of each target on a row
TOGETHER_BYTES = 256 << 20  # of a row that all targets may prepare at once: several hold it many times over


class Worker(Protocol):
    """Times one target. `timing_process.TimingProcess` does so in a child."""

    def begin(self, shape: Shape) -> None:
        """Have a row prepared, and do not wait for it. Raises RunnerError where nobody can."""

    def prepared(self) -> Prepared | Untimed:
        """Wait for the row that is being prepared."""

    def turn(self) -> Turn | Untimed:
        """Measure the calls of the row once, while no other target is measured."""

    def release(self) -> None:
        """Let the row go."""


def rows(
    shapes: Sequence[Shape],
    workers: Mapping[str, Worker],
    limits: Limits | None,
    enough: Callable[[], bool] = lambda: False,
) -> Iterator[Row]:
    """Time shapes on targets, one row after the other.

    workers: by target, the base first. limits: None for rows without a floor. enough: asked before each row
    but the first of its operation whether to leave it out.
    """
    begun: set[str] = set()
    for shape in shapes:
        if shape.op in begun and enough():
            continue
        begun.add(shape.op)
        floor = None if limits is None else floors.floor(shape.moved, shape.formed, limits)
        yield Row(shape, floor, tuple(_cells(shape, workers)))


def _cells(shape: Shape, workers: Mapping[str, Worker]) -> list[Cell]:
    """Time one shape on every target."""
    ready = _prepared(shape, workers)
    turns: dict[str, list[Turn]] = {name: [] for name, one in ready.items() if isinstance(one, Prepared)}
    for _ in range(REPEATS):
        for name in [name for name, one in ready.items() if isinstance(one, Prepared)]:
            turn = workers[name].turn()
            if isinstance(turn, Untimed):
                ready[name] = turn
            else:
                turns[name].append(turn)
    for name, one in ready.items():
        if isinstance(one, Prepared):
            workers[name].release()
    return [
        Cell.timed(name, one, turns[name]) if isinstance(one, Prepared) else Cell(name, one)
        for name, one in ready.items()
    ]


def _prepared(shape: Shape, workers: Mapping[str, Worker]) -> dict[str, Prepared | Untimed]:
    """Have a row prepared by every target, at once unless its tensors are large."""
    together = shape.moved <= TOGETHER_BYTES
    begun: dict[str, Untimed | None] = {}
    ready: dict[str, Prepared | Untimed] = {}
    for name, worker in workers.items():
        begun[name] = _begun(worker, shape)
        if not together:
            ready[name] = begun[name] or worker.prepared()
    return ready or {name: failed or workers[name].prepared() for name, failed in begun.items()}


def _begun(worker: Worker, shape: Shape) -> Untimed | None:
    """Have a row prepared; why it cannot be, if it cannot."""
    try:
        worker.begin(shape)
    except RunnerError as error:
        return Untimed(CRASHED, str(error))
    return None
