"""Hold what a run of the bench finds: rows, the cell of each target in a row, and their times. No torch."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffgdn.bench.floors import Floor, Limits
from diffgdn.bench.shapes import Shape

FORMAT_VERSION = 1
TORCH_KERNELS = ("at::native::", "void at::native::", "Memcpy", "Memset")  # how names of torch's own begin
# What may be the matter with a target on a row. Those of FAULTS are the target's fault.
REFUSED, NO_ROOM, WRONG, RAISED, CRASHED, HUNG = "refused", "no room", "wrong", "raised", "crashed", "hung"
ALL = "all"  # operations together
FAULTS = (WRONG, RAISED, CRASHED, HUNG)


@dataclass(frozen=True)
class Machine:
    """What is there to run on. l2_bytes: of the GPU's cache, 0 for none. targets: those that are installed,
    of the released ones. absent: why others are not."""

    device: str
    l2_bytes: int
    targets: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Untimed:
    """Why a target has no time on a row. kind: one of REFUSED, NO_ROOM or FAULTS. reason: a line."""

    kind: str
    reason: str


@dataclass(frozen=True)
class Prepared:
    """A target that is ready to be timed on a row.

    checked: what was asked of its results, and how near to the bounds they came, in words and shares by
    result. copies: sets of tensors that calls take in turn. own_call: whether the package's own function is
    timed, without what the adapter does around it. graph: why calls cannot be captured, None if they can.
    provenance: what ran. seconds: that preparing took, by part.
    """

    checked: Mapping[str, float]
    lanes: str
    copies: int
    own_call: bool
    graph: str | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Turn:
    """One measurement of a target, all in microseconds a call.

    call: from call to call, host included. kernels: GPU kernel time by kernel name, empty where there is no
    clock for it. graph: of a replayed CUDA graph, None if there is none. whole: GPU kernel time of the whole
    of an adapter's call, None if there is no adapter, or no clock for it.
    """

    call: float
    kernels: Mapping[str, float] = field(default_factory=dict)
    graph: float | None = None
    whole: float | None = None


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of a time: their median, smallest and largest, in microseconds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Take the median of the values that there are; None if there are none."""
        found = [value for value in values if value is not None]
        return cls(statistics.median(found), min(found), max(found)) if found else None


@dataclass(frozen=True)
class Cell:
    """One target on one row: times, or why there are none.

    kernel, call, graph, whole: as in Turn. kernels: the share of each kernel in the kernel time. untimed: set
    if there are no times.
    """

    target: str
    untimed: Untimed | None = None
    prepared: Prepared | None = None
    kernel: Spread | None = None
    call: Spread | None = None
    graph: Spread | None = None
    whole: Spread | None = None
    kernels: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def timed(cls, target: str, prepared: Prepared, turns: Sequence[Turn]) -> Cell:
        """Make the cell of a target that was measured."""
        sums = [sum(turn.kernels.values()) if turn.kernels else None for turn in turns]
        names = dict.fromkeys(name for turn in turns for name in turn.kernels)
        whole = sum(value for value in sums if value is not None)
        shares = {name: sum(turn.kernels.get(name, 0.0) for turn in turns) / whole for name in names}
        return cls(
            target,
            None,
            prepared,
            Spread.of(sums),
            Spread.of(turn.call for turn in turns),
            Spread.of(turn.graph for turn in turns),
            Spread.of(turn.whole for turn in turns),
            dict(sorted(shares.items(), key=lambda item: -item[1])),
        )

    @property
    def time(self) -> float | None:
        """What ratios and shares are made of: GPU kernel time, else the time from call to call."""
        spread = self.kernel or self.call
        return None if spread is None else spread.median

    @property
    def torch_share(self) -> float:
        """The share of kernels that are torch's own: copies, fills and elementwise ones."""
        return sum(share for name, share in self.kernels.items() if name.startswith(TORCH_KERNELS))


@dataclass(frozen=True)
class Row:
    """One shape, its floor (None if no limits were measured), and the cell of each target, the base first."""

    shape: Shape
    floor: Floor | None
    cells: tuple[Cell, ...]

    def ratio(self, cell: Cell) -> float | None:
        """How many times as long as the base a target takes; None if either has no time."""
        base, own = self.cells[0].time, cell.time
        return own / base if base and own else None

    def share(self, cell: Cell) -> float | None:
        """The share of a target's time that the floor is."""
        return self.floor.microseconds / cell.time if self.floor and cell.time else None

    @property
    def faulty(self) -> bool:
        """Whether a target was at fault on it."""
        return any(cell.untimed is not None and cell.untimed.kind in FAULTS for cell in self.cells)


@dataclass(frozen=True)
class Run:
    """What a run has found so far. targets: the base first. left: names of rows that no time was left for.
    interrupted: whether somebody ended it."""

    machine: Machine
    versions: Mapping[str, str]
    backend: str
    targets: tuple[str, ...]
    limits: Limits | None
    rows: tuple[Row, ...] = ()
    left: tuple[str, ...] = ()
    interrupted: bool = False

    def means(self) -> dict[str, dict[str, tuple[float, int]]]:
        """Geometric means of ratios to the base by target and operation (ALL for all), and of how many
        rows."""
        found: dict[str, dict[str, list[float]]] = {}
        for row in self.rows:
            for cell in row.cells[1:]:
                ratio = row.ratio(cell)
                if ratio is not None:
                    for op in (row.shape.op, ALL):
                        found.setdefault(cell.target, {}).setdefault(op, []).append(ratio)
        return {
            target: {op: (geometric_mean(ratios), len(ratios)) for op, ratios in by_op.items()}
            for target, by_op in found.items()
        }

    def seconds(self) -> dict[str, float]:
        """Add up what preparing took, by part: of each row the slowest target, as they prepare together."""
        out: dict[str, float] = {}
        for row in self.rows:
            ready = [cell.prepared.seconds for cell in row.cells if cell.prepared is not None]
            slowest = max(ready, key=lambda parts: sum(parts.values()), default={})
            for part, seconds in slowest.items():
                out[part] = out.get(part, 0.0) + seconds
        return out

    def to_json(self) -> dict[str, Any]:
        """Write everything as plain data. Times are in microseconds, ratios are to the base."""
        return {
            "format_version": FORMAT_VERSION,
            "backend": self.backend,
            "measures": self.backend == "gpu",
            "machine": dataclasses.asdict(self.machine),
            "versions": dict(self.versions),
            "limits": None if self.limits is None else dataclasses.asdict(self.limits),
            "targets": list(self.targets),
            "base": self.targets[0],
            "interrupted": self.interrupted,
            "left": list(self.left),
            "rows": [_row_json(row) for row in self.rows],
            "geometric_means": {
                target: {op: {"ratio": mean, "rows": rows} for op, (mean, rows) in by_op.items()}
                for target, by_op in self.means().items()
            },
        }


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of positive numbers."""
    return math.exp(sum(math.log(value) for value in values) / len(values))


def _row_json(row: Row) -> dict[str, Any]:
    shape = row.shape
    return {
        "name": shape.name,
        "operation": shape.op,
        "shape": shape.label,
        "heads": shape.heads,
        "variant": shape.variant,
        "case": shape.case.to_json(),
        "floor": None if row.floor is None else _floor_json(row.floor),
        "targets": {cell.target: _cell_json(row, cell) for cell in row.cells},
    }


def _cell_json(row: Row, cell: Cell) -> dict[str, Any]:
    if cell.untimed is not None:
        return {"status": cell.untimed.kind, "reason": cell.untimed.reason}
    assert cell.prepared is not None
    achieved: dict[str, float] = {}
    if row.floor is not None and cell.time is not None:
        achieved = {
            "gb_per_s": row.floor.bytes / cell.time / 1e3,
            "bandwidth_share": row.floor.memory / cell.time,
            "tflops": row.floor.flops / cell.time / 1e6,
            "matrix_share": row.floor.matrix / cell.time,
        }
    return {
        "status": "timed",
        "kernel": _spread_json(cell.kernel),
        "call": _spread_json(cell.call),
        "graph": _spread_json(cell.graph),
        "no_graph": cell.prepared.graph,
        "with_adapter": _spread_json(cell.whole),
        "own_call": cell.prepared.own_call,
        "kernels": dict(cell.kernels),
        "torch_share": cell.torch_share,
        "ratio": row.ratio(cell),
        "floor_share": row.share(cell),
        **achieved,
        "copies": cell.prepared.copies,
        "checked": {"lanes": cell.prepared.lanes, "shares_of_bounds": dict(cell.prepared.checked)},
        "provenance": dict(cell.prepared.provenance),
        "seconds": dict(cell.prepared.seconds),
    }


def _floor_json(floor: Floor) -> dict[str, Any]:
    return {**dataclasses.asdict(floor), "microseconds": floor.microseconds, "bound": floor.bound}


def _spread_json(spread: Spread | None) -> dict[str, float] | None:
    return None if spread is None else dataclasses.asdict(spread)
