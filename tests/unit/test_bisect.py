"""`diffgdn bisect`: the version with which a finding begins to fail, over wheels and over commits."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from diffgdn.campaign.bisect import (
    RIGHT,
    UNTOLD,
    WRONG,
    Asker,
    BisectError,
    Change,
    NoChange,
    Step,
    Version,
    revisions,
    search,
    tree,
)
from diffgdn.campaign.replay_findings import Result
from diffgdn.cases.case import Case, Values
from diffgdn.cli import run
from diffgdn.findings import parse
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import Finding
from diffgdn.findings.parse import CorpusError
from diffgdn.report import finding_lines

LETTERS = {"r": RIGHT, "w": WRONG, "-": UNTOLD}
CASE = Case("gdn.decode", values=Values(law="normal"))


def searched(states: str, every: bool = False) -> tuple[Change, list[int]]:
    """What a search finds among versions that do what letters say, and those that it asks, in order."""
    asked: list[int] = []

    def ask(version: Version) -> Step:
        asked.append(int(version.name))
        return Step(version, LETTERS[states[int(version.name)]])

    versions = [Version(str(n), "") for n in range(len(states))]
    return search(versions, ask, every), asked


@pytest.mark.parametrize(
    ("states", "words"),
    [
        ("rw", {"first wrong": "1", "last right": "0"}),
        ("rrrrrrww", {"first wrong": "6", "last right": "5"}),
        ("wwwrr", {"first right": "3", "last wrong": "2"}),
        ("--rrw-", {"first wrong": "4", "last right": "3"}),
        ("rr-ww", {"first wrong": "3", "last right": "1", "not told of": "2"}),
        ("r--w", {"first wrong": "3", "last right": "0", "not told of": "1, 2"}),
    ],
)
def test_the_change_is_found_and_what_tells_nothing_is_left_out(states: str, words: dict[str, str]) -> None:
    assert searched(states)[0].words == words
    assert searched(states, every=True)[0].words == words


def test_a_version_is_asked_once_and_few_are() -> None:
    found, asked = searched("r" * 600 + "w" * 400)
    assert found.words["first wrong"] == "600"
    assert len(asked) == len(set(asked)) <= 12
    assert sorted(searched("rrww", every=True)[1]) == [0, 1, 2, 3]


def test_of_several_changes_the_last_counts_where_every_version_is_asked() -> None:
    assert searched("rwwrrw", every=True)[0].words == {"first wrong": "5", "last right": "4"}


def test_no_change_says_what_all_do() -> None:
    with pytest.raises(NoChange) as same:
        searched("-ww")
    assert same.value.words == {"wrong in": "1 and 2", "not told of": "0"}
    with pytest.raises(BisectError, match="none of these versions tells anything"):
        searched("--")


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (None, RIGHT),
        ("beyond_bound", WRONG),
        ("not_exact", WRONG),
        ("raised", UNTOLD),
        ("not_finite", UNTOLD),
    ],
)
def test_what_fails_in_another_way_tells_nothing(
    monkeypatch: pytest.MonkeyPatch, kind: str | None, status: str
) -> None:
    told = Finding(CASE, "sglang", "interpret", "beyond_bound", "it is wrong", "o")
    failure = None if kind is None else {"kind": kind, "message": "so"}

    def replayed(found: list[Finding], *_: Any, **given: Any) -> list[Result]:
        assert found[0].target == "sglang@1.whl"
        assert given["trusted"]
        return [Result(found[0], "interpret", [failure], news=True)]

    monkeypatch.setattr("diffgdn.campaign.replay_findings.run", replayed)
    step = Asker(told, None, {}).step(Version("1", ""), "sglang@1.whl")
    assert step.status == status
    leaked = Asker(replace(told, kind="poison_leaked"), None, {}).step(Version("1", ""), "sglang@1.whl")
    assert (leaked.status == WRONG) is (kind == "not_finite")  # of one stray read


@pytest.mark.parametrize("bisected", [["1.0"], {"first wrong": 1}, {"first wrong": "a\nb"}, {"a": "b" * 400}])
def test_what_a_finding_says_of_versions_is_checked(here: Path, bisected: Any) -> None:
    path = saved(here, "sglang")
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "bisected": {"first wrong": "1.0"}}))
    assert parse.read(path).bisected == {"first wrong": "1.0"}
    path.write_text(json.dumps({**data, "bisected": bisected}))
    with pytest.raises(CorpusError, match="bisected"):
        parse.read(path)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def saved(folder: Path, target: str) -> Path:
    told = Finding(CASE, target, "interpret", "beyond_bound", "it is wrong", "o")
    return Corpus(folder / "findings").save(told)


def statuses(out: str) -> list[tuple[str, ...]]:
    """Status and version of each step that was printed."""
    return re.findall(r"^(right|wrong|cannot tell)  (\S+)", out, re.MULTILINE)


def test_wheels_are_asked_by_version_and_the_finding_says_what_was_found(
    here: Path, fake_packages: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    for version, files in (
        ("0.9", fake_packages.sglang()),
        ("0.10", {"sglang/srt/layers/attention/fla/other.py": ""}),
        ("0.11", fake_packages.sglang("* 1.5")),
    ):
        fake_packages.wheel(here, files, version)
    fake_packages.wheel(here, {"other/__init__.py": ""}, "1.0", "other")
    path = saved(here, "sglang@elsewhere")
    assert run(["bisect", path.stem, "--wheels", ".", "--from", "0.9"]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert statuses(out) == [("right", "0.9"), ("wrong", "0.11"), ("cannot tell", "0.10")]
    assert out.endswith("first wrong: 0.11; last right: 0.9; not told of: 0.10\n")
    found = parse.read(path)
    assert found.target == "sglang@elsewhere"
    said = "first wrong sglang 0.11; last right sglang 0.9; not told of sglang 0.10"
    assert finding_lines.since(found) == said


def commit(repository: Path, files: dict[str, str], subject: str) -> str:
    for name, text in files.items():
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(text)
    told = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    for words in (["add", "-A"], [*told, "commit", "-q", "-m", subject]):
        subprocess.run(["git", "-C", str(repository), *words], check=True)
    done = subprocess.run(
        ["git", "-C", str(repository), "rev-parse", "HEAD"], capture_output=True, check=True
    )
    return done.stdout.decode().strip()


KERNEL = """
import diffgdn
from diffgdn.kernels import fused_sigmoid_gating_delta_rule_update

@diffgdn.target("gdn.decode")
def decode(**given):
    return fused_sigmoid_gating_delta_rule_update(**given){fault}
"""
Commits = Sequence[str]


@pytest.fixture
def repository(here: Path) -> tuple[Path, Commits]:
    """A repository whose kernel is right, then cannot be imported, then is wrong."""
    place = here / "fork"
    subprocess.run(["git", "init", "-q", str(place)], check=True)
    commits = [
        commit(place, {"README": "nothing yet"}, "begin"),
        commit(place, {"ops/mine.py": KERNEL.format(fault="")}, "a kernel"),
        commit(place, {"ops/mine.py": "import nowhere_at_all"}, "half of a change"),
        commit(place, {"ops/mine.py": KERNEL.format(fault=" * 1.5")}, "faster"),
    ]
    return place, commits


def test_commits_are_asked_in_folders_of_their_own(
    repository: tuple[Path, Commits],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place, commits = repository
    monkeypatch.chdir(place / "ops")
    path = saved(place / "ops", "mine.py:decode")
    assert run(["bisect", path.stem, "--from", commits[0]]) == 0, capsys.readouterr().err
    steps = statuses(capsys.readouterr().out)
    short = [one[:7] for one in commits]
    assert [(status, name) for status, name in steps if status != "cannot tell"] == [
        ("right", short[1]),
        ("wrong", short[3]),
    ]
    assert {name for status, name in steps if status == "cannot tell"} == {short[0], short[2]}
    found = parse.read(path).bisected
    assert found == {
        "first wrong": f"{short[3]} faster",
        "last right": f"{short[1]} a kernel",
        "not told of": f"{short[2]} half of a change",
    }
    assert (place / "ops" / "mine.py").read_text() == KERNEL.format(
        fault=" * 1.5"
    )  # the work tree is left alone


def test_commits_must_follow_each_other(repository: tuple[Path, Commits]) -> None:
    place, commits = repository
    assert [one.name.partition(" ")[2] for one in revisions(place, commits[1], "HEAD")] == [
        "a kernel",
        "half of a change",
        "faster",
    ]
    with pytest.raises(BisectError, match="does not come after"):
        revisions(place, "HEAD", commits[0])
    with pytest.raises(BisectError, match="git: "):
        revisions(place, "--upload-pack=x", "HEAD")


def test_a_tree_of_another_diffgdn_is_refused(repository: tuple[Path, Commits]) -> None:
    place, _ = repository
    last = commit(place, {"diffgdn/__init__.py": ""}, "theirs")
    with pytest.raises(BisectError, match="a package diffgdn of its own"), tree(place, last):
        pass


@pytest.mark.parametrize(
    ("target", "options", "says"),
    [
        ("vk", [], "vk is diffgdn's own"),
        (
            "sglang",
            ["--from", "0.1", "--to", "0.2"],
            "two versions of sglang at least are needed; found: none",
        ),
        ("sglang", ["--from", "README", "--to", "0.2"], "README: no wheel or folder of sglang"),
        ("nowhere/mine.py:k", ["--from", "HEAD"], "git: "),
        ("/somewhere/mine.py:k", ["--from", "HEAD"], "--trust-targets runs it"),
    ],
)
def test_what_cannot_be_bisected_is_told_in_a_line(
    here: Path, capsys: pytest.CaptureFixture[str], target: str, options: list[str], says: str
) -> None:
    (here / "README").write_text("")
    path = saved(here, target)
    before = path.read_bytes()
    assert run(["bisect", path.stem, *options]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert path.read_bytes() == before
