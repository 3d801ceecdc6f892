"""What launchers keep from call to call under too short a key, or for too long, is found in company, and ends
as the smallest case after one earlier call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from diffgdn import campaign
from diffgdn.campaign import engine, events, replay_findings
from diffgdn.cases.case import Case, Pool, Values
from diffgdn.cases.prelude import Call
from diffgdn.findings.finding import COMPLETE
from diffgdn.runner.confirm import Confirm
from diffgdn.runner.ways import InChild

SECONDS = 60.0  # to shrink it
LOOKING = 180.0  # seconds until it is found and shrunk, on a busy machine: it ends with the shrink
SLIPS = Path(__file__).parents[1] / "unit" / "stale_calls.py"
TWO = Pool(slots=2, indices=(0, 1))
TURNED = Case(
    "gdn.extend",
    lens=(1, 2),
    pool=TWO,
    values=Values(law="normal"),
    chunk_size=16,
    before=("new_values",),
)
SMALLEST = {
    "address": TURNED,
    "shape": TURNED,
    "first_dtype": Case("gdn.decode", values=Values(law="normal"), before=("other_dtype",)),
    "options": Case("gdn.decode", l2norm=True, before=("other_l2norm",)),
    "workspace": Case("gdn.decode", lens=(1, 1), pool=TWO, before=("smaller_batch",)),
    "scratch": Case("gdn.decode", before=("bigger_batch",)),
}


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[InChild]:
    runner = InChild("interpret", tmp_path / "log")
    yield runner
    runner.close()


@pytest.mark.parametrize("name", SMALLEST)
def test_only_company_shows_it(runner: InChild, name: str) -> None:
    """In a fresh process, of the smallest case: without the earlier call it passes."""
    case, target = SMALLEST[name], f"{SLIPS}:{name}"
    assert runner.afresh([Call(replace(case, before=()))], target)[1].ok
    _, verdict = runner.afresh([Call(case)], target)
    assert verdict.failure is not None
    sure = Confirm(runner, target)(Call(case), verdict)
    assert (sure.call, sure.prelude, sure.reproduced) == (Call(case), (), True)


@pytest.mark.parametrize("name", SMALLEST)
def test_a_campaign_finds_it_and_shrinks_it_to_the_smallest(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all the time that shrinking needs; replayed as FAILED, and as FIXED once it is mended."""

    def until_shrunk(event: events.Event) -> None:
        if isinstance(event, events.FindingShrunk) and event.last and event.finding.reproduced:
            raise KeyboardInterrupt

    monkeypatch.setattr(engine, "shrink_seconds", lambda max_time: SECONDS)
    config = campaign.Config(
        f"{SLIPS}:{name}",
        backend="interpret",
        operations=(SMALLEST[name].op,),
        corpus=tmp_path,
        workers=2,
        seed=1,
        max_time=LOOKING,
    )
    outcome = campaign.run(config, until_shrunk)
    # What fails in another way too has a second finding, which may be unshrunk.
    found = next(one for one in outcome.findings if one.reproduced and one.shrink == COMPLETE)
    turned = replace(SMALLEST[name], l2norm=not SMALLEST[name].l2norm)
    assert found.case == SMALLEST[name] or (name == "options" and found.case == turned)
    assert found.prelude == ()
    assert [one.status for one in replay_findings.run([found], repeat=1, trusted=True)] == ["FAILED"]
    monkeypatch.setenv("DIFFGDN_MENDED", "1")
    assert [one.status for one in replay_findings.run([found], repeat=1, trusted=True)] == ["FIXED"]
