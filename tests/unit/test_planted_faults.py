"""`diffgdn selftest faults`: faults planted in some cases, and whether each is found."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from diffgdn.cases.case import Case
from diffgdn.cli import run
from diffgdn.selftest import planted_faults
from diffgdn.selftest.planted_faults import Study, Tally


def test_cases_run_both_ways_and_the_figures_are_ready_for_json() -> None:
    doing: list[str] = []

    def watched(cases: Iterable[Case], what: str) -> Iterable[Case]:
        doing.append(what)
        return cases

    study = planted_faults.run("interpret", 12, "eager", 1, watched)
    assert doing == ["drawing", "running"]
    assert study.surprises == 0
    report = json.loads(json.dumps(study.report()))
    assert (report["backend"], report["target"], report["seed"]) == ("interpret", "eager", 1)
    assert report["in a child"]["cases"] == 12
    assert "in a child: 12 cases" in "\n".join(study.words())


@pytest.mark.parametrize(("surprises", "status"), [([], 0), (["a fault was lost"], 1)])
def test_a_lost_fault_is_told_and_fails_the_command(
    surprises: list[str],
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[tuple[str, int, str, int]] = []

    def studied(backend: str, count: int, target: str, seed: int, watched: object) -> Study:
        asked.append((backend, count, target, seed))
        tally = Tally(cases=1, seconds=1.0, milliseconds=[1.0], surprises=surprises)
        return Study("cpu", backend, target, seed, {"median": 1.0, "99 %": 2.0}, {"in a child": tally})

    monkeypatch.setattr(planted_faults, "run", studied)
    file = tmp_path / "faults.json"
    line = ["selftest", "faults", "--backend", "interpret", "--json", str(file)]
    assert run([*line, "--max-cases", "300", "--seed", "7"]) == status
    assert all(surprise in capsys.readouterr().out for surprise in surprises)
    assert json.loads(file.read_text())["in a child"]["surprises"] == surprises
    assert run([*line, "--cases", "200"]) == status  # as it was spelled at first
    assert asked == [("interpret", 300, "eager", 7), ("interpret", 200, "eager", 1)]


def test_cases_are_distinct_and_the_same_for_one_seed() -> None:
    first: list[Case] = list(planted_faults.drawn(40, "interpret", 3))
    assert len({case.id for case in first}) == 40
    assert first == list(planted_faults.drawn(40, "interpret", 3))
