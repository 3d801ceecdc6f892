"""Saving where that is hard: two processes at once, a folder that cannot be written, a disk that is full."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffgdn.campaign.ledger import Ledger
from diffgdn.cases.case import Case
from diffgdn.cli import run
from diffgdn.findings import corpus, parse
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import Finding
from diffgdn.findings.parse import CorpusError

TOYS = Path(__file__).with_name("toys.py")
FINDING = Finding(
    Case("gdn.decode", lens=(3,)), "eager", "interpret", "beyond_bound", "it is wrong " * 30_000, "o"
)

# Saves a finding again and again while another process does the same; every other time it is deleted first.
SAVES = """
import sys
from pathlib import Path
from diffgdn.findings import parse
from diffgdn.findings.corpus import Corpus

folder, finding = Corpus(Path(sys.argv[1])), parse.read(Path(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
for turn in range(300):
    if turn % 2:
        folder.remove(finding)
    folder.save(finding)
"""


def test_two_processes_that_save_the_same_finding_leave_it_whole_at_every_moment(tmp_path: Path) -> None:
    given, folder = tmp_path / "given.json", Corpus(tmp_path / "findings")
    corpus.write(given, corpus.content(FINDING))
    command = [sys.executable, "-c", SAVES, str(folder.path), str(given)]
    savers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for saver in savers:
        assert saver.stdout is not None
        assert saver.stdout.readline() == "ready\n"
    for saver in savers:
        assert saver.stdin is not None
        saver.stdin.write("\n")
        saver.stdin.flush()
    seen, refused = 0, set()
    while any(saver.poll() is None for saver in savers):
        try:
            assert parse.read(folder.path / f"{FINDING.id}.json") == FINDING
            seen += 1
        except CorpusError as error:
            refused.add(str(error))
    assert seen > 0
    assert refused <= {f"{folder.path / FINDING.id}.json: No such file or directory"}  # just removed
    assert [saver.wait() for saver in savers] == [0, 0]
    for saver in savers:
        saver.communicate()
    assert [path.name for path in folder.path.iterdir()] == [f"{FINDING.id}.json"]
    assert folder.findings() == [FINDING]


def refusing(code: int) -> Callable[..., Any]:
    def refuse(*given: Any, **options: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return refuse


# Where writing a file can fail: when it is made, when its content reaches the disk, when it gets its name.
TROUBLE = [
    (tempfile, "mkstemp", errno.EROFS, "Read-only file system"),
    (tempfile, "mkstemp", errno.EACCES, "Permission denied"),
    (os, "fsync", errno.ENOSPC, "No space left on device"),
    (os, "fsync", errno.EDQUOT, "Disk quota exceeded"),
    (os, "replace", errno.ENOSPC, "No space left on device"),
]
trouble = pytest.mark.parametrize(("module", "function", "code", "words"), TROUBLE)


@trouble
def test_a_finding_that_cannot_be_saved_says_why_in_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, function: str, code: int, words: str
) -> None:
    monkeypatch.setattr(module, function, refusing(code))
    path, problem = Corpus(tmp_path / "findings").keep(FINDING)
    assert problem == f"{tmp_path / 'findings'}: {words}: {FINDING.id} is not saved"
    assert not path.exists()
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


@trouble
def test_a_campaign_keeps_what_it_cannot_save_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, function: str, code: int, words: str
) -> None:
    """The larger finding on disk is not removed for a smaller one that is not there."""
    ledger, other = Ledger(Corpus(tmp_path)), dataclasses.replace(FINDING, kind="hung")
    small = dataclasses.replace(FINDING, case=Case("gdn.decode"))
    ledger.found(FINDING, owner=0)
    monkeypatch.setattr(module, function, refusing(code))
    ledger.shrunk(FINDING, small, owner=0)
    ledger.found(other, owner=1)
    assert ledger.problem == f"{tmp_path}: {words}: {small.id} is not saved"
    assert ledger.findings == (small, other)
    monkeypatch.undo()
    assert Corpus(tmp_path).findings() == [FINDING]


def test_a_finding_that_cannot_be_removed_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, small = Ledger(Corpus(tmp_path)), dataclasses.replace(FINDING, case=Case("gdn.decode"))
    ledger.found(FINDING, owner=0)
    monkeypatch.setattr(Path, "unlink", refusing(errno.EROFS))
    ledger.shrunk(FINDING, small, owner=0)
    assert ledger.problem == f"{tmp_path}: Read-only file system: {FINDING.id} is not removed"
    assert ledger.findings == (small,)


def test_fuzz_on_a_full_disk_tells_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line for all that is not saved, the findings on the screen and in the report, exit status 1."""
    monkeypatch.chdir(tmp_path)
    replace = os.replace

    def full(source: str, target: Path) -> None:
        if Path(target).parent.name == "findings":
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    limits = "--max-cases 12 --max-time 12s --workers 1 --seed 1 --json report.json"
    assert run(f"fuzz --target {TOYS}:wrong --op gdn.decode {limits}".split()) == 1
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert shown.err.startswith("diffgdn: findings: No space left on device: ")
    assert shown.err.endswith(" is not saved\n")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["problem"] == shown.err.removeprefix("diffgdn: ").strip()
    assert report["findings"]
    for found in report["findings"]:
        assert repr(Case.from_json(found["case"])) in shown.out
    assert not {path.suffix for path in (tmp_path / "findings").iterdir()} & {".json", ".tmp"}
    assert {path.name for path in tmp_path.iterdir()} == {"findings", "report.json"}  # nor in a database


def test_a_report_that_cannot_be_written_is_one_line_and_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "replace", refusing(errno.ENOSPC))
    line = f"fuzz --target {TOYS}:right --op gdn.decode --max-cases 2 --workers 1 --json report.json"
    assert run(line.split()) == 2
    assert capsys.readouterr().err == "diffgdn: report.json: No space left on device\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["fuzz", "serving"])
def test_a_corpus_that_cannot_be_written_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    assert run([command, "--corpus", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"diffgdn: --corpus {tmp_path}: {tmp_path} is not writable\n"


@pytest.mark.nightly
def test_serving_tells_what_it_cannot_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the screen, and why in one line; nothing half is left on the disk."""
    monkeypatch.setattr(os, "fsync", refusing(errno.ENOSPC))
    limits = "--family gdn --max-cases 12 --workers 1 --seed 1 --isolation none --backend interpret"
    given = f"--target {TOYS}:wrong --corpus {tmp_path / 'full'} --allow-unreached"
    assert run(f"serving {limits} {given}".split()) == 1
    shown = capsys.readouterr()
    assert "\nFINDING  gdn.serving  beyond_bound in " in shown.out
    assert re.fullmatch(
        rf"diffgdn: {tmp_path / 'full'}: No space left on device: \S+-gdn.serving-\S+ is not saved\n",
        shown.err,
    )
    assert not {path.suffix for path in (tmp_path / "full").iterdir()} & {".json", ".tmp"}
