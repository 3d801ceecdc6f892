"""`diffgdn selftest time-to-find`: searches over mutants and seeds, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from diffgdn.cli.selftest_command import selftest
from diffgdn.mutants import hunt as hunting
from diffgdn.mutants.hunt import Kill
from diffgdn.mutants.mutant import Mutant
from diffgdn.mutants.time_to_find import Search, Study

MISSED = Kill("gone", False, 60.0, 500)


def study(*searches: Search) -> Study:
    made = Study(None, "interpret", 60.0, 2)
    made.searches = list(searches)
    return made


def test_the_median_is_over_all_searches_and_one_that_found_nothing_counts_as_the_longest() -> None:
    words = study(
        Search("a", 1, True, 2.0, 10),
        Search("a", 2, True, 4.0, 20),
        Search("b", 1, False, 60.0, 500),
    ).words()
    assert words[:2] == [
        "2 of 3 searches found their mutant within 60 s",
        "median time to find: 4.0 s, 20 cases",
    ]


def test_where_half_found_nothing_the_median_is_only_known_to_be_above() -> None:
    words = study(Search("a", 1, True, 2.0, 10), Search("a", 2, False, 60.0, 500)).words()
    assert words[1] == "median time to find: > 60 s, > 500 cases"


def test_the_ten_that_took_longest_are_named_the_longest_first() -> None:
    quick = [Search(f"quick{n}", 1, True, 1.0 + n, 5) for n in range(11)]
    lines = study(*quick, Search("never", 1, False, 60.0, 300), Search("slow", 1, True, 50.0, 200)).words()[
        3:
    ]
    assert [line.split()[0] for line in lines] == ["never", "slow"] + [f"quick{n}" for n in range(10, 2, -1)]
    assert " ".join(lines[0].split()) == "never > 60 s > 300 cases, found by 0 of 1"


def test_each_mutant_is_searched_once_with_each_seed_and_a_file_is_gone_on_with(tmp_path: Path) -> None:
    asked: list[tuple[str, int]] = []

    def look(mutant: str, seed: int) -> Kill:
        asked.append((mutant, seed))
        return Kill(mutant, True, 1.234, 7)

    file = tmp_path / "times.json"
    first = Study(file, "interpret", 60.0, 2)
    assert list(first.run(["a", "b"], [1], look)) == [
        Search("a", 1, True, 1.23, 7),
        Search("b", 1, True, 1.23, 7),
    ]
    again = Study(file, "interpret", 60.0, 2)
    assert [(one.mutant, one.seed) for one in again.run(["a", "b"], [1, 2], look)] == [("a", 2), ("b", 2)]
    assert asked == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert len(json.loads(file.read_text())["searches"]) == 4


def test_a_file_of_other_terms_or_of_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "times.json"
    list(Study(file, "interpret", 60.0, 2).run(["a"], [1], lambda mutant, seed: MISSED))
    with pytest.raises(ValueError, match=r"searched with .*'workers': 2"):
        Study(file, "interpret", 60.0, 4)
    file.write_text("[1]")
    with pytest.raises(ValueError, match="not a table of searches"):
        Study(file, "interpret", 60.0, 2)


def test_the_command_fails_for_a_mutant_that_no_seed_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(mutant: object, backend: str, seed: int, *rest: object, **more: object) -> Kill:
        assert isinstance(mutant, Mutant)
        return Kill(mutant.id, mutant.id != "commit-one-too-many" and seed == 2, 3.0, 9)

    monkeypatch.setattr(hunting, "hunt", fake)
    line = ["time-to-find", "--backend", "interpret", "--seeds", "2", "--id"]
    good = CliRunner().invoke(selftest, [*line, "commit-path-as-chain"], standalone_mode=False)
    assert good.return_value == 0
    assert "commit-path-as-chain         seed 2: found in 3.0 s, 9 cases" in good.output
    bad = CliRunner().invoke(selftest, [*line, "commit-*"], standalone_mode=False)
    assert bad.return_value == 1
    assert "2 of 6 searches found their mutant within 60 s" in bad.output
    known = CliRunner().invoke(selftest, [*line, "cache-by-identity"], standalone_mode=False)
    assert known.return_value == 0
