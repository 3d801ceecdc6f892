"""One campaign over many seats: parts started, their findings kept once, seats lost and joined."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from diffgdn.campaign import events
from diffgdn.campaign.config import Config, Outcome
from diffgdn.campaign.joint import joint_campaign
from diffgdn.campaign.joint.part_messages import Ended, Files, Lost, Start
from diffgdn.campaign.joint.ray_seats import PartActor, RayError, RaySeats
from diffgdn.cases.case import Case
from diffgdn.cli import run
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import COMPLETE, UNSHRUNK, Finding
from diffgdn.runner.child_process import ChildProcess

TOYS = Path(__file__).with_name("toys.py")
READY = events.WorkerStarted(0, "cpu")
EXPLORES = events.PhaseStarted("explore")
DONE = Ended(Outcome())
Script = Callable[["ScriptedSeats"], Sequence[tuple[str, Any]] | None]


class ScriptedSeats:
    """Seats whose parts say what a test has written down, a list each time that they are asked."""

    def __init__(self, seats: Sequence[str], *script: Sequence[tuple[str, Any]] | Script) -> None:
        self.seats, self.script = list(seats), list(script)
        self.started: list[tuple[str, Start]] = []
        self.told: list[tuple[str, Finding]] = []
        self.interrupted = self.closed = False
        self._busy: set[str] = set()

    def free(self) -> Sequence[str]:
        return [seat for seat in self.seats if seat not in self._busy]

    def start(self, seat: str, start: Start) -> None:
        self._busy.add(seat)
        self.started.append((seat, start))

    def receive(self, seconds: float) -> Sequence[tuple[str, Any]]:
        step = self.script.pop(0) if self.script else [(seat, DONE) for seat in sorted(self._busy)]
        said = (step(self) if callable(step) else step) or []
        self._busy -= {seat for seat, message in said if isinstance(message, Ended | Lost)}
        return said

    def tell(self, seat: str, finding: Finding) -> None:
        self.told.append((seat, finding))

    def interrupt(self) -> None:
        self.interrupted = True

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def tried_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint_campaign, "AGAIN_SECONDS", 0.0)


def finding(tokens: int = 3, shrink: str = UNSHRUNK, kind: str = "beyond_bound") -> Finding:
    return Finding(Case("gdn.decode", lens=(tokens,)), "t", "interpret", kind, "wrong", "o", shrink=shrink)


def found(one: Finding) -> events.FindingFound:
    return events.FindingFound(one, f"/elsewhere/{one.id}.json")


def shrunk(one: Finding, before: Finding) -> events.FindingShrunk:
    return events.FindingShrunk(one, f"/elsewhere/{one.id}.json", before.id, 1.0)


def joint(tmp_path: Path, seats: ScriptedSeats, **fields: Any) -> tuple[Outcome, list[events.Event]]:
    heard: list[events.Event] = []
    given = {"max_time": 60.0, "allow_unreached": True, **fields}
    config = Config("t", ("gdn.decode",), "interpret", 7, 2, tmp_path / "findings", **given)
    outcome = joint_campaign.run(config, heard.append, seats)
    assert seats.closed
    return outcome, heard


def of(kind: type, heard: list[events.Event]) -> list[Any]:
    return [event for event in heard if isinstance(event, kind)]


def test_each_seat_explores_a_shard_of_its_own_and_the_first_replays(tmp_path: Path) -> None:
    Corpus(tmp_path / "findings").save(finding(9))
    seats = ScriptedSeats(["a", "b"], [("a", READY), ("b", READY), ("a", EXPLORES)])
    outcome, heard = joint(tmp_path, seats)
    (_, one), (_, two) = seats.started
    assert [start.config.shard for start in (one, two)] == [(1, 1 << 20), (2, 1 << 20)]
    assert (one.config.seed, two.config.seed, one.config.storage) == (7, 7, None)
    assert [start.old for start in (one, two)] == [(finding(9),), ()]
    assert [(event.seat, event.part) for event in of(events.SeatJoined, heard)] == [("a", 1), ("b", 2)]
    assert len({event.worker for event in of(events.WorkerStarted, heard)}) == 2
    assert [event.phase for event in of(events.PhaseStarted, heard)] == ["start", "explore"]
    assert outcome == Outcome()


def test_a_finding_is_kept_here_at_once_and_the_other_parts_are_told(tmp_path: Path) -> None:
    one = finding()
    seats = ScriptedSeats(["a", "b"], [("a", EXPLORES), ("a", found(one))], [("a", Lost("gone"))])
    outcome, heard = joint(tmp_path, seats)
    assert Corpus(tmp_path / "findings").findings() == [one]
    assert seats.told[0] == ("b", one)
    assert outcome.findings == (one,)
    (told,) = of(events.FindingFound, heard)
    assert told.path == str(tmp_path / "findings" / f"{one.id}.json")


def test_one_bug_of_two_parts_is_one_finding_and_the_first_that_is_small_stays(tmp_path: Path) -> None:
    one, two, small = finding(5), finding(6), finding(1, COMPLETE)
    late = finding(2, COMPLETE)
    seats = ScriptedSeats(
        ["a", "b"],
        [("a", EXPLORES), ("a", found(one)), ("b", found(two))],
        [("b", shrunk(small, two))],
        [("a", shrunk(late, one))],
    )
    outcome, heard = joint(tmp_path, seats)
    assert len(of(events.FindingFound, heard)) == 1
    assert [(event.before, event.finding) for event in of(events.FindingShrunk, heard)] == [(one.id, small)]
    assert outcome.findings == (small,)
    assert Corpus(tmp_path / "findings").findings() == [small]


def test_scripts_come_after_their_finding_and_go_with_it(tmp_path: Path) -> None:
    one, small = finding(5), finding(1, COMPLETE)
    seats = ScriptedSeats(
        ["a"],
        [("a", EXPLORES), ("a", found(one)), ("a", Files(one.id, {".py": b"print()"}))],
        [("a", shrunk(small, one)), ("a", Files(small.id, {".py": b"small", ".sh": b"no"}))],
        [("a", Files("nobody-knows", {".py": b"no"}))],
    )
    joint(tmp_path, seats)
    names = {file.name for file in (tmp_path / "findings").iterdir()}
    assert names == {f"{small.id}.json", f"{small.id}.py"}


def test_a_seat_that_is_lost_is_told_of_and_started_anew_with_another_shard(tmp_path: Path) -> None:
    seats = ScriptedSeats(["a"], [("a", EXPLORES)], [("a", Lost("its node is gone"))])
    outcome, heard = joint(tmp_path, seats)
    assert [start.config.shard[0] for _, start in seats.started] == [1, 2]
    assert [(event.seat, event.reason) for event in of(events.SeatLost, heard)] == [("a", "its node is gone")]
    assert outcome.problem is None


def test_a_node_that_joins_gets_what_is_left_of_the_time_and_hears_of_all_findings(tmp_path: Path) -> None:
    one = finding()

    def joins(seats: ScriptedSeats) -> None:
        seats.seats.append("b")

    seats = ScriptedSeats(["a"], [("a", EXPLORES), ("a", found(one))], joins, [])
    joint(tmp_path, seats)
    (_, first), (seat, second) = seats.started
    assert seat == "b"
    assert second.config.max_time is not None
    assert first.config.max_time == 60.0 > second.config.max_time > 50.0
    assert ("b", one) in seats.told


def test_a_seat_that_loses_part_after_part_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joint_campaign, "SEATS_SECONDS", 0.0)
    seats = ScriptedSeats(["a"], *([[("a", Lost("it has diffgdn 0, not 1"))]] * 3))
    outcome, _ = joint(tmp_path, seats)
    assert len(seats.started) == 3
    assert outcome.problem == "no seat is left: a: it has diffgdn 0, not 1"
    none, _ = joint(tmp_path, ScriptedSeats([]))
    assert none.problem == "no seat for a part within 0 s"


def test_a_short_campaign_waits_for_its_first_seat_too(tmp_path: Path) -> None:
    def comes(seats: ScriptedSeats) -> None:
        seats.seats.append("a")

    seats = ScriptedSeats([], [], comes, [("a", EXPLORES)])
    outcome, _ = joint(tmp_path, seats, max_time=5.0)
    assert [seat for seat, _ in seats.started] == ["a"]
    assert outcome.problem is None


def test_a_phase_ends_also_where_the_campaign_cannot_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joint_campaign, "SEATS_SECONDS", 0.0)
    _, heard = joint(tmp_path, ScriptedSeats([]))
    assert [event.phase for event in of(events.PhaseEnded, heard)] == ["start"]


def test_another_version_of_diffgdn_on_a_node_is_refused_and_nothing_is_started(tmp_path: Path) -> None:
    actor = PartActor()
    config = Config("vk", ("gdn.decode",), "interpret", 1, 1, tmp_path, max_time=1.0)
    said = actor.start("0.0.1", Start(config, True))
    assert said == f"it has diffgdn {metadata.version('diffgdn')}, not 0.0.1"
    actor.tell(finding())
    actor.interrupt()
    actor.close()


def test_without_ray_a_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    with pytest.raises(RayError, match="Ray is not installed"):
        RaySeats("auto", "interpret")


def test_what_no_part_has_reached_is_a_problem_and_what_one_has_is_none(tmp_path: Path) -> None:
    bare = Ended(Outcome(unreached={"gdn.decode": "no time"}))
    seats = ScriptedSeats(["a", "b"], [("a", EXPLORES), ("a", bare), ("b", bare)])
    outcome, _ = joint(tmp_path, seats, allow_unreached=False)
    assert outcome.problem is not None
    assert outcome.problem.startswith("1 of 1 operations not reached: gdn.decode")
    seats = ScriptedSeats(["a", "b"], [("a", EXPLORES), ("a", bare), ("b", DONE)])
    assert joint(tmp_path, seats, allow_unreached=False)[0] == Outcome()


def test_ctrl_c_has_the_parts_end_and_takes_what_they_still_send(tmp_path: Path) -> None:
    one = finding()

    def ctrl_c(seats: ScriptedSeats) -> None:
        raise KeyboardInterrupt

    seats = ScriptedSeats(["a"], [("a", EXPLORES)], ctrl_c, [("a", found(one)), ("a", DONE)])
    outcome, _ = joint(tmp_path, seats)
    assert seats.interrupted
    assert (outcome.interrupted, outcome.findings) == (True, (one,))


def part(tmp_path: Path, config: Config, old: tuple[Finding, ...] = ()) -> ChildProcess:
    child = ChildProcess("diffgdn.campaign.joint.part", [], tmp_path / "part.log")
    child.send(Start(config, True, old))
    return child


def messages(child: ChildProcess, until: Callable[[Any], bool]) -> list[Any]:
    said: list[Any] = []
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if child.connection.poll(1.0):
            said.append(child.connection.recv())
            if until(said[-1]):
                return said
    raise AssertionError(f"not said within two minutes: {said[-3:]}")


def test_a_part_is_a_campaign_that_sends_its_events_its_files_and_its_outcome(tmp_path: Path) -> None:
    target = f"{TOYS}:wrong"
    config = Config(target, ("gdn.decode",), "interpret", 1, 1, tmp_path, max_cases=30, shard=(1, 9))
    child = part(tmp_path, config)
    try:
        said = messages(child, lambda one: isinstance(one, Ended))
    finally:
        child.end()
    findings = said[-1].outcome.findings
    assert findings
    assert len(of(events.FindingFound, said)) >= len(findings)
    with_script = {one.finding for one in of(Files, said) if ".py" in one.contents}
    assert {one.id for one in findings} <= with_script


def test_a_part_takes_in_what_others_found_and_ends_by_a_signal(tmp_path: Path) -> None:
    config = Config("vk", ("gdn.decode",), "interpret", 1, 1, tmp_path, max_time=600.0, shard=(1, 9))
    theirs = replace(finding(), target="vk")
    child = part(tmp_path, config)
    try:
        messages(child, lambda one: isinstance(one, events.CaseRun))
        child.send(theirs)
        said = messages(child, lambda one: isinstance(one, events.FindingPulled))
        assert said[-1].finding == theirs
        os.kill(child.pid, signal.SIGINT)
        said = messages(child, lambda one: isinstance(one, Ended))
        assert said[-1].outcome.interrupted
    finally:
        child.end()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--max-cases 9", "--max-cases: parts on a cluster do not count together; give --max-time"),
        ("--seed 1 --shard 1/2", "--shard: each part on the cluster has a shard of its own; leave it out"),
        ("--against HEAD", "--against: the base lies on this machine alone; leave out --ray"),
    ],
)
def test_what_a_joint_campaign_cannot_take_is_refused(
    line: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["fuzz", "--ray", "auto", "--backend", "interpret", *line.split()]) == 2
    assert words in capsys.readouterr().err


def test_two_nodes_of_a_ray_cluster_and_one_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joint_campaign, "AGAIN_SECONDS", 30.0)
    cluster = pytest.importorskip("ray.cluster_utils").Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1}
    )
    heard: list[events.Event] = []
    nodes = [cluster.add_node(num_cpus=1)]

    def listen(event: events.Event) -> None:
        heard.append(event)
        if isinstance(event, events.CaseRun) and len(of(events.SeatJoined, heard)) == 2:
            while nodes:
                cluster.remove_node(nodes.pop(), allow_graceful=False)

    try:
        config = Config(f"{TOYS}:wrong", ("gdn.decode",), "interpret", 1, 1, tmp_path / "f", max_time=20.0)
        outcome = joint_campaign.run(config, listen, RaySeats(cluster.address, "interpret"))
    finally:
        cluster.shutdown()
    assert len(of(events.SeatLost, heard)) == 1
    assert outcome.problem is None
    assert outcome.findings
    assert Corpus(tmp_path / "f").findings() == sorted(outcome.findings, key=lambda one: one.id)
