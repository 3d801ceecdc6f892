"""Time targets side by side on one GPU: what `diffgdn bench` prints.

Times are sums of GPU kernel times per call (gaps on the host left out), medians over repeats that take
turns between the targets, each call on one of several copies of its tensors so that caches do not flatter
it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from diffgdn.bench.shapes import Shape, shapes

COPIES_BYTES = 256 << 20  # of state and inputs, several times an L2 cache
MAX_COPIES = 16
REPEATS = 5
CALLS = 20  # of each repeat


class Refused(Exception):
    """A target does not take a shape; the message says which and why."""


@dataclass(frozen=True)
class Row:
    """The times of one shape of an operation. microseconds: by target, of GPU kernel time a call."""

    operation: str
    shape: str
    microseconds: dict[str, float]


def kernel_microseconds(call: Callable[[int], object], calls: int) -> float:
    """Sum the GPU kernel times of `calls` calls, and divide by their number: microseconds a call.

    Args:
        call: makes the i-th call.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        for i in range(calls):
            call(i)
        torch.cuda.synchronize()
    total: float = sum(event.self_device_time_total for event in seen.key_averages())
    return total / calls


def _prepare(target_name: str, shape: Shape) -> Callable[[int], object]:
    """Make a function that makes the i-th call of a shape on a target.

    Raises:
        Refused: the target does not take the shape.
    """
    import torch

    from diffgdn import targets
    from diffgdn.tensors import inputs
    from diffgdn.tensors.layout import arrange

    target = targets.get(target_name)
    refused = targets.refusal(target, shape.case, "gpu")
    if refused:
        raise Refused(f"{target_name}: {refused}")
    data = inputs.draw(shape.case)
    first = arrange(shape.case, data, "cuda", target.layout)
    copies = int(max(1, min(MAX_COPIES, COPIES_BYTES // (first.arena.numel() * 2))))
    sets = [first] + [arrange(shape.case, data, "cuda", target.layout) for _ in range(copies - 1)]
    with torch.no_grad():
        target.run(shape.case, first)
    torch.cuda.synchronize()
    return lambda i: target.run(shape.case, sets[i % copies])


def rows(operations: Sequence[str], targets: Sequence[str], wanted: Sequence[str] = ()) -> Iterator[Row]:
    """Time the shapes of operations on targets, one row after the other. The backend must have been entered.

    Args:
        wanted: labels of shapes, such as 1x8192; all where there is none.

    Raises:
        Refused: a target does not take a shape.
    """
    import torch

    for op in operations:
        for shape in shapes(op):
            if wanted and shape.label not in wanted:
                continue
            calls = {name: _prepare(name, shape) for name in targets}
            times: dict[str, list[float]] = {name: [] for name in targets}
            for _ in range(REPEATS):
                for name, call in calls.items():
                    times[name].append(kernel_microseconds(call, CALLS))
            yield Row(op, shape.label, {name: statistics.median(values) for name, values in times.items()})
            del calls
            torch.cuda.empty_cache()
