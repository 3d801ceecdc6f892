"""The bench on a GPU: times that can be, and none for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffgdn.bench import floors, shapes
from diffgdn.bench.bench_records import WRONG, Prepared, Turn, Untimed
from diffgdn.bench.floors import Limits
from diffgdn.bench.shapes import Shape
from diffgdn.bench.timing_runner import TimingRunner

pytestmark = pytest.mark.gpu

TOYS = Path(__file__).parents[1] / "unit" / "bench_toys.py"
MOST_SHARE = 1.2  # of the floor in a time: the limits are measured, and no measurement is exact
LEAST_BANDWIDTH, LEAST_MATRIX_RATE = 100.0, 10.0  # GB/s and TFLOP/s, of any GPU that these kernels run on


def named(op: str, label: str) -> Shape:
    return next(shape for shape in shapes.shapes(op) if shape.label == label)


@pytest.fixture(scope="module")
def runner() -> TimingRunner:
    made = TimingRunner("gpu")
    for name in ("vk", "kv", f"{TOYS}:wrong"):
        made.load(name)
    return made


@pytest.fixture(scope="module")
def limits(runner: TimingRunner) -> Limits:
    found = runner.limits()
    assert found is not None
    return found


def test_the_limits_are_those_of_a_gpu(limits: Limits) -> None:
    assert min(limits.copy_gb, limits.in_place_gb) > LEAST_BANDWIDTH
    assert limits.matrix_tflops > LEAST_MATRIX_RATE


@pytest.mark.parametrize("target", ["vk", "kv"])
@pytest.mark.parametrize(("op", "label"), [("gdn.decode", "8x1"), ("gdn.extend", "1x2048")])
def test_a_time_is_not_below_what_the_machine_can_do(
    target: str, op: str, label: str, runner: TimingRunner, limits: Limits
) -> None:
    shape = named(op, label)
    ready = runner.prepare(target, shape)
    assert isinstance(ready, Prepared), ready
    assert ready.copies > 1  # of tensors, so that a call does not find its own in the cache
    turn = runner.turn()
    runner.release()
    assert isinstance(turn, Turn), turn
    kernel = sum(turn.kernels.values())
    assert 0.0 < floors.floor(shape.moved, shape.formed, limits).microseconds <= MOST_SHARE * kernel
    assert turn.call > 0.0
    assert turn.graph is None or 0.0 < turn.graph < 2 * turn.call + kernel


def test_what_is_wrong_has_no_time(runner: TimingRunner) -> None:
    shape = named("gdn.decode", "8x1")
    found = runner.prepare(f"{TOYS}:wrong", shape)
    assert isinstance(found, Untimed)
    assert found.kind == WRONG
