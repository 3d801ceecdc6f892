"""Findings on disk: what is written, what is read back, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from diffgdn.cases.case import Case, Edit, Gates, Pool
from diffgdn.cases.operations import OPERATIONS
from diffgdn.findings import corpus, parse
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import Finding, versions
from diffgdn.findings.parse import MAX_BYTES, CorpusError

FINDING = Finding(
    case=Case(
        op="gdn.decode",
        lens=(1, 0),
        pool=Pool(slots=3, indices=(2, -1)),
        gates=Gates(law="model", strength=0.5),
    ),
    target="my.module:kernel",
    backend="interpret",
    kind="beyond_bound",
    message="got 1, expected 2: error 1 is 4 times the bound",
    tensor="o",
    place="(sequence 0, token 0, head 0, V 3)",
    versions={"torch": "2.13.0", "device": "x86_64"},
    seed=17,
    found="2026-01-31",
    unshrunk=Case(
        op="gdn.decode", lens=(5, 9), pool=Pool(slots=3, indices=(2, -1)), edits=(Edit("q", 3, -0.5),)
    ),
)


@pytest.fixture
def folder(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path / "findings")


def test_a_saved_finding_reads_back_equal(folder: Corpus) -> None:
    path = folder.save(FINDING)
    assert path == folder.path / f"{FINDING.id}.json"
    assert folder.findings() == [FINDING]
    assert folder.get(FINDING.id) == folder.get(path) == folder.get(path.name) == FINDING
    assert parse.read(path) == FINDING


def test_an_id_names_target_operation_kind_and_case_and_is_safe_in_a_file_name() -> None:
    assert FINDING.id == f"my.module_kernel-gdn.decode-beyond_bound-{FINDING.case.id}"
    odd = dataclasses.replace(FINDING, target="../a dir/мой.py:k", kind="raised")
    assert odd.id == f"a_dir_.py_k-gdn.decode-raised-{FINDING.case.id}"


def test_saving_twice_leaves_one_file_as_it_was(folder: Corpus) -> None:
    first = folder.save(FINDING).read_bytes()
    path = folder.save(dataclasses.replace(FINDING, found="2027-12-31"))
    assert path.read_bytes() == first
    assert [entry.name for entry in folder.path.iterdir()] == [path.name]


def test_findings_come_sorted_by_id(folder: Corpus) -> None:
    for kind in ("raised", "beyond_bound", "hung"):
        folder.save(dataclasses.replace(FINDING, kind=kind))
    assert [finding.kind for finding in folder.findings()] == ["beyond_bound", "hung", "raised"]


def test_a_folder_that_does_not_exist_holds_nothing(folder: Corpus) -> None:
    assert folder.findings() == []
    assert not folder.path.exists()


def test_removing_takes_what_lies_beside_a_finding_and_nothing_else(folder: Corpus) -> None:
    path = folder.save(FINDING)
    other = folder.save(dataclasses.replace(FINDING, kind="hung"))
    for suffix in corpus.SIDE_FILES:
        path.with_name(FINDING.id + suffix).write_text("x")
    folder.remove(FINDING)
    folder.remove(FINDING)
    assert list(folder.path.iterdir()) == [other]


def test_a_case_id_is_enough_where_it_names_one_finding(folder: Corpus) -> None:
    folder.save(FINDING)
    assert folder.get(FINDING.case.id) == FINDING
    folder.save(dataclasses.replace(FINDING, kind="hung"))
    with pytest.raises(CorpusError, match="several findings"):
        folder.get(FINDING.case.id)


def test_a_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        corpus.write(tmp_path / "file.json", b"{}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "sub/inside", "../outside.json", "missing", "0" * 12]
)
def test_names_that_lead_to_no_finding_of_the_folder(folder: Corpus, name: str) -> None:
    folder.save(FINDING)
    (folder.path.parent / "outside.json").write_text(json.dumps(FINDING.to_json()))
    with pytest.raises(CorpusError, match=r"not in|no such finding") as caught:
        folder.get(name)
    assert name in str(caught.value)


def test_a_link_out_of_the_folder_is_not_followed(folder: Corpus) -> None:
    path = folder.save(FINDING)
    outside = path.rename(folder.path.parent / "outside.json")
    path.symlink_to(outside)
    with pytest.raises(CorpusError, match="not in"):
        folder.get(FINDING.id)


def changed(**fields: Any) -> bytes:
    return json.dumps({**FINDING.to_json(), **fields}).encode()


def without(name: str) -> bytes:
    return json.dumps({key: value for key, value in FINDING.to_json().items() if key != name}).encode()


def with_case(**fields: Any) -> bytes:
    return changed(case={**FINDING.case.to_json(), **fields})


BAD = {
    "empty": (b"", "not JSON"),
    "no JSON": (b"hello", "not JSON"),
    "no text": (b"\xff\xfe\x00", "not JSON"),
    "python": (b"{'a': 1}", "not JSON"),
    "half a file": (json.dumps(FINDING.to_json()).encode()[:200], "not JSON"),
    "deep": (b"[" * 100_000, "not JSON"),
    "NaN": (changed(seed=float("nan")), "NaN is not JSON"),
    "twice": (b'{"seed": 1, "seed": 2}', "given twice"),
    "a list": (b"[]", "a finding is a JSON object, got list"),
    "no version": (without("format_version"), "format_version: this diffgdn reads 1 to 2, got None"),
    "a later version": (changed(format_version=3), "format_version: this diffgdn reads 1 to 2, got 3"),
    "a true version": (changed(format_version=True), "format_version: this diffgdn reads 1 to 2, got True"),
    "unknown field": (changed(extra=1), "unknown field 'extra'"),
    "missing field": (without("lane"), "missing field 'lane'"),
    "target": (changed(target=3), "target: expected str, got 3"),
    "seed": (changed(seed="3"), "seed: expected int or null, got '3'"),
    "seed is a truth value": (changed(seed=True), "seed: expected int or null, got True"),
    "backend": (changed(lane="cpu"), "lane: expected interpret or gpu, got 'cpu'"),
    "date": (changed(found="yesterday"), "found: expected a date like 2026-01-31, got 'yesterday'"),
    "versions": (changed(versions={"torch": 2}), "versions: expected strings"),
    "operation": (changed(operation="kda.decode"), "operation: 'kda.decode', but the case is of gdn.decode"),
    "case of a later version": (
        with_case(format_version=9),
        "case: format_version: this diffgdn reads 1 to 5, got 9",
    ),
    "case with an unknown field": (with_case(heads=3), "case: case: unknown field 'heads'"),
    "case with a wrong type": (with_case(K="16"), "case: case.K: expected int, got '16'"),
    "case outside the contract": (with_case(K=1000), "case: K, V: expected 1 to 256, got K=1000"),
    "unshrunk": (changed(unshrunk={}), "unshrunk: format_version: this diffgdn reads 1 to 5, got None"),
    "too large": (b" " * MAX_BYTES + b"{}", "larger than 1048576 bytes"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_file_that_is_no_finding_is_refused_in_one_line(folder: Corpus, what: str) -> None:
    content, message = BAD[what]
    path = folder.path / "bad.json"
    corpus.write(path, content)
    for read in (lambda: parse.read(path), lambda: folder.get("bad"), folder.findings):
        with pytest.raises(CorpusError) as caught:
            read()
        assert str(caught.value).startswith(f"{path}: ")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_files_of_other_kinds_are_not_read(folder: Corpus) -> None:
    folder.save(FINDING)
    for name in ("README.md", "a.py", ".half.json.tmp"):
        (folder.path / name).write_text("no finding")
    assert folder.findings() == [FINDING]


def test_versions_name_what_a_finding_depends_on() -> None:
    known = versions("a device")
    assert set(known) == {"python", "device", "diffgdn", "torch", "triton", "numpy"}
    assert known["device"] == "a device"


def test_the_committed_corpus_has_every_operation_and_names_files_by_their_findings() -> None:
    committed = Corpus(Path(__file__).parents[1] / "corpus")
    findings = committed.findings()
    assert {finding.operation for finding in findings} >= set(OPERATIONS)
    assert {path.stem for path in committed.path.glob("*.json")} == {finding.id for finding in findings}
    assert all(finding.message for finding in findings)
