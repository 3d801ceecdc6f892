"""Time targets side by side on one GPU, and print microseconds and ratios: `python -m diffgdn.bench`.

Times are sums of GPU kernel times per call (gaps on the host left out), medians over repeats that take
turns between the targets, each call on one of several copies of its tensors so that caches do not flatter
it.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path

import click

from diffgdn.backend import selection
from diffgdn.cases.operations import matching

COPIES_BYTES = 256 << 20  # of state and inputs, several times an L2 cache
MAX_COPIES = 16
REPEATS = 5


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


def _prepare(target_name: str, shape: object) -> Callable[[int], object]:
    """Make a function that makes the i-th call of a shape on a target.

    Raises:
        click.UsageError: the target refuses the shape.
    """
    import torch

    from diffgdn import targets
    from diffgdn.bench.shapes import Shape
    from diffgdn.tensors import inputs
    from diffgdn.tensors.layout import arrange

    assert isinstance(shape, Shape)
    target = targets.get(target_name)
    refusal = target.refuses(shape.case, "gpu")
    if refusal:
        raise click.UsageError(f"{target_name}: {refusal}")
    data = inputs.draw(shape.case)
    first = arrange(shape.case, data, "cuda", target.layout)
    copies = int(max(1, min(MAX_COPIES, COPIES_BYTES // (first.arena.numel() * 2))))
    sets = [first] + [arrange(shape.case, data, "cuda", target.layout) for _ in range(copies - 1)]
    with torch.no_grad():
        target.run(shape.case, first)
    torch.cuda.synchronize()
    return lambda i: target.run(shape.case, sets[i % copies])


@click.command()
@click.option("--op", "pattern", default="*", help="Shell pattern of operations.")
@click.option(
    "--target", "targets_", multiple=True, default=("vk",), help="Targets to time; give it twice to compare."
)
@click.option("--shape", "wanted", multiple=True, help="Only these labels, such as 1x8192.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures here.")
def main(pattern: str, targets_: tuple[str, ...], wanted: tuple[str, ...], json_path: Path | None) -> None:
    """Time targets on the GPU; ratios are to the last target named."""
    if selection.detect() != "gpu":
        raise click.UsageError("timing kernels needs a GPU")
    selection.enter("gpu")
    import torch

    from diffgdn.bench.shapes import shapes

    click.echo(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}; microseconds of GPU kernel time a call"
    )
    rows = []
    for op in matching(pattern):
        for shape in shapes(op):
            if wanted and shape.label not in wanted:
                continue
            calls = {name: _prepare(name, shape) for name in targets_}
            times: dict[str, list[float]] = {name: [] for name in targets_}
            for _ in range(REPEATS):
                for name, call in calls.items():
                    times[name].append(kernel_microseconds(call, 20))
            medians = {name: statistics.median(values) for name, values in times.items()}
            ratio = (
                "" if len(targets_) == 1 else f"  ratio {medians[targets_[0]] / medians[targets_[-1]]:.2f}"
            )
            shown = "  ".join(f"{name} {value:9.1f}" for name, value in medians.items())
            click.echo(f"{op:18s} {shape.label:>9s}  {shown}{ratio}")
            rows.append({"operation": op, "shape": shape.label, "microseconds": medians})
            del calls
            torch.cuda.empty_cache()
    if json_path:
        json_path.write_text(json.dumps({"device": torch.cuda.get_device_name(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
