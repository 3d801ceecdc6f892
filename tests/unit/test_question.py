"""What is asked: the questions of each mode, and that a campaign is driven by them alone."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import pytest
from rich.console import Console

from diffgdn import campaign
from diffgdn.campaign.events import CampaignStarted, CaseRun
from diffgdn.cases.case import Case
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.prelude import Call
from diffgdn.cases.trace import Trace
from diffgdn.cases.trace_steps import Step
from diffgdn.report import modes
from diffgdn.report.console import ConsoleReport
from diffgdn.report.tally import Tally
from diffgdn.verdict import question, relations
from diffgdn.verdict.question import (
    MODES,
    ORACLE,
    AskRelation,
    AskVacuity,
    CompareWithOracle,
    MeasureErrors,
    PlayTrace,
    Question,
    question_of,
)

CASE = Case("gdn.update", (4,))
TRACE = Trace("gdn", (Step("arrive", (0,)), Step("decode", (0,))))
ALL = tuple(OPERATIONS)


@pytest.mark.parametrize(
    ("call", "asked"),
    [
        (Call(CASE), ORACLE),
        (Call(CASE, relation="split"), AskRelation("split")),
        (Call(TRACE), PlayTrace()),
    ],
    ids=["case", "relation", "trace"],
)
def test_a_call_of_a_finding_says_how_it_is_asked_about(call: Call, asked: Question) -> None:
    assert question_of(call) == asked
    assert Call(call.subject, asked.relation) == call


def test_a_mode_goes_by_the_name_in_its_class() -> None:
    assert list(MODES) == ["oracle", "errors", "vacuity", "relations", "serving"]
    assert {name: kind.mode for name, kind in MODES.items()} == {name: name for name in MODES}
    assert modes.REPORTS.keys() == MODES.keys()


@pytest.mark.parametrize("mode", sorted(set(MODES) - {"serving"}))
def test_a_case_calls_its_own_operation(mode: str) -> None:
    assert MODES[mode].calls("gdn.decode", ALL) == ("gdn.decode",)
    assert MODES[mode].calls("gdn.decode", ("kda.decode",)) == ()


def test_a_loop_calls_what_its_family_has_of_the_target() -> None:
    assert PlayTrace.calls("kda.serving", ALL) == tuple(
        f"kda.{kind}" for kind in ("extend", "decode", "packed_decode", "update", "verify")
    )
    assert PlayTrace.calls("gdn.serving", ("gdn.decode", "kda.verify")) == ("gdn.decode",)
    assert PlayTrace.calls("gdn.serving", ("gdn.recurrent", "kda.verify")) == ()


@pytest.mark.parametrize("kind", [CompareWithOracle, MeasureErrors, AskVacuity, PlayTrace])
def test_a_campaign_asks_one_question_of_each_operation(kind: type[Question]) -> None:
    assert kind.asked_of("gdn.decode", "eager", ALL) == (kind(),)
    assert kind().relation is None


def test_relations_take_turns_of_those_that_apply() -> None:
    asked = AskRelation.asked_of("gdn.decode", "eager", ALL)
    assert [one.relation for one in asked] == list(relations.applicable("gdn.decode", "eager", ALL))
    alone = AskRelation.asked_of("gdn.decode", "eager", ("gdn.decode",))
    assert 3 < len(alone) < len(asked)
    assert set(alone) < set(asked)


def test_a_case_that_runs_for_another_reason_is_asked_the_plain_question() -> None:
    """A relation would call the kernel several times."""
    assert {mode: kind.plain() for mode, kind in MODES.items()} == {
        "oracle": ORACLE,
        "errors": MeasureErrors(),
        "vacuity": AskVacuity(),
        "relations": ORACLE,
        "serving": PlayTrace(),
    }


def test_questions_travel_between_processes_and_count_as_keys() -> None:
    every = [ORACLE, MeasureErrors(), AskVacuity(), AskRelation("split"), AskRelation("twice"), PlayTrace()]
    assert pickle.loads(pickle.dumps(every)) == every
    assert len(set(every)) == len(every)


def test_a_new_mode_is_a_class_and_how_it_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Configuration, workers' questions, tally and screen take it from there."""

    class CountTokens(Question):
        mode = "tokens"

    report = modes.ModeReport("count tokens of", "count", lambda tally: [])
    with pytest.raises(ValueError, match=r"mode: expected one of oracle, .*, got 'tokens'"):
        campaign.Config("eager", ("gdn.decode",), "interpret", 1, 1, tmp_path, mode="tokens")
    monkeypatch.setitem(question.MODES, "tokens", CountTokens)
    monkeypatch.setitem(modes.REPORTS, "tokens", report)
    config = campaign.Config("eager", ("gdn.decode",), "interpret", 1, 1, tmp_path, 9.0, mode="tokens")
    assert config.question is CountTokens
    assert config.question.asked_of("gdn.decode", "eager", ALL) == (CountTokens(),)
    tally, screen = Tally(), io.StringIO()
    with ConsoleReport(Console(file=screen, width=160)) as console:
        for listener in (tally, console):
            listener(CampaignStarted(config))
            listener(CaseRun("gdn.decode", "explore", 0.1))
    assert (tally.mode, tally.cases) == ("tokens", 1)
    assert screen.getvalue() == "count tokens of eager on backend interpret: 9 s, 1 worker, seed 1\n"
