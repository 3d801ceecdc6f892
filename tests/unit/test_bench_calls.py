"""The calls that the bench times: what is prepared for a row, what has no time, what a call is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diffgdn.bench import direct_calls, row_check, shapes
from diffgdn.bench.bench_records import CRASHED, NO_ROOM, RAISED, REFUSED, WRONG, Prepared, Turn, Untimed
from diffgdn.bench.direct_calls import Call
from diffgdn.bench.floors import Limits
from diffgdn.bench.shapes import Shape
from diffgdn.bench.timing_runner import TimingRunner
from diffgdn.cases.case import Case
from diffgdn.reference.noise import CHUNKED, Contract
from diffgdn.targets import get, pinning, recording
from diffgdn.tensors import inputs
from diffgdn.tensors.arena import Arguments
from diffgdn.tensors.layout import arrange

TOYS = Path(__file__).with_name("bench_toys.py")
LIMITS = Limits(copy_gb=3000.0, in_place_gb=2900.0, matrix_tflops=800.0)


def tiny(op: str) -> Shape:
    (shape,) = shapes.shapes(op, "tiny")
    return shape


def long_shape(length: int = 300) -> Shape:
    """Longer than the cut case, and small otherwise."""
    case = tiny("gdn.extend").case
    pool = replace(case.pool, slots=1, indices=(0,))
    case = replace(case, lens=(length,), H=2, HV=4, pool=pool)
    return Shape(case.op, f"1x{length}", case)


# Preparing and measuring


class Clock:
    """A timer that makes each call, and says what it is told to."""

    def __init__(self, graph: str = "this one draws no graphs") -> None:
        self.made, self._graph = 0, graph

    def between(self, calls: Sequence[Call], count: int) -> float:
        for i in range(count):
            calls[i % len(calls)]()
        self.made += count
        return 4000.0

    def kernels(self, calls: Sequence[Call], count: int) -> dict[str, float]:
        return {"own_kernel": 30.0, "void at::native::copy": 10.0}

    def capture(self, calls: Sequence[Call]) -> Any:
        return self._graph

    def limits(self) -> Limits:
        return LIMITS


def runner(*names: str) -> TimingRunner:
    made = TimingRunner("interpret", Clock())
    for name in names:
        made.load(name)
    return made


def test_a_right_target_is_prepared_and_measured() -> None:
    mine = runner("vk")
    ready = mine.prepare("vk", tiny("gdn.decode"))
    assert isinstance(ready, Prepared)
    assert set(ready.checked) == {"o", "state"}
    assert (ready.own_call, ready.graph) == (True, "this one draws no graphs")
    turn = mine.turn()
    assert isinstance(turn, Turn)
    assert (turn.call, turn.graph, turn.whole) == (4000.0, None, None)
    assert turn.kernels == {"own_kernel": 30.0, "void at::native::copy": 10.0}


def test_the_whole_call_of_a_target_that_is_no_function_is_timed() -> None:
    name = f"{TOYS}:right"
    mine = runner(name)
    ready = mine.prepare(name, tiny("gdn.decode"))
    assert isinstance(ready, Prepared)
    assert not ready.own_call
    turn = mine.turn()
    assert isinstance(turn, Turn)
    assert turn.whole == 40.0


@pytest.mark.parametrize(
    ("toy", "op", "kind", "reason"),
    [
        ("wrong", "gdn.decode", WRONG, "gdn.decode o"),
        ("raising", "gdn.decode", RAISED, "ZeroDivisionError: no such luck"),
        ("right", "kda.decode", REFUSED, "right has no kda.decode"),
    ],
)
def test_what_is_not_right_has_no_time(toy: str, op: str, kind: str, reason: str) -> None:
    name = f"{TOYS}:{toy}"
    found = runner(name).prepare(name, tiny(op))
    assert isinstance(found, Untimed)
    assert found.kind == kind
    assert found.reason.startswith(reason)


def test_what_is_wrong_on_the_lanes_alone_has_no_time() -> None:
    name = f"{TOYS}:wrong_when_long"
    found = runner(name).prepare(name, long_shape())
    assert isinstance(found, Untimed)
    assert found.kind == WRONG


def test_a_full_memory_is_nobody_s_fault() -> None:
    """And the next row may find room: it is asked again."""
    name = f"{TOYS}:full"
    mine = runner(name)
    found = mine.prepare(name, tiny("gdn.decode"))
    assert isinstance(found, Untimed)
    assert found.kind == NO_ROOM
    mine._targets[name] = get(f"{TOYS}:right")
    assert isinstance(mine.prepare(name, tiny("gdn.decode")), Prepared)


def test_what_breaks_the_context_ends_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong result may be the last thing that was seen of it."""
    name = f"{TOYS}:wrong"
    mine = runner(name)

    def broken() -> None:
        raise RuntimeError("an illegal memory access\nand more")

    mine.release()
    monkeypatch.setattr(mine, "release", lambda: None)
    monkeypatch.setattr(mine, "_let_go", broken)
    found = mine.prepare(name, tiny("gdn.decode"))
    assert found == Untimed(CRASHED, "the kernel broke its GPU context: an illegal memory access")
    assert mine.broken == "an illegal memory access"


def test_many_rows_with_one_cut_case_take_one_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    judge = row_check.judge_cut
    monkeypatch.setattr(row_check, "judge_cut", lambda case, *rest: asked.append(case) or judge(case, *rest))  # type: ignore[func-returns-value]
    mine = runner("eager")
    for length in (300, 301):
        assert isinstance(mine.prepare("eager", long_shape(length)), Prepared)
    assert len(asked) == 1


def test_a_target_that_takes_wider_tables_gets_them() -> None:
    narrow = get("eager")

    class Wide:
        """Takes cu_seqlens in int64 alone, as some packages do."""

        name, layout, operations = "wide", "vk", ("gdn.extend",)
        run, contract, configurations = narrow.run, narrow.contract, narrow.configurations

        def refuses(self, case: Case, backend: str) -> str | None:
            return None if case.cu_dtype == "int64" else "cu_seqlens: int64"

    mine = runner()
    mine._targets["wide"] = Wide()
    assert isinstance(mine.prepare("wide", tiny("gdn.extend")), Prepared)


# The calls that are timed


class Bare:
    """What a target needs beside `run`."""

    name, layout, operations = "bare", "vk", ("gdn.extend",)

    def contract(self, op: str) -> Contract:
        return CHUNKED

    def configurations(self, op: str) -> int:
        return 1

    def refuses(self, case: Case, backend: str) -> str | None:
        return None


def test_a_function_is_called_with_the_keywords_of_its_target() -> None:
    """And with nothing around it: the results are those of the target's call."""
    case, target = tiny("gdn.decode").case, get("vk")
    sets = [arrange(case, inputs.draw(case), "cpu") for _ in range(2)]
    calls = direct_calls.of(target, case, sets[:1])
    assert (calls.own, calls.whole, len(calls.direct)) == (True, (), 1)
    assert torch.equal(calls.direct[0](), target.run(case, sets[1])["o"])
    assert torch.equal(sets[0]["state"], sets[1]["state"])


def test_a_turn_is_as_many_calls_as_a_measurement_takes() -> None:
    """At 4 ms a call that is the least number; none is made but by the timer."""
    clock = Clock()
    mine = TimingRunner("interpret", clock)
    mine.load("eager")
    mine.prepare("eager", tiny("gdn.decode"))
    before = clock.made
    mine.turn()
    assert clock.made - before == 1 + 3  # a warm-up of each copy, of which there is one without a cache


def test_what_an_adapter_does_is_no_part_of_the_call() -> None:
    """The package's own function is called, with the tensors that the adapter passed it, and one table."""
    made: list[dict[str, torch.Tensor]] = []

    @recording.watched
    def own(**given: torch.Tensor) -> torch.Tensor:
        made.append(given)
        return given["q"] + 1.0

    class Adapted(Bare):
        def run(self, case: Case, arguments: Arguments) -> dict[str, torch.Tensor]:
            table = arguments["cu_seqlens"].clone()
            return {"o": own(q=arguments["q"].clone(), cu_seqlens=table)}

    case = tiny("gdn.extend").case
    sets = [arrange(case, inputs.draw(case), "cpu") for _ in range(2)]
    calls = direct_calls.of(Adapted(), case, sets)
    assert (calls.own, len(calls.whole)) == (True, 2)
    before = len(made)
    assert [call().shape for call in calls.direct] == [sets[0]["q"].shape] * 2
    first, second = made[before:]
    assert first["cu_seqlens"] is second["cu_seqlens"]
    assert first["q"] is made[0]["q"]
    assert second["q"] is made[1]["q"]


def test_a_target_of_several_calls_is_timed_whole() -> None:
    @recording.watched
    def own(q: torch.Tensor) -> torch.Tensor:
        return q

    class Twice(Bare):
        def run(self, case: Case, arguments: Arguments) -> dict[str, torch.Tensor]:
            return {"o": own(q=own(q=arguments["q"]))}

    case = tiny("gdn.extend").case
    calls = direct_calls.of(Twice(), case, [arrange(case, inputs.draw(case), "cpu")])
    assert not calls.own
    assert calls.direct == calls.whole


def test_a_call_is_tuned_as_it_is_shipped() -> None:
    """Of an autotuner that picks its second entry: the first is what a campaign would pin."""

    class Tuner:
        def __init__(self) -> None:
            self.configs, self.cache = ["first", "second"], dict[str, str]()

        def run(self) -> str:
            return self.configs[-1]

    tuner = Tuner()

    class Tuned(Bare):
        def run(self, case: Case, arguments: Arguments) -> dict[str, torch.Tensor]:
            with pinning.pinned([tuner], 0):
                chosen.append(tuner.run())
            return {}

    chosen: list[str] = []
    case = tiny("gdn.extend").case
    sets = [arrange(case, inputs.draw(case), "cpu")]
    for tuned in (True, False):
        direct_calls.of(Tuned(), case, sets, tuned).direct[0]()
    assert chosen[-2:] == ["second", "first"]
