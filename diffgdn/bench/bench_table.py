"""Write rows of the bench as lines of a table, as they come, and what they come to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from diffgdn.bench.bench_records import ALL, FAULTS, Cell, Row, Run, Spread
from diffgdn.bench.floors import Limits
from diffgdn.cases import target_names

BESIDE = 18 + 9 + 14 + 8 + 2  # columns of the row itself
WORTH_SAYING = 1.02  # an adapter's share of a call, as a factor


def head(targets: Sequence[str]) -> str:
    """Write the heads of the columns."""
    return (
        f"{'operation':<18}{'shape':<9}{'heads':<14}{'floor':>8}  {'target':<{_width(targets)}}"
        f"{'kernel':>9}  {'lowest..highest':<18}{'call':>9}{'graph':>9}  {'floor':>6}{'ratio':>7}"
    )


def _width(targets: Iterable[str]) -> int:
    """The width of the column of targets."""
    return 2 + max(len("target"), *(len(target_names.label(one)) for one in targets))


def limits_line(limits: Limits | None) -> str:
    """Say what the machine was measured to do."""
    if limits is None:
        return "Triton's interpreter: these times are no measure of any kernel."
    return (
        f"measured here: copy {limits.copy_gb:.0f} GB/s, in place {limits.in_place_gb:.0f} GB/s, "
        f"bf16 products {limits.matrix_tflops:.0f} TFLOP/s; times in microseconds a call"
    )


def row_lines(row: Row) -> Iterator[str]:
    """Write a row: a line for each target, and a line below for what an adapter adds."""
    shape, floor = row.shape, row.floor
    heads = " ".join(filter(None, (shape.heads, shape.variant)))
    least = "" if floor is None else f"{floor.microseconds:.1f}"
    width = _width(cell.target for cell in row.cells)
    beside = f"{shape.op:<18}{shape.label:<9}{heads:<14}{least:>8}  "
    for cell in row.cells:
        yield f"{beside}{target_names.label(cell.target):<{width}}{_times(row, cell)}".rstrip()
        beside = " " * BESIDE
        if cell.whole and cell.kernel and cell.whole.median > WORTH_SAYING * cell.kernel.median:
            whole = f"{cell.whole.median:9.1f}"
            yield f"{beside}{'':<{width}}{whole}  with the kernels of what the adapter does around it"


def _times(row: Row, cell: Cell) -> str:
    if cell.untimed is not None:
        kind = cell.untimed.kind.upper() if cell.untimed.kind in FAULTS else cell.untimed.kind
        return f"{kind}: {cell.untimed.reason}"
    kernel = cell.kernel
    between = "" if kernel is None else f"{kernel.low:.1f}..{kernel.high:.1f}"
    share, ratio = row.share(cell), row.ratio(cell)
    return (
        f"{_median(kernel)}  {between:<18}{_median(cell.call)}{_median(cell.graph)}  "
        f"{'' if share is None else f'{100 * share:.0f} %':>6}"
        f"{'' if ratio is None or cell is row.cells[0] else f'{ratio:.2f}':>7}"
    )


def _median(spread: Spread | None) -> str:
    return f"{'-' if spread is None else f'{spread.median:.1f}':>9}"


def end_lines(run: Run) -> Iterator[str]:
    """Write what a run comes to: geometric means of ratios, rows that a target was at fault on, and what is
    left."""
    base = target_names.label(run.targets[0])
    for target, by_op in run.means().items():
        ops = [*(op for op in by_op if op != ALL), ALL]
        means = ", ".join(f"{op} {by_op[op][0]:.2f} ({by_op[op][1]})" for op in ops)
        yield f"{target_names.label(target)} takes, of the time of {base} (rows): {means}"
    for row in run.rows:
        for cell in row.cells:
            if cell.untimed is not None and cell.untimed.kind in FAULTS:
                where = f"{cell.target} on {row.shape.name}"
                yield f"{cell.untimed.kind} and not timed: {where}: {cell.untimed.reason}"
    if run.seconds():
        parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in run.seconds().items())
        yield f"preparing took, in seconds: {parts}"
    if run.left:
        yield f"left out for lack of time: {', '.join(run.left)}"
