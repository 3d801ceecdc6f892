"""`diffgdn corpus`: what a person sees, what may be removed, and what is copied."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from diffgdn.cases.case import Case, Pool
from diffgdn.cases.trace import Trace
from diffgdn.cases.trace_steps import Step
from diffgdn.cli import run
from diffgdn.findings import corpus, prune_export
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import EXAMPLE, Finding
from diffgdn.findings.prune_export import Entry, Replayed

TOYS = Path(__file__).with_name("toys.py")


def finding(length: int = 1, **fields: Any) -> Finding:
    given: dict[str, Any] = {
        "target": "eager",
        "backend": "interpret",
        "kind": "beyond_bound",
        "message": "it is wrong",
        "tensor": "o",
        **fields,
    }
    return Finding(Case("gdn.decode", lens=(length,)), **given)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_list_goes_by_bucket_the_smallest_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    findings = Corpus(folder / "findings")
    large, small = findings.save(finding(12, found="2026-11-25")), findings.save(finding(3, kind="not_exact"))
    hung = findings.save(finding(2, kind="hung", tensor=None))
    assert run(["corpus", "list"]) == 0
    assert capsys.readouterr().out == (
        "eager / gdn.decode / hung\n"
        f"  {hung.stem}  hung  by hand  Case(op='gdn.decode', lens=(2,))\n"
        "eager / gdn.decode / wrong / o, first token\n"
        f"  {small.stem}  not_exact  by hand  Case(op='gdn.decode', lens=(3,))\n"
        f"  {large.stem}  beyond_bound  2026-11-25  Case(op='gdn.decode', lens=(12,))\n"
        "3 findings in findings\n"
    )


def test_a_list_also_tells_what_is_no_finding(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Corpus(folder / "some").save(finding())
    (folder / "some" / "bad.json").write_text("{")
    (folder / "some" / "README.md").write_text("not asked")
    assert run(["corpus", "list", "some"]) == 2
    out = capsys.readouterr().out
    assert f"  {path.stem}  " in out
    assert "no finding: some/bad.json: not JSON: Expecting property name" in out
    assert out.endswith("\n1 finding in some, 1 other\n")


def test_a_long_case_is_cut_in_a_list(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = Case("gdn.decode", lens=(1,) * 200, pool=Pool(slots=200, indices=tuple(range(200))))
    Corpus(folder / "findings").save(dataclasses.replace(finding(), case=case))
    run(["corpus", "list"])
    line = capsys.readouterr().out.splitlines()[1]
    assert len(line) == 160
    assert line.endswith("...")


def test_show_says_what_the_file_says_and_runs_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "diffgdn.campaign.replay_findings.run", lambda *given, **options: pytest.fail("it was run")
    )
    path = Corpus(folder / "findings").save(
        finding(2, target="mine.py:k", place="(sequence 0, token 1)", seed=7, versions={"torch": "2.13.0"})
    )
    (folder / "mine.py").write_text("raise SystemExit('it was imported')")
    path.with_suffix(".txt").write_text("a picture")
    assert run(["corpus", "show", path.stem]) == 0
    assert capsys.readouterr().out == (
        "gdn.decode  beyond_bound in o  (target mine.py:k, backend interpret)\n"
        "  it is wrong\n"
        "  at (sequence 0, token 1)\n"
        "  Case(op='gdn.decode', lens=(2,))\n"
        "  Reproduce with:\n"
        f"    diffgdn replay {path.stem}\n"
        "  found by hand, seed 7; torch 2.13.0\n"
        "  bucket: mine.py:k / gdn.decode / wrong / o, later token\n"
        f"  files: findings/{path.name}, findings/{path.stem}.txt\n"
    )


def replayed(name: str, status: str, length: int = 1, now: str | None = None, **fields: Any) -> Replayed:
    found = finding(length, **fields)
    kind = now or (found.kind if status[:2] in ("FA", "FL") else None)
    return Replayed(Entry(found, Path(f"{name}.json")), status, kind)


def gone(*found: Replayed) -> dict[str, str]:
    return {entry.path.stem: reason for entry, reason in prune_export.dispensable(found)}


def test_what_is_fixed_may_go() -> None:
    assert gone(replayed("a", "FIXED"), replayed("b", "FAILED")) == {"a": "FIXED"}


def test_of_one_bug_the_smallest_stays() -> None:
    found = [
        replayed("a", "FAILED", 5),
        replayed("b", "FAILED", 2, kind="not_exact"),
        replayed("c", "FAILED", 9),
    ]
    reason = "the same bug as b, which is smaller"
    assert gone(*found) == {"a": reason, "c": reason}


def test_of_one_bug_in_traces_the_one_with_the_fewest_steps_stays() -> None:
    arrive, decode = Step("arrive", (0,)), Step("decode", (0,))
    short = Trace("gdn", (arrive, decode), HV=4, K=64)
    long = Trace("gdn", (arrive, decode, decode))
    found = [
        Replayed(
            Entry(dataclasses.replace(finding(), case=one.last_call(), trace=one), Path(name)),
            "FAILED",
            "beyond_bound",
        )
        for name, one in (("long.json", long), ("short.json", short))
    ]
    assert gone(*found) == {"long": "the same bug as short, which is smaller"}


@pytest.mark.parametrize(
    "other",
    [
        replayed("x", "FLAKY 1/10", 9),
        replayed("x", "ERROR", 9),
        replayed("x", "PASSED", 9, kind=EXAMPLE),
        replayed("x", "FIXED", 9, kind=EXAMPLE),
        replayed("x", "FAILED", 9, kind=EXAMPLE, now="beyond_bound"),
        replayed("x", "FAILED", 9, now="raised"),
        replayed("x", "FAILED", 9, tensor="state"),
        replayed("x", "FAILED", 9, target="vk"),
    ],
)
def test_what_is_flaky_unknown_an_example_or_another_bug_stays(other: Replayed) -> None:
    assert gone(replayed("a", "FAILED", 2), other) == {}


def test_a_flaky_smaller_one_does_not_stand_for_a_larger() -> None:
    assert gone(replayed("a", "FLAKY 2/3", 1), replayed("b", "FAILED", 5)) == {}


def test_prune_says_what_it_would_remove_and_removes_it_only_when_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "toys.py").write_text(TOYS.read_text())
    findings = Corpus(folder / "findings")
    fixed = findings.save(finding(3, target="toys.py:right"))
    small, large = (findings.save(finding(length, target="toys.py:wrong")) for length in (3, 4))
    error = findings.save(finding(3, target="toys.py:refusing"))
    example = findings.save(finding(3, target="toys.py:right", kind=EXAMPLE))
    large.with_suffix(".py").write_text("a script")
    before = {path: path.read_bytes() for path in findings.path.iterdir()}
    assert run(["corpus", "prune", "--repeat", "2"]) == 0
    assert capsys.readouterr().out == (
        f"would remove  {fixed.stem}: FIXED\n"
        f"would remove  {large.stem}: the same bug as {small.stem}, which is smaller\n"
        "2 findings of 5 would be removed, --yes does it\n"
        "kept: 1 ERROR, 1 PASSED, 1 FAILED\n"
    )
    assert {path: path.read_bytes() for path in findings.path.iterdir()} == before
    assert run(["corpus", "prune", "--repeat", "1", "--yes"]) == 0
    assert capsys.readouterr().out == (
        f"removed  {fixed.stem}: FIXED\n"
        f"removed  {large.stem}: the same bug as {small.stem}, which is smaller\n"
        "2 findings of 5 removed\n"
        "kept: 1 ERROR, 1 PASSED, 1 FAILED\n"
    )
    assert set(findings.path.iterdir()) == {small, error, example}


def saved_with_sides(folder: Path) -> tuple[Path, Path]:
    findings = Corpus(folder / "findings")
    one, other = findings.save(finding(1)), findings.save(finding(2))
    one.with_suffix(".py").write_bytes(b"a script")
    one.with_suffix(".png").write_bytes(b"\x89PNG")
    other.with_suffix(".txt").symlink_to("/etc/hostname")
    return one, other


def test_an_exported_archive_is_the_same_bits_each_time(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = saved_with_sides(folder)
    assert run(["corpus", "export", one.stem, str(other), "--to", "a.zip"]) == 0
    names = sorted([one.name, f"{one.stem}.png", f"{one.stem}.py", other.name])
    assert capsys.readouterr().out == "".join(f"{name}\n" for name in names) + "2 findings in a.zip\n"
    one.touch()
    assert run(["corpus", "export", "findings", "--to", "b.zip"]) == 0
    assert (folder / "a.zip").read_bytes() == (folder / "b.zip").read_bytes()
    with zipfile.ZipFile(folder / "a.zip") as archive:
        assert archive.namelist() == names
        assert archive.read(one.name) == one.read_bytes()
        archive.extractall(folder / "unpacked")
    assert Corpus(folder / "unpacked").findings() == Corpus(folder / "findings").findings()


def test_an_exported_folder_is_a_corpus(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = saved_with_sides(folder)
    for _ in range(2):  # the same content may be there already
        assert run(["corpus", "export", "findings", "--to", "copy"]) == 0
    assert Corpus(folder / "copy").findings() == Corpus(folder / "findings").findings()
    names = {one.name, f"{one.stem}.png", f"{one.stem}.py", other.name}
    assert {path.name for path in (folder / "copy").iterdir()} == names


def test_a_file_is_exported_under_the_id_of_its_finding(folder: Path) -> None:
    path = folder / "renamed.json"
    path.write_text(json.dumps(finding().to_json()))
    path.with_suffix(".txt").write_text("a picture")
    assert run(["corpus", "export", "renamed.json", "--to", "copy"]) == 0
    assert {file.name for file in (folder / "copy").iterdir()} == {
        f"{finding().id}.json",
        f"{finding().id}.txt",
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("corpus list nowhere", "nowhere: no such folder"),
        ("corpus prune nowhere", "nowhere: no such folder"),
        ("corpus show no-such-id", "no-such-id: no such finding in findings"),
        ("corpus show ../findings/x", "../findings/x: no such finding in findings"),
        ("corpus show findings", "findings: expected one finding, this names 2"),
        ("corpus export", "Missing argument '[PATH or ID]...'."),
        ("corpus export findings", "Missing option '--to'."),
        ("corpus export findings --to there.zip", "--to there.zip: there.zip: it is there already"),
        ("corpus export findings --to other", "other/ONE: it is there already"),
        ("corpus export findings --to a-file", "--to a-file: a-file"),
        ("corpus remove x", "No such command 'remove'."),
    ],
)
def test_a_wrong_command_line_changes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    one, _ = saved_with_sides(folder)
    (folder / "there.zip").write_text("mine")
    (folder / "a-file").write_text("mine")
    (folder / "other").mkdir()
    (folder / "other" / one.name).write_text("mine")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert run(line.split()) == 2
    error = capsys.readouterr().err
    assert message.replace("ONE", one.name) in error
    assert error.startswith("diffgdn: ")
    assert error.count("\n") == 1
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_finding_is_found_by_the_name_of_its_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "findings").mkdir()
    (folder / "findings" / "mine.json").write_bytes(corpus.content(finding()))
    assert run(["corpus", "show", "mine"]) == 0
    assert "  files: findings/mine.json\n" in capsys.readouterr().out
