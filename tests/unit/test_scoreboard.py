"""`diffgdn scoreboard`: probe runs and defects as a page, and the strict reading of both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diffgdn.cases import case_text
from diffgdn.cases.case import Case, Pool, Values
from diffgdn.cases.lay import Lay
from diffgdn.cases.operand_options import Operands
from diffgdn.cases.trace import Trace
from diffgdn.cli import run
from diffgdn.findings import defects
from diffgdn.findings.defects import Defect
from diffgdn.report import scoreboard_page, scoreboard_runs
from diffgdn.report.scoreboard_runs import ProbeRun, Score

ROOT = Path(__file__).parents[2]
DEFECTS = ROOT / "docs" / "defects.toml"
CASE = Case("gdn.decode", lay=(Lay("state", (0, 0, 1, 0)),))
DEFECT = f"""
[[defect]]
id = "theirs-gapped-states"
target = "sglang"
operations = ["gdn.decode", "kda.decode"]
title = "Rows of states are taken to lie | together"
kind = "guard_written"
result = "state"
case = "{CASE!r}"
wrong_in = ["1.10"]
right_in = ["1.9"]
whose = "theirs"
cause = '''one.py, launch:
  the stride of a row is not passed'''
mend = "pass it"
mended_by_patch = true
"""


def probed(**fields: Any) -> dict[str, Any]:
    """What `diffgdn probe --json` writes."""

    def cell(feature: str, status: str, promised: bool = True) -> dict[str, Any]:
        return {"feature": feature, "status": status, "promised": promised, "cases": 2}

    decode = {
        "plain": cell("plain", "right"),
        "cells": [
            cell("dtype=bfloat16", "right"),
            cell("K=17", "right"),
            cell("strides=gapped states", "wrong"),
            cell("strides=gapped tokens", "wrong", False),
            cell("dt_bias=none", "raises"),
            cell("execution=graph", "not reached"),
        ],
        "pairs": {"asked": 4, "not_asked": 0, "not_right": [cell("ratio=2 and batch=dense", "wrong")]},
    }
    return {
        "target": "sglang@/somewhere/sglang.whl",
        "package": "sglang 1.10",
        "date": "2026-11-27",
        "backend": "interpret",
        "versions": {"device": "cpu", "torch": "2.13.0"},
        "operations": {"gdn.decode": decode},
        **fields,
    }


def a_run(**fields: Any) -> ProbeRun:
    return scoreboard_runs.of_probe(probed(**fields))


def a_defect(**changes: str) -> Defect:
    text = DEFECT
    for old, new in changes.items():
        text = "\n".join(new if line.startswith(f"{old} =") else line for line in text.splitlines())
    (found,) = defects.parse(text, "defects.toml")
    return found


def test_a_run_keeps_counts_and_names_what_is_not_right() -> None:
    made = a_run()
    assert made.name == "sglang-1.10-interpret"
    assert "/somewhere" not in scoreboard_runs.to_json(made)
    score = made.operations["gdn.decode"]
    assert (score.right, score.count("wrong"), score.count("not reached"), made.count("right")) == (
        2,
        2,
        1,
        2,
    )
    assert score.others["wrong"] == ("strides=gapped states", "strides=gapped tokens")
    assert score.promised == ("strides=gapped states", "dt_bias=none", "execution=graph")
    assert (score.pairs, score.pairs_not_right) == (4, ("ratio=2 and batch=dense",))
    assert scoreboard_runs.from_json(scoreboard_runs.to_json(made)) == made


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{}", "format_version: expected 1, got None"),
        ("[]", "format_version"),
        ('{"format_version": 1, "target": "vk"}', "no run: KeyError"),
    ],
)
def test_what_is_no_run_is_told(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "one.json").write_text(text)
    with pytest.raises(ValueError, match=says) as error:
        scoreboard_runs.read(tmp_path)
    assert str(tmp_path / "one.json") in str(error.value)


def test_what_is_no_probe_is_told(tmp_path: Path) -> None:
    odd = probed(operations={"gdn.decode": {"cells": [{"status": "odd"}]}})
    some: list[Any] = [{"target": "vk"}, [], odd]
    for data in some:
        (tmp_path / "p.json").write_text(json.dumps(data))
        with pytest.raises(ValueError, match=r"p.json: no "):
            scoreboard_runs.add(tmp_path / "p.json", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_operations_of_one_version_come_together_from_several_probes() -> None:
    first = a_run()
    again = a_run(operations={"kda.decode": probed()["operations"]["gdn.decode"]})
    assert set(scoreboard_runs.merged(first, again).operations) == {"gdn.decode", "kda.decode"}
    elsewhere = a_run(operations={}, versions={"device": "H100"})
    assert set(scoreboard_runs.merged(first, elsewhere).operations) == set()


def test_runs_are_sorted_by_version_not_by_letters(tmp_path: Path) -> None:
    for package in ("sglang 1.9", "sglang 1.10", "sglang 1.2"):
        made = a_run(package=package)
        (tmp_path / f"{made.name}.json").write_text(scoreboard_runs.to_json(made))
    assert [one.version for one in scoreboard_runs.read(tmp_path)] == ["1.10", "1.9", "1.2"]


def test_a_page_links_what_is_not_right_to_its_defect() -> None:
    page = scoreboard_page.page([a_run()], [a_defect()])
    assert (
        "| [sglang 1.10, interpret](#sglang-110-interpret) | interpret | cpu | 2026-11-27 | 1 | 2 | 2 | 1 "
        in page
    )
    assert "### sglang 1.10, interpret" in page
    line = next(line for line in page.splitlines() if line.startswith("- gdn.decode: "))
    assert line == (
        "- gdn.decode: strides gapped states wrong ([theirs-gapped-states](#theirs-gapped-states)); "
        "strides (gapped tokens) wrong; dt_bias none raises; of pairs ratio=2 and batch=dense"
    )
    assert "\nNot right (2 promised, of which 1 have a defect below):\n" in page
    assert "1 in all: 1 theirs. Of 1 a patched copy passed." in page
    assert "- sglang: 1.9, 1.10\n" in page
    assert "[Rows of states are taken to lie \\| together](#theirs-gapped-states)" in page
    assert f"- case: `{CASE!r}`" in page
    assert "- cause: one.py, launch: the stride of a row is not passed\n" in page
    assert "- mend: pass it (a patched copy passed)\n" in page
    assert "- wrong in 1.10; right in 1.9\n" in page


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ([], ""),
        (["1.9"], "1.9"),
        (["1.10", "1.9", "1.11"], "1.9 to 1.11"),
        (["1.2", "1.10", "1.11", "2.0"], "1.2, 1.10 to 2.0"),
    ],
)
def test_versions_are_written_as_ranges_of_those_that_were_run(versions: list[str], said: str) -> None:
    assert scoreboard_page.spans(versions, ["1.2", "1.9", "1.10", "1.11", "2.0"]) == said


def test_a_plain_case_that_is_not_right_is_a_broken_promise_with_its_defect() -> None:
    rows = probed()["operations"]["gdn.decode"]
    run = a_run(operations={"gdn.decode": {**rows, "plain": {**rows["plain"], "status": "wrong"}}})
    page = scoreboard_page.page([run], [a_defect(mend='features = ["plain"]')])
    assert "\nNot right (1 promised, of which 1 have a defect below):\n" in page
    assert "- gdn.decode: the plain case wrong ([theirs-gapped-states](#theirs-gapped-states))\n" in page


def test_a_page_of_nothing_says_so() -> None:
    page = scoreboard_page.page([], [])
    assert scoreboard_page.NO_RUNS in page
    assert scoreboard_page.NO_DEFECTS in page


def explained(defect: Defect, feature: str, **fields: Any) -> bool:
    return scoreboard_page.explains(defect, a_run(**fields), "gdn.decode", feature)


def test_a_defect_explains_cells_of_its_target_operation_version_and_features() -> None:
    one = a_defect()
    assert explained(one, "strides=gapped states")
    assert not explained(one, "strides=gapped tokens")
    assert not explained(one, "strides=gapped states", package="sglang 1.9")  # where it was right
    assert not explained(one, "strides=gapped states", target="fla")
    assert not scoreboard_page.explains(one, a_run(), "gdn.verify", "strides=gapped states")
    assert not explained(a_defect(result='backend = "gpu"'), "strides=gapped states")
    assert explained(a_defect(result='backend = "interpret"'), "strides=gapped states", backend="gpu")
    named = a_defect(mend='features = ["strides=far *"]')
    assert explained(named, "strides=far states")
    assert not explained(named, "strides=gapped states")
    large = a_defect(case="case = \"Case(op='gdn.decode', K=33)\"")
    assert explained(large, "K=64")
    assert not explained(large, "K=17")


@pytest.mark.parametrize(
    ("key", "line", "says"),
    [
        ("id", 'id = "Theirs"', "id: expected small letters, digits and -, got 'Theirs'"),
        ("target", 'target = "slang"', "target: expected one of vk, "),
        ("operations", 'operations = ["gdn.decoding"]', "operations: expected some of "),
        ("operations", "operations = []", "operations: expected at least one"),
        ("operations", 'operations = "gdn.decode"', "operations: expected a list of texts, got 'gdn.decode'"),
        (
            "operations",
            'operations = ["kda.decode"]',
            "case: it is of gdn.decode, which is not among operations",
        ),
        ("kind", 'kind = "wrong"', "kind: expected one of "),
        ("title", "title = 3", "title: expected text, got 3"),
        ("title", "", "title: missing"),
        ("title", 'tittle = "x"', r"\['tittle'\]: unknown; known: "),
        ("case", "case = \"Case(op='gdn.decode', K=0)\"", "case: "),
        ("case", "case = \"__import__('os')\"", "case: no part of a case: "),
        ("wrong_in", "wrong_in = []", "wrong_in: expected at least one version"),
        ("right_in", 'right_in = ["1.10"]', r"right_in: \['1.10'\] is also in wrong_in"),
        ("whose", 'whose = "nobody"', "whose: expected one of theirs, ours, adapter, open, got 'nobody'"),
        ("mended_by_patch", 'mended_by_patch = "yes"', "mended_by_patch: expected true or false, got 'yes'"),
        ("result", 'backend = "cuda"', "backend: expected one of interpret, gpu, got 'cuda'"),
    ],
)
def test_a_defect_that_cannot_be_read_is_named_with_its_key(key: str, line: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as error:
        a_defect(**{key: line})
    assert str(error.value).startswith("defects.toml: defect 1")
    assert "\n" not in str(error.value)


def test_an_id_is_had_once() -> None:
    with pytest.raises(ValueError, match=r"defect 2 \('theirs-gapped-states'\): id: another defect has it"):
        defects.parse(DEFECT + DEFECT, "defects.toml")


@pytest.mark.parametrize(
    "subject",
    [
        CASE,
        Case("gdn.decode", values=Values(v_exponent=-3), operands=Operands(k="float16")),
        Trace("gdn"),
    ],
)
def test_a_case_is_read_as_it_is_printed(subject: Case | Trace) -> None:
    assert case_text.read(repr(subject)) == subject


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Case(",
        "3",
        "Pool()",
        "Case('gdn.decode', K=8 ** 2)",
        "Case(**{})",
        "Case('gdn.decode', dtype=float32)",
        "Case('x', odd=1)",
    ],
)
def test_what_is_no_case_is_not_evaluated(text: str) -> None:
    with pytest.raises(ValueError):
        case_text.read(text)


def test_numbers_may_be_written_as_people_do() -> None:
    written = case_text.read("Case('gdn.decode', K=4 * 8, pool=Pool(pitch=(1 << 30) + 5))")
    assert written == Case("gdn.decode", K=32, pool=Pool(pitch=2**30 + 5))
    for far in ("1 << 99", "1 << 62 << 62", "9 ** 9", "'a' * 9"):
        with pytest.raises(ValueError, match="no part of a case"):
            case_text.read(f"Case('gdn.decode', K={far})")


@pytest.mark.skipif(not DEFECTS.exists(), reason="no defect is written down yet")
def test_the_defects_of_the_documentation_can_be_read() -> None:
    found = defects.read(DEFECTS)
    assert found
    assert all(case_text.read(repr(one.case)) == one.case for one in found)


def test_the_page_of_the_documentation_is_what_the_command_writes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make scoreboard` writes it anew."""
    monkeypatch.chdir(ROOT)
    assert run(["scoreboard", "--check"]) == 0, capsys.readouterr().out


def test_the_command_adds_a_probe_and_writes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.json").write_text(json.dumps(probed()))
    (tmp_path / "d.toml").write_text(DEFECT)
    options = ["--runs", "runs", "--defects", "d.toml", "--to", "page.md"]
    assert run(["scoreboard", "--check", *options]) == 1
    assert run(["scoreboard", "p.json", *options]) == 0
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["sglang-1.10-interpret.json"]
    assert "theirs-gapped-states" in (tmp_path / "page.md").read_text()
    assert run(["scoreboard", "--check", *options]) == 0
    (tmp_path / "d.toml").write_text(DEFECT.replace("guard_written", "odd"))
    capsys.readouterr()
    assert run(["scoreboard", *options]) == 2
    assert capsys.readouterr().err.startswith("diffgdn: d.toml: defect 1 ('theirs-gapped-states'): kind: ")


def test_a_score_counts_what_it_has() -> None:
    score = Score("right", 3, {"refused": ("a=b",), "hangs": ("c=d",)})
    assert [score.count(status) for status in ("right", "refused", "hangs", "wrong")] == [3, 1, 1, 0]
