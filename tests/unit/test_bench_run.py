"""A run of the bench: turns, what becomes of targets that are at fault, and what is written of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diffgdn.bench import bench_plot, bench_run, bench_table, floors, shapes
from diffgdn.bench.bench_records import (
    CRASHED,
    NO_ROOM,
    RAISED,
    REFUSED,
    WRONG,
    Cell,
    Machine,
    Prepared,
    Row,
    Run,
    Spread,
    Turn,
    Untimed,
)
from diffgdn.bench.floors import Limits
from diffgdn.bench.shapes import Shape
from diffgdn.bench.timing_process import TimingProcess
from diffgdn.cli import run
from diffgdn.runner.messages import RunnerError

TOYS = Path(__file__).with_name("bench_toys.py")
LIMITS = Limits(copy_gb=3000.0, in_place_gb=2900.0, matrix_tflops=800.0)
SHAPES = shapes.shapes("gdn.decode")
READY = Prepared({"o": 0.3, "state": 0.2}, "sequences 0, value heads 0", 4, own_call=True)


class Fake:
    """A worker that says what it is told to, and writes down what it is asked."""

    def __init__(
        self, name: str, log: list[str], turns: Sequence[Turn | Untimed], ready: Prepared | Untimed = READY
    ) -> None:
        self.name, self.log, self.turns, self.ready = name, log, list(turns), ready

    def begin(self, shape: Shape) -> None:
        self.log.append(f"{self.name} begin")

    def prepared(self) -> Prepared | Untimed:
        self.log.append(f"{self.name} prepared")
        return self.ready

    def turn(self) -> Turn | Untimed:
        self.log.append(f"{self.name} turn")
        return self.turns.pop(0)

    def release(self) -> None:
        self.log.append(f"{self.name} release")


class Gone(Fake):
    """A worker that nobody can start."""

    def begin(self, shape: Shape) -> None:
        raise RunnerError("it ended")


def turns(*kernel: float) -> list[Turn]:
    return [Turn(value + 5.0, {"own": value}, value + 1.0, value + 2.0) for value in kernel]


FIVE = turns(10.0, 12.0, 11.0, 30.0, 9.0)


def cells(workers: Mapping[str, Fake], shape: Shape = SHAPES[0]) -> tuple[Cell, ...]:
    (row,) = bench_run.rows([shape], workers, LIMITS)
    return row.cells


def test_targets_are_prepared_at_once_and_measured_in_turns() -> None:
    log: list[str] = []
    cells({"a": Fake("a", log, FIVE), "b": Fake("b", log, FIVE)})
    assert log[:4] == ["a begin", "b begin", "a prepared", "b prepared"]
    assert log[4:-2] == ["a turn", "b turn"] * bench_run.REPEATS
    assert log[-2:] == ["a release", "b release"]


def test_large_rows_are_prepared_one_after_the_other() -> None:
    """Several targets hold them at once, many times over."""
    log: list[str] = []
    large = next(shape for shape in SHAPES if shape.label == "256x1")
    assert floors.moved_bytes(large.case) > bench_run.TOGETHER_BYTES
    cells({"a": Fake("a", log, FIVE), "b": Fake("b", log, FIVE)}, large)
    assert log[:4] == ["a begin", "a prepared", "b begin", "b prepared"]


def test_times_are_medians_with_their_spread() -> None:
    (cell,) = cells({"a": Fake("a", [], FIVE)})
    assert cell.kernel == Spread(11.0, 9.0, 30.0)
    assert cell.call == Spread(16.0, 14.0, 35.0)
    assert cell.graph == Spread(12.0, 10.0, 31.0)
    assert cell.whole == Spread(13.0, 11.0, 32.0)


def test_kernels_have_the_share_that_they_take() -> None:
    mixed = [Turn(9.0, {"own": 6.0, "void at::native::fill": 2.0})] * bench_run.REPEATS
    (cell,) = cells({"a": Fake("a", [], mixed)})
    assert cell.kernels == {"own": 0.75, "void at::native::fill": 0.25}
    assert cell.torch_share == 0.25


def test_a_target_that_is_left_out_takes_no_turn_and_stops_nobody() -> None:
    log: list[str] = []
    refused = Untimed(REFUSED, "it takes no decode")
    workers = {"a": Fake("a", log, FIVE), "b": Fake("b", log, [], refused), "c": Gone("c", log, [])}
    first, second, third = cells(workers)
    assert first.time == 11.0
    assert second.untimed == refused
    assert third.untimed == Untimed(CRASHED, "it ended")
    assert "b turn" not in log


def test_a_crash_amid_the_turns_leaves_the_others_theirs() -> None:
    """The crashed one has no time at all: what was measured before it is not shown."""
    log: list[str] = []
    crash = Untimed(CRASHED, "gone")
    one, other = cells({"a": Fake("a", log, [FIVE[0], crash]), "b": Fake("b", log, FIVE)})
    assert (one.untimed, one.time) == (crash, None)
    assert other.time == 11.0
    assert log.count("a turn") == 2
    assert "a release" not in log


def test_no_row_begins_once_there_is_enough() -> None:
    """But the first of each operation."""
    workers = {"a": Fake("a", [], [*FIVE, *FIVE])}
    every = [*SHAPES, *shapes.shapes("gdn.verify")]
    found = [row.shape.name for row in bench_run.rows(every, workers, LIMITS, lambda: True)]
    assert found == ["gdn.decode 1x1 16/32", "gdn.verify 1x4 16/32"]


def a_run() -> Run:
    """Two rows: kv takes 2 and 8 times as long as vk; on the second a third target is wrong."""
    first, second, third = SHAPES[0], SHAPES[2], SHAPES[3]

    def timed(name: str, value: float) -> Cell:
        return Cell.timed(name, READY, [Turn(value + 3.0, {"own": value})] * 2)

    def row(shape: Shape, *own: Cell) -> Row:
        return Row(shape, floors.floor(shape.moved, shape.formed, LIMITS), own)

    rows = (
        row(first, timed("vk", 10.0), timed("kv", 20.0), Cell("late", Untimed(NO_ROOM, "full"))),
        row(second, timed("vk", 100.0), timed("kv", 800.0), Cell("late", Untimed(WRONG, "o: off by 1"))),
        row(third, Cell("vk", Untimed(REFUSED, "no")), timed("kv", 1.0), timed("late", 2.0)),
    )
    machine = Machine("a GPU", 50 << 20, ("fla",), {"vllm": "vllm is not installed"})
    return Run(machine, {"torch": "2.11"}, "gpu", ("vk", "kv", "late"), LIMITS, rows, left=("one more",))


def test_ratios_are_to_the_base_and_so_are_their_means() -> None:
    found = a_run()
    assert [row.ratio(row.cells[1]) for row in found.rows] == [2.0, 8.0, None]
    (target,) = found.means()
    means = found.means()[target]
    assert (target, list(means)) == ("kv", ["gdn.decode", "all"])
    assert [(round(mean, 9), rows) for mean, rows in means.values()] == [(4.0, 2), (4.0, 2)]


def test_the_json_says_all_that_there_is() -> None:
    data = json.loads(json.dumps(a_run().to_json(), allow_nan=False))
    assert (data["base"], data["left"], data["measures"]) == ("vk", ["one more"], True)
    second = data["rows"][1]["targets"]
    assert second["vk"]["kernel"] == {"median": 100.0, "low": 100.0, "high": 100.0}
    share = second["vk"]["floor_share"]
    assert share == pytest.approx(0.9, abs=0.01)
    assert second["vk"]["bandwidth_share"] == share
    assert second["vk"]["gb_per_s"] == pytest.approx(share * LIMITS.bandwidth)
    assert second["vk"]["tflops"] == pytest.approx(second["vk"]["matrix_share"] * LIMITS.matrix_tflops)
    assert 0.0 < second["vk"]["matrix_share"] < share
    assert data["rows"][1]["floor"]["bound"] == "memory"
    assert second["kv"]["ratio"] == 8.0
    assert second["late"] == {"status": "wrong", "reason": "o: off by 1"}
    assert second["vk"]["checked"]["shares_of_bounds"] == {"o": 0.3, "state": 0.2}
    assert data["geometric_means"]["kv"]["all"] == {"ratio": pytest.approx(4.0), "rows": 2}


def test_the_table_shows_times_shares_and_reasons() -> None:
    found = a_run()
    lines = list(bench_table.row_lines(found.rows[1]))
    assert "gdn.decode" in lines[0]
    assert lines[0].split()[-2:] == ["90", "%"]
    assert lines[1].split()[-1] == "8.00"
    assert lines[2].endswith("WRONG: o: off by 1")
    end = "\n".join(bench_table.end_lines(found))
    assert "kv takes, of the time of vk (rows): gdn.decode 4.00 (2), all 4.00 (2)" in end
    assert "wrong and not timed: late on gdn.decode 64x1 16/32: o: off by 1" in end
    assert "left out for lack of time: one more" in end


def test_the_table_says_what_an_adapter_adds() -> None:
    spread = Spread(10.0, 9.0, 11.0)
    cell = Cell("fla", None, READY, spread, spread, None, Spread(14.0, 14.0, 14.0))
    row = Row(SHAPES[0], None, (cell,))
    assert "14.0  with the kernels of what the adapter does" in list(bench_table.row_lines(row))[1]
    bare = replace(row, cells=(replace(cell, whole=spread),))
    assert len(list(bench_table.row_lines(bare))) == 1


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_a_plot_of_bars_against_the_floor(tmp_path: Path, ending: str) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"bench.{ending}"
    bench_plot.draw(a_run(), path)
    start = {"svg": b"<?xml", "png": b"\x89PNG"}[ending]
    assert path.read_bytes().startswith(start)


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    bench_plot.draw(replace(a_run(), rows=()), tmp_path / "bench.svg")
    assert list(tmp_path.iterdir()) == []


# In child processes, in the interpreter


@pytest.fixture
def hired(tmp_path: Path) -> Iterator[Any]:
    """Starts a process for a toy."""
    started: list[TimingProcess] = []

    def hire(toy: str) -> TimingProcess:
        started.append(TimingProcess(f"{TOYS}:{toy}", "interpret", tmp_path / "log"))
        started[-1].load()
        return started[-1]

    yield hire
    for one in started:
        one.close()


def test_a_target_that_ends_its_process_is_asked_about_the_next_row_in_a_new_one(hired: Any) -> None:
    worker = hired("dying")
    (dies,), (lives,) = (shapes.shapes(op, "tiny") for op in ("gdn.decode", "gdn.extend"))
    first, second = bench_run.rows([dies, lives], {"dying": worker}, None)
    assert first.cells[0].untimed is not None
    assert first.cells[0].untimed.kind == CRASHED
    assert "exit status 7" in first.cells[0].untimed.reason
    assert first.faulty
    assert second.cells[0].time is not None
    assert not second.faulty


def test_a_child_has_one_thread(hired: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several prepare at once: with threads on every core they would wait for each other."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (row,) = bench_run.rows(shapes.shapes("gdn.decode", "tiny"), {"counting": hired("counting")}, None)
    assert row.cells[0].untimed == Untimed(RAISED, "RuntimeError: 1 threads")


def bench(*arguments: str) -> int:
    return run(["bench", "--backend", "interpret", *arguments])


def test_a_run_in_the_interpreter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It measures nothing, and says so."""
    path = tmp_path / "bench.json"
    status = bench("--op", "gdn.*decode", "--target", "vk", "--target", "kv", "--json", str(path))
    out = capsys.readouterr().out
    assert status == 0
    assert "no measure of any kernel" in out
    assert "refused: kv does not implement gdn.packed_decode" in out
    data = json.loads(path.read_text())
    assert (data["measures"], data["limits"]) == (False, None)
    decode, packed = (row["targets"] for row in data["rows"])
    assert decode["vk"]["call"]["median"] > 0.0
    assert decode["kv"]["kernel"] is None
    assert packed["kv"]["status"] == "refused"


def test_a_wrong_target_has_no_time_and_fails_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bench.json"
    wrong = f"{TOYS}:wrong"
    assert bench("--op", "gdn.decode", "--target", "eager", "--target", wrong, "--json", str(path)) == 1
    (row,) = json.loads(path.read_text())["rows"]
    assert row["targets"]["eager"]["status"] == "timed"
    assert row["targets"][wrong]["status"] == "wrong"
    assert "call" not in row["targets"][wrong]
    assert "wrong and not timed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "sglang"], "sglang is not installed"),
        (["--target", "nobody"], "unknown target 'nobody'"),
        (["--target", f"{TOYS}:right", "--op", "kda.decode"], "bench: nothing could be timed"),
        (["--op", "gdn.update"], "bench: none of these operations is timed on any of these shapes"),
        (["--set", "short"], "--backend interpret: only --set tiny"),
        (["--heads", "7/7"], "--heads: no heads '7/7'; known: "),
        (["--plot", "bench.txt"], "--plot bench.txt: expected a name that ends in .svg"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(*arguments) == 2
    assert message in capsys.readouterr().err


def test_what_was_measured_before_an_interrupt_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = bench_run.rows

    def interrupted(*given: Any) -> Iterator[Row]:
        yield next(iter(rows(*given)))
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_run, "rows", interrupted)
    path = tmp_path / "bench.json"
    assert bench("--op", "gdn.*", "--target", "eager", "--json", str(path)) == 130
    data = json.loads(path.read_text())
    assert data["interrupted"]
    assert [row["name"] for row in data["rows"]] == ["gdn.extend 2x70 1/2"]
    assert data["left"] == ["gdn.decode 2x1 1/2", "gdn.packed_decode 2x1 1/2", "gdn.verify 2x3 1/2"]


def test_the_rows_that_no_time_is_left_for_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time runs from the end of the first row."""
    tiny = shapes.SETS["tiny"]
    monkeypatch.setitem(
        shapes.SETS,
        "tiny",
        lambda op: (replace(one, label=label) for one in tiny(op) for label in ("first", "second")),
    )
    path = tmp_path / "bench.json"
    assert (
        bench("--op", "gdn.decode", "--target", "eager", "--max-time", "0.000001s", "--json", str(path)) == 0
    )
    data = json.loads(path.read_text())
    assert [row["shape"] for row in data["rows"]] == ["first"]
    assert data["left"] == ["gdn.decode second 1/2"]
    assert set(data["rows"][0]["targets"]["eager"]["seconds"]) == {"cut case", "tensors", "lanes", "calls"}
