"""Shrinks and campaigns keep inside promises; what is outside is left out, with a word."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffgdn import campaign, targets
from diffgdn.campaign import engine, events, tasks
from diffgdn.campaign.worker_pool import Pool as WorkerPool
from diffgdn.cases.case import Case, Gates, Pool
from diffgdn.cases.prelude import Call
from diffgdn.cases.promises import EVERYTHING, OUTSIDE, Promises
from diffgdn.cases.spans import Span
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import Finding
from diffgdn.pytest_plugin import answers
from diffgdn.runner.confirm import Confirmed
from diffgdn.search import by_field, hypothesis_search, preludes, promised
from diffgdn.strategies import Menu, cases
from diffgdn.verdict.failures import KernelCrashed, NotFinite, Verdict

TOYS = Path(__file__).with_name("toys.py")
DECODE = Case("gdn.decode")

LARGE = Case(
    "gdn.decode",
    lens=(4, 3),
    H=2,
    HV=4,
    K=32,
    V=8,
    dtype="bfloat16",
    pool=Pool(slots=5, indices=(4, 1), pitch=64),
    view="packed",
    l2norm=True,
    tail=3,
)


def _narrow() -> Promises:
    return targets.promises(f"{TOYS}:promising")


def test_no_step_of_a_shrink_leaves_the_promises_and_what_may_be_simpler_is() -> None:
    tried: list[Case] = []
    promises = _narrow()

    def fails(case: Case) -> bool:
        tried.append(case)
        return case.total > 0

    smallest = by_field.simplest(LARGE, fails, promises=promises)
    assert tried
    assert [promises.broken_by(case) for case in tried if promises.broken_by(case)] == []
    assert smallest == Case("gdn.decode", HV=2, K=8, V=8, dtype="bfloat16", view="packed", l2norm=True)
    assert len(tried) < 15  # the first leap has what must stay


def test_a_candidate_outside_keeps_what_is_not_promised() -> None:
    assert promised.inside(DECODE, LARGE, EVERYTHING) == DECODE
    kept = promised.inside(replace(DECODE, gates=Gates(beta="half")), LARGE, _narrow())
    assert kept == Case(
        "gdn.decode",
        H=2,
        HV=4,
        K=32,
        V=8,
        dtype="bfloat16",
        view="packed",
        l2norm=True,
        gates=Gates(beta="half"),
    )
    padding = replace(DECODE, pool=Pool(indices=(-1,)))
    assert promised.inside(padding, LARGE, _narrow()) is None


def test_hypothesis_and_content_shrink_inside() -> None:
    ran: list[Case] = []
    promises = replace(_narrow(), scale=("given",))  # a plain case has the default one

    def run(case: Case) -> Verdict:
        ran.append(case)
        return Verdict(
            case, "it", "interpret", NotFinite(case.op, "o", None, "nan") if case.total >= 2 else None
        )

    (found,) = hypothesis_search.find(
        cases("gdn.decode", promises=promises), run, max_examples=60, seed=3, by_field=True, promises=promises
    )
    assert found.complete
    assert [case for case in ran if promises.broken_by(case)] == []
    assert (found.case.K, found.case.total) == (8, 2)
    assert found.case.scale is not None


def test_a_prelude_is_made_simpler_inside() -> None:
    asked: list[Call] = []

    class Confirm:
        def fails(self, prelude: tuple[Call, ...], call: Call, found: Confirmed) -> Verdict | None:
            asked.extend((*prelude, call))
            return found.verdict if prelude else None

    before = replace(LARGE, lens=(2, 2))
    verdict = Verdict(LARGE, "it", "interpret", NotFinite(LARGE.op, "o", None, "nan"))
    found = Confirmed(Call(LARGE), verdict, (Call(before),))
    shorter = preludes.shorter(Confirm(), found, promises=_narrow())  # type: ignore[arg-type]
    assert [one for one in asked if _narrow().broken_by(one.subject)] == []  # type: ignore[arg-type]
    assert shorter.call.subject.lens == (1,)  # type: ignore[union-attr]
    assert len(asked) < 26  # a candidate keeps what is not promised, and is not tried for nothing


def test_a_crash_under_pytest_shrinks_inside() -> None:
    ran: list[Case] = []

    def run(case: Case) -> Verdict:
        ran.append(case)
        return Verdict(case, "it", "interpret", KernelCrashed(case.op, None, None, "gone"))

    asked = answers.Answers(promises=lambda target: _narrow())
    verdict = asked.verdict(LARGE, "it", run)
    assert verdict is not None
    assert (verdict.case.lens, verdict.case.K) == ((1,), 8)
    assert [case for case in ran if _narrow().broken_by(case)] == []


# --- campaigns ---


def run_campaign(toy: str, corpus: Path, **options: Any) -> tuple[campaign.Outcome, list[events.Event]]:
    told: list[events.Event] = []
    given = {
        "operations": ("gdn.decode", "kda.recurrent"),
        "workers": 1,
        "seed": 7,
        "max_cases": 40,
        **options,
    }
    config = campaign.Config(target=f"{TOYS}:{toy}", backend="interpret", corpus=corpus, **given)
    return campaign.run(config, told.append), told


def ran(told: list[events.Event]) -> Iterator[Case]:
    for event in told:
        if isinstance(event, events.CaseRun):
            assert event.case is not None
            assert event.refused is None
            yield event.case


def test_a_campaign_runs_and_shrinks_inside_and_leaves_old_findings_outside_alone(tmp_path: Path) -> None:
    outside = Finding(DECODE, f"{TOYS}:promising_wrong", "interpret", "raised", "it was")
    Corpus(tmp_path).save(outside)
    outcome, told = run_campaign("promising_wrong", tmp_path)
    found = list(ran(told))
    assert len(found) >= 40
    assert [_narrow().broken_by(case) for case in found if _narrow().broken_by(case)] == []
    (replayed,) = (event for event in told if isinstance(event, events.FindingReplayed))
    assert (replayed.status, replayed.reason) == (
        "REFUSED",
        f"{OUTSIDE}dtype: bfloat16 promised, float32 asked",
    )
    assert outcome.findings
    for finding in outcome.findings:
        assert (finding.case.total, finding.case.K, finding.case.HV) == (3, 8, 2)


class Unstarted(engine._Campaign):
    """A campaign on a GPU that notes what it would have its workers run."""

    def __init__(self, promises: Promises) -> None:
        self.told: list[events.Event] = []
        self.work: list[list[tasks.RunCase]] = []
        few = ("gdn.extend", "kda.verify")
        config = campaign.Config("fla", few, "gpu", 7, 4, Path("findings"))
        super().__init__(
            config, self.told.append, Corpus(config.corpus), WorkerPool(config.pool, Path("running"))
        )
        self.inbox.ready = tasks.Ready("a GPU", {}, few, "vk", dict.fromkeys(few, 1), promises)
        self._prepare(Menu.draw(7, few, promises=promises), few)

    def _each(self, work: list[tasks.RunCase], seconds: float | None = None) -> None:
        self.work.append(work)


def test_a_gpu_campaign_compiles_and_runs_geometries_inside() -> None:
    promises = Promises(HV=Span(1, 16), l2norm=(True,), tree=(False,))
    made = Unstarted(promises)
    compiled, geometries = made.work
    assert compiled
    assert [task for task in (*compiled, *geometries) if promises.broken_by(task.case)] == []
    assert {task.case.HV for task in geometries} == {8, 16, 12, 6, 3}
    left_out = [event for event in made.told if isinstance(event, events.CasesLeftOut)]
    assert left_out == [events.CasesLeftOut("geometries", 6, f"{OUTSIDE}HV: 1 to 16 promised, 32 asked")]
