"""Known failures: which failures and cases an entry is about, and when it is mended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffgdn.cases.case import Case
from diffgdn.cases.trace import Trace
from diffgdn.cases.trace_steps import Step
from diffgdn.findings import known
from diffgdn.findings.finding import Finding
from diffgdn.findings.known import Known, KnownFailures
from diffgdn.findings.known_seen import SeenFailures
from diffgdn.verdict.failures import CheckFailure

ENTRY = {"target": "mine:decode", "operation": "gdn.decode", "kind": "beyond_bound", "reason": "see 7"}


def entry(**fields: Any) -> Known:
    return known.read({**ENTRY, **fields}, "here")


def failure(**fields: Any) -> CheckFailure:
    told = {"kind": "beyond_bound", "operation": "gdn.decode", "tensor": "o", "place": None, "message": "off"}
    return CheckFailure.from_json({**told, **fields})


def decode(**fields: Any) -> Case:
    return Case("gdn.decode", **fields)


# --- matching ---


@pytest.mark.parametrize(
    ("fields", "other", "case"),
    [
        ({}, {"kind": "not_exact"}, decode()),
        ({"result": "state"}, {"tensor": "final"}, decode()),
        (
            {"kind": "raised", "says": "OutOfResources"},
            {"kind": "raised", "message": "OutOfResources: x"},
            decode(),
        ),
        ({"where": {"K": 33}}, {}, decode(K=33)),
        ({"operation": "*.decode"}, {}, decode()),
        ({"target": "decode"}, {}, decode()),
        ({"backend": "interpret"}, {}, decode()),
    ],
)
def test_a_failure_is_known(fields: dict[str, Any], other: dict[str, Any], case: Case) -> None:
    every = KnownFailures((entry(**fields),))
    found = every.match("mine:decode", "interpret", case, failure(**other))
    assert found == every.entries[0]


@pytest.mark.parametrize(
    ("fields", "other", "case"),
    [
        ({}, {"kind": "not_finite"}, decode()),
        ({"result": "state"}, {}, decode()),
        (
            {"kind": "raised", "says": "OutOfResources"},
            {"kind": "raised", "message": "ValueError: x"},
            decode(),
        ),
        ({"where": {"K": 33}}, {}, decode()),
        ({}, {}, Case("kda.decode")),
        ({"target": "mine:verify"}, {}, decode()),
        ({"backend": "gpu"}, {}, decode()),
        ({"versions": {"torch": "<1"}}, {}, decode()),
        ({"versions": {"no-such-package": ">=0"}}, {}, decode()),
    ],
)
def test_another_failure_is_news(fields: dict[str, Any], other: dict[str, Any], case: Case) -> None:
    every = KnownFailures((entry(**fields),))
    assert every.match("mine:decode", "interpret", case, failure(**other)) is None


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        (">=0.4, <0.6", True),
        ("0.5.*", True),
        ("0.5.1", True),
        ("==0.5", False),
        ("0.5.0", False),
        ("!=0.5.1", False),
        (">0.5.1", False),
        ("<=0.5.1.0", True),
        (">=0.10", False),
        ("0.*", True),
        ("1.*", False),
    ],
)
def test_versions_are_those_that_are_installed(
    monkeypatch: pytest.MonkeyPatch, wanted: str, fits: bool
) -> None:
    monkeypatch.setattr(known, "_installed", {"theirs": "0.5.1+cu12"}.get)
    assert entry(versions={"theirs": wanted}).installed is fits


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [("0.5.10", "<0.5.11", True), ("0.5.10", ">=0.5.11", False), ("", ">=0", False)],
)
def test_a_package_in_a_place_has_the_version_that_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, wanted: str, fits: bool
) -> None:
    monkeypatch.setattr(known, "_installed", {"sglang": "0.5.23", "torch": "2.0"}.get)
    (tmp_path / "sglang").mkdir()
    if version:
        (tmp_path / f"sglang-{version}.dist-info").mkdir()
    there = f"sglang@{tmp_path}"
    about = entry(target="sglang", versions={"sglang": wanted, "torch": "2.*"})
    assert about.is_of(there, "interpret", "gdn.decode") is fits
    assert about.is_of("sglang", "interpret", "gdn.decode") is (wanted != "<0.5.11")


def test_a_case_that_is_known_to_crash_is_not_run_but_on_request() -> None:
    crash = entry(kind="crashed", where={"K": 33})
    every = KnownFailures((entry(), crash))
    assert every.crash("mine:decode", "interpret", decode(K=33)) == crash
    assert every.crash("mine:decode", "interpret", decode()) is None
    assert (
        KnownFailures(every.entries, run_crashes=True).crash("mine:decode", "interpret", decode(K=33)) is None
    )
    assert "known to have crashed (here): see 7" in crash.words


def test_a_trace_is_known_by_its_last_call() -> None:
    trace = Trace("gdn", (Step("arrive", (0,)), Step("decode", (0,))), K=8, V=8)
    loop = failure(operation="gdn.serving")
    for where, found in (({"op": "gdn.decode", "K": 8}, True), ({"op": "gdn.extend"}, False)):
        every = KnownFailures((entry(operation="gdn.serving", where=where),))
        assert (every.match("mine:decode", "interpret", trace, loop) is not None) is found


# --- strictness ---


def seen(made: Known, passed: int = 0, relation: str | None = None, op: str = "gdn.decode") -> SeenFailures:
    found = SeenFailures((made,))
    for _ in range(passed):
        found.passed(decode(), op, relation)
    return found


def test_an_entry_is_mended_when_enough_cases_under_its_conditions_pass() -> None:
    made = entry(cases=5)
    assert not seen(made, 4).mended
    assert [one.entry for one in seen(made, 5).mended] == [made]
    assert not seen(entry(cases=5, where={"K": 33}), 5).mended
    assert not seen(made, 5, relation="split").mended
    assert not seen(made, 5, op="gdn.verify").mended
    assert not seen(entry(cases=5, flaky=True), 5).mended
    assert seen(entry(cases=5, kind="relation_broken.split"), 5, relation="split").mended


def test_an_entry_that_failed_once_is_not_mended() -> None:
    found = seen(entry(cases=5), 9)
    found.met("here", counted=False)
    assert not found.mended
    assert [(one.failed, one.passed, one.alive) for one in found] == [(0, 9, True)]


def test_a_saved_finding_that_passes_is_enough_unless_it_was_seen_once() -> None:
    saved = Finding(decode(), "mine:decode", "interpret", "beyond_bound", "off", "o")
    found = seen(entry())
    found.replayed(entry(), Finding(**{**vars(saved), "reproduced": False}))
    assert not found.mended
    found.replayed(entry(), saved)
    assert found.mended[0].why_mended == f"{saved.id} passes"
