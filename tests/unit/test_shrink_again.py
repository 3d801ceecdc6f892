"""Shrinks that had no time, or not enough: they say so, and are taken up again; an interrupt leaves findings
whole.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diffgdn import campaign
from diffgdn.campaign import engine, events
from diffgdn.campaign.ledger import Ledger
from diffgdn.campaign.overtime import Scripts
from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.trace import Trace
from diffgdn.cases.trace_steps import Step
from diffgdn.cli import run
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import EXAMPLE, Finding
from diffgdn.findings.parse import CorpusError, finding_from_json

FAULTS = Path(__file__).with_name("faults.py")
TOYS = Path(__file__).with_name("toys.py")
LARGE = Case(
    "gdn.decode",
    lens=(2, 4),
    H=2,
    HV=4,
    K=20,
    V=8,
    pool=Pool(slots=5, indices=(4, 2)),
    gates=Gates(law="model", beta="uniform"),
    values=Values(law="normal", seed=5),
    l2norm=True,
)
SMALL = {"op": "gdn.decode", "lens": (3,), "K": 16, "V": 16, "HV": 1, "l2norm": False}
OPTIONS = ("--trust-targets", "--backend", "interpret")
Until = Callable[[Callable[[], bool]], None]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def saved(target: str, kind: str = "beyond_bound", **more: Any) -> Finding:
    """A finding in the usual folder, as it was first seen."""
    told: dict[str, Any] = {"tensor": "o", "shrink": "none", "found": "2026-11-23", **more}
    finding = Finding(LARGE, target, "interpret", kind, "as it was", **told)
    Corpus(Path("findings")).save(finding)
    return finding


def only() -> Finding:
    (found,) = Corpus(Path("findings")).findings()
    return found


def fields(case: Case) -> dict[str, Any]:
    return {name: getattr(case, name) for name in SMALL}


def test_a_finding_that_was_saved_unshrunk_is_made_small(capsys: pytest.CaptureFixture[str]) -> None:
    """The smaller one takes its place, whole, and the campaign's words about it stay."""
    old = saved(f"{TOYS}:wrong", seed=7)
    (Path("findings") / f"{old.id}.py").write_text("# a script")
    assert run(["shrink", old.id, *OPTIONS]) == 0
    found = only()
    assert fields(found.case) == SMALL
    assert (found.unshrunk, found.shrink, found.seed, found.found) == (LARGE, "complete", 7, old.found)
    shown = capsys.readouterr().out
    assert shown.startswith(f"SHRUNK  {old.id}\n    gdn.decode  ")
    assert repr(found.case) in shown
    assert "take it up again" not in shown
    names = {path.name for path in Path("findings").iterdir()}
    assert {f"{found.id}.json", f"{found.id}.py"} <= names
    assert not any(name.startswith(old.id) for name in names)
    assert run(["shrink", found.id, *OPTIONS]) == 0
    assert only() == found
    assert f"SHRUNK  {found.id}\n    no smaller case in " in capsys.readouterr().out


def test_a_shrink_that_runs_out_of_time_says_so_and_can_be_taken_up(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In what it prints, in the finding's file, in `corpus show`."""
    old = saved(f"{TOYS}:wrong")
    assert run(["shrink", old.id, "--max-time", "0.001s", *OPTIONS]) == 2
    assert only() == replace(only(), case=LARGE, shrink="out of time", unshrunk=None)
    again = (
        f"its shrink ran out of time; to take it up again:\n        diffgdn shrink --trust-targets {old.id}\n"
    )
    assert f"OUT OF TIME  {old.id}\n    no smaller case in " in (shown := capsys.readouterr().out)
    assert again in shown
    assert run(["corpus", "show", old.id]) == 0
    assert again.replace("        ", "    ") in capsys.readouterr().out
    assert run(["shrink", old.id, *OPTIONS]) == 0
    assert (fields(only().case), only().shrink) == (SMALL, "complete")


@pytest.mark.nightly
def test_a_campaign_whose_shrink_runs_out_of_time_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A case takes half a second, a shrink gets none."""
    monkeypatch.setattr(engine, "shrink_seconds", lambda max_time: 0.01)
    line = f"fuzz --target {FAULTS}:slowly_wrong --op gdn.decode --max-cases 9 --seed 7 --workers 1"
    assert run([*line.split(), "--isolation", "none", "--backend", "interpret"]) == 1
    shown = capsys.readouterr().out
    # whether the one run that the time was good for made it smaller is up to what was drawn
    assert re.search("(not shrunk, the time was up|shrunk for .*, then out of time): gdn.decode  ", shown)
    assert "  its shrink ran out of time; to take it up again:\n    diffgdn shrink --trust-targets " in shown
    assert only().shrink == "out of time"
    assert (Path("findings") / f"{only().id}.py").exists()
    assert run(["shrink", only().id, "--isolation", "none", *OPTIONS]) == 0
    assert (only().case.lens, only().shrink) == ((3,), "complete")


@pytest.mark.parametrize(
    ("target", "kind", "reason"),
    [
        (f"{TOYS}:right", "beyond_bound", "it does not fail any more"),
        (f"{TOYS}:refusing", "beyond_bound", "not today"),
        (f"{TOYS}:wrong", "raised", "it fails in another way: beyond_bound: got "),
        (f"{TOYS}:wrong", EXAMPLE, "it is an example, which never failed"),
        (f"{TOYS}:none", "beyond_bound", "toys.py has no attribute 'none'"),
    ],
)
def test_what_cannot_be_shrunk_stays_as_it_was(
    capsys: pytest.CaptureFixture[str], target: str, kind: str, reason: str
) -> None:
    old = saved(target, kind)
    before = {path.name: path.read_bytes() for path in Path("findings").iterdir()}
    assert run(["shrink", old.id, "--isolation", "none", *OPTIONS]) == 2
    shown = capsys.readouterr().out
    assert shown.startswith(f"ERROR  {old.id}\n    ")
    assert reason in shown
    assert {path.name: path.read_bytes() for path in Path("findings").iterdir()} == before


def test_code_from_elsewhere_is_not_run_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    old = saved(f"{TOYS}:wrong")
    assert run(["shrink", old.id, "--backend", "interpret"]) == 2
    assert "--trust-targets" in capsys.readouterr().out
    assert only() == old


@pytest.mark.nightly
def test_a_crash_is_shrunk_again_in_children() -> None:
    old = saved(f"{FAULTS}:crashing", "crashed", tensor=None)
    assert run(["shrink", old.id, *OPTIONS]) == 0
    assert only().case == Case("gdn.decode", lens=(3,))
    assert (only().kind, only().shrink) == ("crashed", "complete")


def test_a_trace_is_shrunk_again() -> None:
    steps = (
        Step("arrive", (0,)),
        Step("arrive", (1,)),
        Step("decode", (0, 1)),
        Step("decode", (0, 1), (3, 2)),
    )
    trace = Trace("gdn", steps, HV=2)
    old = saved(f"{TOYS}:wrong", trace=trace)
    old = replace(old, case=trace.last_call())
    for path in Path("findings").iterdir():
        path.unlink()
    Corpus(Path("findings")).save(old)
    assert run(["shrink", old.id, *OPTIONS]) == 0
    found = only()
    assert found.trace is not None
    assert [step.act for step in found.trace.steps][-1] == "decode"
    assert sum(sum(step.lengths) for step in found.trace.steps if step.act == "decode") == 3
    assert (found.trace.HV, found.case, found.shrink) == (1, found.trace.last_call(), "complete")
    assert (Path("findings") / f"{found.id}.py").exists()


def test_ctrl_c_keeps_how_small_a_finding_has_become(strikes: Path, until: Until) -> None:
    old = saved(f"{FAULTS}:telling_wrong")
    command = [sys.executable, "-m", "diffgdn", "shrink", old.id, "--isolation", "none", *OPTIONS]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until(lambda: strikes.exists() and strikes.stat().st_size > 2)  # of five
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert (process.returncode, error.strip()) == (130, "diffgdn: interrupted")
    found = only()
    assert (found.shrink, found.unshrunk) == ("out of time", LARGE)
    assert {path.suffix for path in Path("findings").iterdir()} == {".json", ".py", ".txt"}
    assert {path.stem for path in Path("findings").iterdir()} == {found.id}


@pytest.mark.parametrize("when", ["shrinking", "writing the script"])
def test_ctrl_c_while_serving_shrinks_leaves_the_finding_whole(when: str) -> None:
    """It is told of, as small as it has become, and has its script."""
    told: list[events.Event] = []

    def impatient(event: events.Event) -> None:
        told.append(event)
        runs = [one for one in told if isinstance(one, events.CaseRun) and one.shrinking]
        shrunk = isinstance(event, events.FindingShrunk)
        if shrunk if when == "writing the script" else len(runs) == 3 and event is runs[-1]:
            raise KeyboardInterrupt

    loop: dict[str, Any] = {"operations": ("gdn.serving",), "mode": "serving", "isolation": "none"}
    config = campaign.Config(
        f"{TOYS}:wrong",
        backend="interpret",
        seed=0,
        workers=1,
        corpus=Path("findings"),
        max_cases=200,
        **loop,
    )
    outcome = campaign.run(config, impatient)
    assert outcome.interrupted
    assert outcome.findings == (only(),)
    assert only().trace is not None
    assert only().shrink == ("out of time" if when == "shrinking" else "complete")
    assert isinstance(told[-1], events.CampaignEnded)
    assert (Path("findings") / f"{only().id}.py").exists()


@pytest.mark.parametrize("shrink", ["complete", "out of time", "none", None])
def test_how_far_a_finding_was_shrunk_reads_back(shrink: str | None) -> None:
    found = Finding(LARGE, "vk", "interpret", "raised", "why", shrink=shrink)
    assert finding_from_json(json.loads(json.dumps(found.to_json()))) == found
    assert ("shrink" in found.to_json()) == (shrink is not None)


@pytest.mark.parametrize("shrink", ["half", 1, None])
def test_a_word_for_it_that_nobody_knows_is_refused(shrink: Any) -> None:
    data = Finding(LARGE, "vk", "interpret", "raised", "why").to_json()
    data = json.loads(json.dumps({**data, "shrink": shrink}))
    with pytest.raises(CorpusError, match="shrink: expected"):
        finding_from_json(data)


def test_no_script_is_left_of_a_finding_that_a_smaller_one_has_replaced() -> None:
    """Neither asked for when that is known, nor kept when it was under way."""
    folder, first = Path("findings"), saved("vk")
    ledger = Ledger(Corpus(folder))
    scripts = Scripts(ledger, str(folder))
    (folder / f"{first.id}.json").unlink()
    ledger.found(first, owner=0)
    assert scripts.want_missing()
    smaller = replace(first, case=Case("gdn.decode"))
    ledger.shrunk(first, smaller, owner=0)
    assert scripts.next() is None
    for finding in (first, smaller):
        (folder / f"{finding.id}.py").write_text("# a script")
        scripts.written(finding)
    assert [path.name for path in folder.glob("*.py")] == [f"{smaller.id}.py"]


def test_an_interrupt_in_the_middle_of_a_message_waits_until_it_is_handled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A signal that arrives while a finding is saved loses neither the finding nor its script."""
    keep, pressed = Corpus.keep, list[int]()

    def interrupted(corpus: Corpus, *arguments: Any, **options: Any) -> Any:
        if not pressed:
            pressed.append(signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return keep(corpus, *arguments, **options)

    monkeypatch.setattr(Corpus, "keep", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        config = campaign.Config(
            f"{TOYS}:wrong", ("gdn.decode",), "interpret", 7, 1, Path("findings"), max_time=60.0
        )
        outcome = campaign.run(config, lambda event: None)
    finally:
        signal.signal(signal.SIGINT, before)
    assert outcome.interrupted
    assert outcome.findings == (only(),)
    assert (Path("findings") / f"{only().id}.py").exists()
