"""Faults that only a GPU shows: contexts that break, kernels that never end, memory that runs out.

tests/unit/test_isolate.py and test_faults.py ask the same of faults that a CPU can show.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffgdn import campaign
from diffgdn.campaign import engine, events
from diffgdn.cases.case import Case, Pool
from diffgdn.findings.corpus import Corpus
from diffgdn.runner.ways import InChild
from diffgdn.verdict.failures import CheckFailure

pytestmark = pytest.mark.gpu

FAULTS = Path(__file__).parents[1] / "unit" / "faults.py"
CASE = Case("gdn.decode")
HANG_SECONDS = 15.0  # a child's first case starts CUDA and compiles
MOST_CASES = 64
LATER = 8  # cases after a shrink that show that a campaign goes on
BROKEN = "the kernel broke its GPU context: .*"


def known(failure: CheckFailure) -> bool:
    """Of a fault that takes its full time, one is enough."""
    return failure.kind == "hung"


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InChild]:
    """One runner for all faults: what one leaves behind must not reach the next."""
    made = InChild("gpu", tmp_path_factory.mktemp("isolated") / "log", HANG_SECONDS)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("target", "kind", "message"),
    [
        ("illegal", "crashed", f"{BROKEN}illegal memory access.*"),
        ("asserting", "crashed", f"{BROKEN}device-side assert.*"),
        ("endless_kernel", "hung", "no answer within 15 s"),
        ("exhausting", "raised", "OutOfMemoryError: .*"),
    ],
)
def test_a_fault_is_a_verdict_and_the_gpu_is_usable_after_it(
    runner: InChild, target: str, kind: str, message: str
) -> None:
    assert runner.run(CASE, "eager").ok
    before = runner.child
    verdict = runner.run(CASE, f"{FAULTS}:{target}", familiar=known)
    assert verdict.failure is not None
    assert (verdict.failure.kind, verdict.confirmed) == (kind, True), verdict.failure.message
    assert re.fullmatch(message, verdict.failure.message, re.DOTALL)
    assert (runner.child == before) == (kind == "raised")
    assert runner.run(CASE, "eager").ok


def test_an_illegal_access_from_41_tokens_on_in_slot_minus_one_shrinks_to_exactly_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step down costs a child its GPU context; then the campaign goes on."""
    monkeypatch.setattr(engine, "shrink_seconds", lambda max_time: 600.0)
    told: list[events.Event] = []

    def enough(event: events.Event) -> None:
        told.append(event)
        later = sum(isinstance(one, events.CaseRun) for one in since_shrunk(told))
        if later == LATER and not isinstance(event, events.CampaignEnded):
            raise KeyboardInterrupt

    target, ops = f"{FAULTS}:sticky_store", ("gdn.extend",)
    outcome = campaign.run(campaign.Config(target, ops, "gpu", 7, 1, tmp_path, max_cases=MOST_CASES), enough)
    (found,) = outcome.findings
    assert found.kind == "crashed"
    assert re.fullmatch(f"{BROKEN}illegal memory access.*", found.message)
    assert found.case == Case("gdn.extend", lens=(41,), pool=Pool(indices=(-1,)), chunk_size=16)
    assert Corpus(tmp_path).findings() == [found]
    later = [event for event in since_shrunk(told) if isinstance(event, events.CaseRun)]
    assert any(event.failure is None for event in later)
    assert {event.failure for event in later} <= {None, "crashed"}
    assert not any(isinstance(event, events.WorkerDied) for event in told)
    assert (outcome.exit_code, outcome.problem) == (1, None)


def since_shrunk(told: list[events.Event]) -> list[events.Event]:
    """What was told after the finding was as small as it gets."""
    shrunk = [n for n, event in enumerate(told) if isinstance(event, events.FindingShrunk)]
    return told[shrunk[0] :] if shrunk else []
