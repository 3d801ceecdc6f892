"""Entries of known failures: what they say, where they are read from, and how one is added."""

from __future__ import annotations

import os
import re
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from diffgdn.cases.case import Case
from diffgdn.findings import known, known_file
from diffgdn.findings.known import Known

ENTRY = {"target": "mine:decode", "operation": "gdn.decode", "kind": "beyond_bound", "reason": "see 7"}

TEXT = """
# what we live with
[[known]]
target = "mine:decode"   # ours
operation = "gdn.decode"
kind = "beyond_bound"
reason = "see 7"
"""


def entry(**fields: Any) -> Known:
    return known.read({**ENTRY, **fields}, "here")


def decode(**fields: Any) -> Case:
    return Case("gdn.decode", **fields)


# --- reading ---


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"operation": "gdn.decod"}, "operation: expected one of gdn.extend, "),
        ({"kind": "wrong"}, "kind: expected one of raised, crashed, hung, "),
        ({"kind": 3}, "kind: expected text, got 3"),
        ({"reason": " "}, "reason: expected text, got ' '"),
        ({"becuase": "x"}, "unknown field ['becuase']; known: target, operation, kind, reason, "),
        ({"backend": "cpu"}, "backend: expected one of interpret, gpu, got 'cpu'"),
        ({"flaky": 1}, "flaky: expected true or false, got 1"),
        ({"cases": 0}, "cases: expected a number from 1 on, got 0"),
        ({"versions": {"torch": "new"}}, "versions: torch: expected text as '>=0.4, <0.6'"),
        ({"versions": ["torch"]}, "versions: expected a table of packages, got ['torch']"),
        ({"where": 3}, "where: expected a table of words and values, got 3"),
        ({"where": {"pool.pich": 1}}, "where: pool.pich: no axis of promises and no field of a case; near "),
        ({"where": {"pool": 1}}, "where: pool: no axis of promises and no field of a case"),
        ({"where": {"K": "x"}}, "where: K: expected a whole number, got 'x'"),
        ({"where": {"K": True}}, "where: K: expected a whole number, got True"),
        ({"where": {"K": 300}}, "where: K: expected 1 to 256, got 300"),
        ({"where": {"K": {"least": 300}}}, "where: K: no number that it has is in {'least': 300}"),
        ({"where": {"K": {"least": 3, "most": 2}}}, "where: K: no number that it has is in "),
        ({"where": {"K": {"lest": 3}}}, "where: K: expected least, most and multiple, or not, got "),
        ({"where": {"K": {}}}, "where: K: expected least, most and multiple, or not, got {}"),
        ({"where": {"K": {"not": 3, "least": 1}}}, "where: K: expected not alone, got "),
        ({"where": {"K": []}}, "where: K: expected values, got none"),
        (
            {"where": {"dtype": "bf16"}},
            "where: dtype: expected one of float32, float16, bfloat16, got 'bf16'",
        ),
        ({"where": {"dtype": {"least": 1}}}, "where: dtype: it is no number"),
        ({"where": {"gates.law": "zerro"}}, "where: gates.law: expected one of zero, exact, "),
        ({"where": {"padding": 1}}, "where: padding: expected true or false, got 1"),
    ],
)
def test_a_wrong_entry_is_named_with_its_field_in_one_line(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as caught:
        entry(**fields)
    text = str(caught.value)
    assert text.startswith("here (")
    assert said in text
    assert "\n" not in text


@pytest.mark.parametrize("field", known.NEEDED)
def test_a_field_that_is_needed_is_missed(field: str) -> None:
    given = {name: value for name, value in ENTRY.items() if name != field}
    with pytest.raises(ValueError, match=f"{field}: missing"):
        known.read(given, "here")


@pytest.mark.parametrize(
    ("file", "head"), [("diffgdn.toml", "known"), ("pyproject.toml", "tool.diffgdn.known")]
)
def test_a_file_gives_its_entries_by_their_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, head: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / file
    path.write_text(TEXT.replace("[[known]]", f"[[{head}]]") * 2)
    assert [(one.name, one.target) for one in known_file.read(path)] == [
        (f"{file}:3", "mine:decode"),
        (f"{file}:10", "mine:decode"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[known]", "diffgdn.toml: "),
        ("known = 3", "known: expected [[known]] tables, got 3"),
        ("known = [3]", "known 1: expected a table, got 3"),
        (TEXT + TEXT.replace("gdn.decode", "gdn.dec"), ":10 (gdn.dec beyond_bound): operation: expected"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "diffgdn.toml"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        known_file.declared(tmp_path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_nearest_file_with_an_entry_counts_and_diffgdn_toml_first(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "diffgdn.toml").write_text('[targets."x:y"]\nK = [16]\n')  # no entry: promises alone
    theirs = TEXT.replace("[[known]]", "[[tool.diffgdn.known]]")
    (tmp_path / "a" / "pyproject.toml").write_text(theirs)
    assert known_file.located(inner) == tmp_path / "a" / "pyproject.toml"
    (tmp_path / "a" / "diffgdn.toml").write_text(TEXT)
    assert known_file.located(inner) == tmp_path / "a" / "diffgdn.toml"
    assert len(known_file.declared(inner).entries) == 1


def test_reading_entries_imports_no_torch() -> None:
    code = "import sys; from diffgdn.findings import known_file; sys.exit('torch' in sys.modules)"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0


# --- adding ---


@pytest.mark.parametrize(
    ("file", "before"),
    [
        ("diffgdn.toml", None),
        ("diffgdn.toml", ""),
        ("diffgdn.toml", "# mine\n[targets.x]\nK = [ 16,  # the one\n  32 ]"),
        ("diffgdn.toml", "[targets.x]\r\nK = [16]\r\n"),
        ("diffgdn.toml", TEXT),
        ("pyproject.toml", "[project]\nname = 'x'   # spaces\n\n\n[tool.other]\na = 1\n"),
    ],
)
def test_an_entry_is_added_at_the_end_and_nothing_else_changes(
    tmp_path: Path, file: str, before: str | None
) -> None:
    path = tmp_path / file
    if before is not None:
        path.write_bytes(before.encode())
        path.chmod(0o640)
    table = {
        **ENTRY,
        "reason": 'a "quote", a \\ and\nthe \x7f sign é 你',
        "where": {"K": {"least": 17}, "gates.law": {"not": "zero"}, "padding": True},
    }
    block, made = known_file.add(path, table, "from x")
    after = path.read_bytes().decode()
    assert after.startswith(before or "")
    data = tomllib.loads(after)
    tables = (data["tool"]["diffgdn"] if file == "pyproject.toml" else data)["known"]
    assert tables[-1] == table
    assert made == known_file.read(path)[-1]
    assert made.reason == table["reason"]
    assert block in after.replace("\r\n", "\n")
    if before is not None:
        assert path.stat().st_mode & 0o777 == 0o640
        assert ("\r\n" in before) == ("\r\n" in after)
        assert "\n" not in after.replace("\r\n", "") or "\r\n" not in before


def test_a_file_to_which_no_entry_can_be_added_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "diffgdn.toml"
    inline = "known = [{" + ", ".join(f"{name} = {value!r}" for name, value in ENTRY.items()) + "}]\n"
    path.write_text(inline)
    with pytest.raises(ValueError, match="write it by hand"):
        known_file.add(path, ENTRY)
    with pytest.raises(ValueError, match="operation"):
        known_file.add(tmp_path / "a" / "diffgdn.toml", {**ENTRY, "operation": "no"})
    assert path.read_text() == inline
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_to_a_file_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real.toml", tmp_path / "diffgdn.toml"
    real.write_text("# mine\n")
    link.symlink_to(real)
    known_file.add(link, ENTRY)
    assert link.is_symlink()
    assert real.read_text().startswith("# mine\n\n[[known]]\n")


def test_a_new_entry_goes_where_it_counts(tmp_path: Path) -> None:
    inner = tmp_path / "a"
    inner.mkdir()
    assert known_file.home(inner) == inner / "diffgdn.toml"
    (inner / "pyproject.toml").write_text("[project]\n")
    assert known_file.home(inner) == inner / "diffgdn.toml"
    (inner / "pyproject.toml").write_text("[tool.diffgdn.targets.x]\n")
    assert known_file.home(inner) == inner / "pyproject.toml"
    (tmp_path / "diffgdn.toml").write_text("")
    assert known_file.home(inner) == tmp_path / "diffgdn.toml"
    (inner / "pyproject.toml").write_text(TEXT.replace("[[known]]", "[[tool.diffgdn.known]]"))
    assert known_file.home(inner) == inner / "pyproject.toml"


def test_the_page_has_every_field_and_its_entries_can_be_read() -> None:
    page = (Path(__file__).parents[2] / "docs" / "known-failures.md").read_text()
    entries = re.findall(r"^```toml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    read = [one for text in entries for one in known_file.parse(text, Path("diffgdn.toml"))]
    assert [len(one.where) for one in read] == [2, 5]
    rows = page.partition("## An entry")[2].partition("## Conditions")[0]
    shown = set(re.findall(r"^\| `(\w+)` \|", rows, re.MULTILINE))
    assert shown == {spec.name for spec in fields(Known)} - {"name"}
    assert f"none fail, for it to be mended: {known.ENOUGH} |" in rows
