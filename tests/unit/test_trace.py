"""Traces: what can follow what, how they read back, and findings that hold one."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from diffgdn import targets
from diffgdn.cases.trace import Trace
from diffgdn.cases.trace_steps import Step, path
from diffgdn.cli import run
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import Finding
from diffgdn.findings.parse import CorpusError, finding_from_json
from diffgdn.verdict.serving.loop import Loop
from diffgdn.verdict.serving.play import play

TOYS = "tests/unit/toys.py"
ARRIVE = Step("arrive", (0,))
VERIFY = Step("verify", (-1, 0), (1, 3), ((-1,), (-1, 0, 0)))
TRACE = Trace(
    "kda",
    (
        ARRIVE,
        Step("extend", (0,), (5,)),
        VERIFY,
        Step("commit", (0,), accepted=(2,)),
        Step("decode", (0, -1)),
        Step("finish", (0,)),
        Step("arrive", (1,)),
        Step("update", (1,), (2,)),
    ),
    gate="model",
    HV=2,
)
FINDING = Finding(TRACE.last_call(), "eager", "interpret", "slot_changed", "why", trace=TRACE)


def test_repr_and_json_give_the_trace_back() -> None:
    assert eval(repr(TRACE)) == TRACE
    assert Trace.from_json(json.loads(json.dumps(TRACE.to_json()))) == TRACE
    assert dataclasses.replace(TRACE, seed=1).id != TRACE.id


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((Step("decode", (0,)),), r"steps\[0\]: decode: \(0,\) are not all live and ready"),
        ((Step("arrive", (1,)),), "the next request is 0"),
        ((ARRIVE, VERIFY, Step("decode", (0,))), "not all live and ready"),
        ((ARRIVE, VERIFY, Step("commit", (0,), accepted=(3,))), "accepted -1 to 2, got 3"),
        ((ARRIVE, Step("commit", (0,), accepted=(0,))), "have not all a draft"),
        ((ARRIVE, Step("finish", (0,)), Step("finish", (0,))), "one live request"),
        ((ARRIVE, Step("decode", (0, 0))), "a request twice"),
        ((ARRIVE, Step("decode", (0,), (1, 1))), "lens, one a row"),
        ((ARRIVE, Step("decode", (0,), (0,))), "decode: lens 1 to"),
        ((ARRIVE, Step("verify", (0,), (2,), ((-1, 1),))), "parents are -1 first"),
        (tuple(Step("arrive", (n,)) for n in range(4)), "all 3 slots are taken"),
        ((Step("sleep", (0,)),), "act: expected one of"),
    ],
)
def test_steps_that_cannot_follow_each_other_are_refused(steps: tuple[Step, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trace("gdn", steps)


@pytest.mark.parametrize(
    ("field", "value"), [("K", 0), ("slots", 10**9), ("dtype", "int8"), ("family", "x"), ("pitch", -1)]
)
def test_sizes_that_cannot_be_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{field}: expected"):
        dataclasses.replace(TRACE, **{field: value})


def test_the_accepted_path_of_a_tree_leads_from_the_first_token() -> None:
    assert path((-1, 0, 0, 2), 3) == (0, 2, 3)
    assert path((-1, 0), -1) == ()


@pytest.mark.parametrize("target", ["eager", "vk"])
def test_a_right_loop_plays_a_trace(target: str) -> None:
    played = play(TRACE, targets.get(target), "interpret")
    assert played.failure is None
    assert played.refused is None
    assert 0 < played.share < 1


def test_a_trace_of_an_operation_that_the_target_lacks_is_refused_with_the_reason() -> None:
    only_decode = targets.FunctionTarget("few", {"kda.decode": lambda: None})
    assert play(TRACE, only_decode, "interpret").refused == "few does not implement kda.extend"


def test_the_share_of_a_trace_that_fails_is_that_of_its_failure() -> None:
    """As of a case: a campaign's worst error is no smaller than what it found."""
    wrong = targets.get(f"{TOYS}:wrong")
    trace = Trace("gdn", (*(Step("arrive", (n,)) for n in range(3)), Step("decode", (0, 1, 2))))
    verdict = play(trace, wrong, "interpret").verdict()
    assert verdict.failure is not None
    assert verdict.failure.kind == "beyond_bound"
    assert verdict.shares["trace"] > 1


def test_the_failure_names_the_step() -> None:
    class Late(Loop):
        def reset(self, slot: int) -> None:
            pass

    played = play(TRACE, targets.get("eager"), "interpret", Late)
    assert played.at == 0
    assert str(played.failure).startswith("kda.serving state slot 0: step 0 (arrive 0): a new request")
    assert played.verdict().step == 0


def test_a_finding_of_a_trace_reads_back_and_is_named_after_it(tmp_path: Path) -> None:
    folder = Corpus(tmp_path)
    written = folder.save(FINDING)
    assert written.stem == f"eager-kda.serving-slot_changed-{TRACE.id}"
    assert folder.get(FINDING.id) == FINDING
    assert FINDING.operation == "kda.serving"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["trace"]["steps"].pop(0), "trace: steps"),
        (
            lambda data: data["trace"].update(format_version=4),
            "format_version: this diffgdn reads 1 to 3, got 4",
        ),
        (lambda data: data["trace"].update(slots=0), "slots: expected 1 to"),
        (lambda data: data["trace"].update(seed=4), "case: not the last call of the trace"),
        (lambda data: data.update(operation="kda.update"), "operation"),
        (lambda data: data.update(trace=None), "trace: expected dict"),
    ],
)
def test_a_finding_with_a_wrong_trace_is_refused(change: Any, message: str) -> None:
    data = json.loads(json.dumps(FINDING.to_json()))
    change(data)
    with pytest.raises(CorpusError, match=message):
        finding_from_json(data)


SERVING = ["serving", "--seed", "1", "--workers", "1", "--backend", "interpret"]


def test_the_command_says_what_it_played(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row for each family's loop: traces, their steps, those that were refused, the worst error."""
    arguments = ["--target", "eager", "--max-cases", "6", "--corpus", str(tmp_path), "--allow-unreached"]
    assert run([*SERVING, *arguments, "--json", str(tmp_path / "report.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "serve eager on backend interpret: 6 traces, 1 worker, seed 1"
    report = json.loads((tmp_path / "report.json").read_text())
    rows = {line.split()[0]: line.split()[1:] for line in lines if ".serving" in line}
    assert list(rows) == list(report["steps"]) == ["gdn.serving", "kda.serving"]
    for loop, (traces, steps, refused, worst, findings) in rows.items():
        assert (traces, refused, findings) == ("3", "0", "-")
        assert 3 <= int(steps) == report["steps"][loop]
        assert 0 < float(worst) < 1
    assert (report["mode"], report["totals"]["cases"], report["format_version"]) == ("serving", 6, 2)
    assert lines[-1].startswith("6 traces in ")
    assert lines[-1].endswith(": nothing found.")


def test_traces_are_limited_by_the_name_that_the_option_had_at_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--target", "eager", "--max-traces", "2", "--family", "kda", "--allow-unreached"]
    assert run([*SERVING, *arguments, "--corpus", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("serve eager on backend interpret: 2 traces, 1 worker, seed 1")


def test_operations_that_no_trace_called_are_named_and_are_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A single trace, of at most 16 steps, is too little to call each."""
    arguments = ["--target", "eager", "--max-cases", "1", "--family", "gdn", "--corpus", str(tmp_path)]
    assert run([*SERVING, *arguments]) == 2
    shown = capsys.readouterr()
    told = re.fullmatch(
        r"diffgdn: (\d) of 5 operations not reached: (gdn\..*): none of 1 traces called it "
        r"\(--allow-unreached lets this pass\)\n",
        shown.err,
    )
    assert told is not None
    assert len(told[2].split(", ")) == int(told[1])
    assert f"\nnot reached: {told[2]}: none of 1 traces called it\n" in shown.out
    assert run([*SERVING, *arguments, "--allow-unreached"]) == 0


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("--target TOYS:refusing --max-cases 2", "no trace ended: gdn.decode: all \\d+ traces refused: not"),
        (
            "--target eager --max-time 0.001s",
            "no trace ended: gdn.extend, .*, gdn.verify: no trace of it ended within 0.001 s",
        ),
        (
            "--target TOYS:right --family kda --max-cases 1",
            "target TOYS:right implements none of kda.serving; it has gdn.decode, kda.recurrent",
        ),
    ],
    ids=["refused", "no time", "not there"],
)
def test_serving_in_which_no_trace_ended_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, problem: str
) -> None:
    given = options.replace("TOYS", TOYS).split()
    arguments = ["--isolation", "none", "--family", "gdn", *given]
    assert run([*SERVING, *arguments, "--corpus", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert re.match(f"diffgdn: {problem.replace('TOYS', TOYS)}", error)
    assert error.count("\n") == 1


def test_a_target_without_a_familys_operations_is_skipped_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toys = "tests/unit/toys.py:right"  # gdn.decode and kda.recurrent
    arguments = ["--target", toys, "--max-cases", "1", "--isolation", "none", "--corpus", str(tmp_path)]
    assert run([*SERVING, *arguments]) == 0
    assert f"left out: kda.serving: not implemented by target {toys}\n" in capsys.readouterr().out
