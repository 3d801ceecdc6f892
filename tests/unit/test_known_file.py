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

from diffgdn import strategies
from diffgdn.cases import conditions, promise_axes
from diffgdn.cases.case import Case, Edit, Gates, Pool, Values
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.promises import AXES, Promises
from diffgdn.cases.sparsity import Only
from diffgdn.cases.trace import Trace
from diffgdn.cases.trace_steps import Step
from diffgdn.findings import known, known_file
from diffgdn.findings.finding import Finding
from diffgdn.findings.known import Known, KnownFailures
from diffgdn.findings.known_seen import SeenFailures
from diffgdn.search import acceptance, needs
from diffgdn.search.moves import bare
from diffgdn.verdict.failures import CheckFailure

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


def failure(**fields: Any) -> CheckFailure:
    told = {"kind": "beyond_bound", "operation": "gdn.decode", "tensor": "o", "place": None, "message": "off"}
    return CheckFailure.from_json({**told, **fields})


def decode(**fields: Any) -> Case:
    return Case("gdn.decode", **fields)


def two(indices: tuple[int, ...]) -> Case:
    return decode(lens=(1, 1), pool=Pool(slots=3, indices=indices))


# --- conditions ---


@pytest.mark.parametrize(
    ("where", "holds", "fails"),
    [
        ({"dtype": "bfloat16"}, decode(dtype="bfloat16"), decode()),
        ({"K": [17, 33]}, decode(K=33), decode(K=32)),
        ({"K": {"least": 17, "most": 40}}, decode(K=40), decode(K=41)),
        ({"V": {"multiple": 8}}, decode(V=24), decode(V=25)),
        ({"pool.pitch": {"least": 1}}, decode(pool=Pool(pitch=3)), decode()),
        ({"padding": True}, two((0, -1)), two((0, 1))),
        ({"length": {"least": 3}}, decode(lens=(1, 4), pool=Pool(2, (0, 1))), decode(lens=(2,))),
        ({"length": {"not": 1}}, decode(lens=(1, 4), pool=Pool(2, (0, 1))), decode()),
        ({"pool.indices": {"least": 2}}, two((0, 2)), two((0, 1))),
        ({"sequences": {"least": 2}}, two((0, 1)), decode()),
        ({"gates.law": {"not": ["zero", "exact"]}}, decode(gates=Gates("constant")), decode()),
        ({"scale": "given"}, decode(scale=0.5), decode()),
        ({"state_dtype": "q"}, decode(pool=Pool(dtype="float32")), decode(dtype="bfloat16")),
        ({"edits.tensor": "v"}, decode(edits=(Edit("v", 0, 1.0),)), decode()),
        ({"K": 33, "l2norm": True}, decode(K=33, l2norm=True), decode(K=33)),
        ({"chunk_size": 16}, Case("gdn.extend", chunk_size=16), decode(chunk_size=16)),
        ({"gates.lower_bound": {"most": -1}}, Case("kda.decode", gates=Gates(lower_bound=-5.0)), decode()),
    ],
)
def test_a_condition_holds_where_the_case_has_what_it_asks(
    where: dict[str, Any], holds: Case, fails: Case
) -> None:
    read = conditions.read(where)
    assert conditions.hold(read, holds)
    assert not conditions.hold(read, fails)


def test_no_conditions_hold_always() -> None:
    assert conditions.hold(conditions.read({}), decode())


def test_each_axis_of_promises_is_a_word_and_says_what_a_case_has() -> None:
    plain = [bare(Case(op, **_least(op)), 1, 0) for op in OPERATIONS]
    cases = [case for op in OPERATIONS for case in strategies.geometries.cases(op)]
    cases += [case for case in plain if case is not None]
    cases.append(Case("kda.decode", gates=Gates(lower_bound=-5.0)))
    asked = set()
    for case in cases:
        for axis, value in promise_axes.asked(case):
            asked.add(axis)
            assert value in conditions.values_of(case, axis)
            assert conditions.hold(conditions.read({axis: value}), case)
    assert asked == {spec.name for spec in AXES}


def _least(op: str) -> dict[str, Any]:
    if not OPERATIONS[op].has_pool:
        return {"pool": Pool(indices=())}
    return {"pool": Pool(steps=1, buffer=1, rows=(0,))} if OPERATIONS[op].keeps_steps else {}


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


# --- what a shrunk case needs ---


@pytest.mark.parametrize(
    ("case", "where"),
    [
        (decode(), {}),
        (decode(K=33, V=33), {"K": {"least": 33}, "V": {"least": 33}}),
        (decode(K=33), {"K": {"least": 33}}),
        (decode(V=1), {"square": False}),
        (decode(K=4, V=4), {"K": {"most": 4}, "V": {"most": 4}}),
        (decode(HV=2), {"ratio": {"least": 2}}),
        (decode(H=2, HV=2), {"H": {"least": 2}}),
        (decode(dtype="bfloat16", l2norm=True), {"dtype": "bfloat16", "l2norm": True}),
        (decode(lens=(3,)), {"length": {"least": 3}}),
        (two((0, 1)), {"sequences": {"least": 2}}),
        (decode(pool=Pool(indices=(-1,))), {"padding": True}),
        (
            decode(pool=Pool(slots=2, indices=(1,), pitch=3)),
            {"pitch": {"least": 3}, "pool.indices": {"least": 1}},
        ),
        (
            decode(gates=Gates("constant", beta="half")),
            {"gates.law": {"not": "zero"}, "gates.beta": {"not": "one"}},
        ),
        (decode(values=Values("normal")), {"values.law": {"not": "ones"}}),
        (decode(values=Values("zero")), {}),
        (decode(values=Values("normal"), only=(Only("v", heads=(0,)),)), {}),
        (decode(values=Values(v_exponent=-9)), {"values.v_exponent": {"most": -9}}),
        (decode(order="descending"), {"order": {"not": "ascending"}}),
        (Case("gdn.extend", chunk_size=16), {}),
        (Case("gdn.extend", boundary=True), {"chunk_size": 64, "boundary": True}),
    ],
)
def test_what_a_shrunk_case_needs(case: Case, where: dict[str, Any]) -> None:
    found = needs.of(case)
    assert found == where
    assert conditions.hold(conditions.read(found), case)


def test_what_all_that_is_promised_has_is_no_condition() -> None:
    promises = Promises(dtype=("bfloat16",), K=(64, 128), l2norm=(True,))
    found = needs.of(decode(dtype="bfloat16", K=128, V=64, l2norm=True), promises)
    assert found == {"K": {"least": 128}, "V": {"least": 64}}


def test_a_trace_needs_what_is_the_same_in_all_its_calls() -> None:
    steps = (Step("arrive", (0,)), Step("arrive", (1,)), Step("decode", (0, 1)))
    assert needs.of(Trace("gdn", steps, dtype="bfloat16", HV=2, pitch=3)) == {
        "dtype": "bfloat16",
        "ratio": {"least": 2},
        "pitch": {"least": 3},
        "gates.beta": {"not": "one"},
    }


def test_the_entry_of_a_finding_stands_for_it() -> None:
    raised = Finding(decode(K=33), "mine:decode", "gpu", "raised", "OutOfResources: shared memory", None)
    table = acceptance.entry(raised, "why", "http://x")
    assert list(table) == ["target", "operation", "kind", "says", "backend", "where", "reason", "link"]
    every = KnownFailures((known.read(table, "here"),))
    assert every.of(raised) == every.entries[0]
    assert every.of(raised, "interpret") is None
    assert every.of(Finding(**{**vars(raised), "message": "ValueError: no"})) is None
    once = Finding(**{**vars(raised), "reproduced": False})
    assert acceptance.entry(once, "why")["flaky"] is True


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"shrink": "none"}, "a smaller case would give fewer conditions"),
        ({"case": decode()}, "it has no conditions"),
        ({"reproduced": False}, "it is flaky"),
        ({"kind": "crashed"}, "are not run any more, but with --run-known-crashes"),
    ],
)
def test_what_a_person_should_know_of_an_entry_is_said(fields: dict[str, Any], said: str) -> None:
    plain: dict[str, Any] = {
        "case": decode(K=33),
        "kind": "beyond_bound",
        "message": "off",
        "shrink": "complete",
    }
    remarks = {}
    for name, given in (("with", fields), ("without", {})):
        finding = Finding(target="x", backend="gpu", **{**plain, **given})
        made = known.read(acceptance.entry(finding, "why"), "here")
        remarks[name] = "\n".join(acceptance.remarks(finding, made))
    assert said in remarks["with"]
    assert remarks["without"] == ""


def test_an_example_is_no_known_failure() -> None:
    example = Finding(decode(), "vk", "interpret", "example", "chosen by hand")
    assert KnownFailures((entry(target="vk"),)).of(example) is None
    with pytest.raises(ValueError, match="it is an example"):
        acceptance.entry(example, "why")


def test_the_page_has_every_field_and_its_entries_can_be_read() -> None:
    page = (Path(__file__).parents[2] / "docs" / "known-failures.md").read_text()
    entries = re.findall(r"^```toml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    read = [one for text in entries for one in known_file.parse(text, Path("diffgdn.toml"))]
    assert [len(one.where) for one in read] == [2, 5]
    rows = page.partition("## An entry")[2].partition("## Conditions")[0]
    shown = set(re.findall(r"^\| `(\w+)` \|", rows, re.MULTILINE))
    assert shown == {spec.name for spec in fields(Known)} - {"name"}
    assert f"none fail, for it to be mended: {known.ENOUGH} |" in rows
