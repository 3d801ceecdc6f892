"""Known failures in campaigns, replays and shrinks: they run, count apart, and are missed when gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diffgdn import campaign
from diffgdn.campaign import events, reshrink
from diffgdn.cases.case import Case, Pool
from diffgdn.cases.prelude import Call
from diffgdn.cli import run
from diffgdn.findings import known
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import Finding
from diffgdn.findings.known import Known, KnownFailures
from diffgdn.report.jsonfile import summary
from diffgdn.report.tally import Tally
from diffgdn.runner.confirm import Confirm, Confirmed
from diffgdn.verdict.failures import BeyondBound, Verdict

HERE = Path(__file__).parent
TOYS, TEN = HERE / "toys.py", f"{HERE / 'known_toys.py'}:ten"
OPERATIONS = ("gdn.decode", "kda.decode", "gdn.recurrent", "kda.recurrent", "gdn.update")
MENDED, PLANTED = "DIFFGDN_TEST_MENDED", "DIFFGDN_TEST_PLANTED"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plain(op: str, **fields: Any) -> Case:
    return Case(op, pool=Pool(indices=() if "recurrent" in op else (0,)), **fields)


def ten_findings() -> Iterator[Finding]:
    """As the shrinks of the ten faults leave them."""
    for op in OPERATIONS:
        wrong = Finding(plain(op, l2norm=True), TEN, "interpret", "beyond_bound", "off by one", "o")
        raised = Finding(plain(op, view="gapped"), TEN, "interpret", "raised", "RuntimeError: no gaps today")
        yield from (replace(one, shrink="complete") for one in (wrong, raised))


def fuzz(*options: str) -> tuple[int, dict[str, Any]]:
    """The exit status of a campaign on the ten faults, and its result."""
    given = ("--max-cases", "120", "--seed", "5", "--workers", "1", "--isolation", "none")
    status = run(["fuzz", "--target", TEN, "--backend", "interpret", *given, "--json", "r.json", *options])
    return status, json.loads(Path("r.json").read_text())


@pytest.mark.nightly
def test_ten_known_failures_one_mended_one_new(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten are accepted: exit 0. One is mended: reported, exit 1. An eleventh is planted: found, exit 1."""
    saved = [Corpus(folder / "findings").save(finding).stem for finding in ten_findings()]
    assert run(["corpus", "accept", *saved, "--reason", "see 7"]) == 0
    assert run(["corpus", "accept", saved[0], "--reason", "again"]) == 0
    assert f"{saved[0]}: known already (diffgdn.toml:2): see 7" in capsys.readouterr().out

    status, told = fuzz()
    assert (status, told["findings"], told["problem"]) == (0, [], None)
    assert len(told["known"]) == 10
    assert all(one["alive"] and not one["mended"] for one in told["known"])
    assert min(one["failed"] for one in told["known"]) > 0
    assert sum(one["failed"] for one in told["known"]) == told["totals"]["known"] > 10
    assert sum(one["failed"] for one in told["operations"].values()) == 0
    assert {one["status"] for one in told["replayed"]} == {"KNOWN"}
    shown = capsys.readouterr().out
    assert f"nothing new found; 10 known failures in {told['totals']['known']} cases." in shown
    assert f"diffgdn.toml:2  gdn.decode  beyond_bound in o: {told['known'][0]['failed']} fail" in shown

    monkeypatch.setenv(MENDED, "gdn.update")
    status, told = fuzz()
    assert (status, told["findings"]) == (1, [])
    (mended,) = [one for one in told["known"] if one["mended"]]
    assert (mended["operation"], mended["result"]) == ("gdn.update", "o")
    assert f"KNOWN FAILURE NO LONGER FAILS  {mended['entry']}  gdn.update" in capsys.readouterr().out
    monkeypatch.delenv(MENDED)

    monkeypatch.setenv(PLANTED, "kda.decode")
    status, told = fuzz()
    assert status == 1
    assert not any(one["mended"] for one in told["known"])
    assert {(one["operation"], one["tensor"]) for one in told["findings"]} == {("kda.decode", "o")}
    for one in told["findings"]:
        assert (one["case"]["HV"], one["case"]["l2norm"]) == (2, False)


def entry(number: int = 1, **fields: Any) -> Known:
    table = {"target": f"{TOYS}:wrong", "operation": "gdn.decode", "kind": "beyond_bound", "reason": "see 7"}
    return known.read({**table, **fields}, f"entry {number}")


def explore(
    toy: str, folder: Path, entries: list[Known], run_crashes: bool = False, **options: Any
) -> tuple[campaign.Outcome, Tally]:
    """A campaign on a toy, and its tally."""
    given: dict[str, Any] = {"workers": 1, "seed": 7, "max_cases": 40, "isolation": "none", **options}
    tally, also = Tally(), given.pop("also", lambda event: None)

    def listen(event: events.Event) -> None:
        tally(event)
        also(event)

    config = campaign.Config(
        target=f"{TOYS}:{toy}",
        operations=given.pop("operations", ("gdn.decode",)),
        backend="interpret",
        corpus=folder,
        known=KnownFailures(tuple(entries), run_crashes),
        **given,
    )
    return campaign.run(config, listen), tally


def test_what_is_new_is_not_shrunk_into_what_is_known(folder: Path) -> None:
    """The toy is wrong from three tokens on; one sequence of three is simpler than three of one."""
    made = entry(where={"length": {"least": 3}}, result="o")
    outcome, _ = explore("wrong", folder, [made], max_cases=60)
    assert outcome.exit_code == 1
    assert outcome.findings
    for found in outcome.findings:
        assert found.shrink == "complete"
        assert (found.case.total, max(found.case.lens) < 3) == (3, True)


@pytest.mark.nightly
def test_a_shrink_that_is_taken_up_does_not_become_what_is_known(folder: Path) -> None:
    case = Case("gdn.decode", lens=(1, 1, 2), pool=Pool(slots=3, indices=(0, 1, 2)), l2norm=True)
    finding = Finding(case, f"{TOYS}:wrong", "interpret", "beyond_bound", "off", "o", shrink="none")
    made = entry(where={"length": {"least": 3}})
    sizes = []
    for every in (KnownFailures(), KnownFailures((made,)), KnownFailures((made, entry(2)))):
        path = Corpus(folder / "findings").save(finding)
        (result,) = reshrink.run([(finding, path)], trusted=True, isolation="none", known=every)
        assert result.smaller is not None
        sizes.append(result.smaller.case.lens)
    assert sizes[0] == sizes[2] == (3,)  # what is known itself may
    assert max(sizes[1]) < 3


def test_enough_cases_under_its_conditions_tell_that_an_entry_is_mended(folder: Path) -> None:
    where = {"length": {"least": 3}}
    entries = [entry(1, target=f"{TOYS}:right", where=where, cases=5), entry(2, target=f"{TOYS}:right")]
    outcome, tally = explore("right", folder, entries)
    assert (outcome.exit_code, outcome.findings) == (1, ())
    assert [one.mended for one in outcome.known] == [True, False]
    assert 5 <= outcome.known[0].passed < outcome.known[1].passed <= 40
    assert summary(tally)["known"][0]["mended"] is True


def test_entries_of_other_operations_and_targets_play_no_part(folder: Path) -> None:
    entries = [entry(1, cases=1), entry(2, target=f"{TOYS}:right", operation="kda.recurrent", cases=1)]
    outcome, _ = explore("right", folder, entries)
    assert (outcome.exit_code, outcome.known) == (0, ())


def test_cases_that_are_known_to_crash_are_not_run_which_is_counted(folder: Path) -> None:
    where = {"length": {"least": 2}}
    made = entry(target=f"{TOYS}:right", kind="crashed", where=where)
    ran: list[events.Event] = []
    outcome, tally = explore("right", folder, [made, entry(2)], also=ran.append)
    one = tally.operations["gdn.decode"]
    assert (outcome.exit_code, one.cases, one.refused) == (0, 40, 0)
    assert outcome.known[0].skipped == one.skipped_known > 0
    cases = [event for event in ran if isinstance(event, events.CaseRun)]
    for event in cases:
        assert event.case is not None
        assert (event.refused is not None) == (max(event.case.lens) >= 2)
    assert {event.known for event in cases} == {None, "entry 1"}


def test_an_operation_that_is_known_to_crash_always_is_no_problem(folder: Path) -> None:
    outcome, tally = explore("dying", folder, [entry(target=f"{TOYS}:dying", kind="crashed")])
    assert (outcome.exit_code, outcome.problem, outcome.unreached) == (0, None, {})
    assert tally.operations["gdn.decode"].cases == 0
    assert outcome.known[0].skipped > 0


@pytest.mark.parametrize("isolation", ["child", "none"])
def test_known_crashes_run_on_request(folder: Path, isolation: str) -> None:
    made = entry(target=f"{TOYS}:dying", kind="crashed", says="SIGSEGV")
    outcome, _ = explore("dying", folder, [made], True, isolation=isolation, max_cases=8)
    assert (outcome.exit_code, outcome.findings) == (0, ())
    assert (outcome.known[0].failed > 0, outcome.known[0].skipped) == (True, 0)


def replayed(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    """The exit status of a replay, and what it says."""
    status = run(["replay", "--trust-targets", "--backend", "interpret", "--repeat", "1", *options])
    return status, capsys.readouterr().out


def save(folder: Path, toy: str, lens: tuple[int, ...] = (3,), kind: str = "beyond_bound") -> Finding:
    tensor, words = ("o", "off") if kind == "beyond_bound" else (None, "killed by SIGSEGV")
    finding = Finding(Case("gdn.decode", lens=lens), f"{TOYS}:{toy}", "interpret", kind, words, tensor)
    Corpus(folder / "findings").save(finding)
    return finding


def test_a_replay_tells_what_is_known_what_is_mended_and_what_is_not_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong, crash = save(folder, "wrong"), save(folder, "dying", kind="crashed")
    assert run(["corpus", "accept", wrong.id, crash.id, "--reason", "see 7"]) == 0
    capsys.readouterr()
    status, said = replayed(capsys)
    assert status == 0
    assert f"KNOWN  {wrong.id}" in said
    assert "known (diffgdn.toml:2): see 7" in said
    assert f"SKIPPED  {crash.id}\n    known to have crashed (diffgdn.toml:12): see 7" in said
    status, said = replayed(capsys, crash.id, "--run-known-crashes")
    assert (status, "SKIPPED" in said, f"KNOWN  {crash.id}" in said) == (0, False, True)

    assert run(["corpus", "known"]) == 0
    said = capsys.readouterr().out
    assert "diffgdn.toml:2  " in said
    assert said.count("1 finding") == 2
    assert run(["corpus", "prune", "--trust-targets", "--repeat", "1"]) == 0
    assert "kept: 1 SKIPPED, 1 KNOWN" in capsys.readouterr().out

    text = Path("diffgdn.toml").read_text()
    Path("diffgdn.toml").write_text(text.replace(":wrong", ":right"))
    Corpus(folder / "findings").remove(wrong)
    right = save(folder, "right")
    status, said = replayed(capsys, right.id)
    assert status == 1
    assert (
        f"KNOWN FAILURE NO LONGER FAILS  diffgdn.toml:2  gdn.decode  beyond_bound in o: {right.id} passes"
        in said
    )


def test_a_finding_that_fails_in_another_way_than_is_known_is_news(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finding = save(folder, "wrong")
    assert run(["corpus", "accept", finding.id, "--reason", "see 7"]) == 0
    other = folder / "diffgdn.toml"
    other.write_text(other.read_text().replace('"beyond_bound"', '"not_finite"'))
    status, said = replayed(capsys)
    assert (status, f"FAILED  {finding.id}" in said) == (1, True)


def test_a_wrong_entry_ends_a_command_with_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("diffgdn.toml").write_text(
        '[[known]]\ntarget = "vk"\noperation = "x"\nkind = "hung"\nreason = "y"\n'
    )
    for command in (["fuzz", "--max-cases", "1"], ["replay"], ["serving"], ["corpus", "known"]):
        assert run(command) == 2
        said = capsys.readouterr().err
        assert said.startswith("diffgdn: diffgdn.toml:1 (x hung): operation: expected one of ")
        assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["nothing", "--reason", "x"], "nothing: no such finding"),
        (["--reason", " "], "--reason: expected text"),
        (["--reason", "x", "--file", "my.toml"], "--file my.toml: expected a file named diffgdn.toml or"),
    ],
)
def test_what_cannot_be_accepted_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    finding = save(folder, "wrong")
    names = [] if options[0] == "nothing" else [finding.id]
    assert run(["corpus", "accept", *names, *options]) == 2
    assert said in capsys.readouterr().err
    assert not list(folder.glob("*.toml"))


def test_a_loop_that_fails_as_is_known_goes_on(folder: Path) -> None:
    made = entry(operation="gdn.serving")
    outcome, tally = explore(
        "wrong", folder, [made], mode="serving", operations=("gdn.serving",), max_cases=20
    )
    assert (outcome.exit_code, outcome.findings) == (0, ())
    assert outcome.known[0].failed == tally.operations["gdn.serving"].known > 0


def test_a_prelude_is_not_made_shorter_into_what_is_known() -> None:
    case = Case("gdn.decode")
    failing = Verdict(case, "x", "interpret", BeyondBound("gdn.decode", "o", None, "off"))

    class Fresh:
        def afresh(self, calls: Any, target: str, picture: bool = False, looks: Any = ()) -> Any:
            return len(calls) - 1, failing

    like = Confirmed(Call(case), failing)
    for news, found in ((True, failing), (False, None)):
        confirm = Confirm(Fresh(), "x", lambda call, verdict, news=news: news)  # type: ignore[misc]
        assert confirm.fails((), Call(case), like) is found
    labelled = replace(like, verdict=replace(failing, known="entry 1"))
    assert confirm.fails((), Call(case), labelled) is failing


def test_refused_cases_do_not_count_toward_the_limit(folder: Path) -> None:
    """A target written for one dtype got a third of the cases that were asked for."""
    ran: list[events.CaseRun] = []
    config = campaign.Config(f"{TOYS}:picky", ("gdn.decode",), "interpret", 7, 1, folder, max_cases=40)
    outcome = campaign.run(
        config, lambda event: ran.append(event) if isinstance(event, events.CaseRun) else None
    )
    refused = [case.refused is not None for case in ran]
    assert (outcome.exit_code, refused.count(False)) == (0, 40)
    assert refused.count(True) > 40
