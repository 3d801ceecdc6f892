"""What a campaign on a GPU compiles before it explores: which variants, in which order, and for how long."""

from collections.abc import Callable
from pathlib import Path

import pytest

from diffgdn import campaign, strategies
from diffgdn.campaign import engine, events, tasks
from diffgdn.campaign.worker_pool import Pool as WorkerPool
from diffgdn.cases.case import Case
from diffgdn.findings.corpus import Corpus
from diffgdn.report import console
from diffgdn.report.tally import Tally

FEW = ("gdn.extend", "kda.verify")


class Unstarted(engine._Campaign):
    """A campaign on a GPU that notes what it would have its workers run."""

    def __init__(self, configurations: int, heads_compiled: bool = False) -> None:
        self.told: list[events.Event] = []
        self.work: list[list[tasks.RunCase]] = []
        config = campaign.Config("fla", FEW, "gpu", 7, 4, Path("findings"))
        super().__init__(
            config, self.told.append, Corpus(config.corpus), WorkerPool(config.pool, Path("running"))
        )
        self.inbox.ready = tasks.Ready(
            "a GPU", {}, FEW, "vk", dict.fromkeys(FEW, configurations), heads_compiled=heads_compiled
        )
        self.menu = self._menu(FEW)
        self._prepare(self.menu, FEW)

    def _each(self, work: list[tasks.RunCase], seconds: float | None = None) -> None:
        self.work.append(work)


def test_a_gpu_campaign_compiles_each_build_once_and_runs_each_geometry() -> None:
    made = Unstarted(configurations=1)
    compiled, geometries = made.work
    builds = [build for op in FEW for build in made.menu.entries(op)]
    cases = [
        case
        for op in FEW
        for build in made.menu.entries(op)
        for case in strategies.representatives(op, build)
    ]
    assert len(compiled) >= len(builds)
    assert sorted(task.case.id for task in compiled) == sorted(case.id for case in cases)
    assert [task.case for task in geometries] == [
        case for op in FEW for case in strategies.geometries.cases(op)
    ]
    assert [event.phase for event in made.told if isinstance(event, events.PhaseStarted)] == [
        "compile",
        "geometries",
    ]


def test_configurations_of_a_foreign_kernel_are_compiled_as_far_as_there_is_room() -> None:
    compiled, _ = Unstarted(configurations=50).work
    assert len(compiled) == engine.MOST_VARIANTS
    assert len({task.case.id for task in compiled}) == engine.MOST_VARIANTS
    configurations = [task.case.config for task in compiled]
    per_entry = configurations.count(0)
    assert max(configurations) == (engine.MOST_VARIANTS - 1) // per_entry


def test_kernels_compiled_for_heads_meet_one_pair_of_heads_and_one_configuration_a_build() -> None:
    made = Unstarted(configurations=50, heads_compiled=True)
    compiled, _ = made.work
    builds = [build for op in FEW for build in made.menu.entries(op)]
    assert len(compiled) == len(builds)
    assert sorted((task.case.H, task.case.HV) for task in compiled) == sorted(
        build.heads for build in builds if build.heads is not None
    )
    assert sorted(task.case.config for task in compiled) == sorted(
        build.config for build in builds if build.config is not None
    )


def test_operations_take_turns_in_being_compiled() -> None:
    compiled, _ = Unstarted(configurations=1).work
    assert [task.case.op for task in compiled[:4]] == ["gdn.extend", "kda.verify"] * 2
    for op in FEW:
        sizes = [task.case.K * task.case.V for task in compiled if task.case.op == op]
        assert sizes == sorted(sizes, reverse=True)


class Timed(engine._Campaign):
    """A campaign of which every task takes a second of a clock that it turns itself."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        config = campaign.Config("vk", FEW, "gpu", 7, 4, Path("findings"), max_time=5.0)
        super().__init__(
            config, lambda event: None, Corpus(config.corpus), WorkerPool(config.pool, Path("running"))
        )
        self.now, self.ran = 100.0, 0
        monkeypatch.setattr("diffgdn.campaign.engine.time.monotonic", lambda: self.now)

    def _drive(self, source: Callable[[], tasks.Task | None]) -> None:
        while source() is not None:
            self.now += 1.0
            self.ran += 1


def test_compilation_takes_no_longer_than_the_campaign_may_explore(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Timed(monkeypatch)
    made.inbox.ready = tasks.Ready("a GPU", {}, FEW, "vk", dict.fromkeys(FEW, 1))
    work = [tasks.RunCase(Case("gdn.decode"), "vk", "compile") for _ in range(9)]
    made._each(work, made.config.max_time)
    assert made.ran == 5
    made._each(work)
    assert made.ran == 5 + 9


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (4.0, "compiled 2 variants in 4 s, shared by all workers"),
        (
            5.5,
            "compiled 2 of 9 variants in 5.5 s, shared by all workers; others compile when a case meets them",
        ),
    ],
)
def test_it_is_said_where_the_time_ended_compilation(seconds: float, said: str) -> None:
    tally = Tally()
    config = campaign.Config("vk", FEW, "gpu", 7, 4, Path("findings"), max_time=5.0)
    for event in (
        events.CampaignStarted(config),
        events.PhaseStarted("compile", 9),
        events.CompileProgress("gdn.extend", 1.0),
        events.CompileProgress("kda.verify", 1.0),
    ):
        tally(event)
    assert console._compiled(tally, seconds) == said
