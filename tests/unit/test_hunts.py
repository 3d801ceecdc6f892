"""Many hunts at once: what comes of each is told and kept as it comes, and none holds up the others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from diffgdn.cli.mutants_command import mutants
from diffgdn.mutants import hunts
from diffgdn.mutants.equivalent import EQUIVALENT, NOT_LOOKED_AT
from diffgdn.mutants.generated import generated
from diffgdn.mutants.hunt import Kill
from diffgdn.mutants.hunts import Hunted, Terms
from diffgdn.mutants.mutant import Mutant
from diffgdn.runner.child_process import ChildProcess

TERMS = Terms("interpret", 1, 30.0, 120.0, 1)
SCALES = "drop-scale@[or]*"  # two mutants
FIRST, SECOND = "drop-scale@output.output_kernel.1", "drop-scale@recurrent_steps.query.1"


class Told:
    """Stands for the hunts of a run: what comes of each mutant, by its id, and which were asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.second: frozenset[str] = frozenset()
        self.found = {FIRST: True, SECOND: False}

    def __call__(
        self, mutants: list[Mutant], terms: Terms, folder: Path, second: frozenset[str]
    ) -> Iterator[Hunted]:
        self.asked, self.second = [mutant.id for mutant in mutants], second
        for name in self.asked:
            kill = Kill(name, self.found[name], 2.0, 7, "gdn.extend", "beyond_bound", "state")
            for go in (1, 2):
                final = kill.found or go == 2
                if not (name in second and go == 1):
                    yield Hunted(kill, go, final, 5.0)
                if final:
                    break


def ran(*options: str) -> Result:
    arguments = ["--operators", "--id", SCALES, "--backend", "interpret", *options]
    return CliRunner().invoke(mutants, arguments, standalone_mode=False)


def test_a_run_tells_what_was_found_and_what_was_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hunts, "hunts", told := Told())
    monkeypatch.setitem(NOT_LOOKED_AT, SECOND, "nobody looks")
    result = ran("--json", str(tmp_path / "out.json"), "--markdown")
    assert result.return_value == 1
    assert sorted(told.asked) == [FIRST, SECOND]
    assert "2.0 s, case 7     gdn.extend, beyond_bound in state" in result.output
    assert "SURVIVED  7 cases in 2 s; a product lacks its scale, line" in result.output
    assert "1 of 2 found, 50.0 %" in result.output
    assert "| drop-scale | 2 | 0 | 2 | 1 | 1 |" in result.output
    assert f"| {SECOND} | a product lacks its scale, line" in result.output
    assert result.output.count("nobody looks") == 2  # in the summary and on the page
    records = {record["mutant"]: record for record in json.loads((tmp_path / "out.json").read_text())}
    assert {name: (record["found"], record["go"]) for name, record in records.items()} == {
        FIRST: (True, 1),
        SECOND: (False, 2),
    }


@pytest.mark.parametrize("changed", [True, False])
def test_what_a_file_holds_is_not_hunted_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changed: bool
) -> None:
    """But for a mutant that is another one by now, or whose campaign did not run."""
    path = tmp_path / "out.json"
    monkeypatch.setattr(hunts, "hunts", told := Told())
    ran("--json", str(path))
    result = ran("--json", str(path))
    assert told.asked == []
    assert "1 of 2 found" in result.output
    records = json.loads(path.read_text())
    for record in records:
        record["final"] = False  # as after the first go
        record["found"] = False
    records[0]["about" if changed else "problem"] = "another change"
    path.write_text(json.dumps(records))
    ran("--json", str(path))
    assert sorted(told.asked) == [FIRST, SECOND]
    assert told.second == {record["mutant"] for record in records[1:]}


def test_what_is_equivalent_is_told_of_and_not_hunted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hunts, "hunts", told := Told())
    monkeypatch.setitem(EQUIVALENT, SECOND, "it changes nothing | at all")
    result = ran("--markdown")
    assert result.return_value == 0
    assert told.asked == [FIRST]
    assert "1 of 1 found, 100.0 %" in result.output
    assert "| it changes nothing \\| at all |" in result.output


def test_what_is_equivalent_is_hunted_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is found has a wrong reason."""
    monkeypatch.setattr(hunts, "hunts", told := Told())
    monkeypatch.setitem(EQUIVALENT, FIRST, "it is said to change nothing")
    result = ran("--equivalent")
    assert result.return_value == 1
    assert told.asked == [FIRST]
    assert f"WRONGLY SAID TO CHANGE NOTHING: {FIRST}" in result.output
    monkeypatch.delitem(EQUIVALENT, FIRST)
    monkeypatch.setitem(EQUIVALENT, SECOND, "it changes nothing at all")
    result = ran("--equivalent")
    assert result.return_value == 0
    assert told.asked == [SECOND]
    assert "none of 1 found" in result.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--id", "drop-everything@*"], "--id 'drop-everything@*': no operator makes such a mutant"),
        (["--json", "{folder}/text.json"], "text.json: it holds no table of mutants"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(tmp_path: Path, options: list[str], words: str) -> None:
    (tmp_path / "text.json").write_text("[1]")
    result = ran(*(option.format(folder=tmp_path) for option in options))
    assert words in str(result.exception)


def test_a_sample_is_of_operators() -> None:
    result = CliRunner().invoke(mutants, ["--sample", "3", "--list"], standalone_mode=False)
    assert "--sample and --equivalent are of --operators" in str(result.exception)
    result = ran("--list", "--sample", "1")
    assert result.return_value == 0
    assert result.output.count("drop-scale@") == 1
    assert "all, by operator" in result.output


def test_a_campaign_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[ChildProcess] = []

    def starting(*arguments: Any) -> ChildProcess:
        started.append(ChildProcess(*arguments))
        return started[-1]

    monkeypatch.setattr(hunts, "ChildProcess", starting)
    monkeypatch.setattr(Terms, "limit", lambda self, go: 0.0)
    made = generated()
    first, second = hunts.hunts(
        [made[FIRST], made[SECOND]], Terms("interpret", 1, 30, 0, 1), tmp_path, frozenset()
    )
    assert [one.kill.mutant for one in (first, second)] == [FIRST, SECOND]
    assert "its campaign did not end in 0 s" in str(first.kill.problem)
    assert not first.kill.found
    assert len(started) == 2
    assert not any(process.alive for process in started)


def test_a_hunter_that_dies_is_told_of_and_replaced(tmp_path: Path) -> None:
    nobody = Mutant("nobody@nowhere.1", "", "", ())
    (hunted,) = hunts.hunts([nobody], Terms("interpret", 1, 30.0, 0.0, 1), tmp_path, frozenset())
    assert (hunted.final, hunted.kill.found) == (True, False)
    assert hunted.kill.problem == "its hunter died: KeyError: 'nobody@nowhere.1'"


def test_what_was_not_found_has_a_second_go_after_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    jobs = []

    class Hunter:
        """Finds nothing, at once."""

        def __init__(self, log: Path) -> None:
            self.process, self.since = None, 0.0
            self.job: tuple[str, int] | None = None

        def give(self, terms: Terms, mutant: str, go: int) -> None:
            self.job = mutant, go
            jobs.append(terms.job(mutant, go))

        def answer(self, terms: Terms) -> Kill:
            assert self.job is not None
            return Kill(self.job[0], False, 1.0, 1)

        def end(self) -> None:
            """It has no process."""

    monkeypatch.setattr(hunts, "_Hunter", Hunter)
    made = generated()
    goes = list(hunts.hunts([made[FIRST], made[SECOND]], TERMS, tmp_path, frozenset()))
    assert [(one.kill.mutant, one.go, one.final) for one in goes] == [
        (FIRST, 1, False),
        (SECOND, 1, False),
        (FIRST, 2, True),
        (SECOND, 2, True),
    ]
    assert [(job.seed, job.max_time) for job in jobs] == [
        (1, 30.0),
        (1, 30.0),
        (1_000_004, 120.0),
        (1_000_004, 120.0),
    ]
    del jobs[:]
    goes = list(hunts.hunts([made[FIRST], made[SECOND]], TERMS, tmp_path, frozenset([FIRST])))
    assert [(one.kill.mutant, one.go) for one in goes] == [(SECOND, 1), (FIRST, 2), (SECOND, 2)]
