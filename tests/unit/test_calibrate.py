"""How many sigmas errors come to: counted right to the bin, added up, shown with the margin to the limit."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from diffgdn import campaign, targets
from diffgdn.campaign.events import CampaignStarted, CaseRun, Event
from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cli import run
from diffgdn.reference import noise
from diffgdn.reference.limit import MAX_SIGMAS
from diffgdn.report.calibration_table import CalibrationTally
from diffgdn.report.console import ConsoleReport
from diffgdn.report.jsonfile import summary
from diffgdn.report.tally import Tally
from diffgdn.targets.eager import Eager
from diffgdn.tensors.arena import Arguments
from diffgdn.verdict import execute, histogram
from diffgdn.verdict.comparison import Comparison
from diffgdn.verdict.error_counts import count_errors, count_values
from diffgdn.verdict.failures import Errors
from diffgdn.verdict.histogram import BINS, Histogram, lower, upper

CASE = Case(
    "gdn.update",
    (3, 2),
    H=1,
    HV=2,
    dtype="bfloat16",
    pool=Pool(2, (1, 0)),
    gates=Gates(law="uniform", beta="uniform"),
    values=Values(law="normal", seed=3),
)
EXACT = replace(CASE, values=Values(law="exact"), gates=Gates(law="exact", beta="exact"), scale=1.0)


def spread(count: int = 5000) -> Tensor:
    """Values from 2**-14 to 2**14, evenly on a log scale, and some zeros."""
    values = torch.exp2(torch.linspace(-14.0, 14.0, count, dtype=torch.float64))
    return torch.cat([values, torch.zeros(100, dtype=torch.float64)])


def comparison(sigmas: Tensor, noise_size: float = 2.0**-10) -> Comparison:
    """A float32 result of ones whose errors, past the final rounding, come to so many sigmas."""
    expected = torch.ones_like(sigmas)
    half = torch.full_like(sigmas, 2.0**-24)
    got = expected + half + sigmas * (noise_size + noise.TINY / MAX_SIGMAS)
    unwritten = torch.zeros_like(sigmas, dtype=torch.bool)
    sizes = torch.full_like(sigmas, noise_size)
    return Comparison(CASE, "o", torch.float32, got, expected, sizes, half, unwritten)


def test_bins_follow_each_other() -> None:
    """From zero to infinity without a gap, none wider than an eighth of its lower edge but the first and
    last."""
    assert (lower(0), upper(0), upper(BINS - 1)) == (0.0, 2.0**histogram.LOWEST, math.inf)
    for number in range(1, BINS - 1):
        assert upper(number - 1) == lower(number) < upper(number) == lower(number + 1)
        assert upper(number) <= lower(number) * (1 + 1 / histogram.PARTS)


def test_each_value_is_in_its_bin() -> None:
    """Also at the edges, which belong to the bin above."""
    edges = [lower(number) for number in range(BINS)]
    for value in [*spread(300).tolist(), *edges, *(math.nextafter(edge, 0.0) for edge in edges[1:])]:
        (number,) = count_values(torch.tensor([value], dtype=torch.float64)).counts
        assert lower(number) <= value < upper(number)


def test_what_is_not_finite_is_in_the_last_bin() -> None:
    """Also an error that is no number."""
    one = comparison(torch.tensor([[1.0, 1.0]], dtype=torch.float64))
    got = torch.tensor([[math.nan, -math.inf]], dtype=torch.float64)
    errors = count_errors(replace(one, got=got))
    assert (errors.elements, errors.rows.largest) == (Histogram({BINS - 1: 2}, math.inf), math.inf)


def test_histograms_add_up() -> None:
    """Counting parts and adding is counting the whole, in any order."""
    values = spread()[torch.randperm(5100, generator=torch.Generator().manual_seed(1))]
    parts = [count_values(part) for part in values.split(700)]
    assert sum(parts, Histogram()) == sum(reversed(parts), Histogram()) == count_values(values)
    assert Histogram() + parts[0] == parts[0]


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.99, 0.9999, 1.0])
def test_quantiles_are_right_to_the_bin(share: float) -> None:
    """The value that this share does not exceed lies in the bin whose upper edge is given."""
    values = spread().sort().values
    true = float(values[math.ceil(share * len(values)) - 1])
    given = count_values(values).quantile(share)
    (number,) = count_values(torch.tensor([true], dtype=torch.float64)).counts
    assert given == min(upper(number), float(values[-1]))


def test_no_values_have_no_quantile() -> None:
    assert count_values(torch.zeros(0, dtype=torch.float64)) == Histogram()
    assert (Histogram().quantile(0.5), Histogram().beyond()) == (None, [])


def test_the_share_beyond_falls_from_one() -> None:
    """At each edge it is what is left above it; at the largest value, its own bin."""
    values = torch.tensor([0.5, 1.0, 1.0, 2.0], dtype=torch.float64)
    beyond = dict(count_values(values).beyond())
    assert {x: beyond[x] for x in (0.5, 1.0, 2.0)} == {0.5: 1.0, 1.0: 0.75, 2.0: 0.25}
    assert beyond[1.125] == 0.25
    assert list(beyond) == sorted(beyond)


def test_a_planted_distribution_is_measured() -> None:
    """Errors of known size, element by element and by row: root mean square over the last axis."""
    planted = torch.tensor([[0.0, 0.3, 3.0, 5.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    errors = count_errors(comparison(planted))
    assert errors.result == "o"
    assert errors.elements.largest == pytest.approx(5.0)
    bins = (0, *count_values(planted[1]).counts)
    assert [errors.elements.counts.get(number, 0) for number in bins] == [1, 4]
    assert errors.rows.total == 2
    assert errors.rows.largest == pytest.approx(math.sqrt((0.09 + 9 + 25) / 4))
    assert errors.rows.quantile(0.5) == pytest.approx(1.0, rel=0.13)


def test_the_final_rounding_is_no_error() -> None:
    """An error of half a spacing of the format, which no kernel can avoid, comes to no noise at all."""
    errors = count_errors(comparison(torch.zeros(3, 4, dtype=torch.float64)))
    assert errors.elements.counts == {0: 12}
    assert errors.elements.largest == errors.rows.largest == 0.0


def test_where_the_format_ends_there_is_no_error() -> None:
    """A result that a correct kernel may round to infinity says nothing."""
    one = comparison(torch.tensor([[1.0, 2.0]], dtype=torch.float64))
    large = torch.tensor([[1.0, 1e39]], dtype=torch.float64)
    got = torch.tensor([[float(one.got[0, 0]), math.inf]], dtype=torch.float64)
    errors = count_errors(replace(one, expected=large, got=got))
    assert errors.elements.largest == pytest.approx(1.0)


def test_a_run_counts_every_result_that_has_a_bound() -> None:
    """The largest is the share that the verdict gives, in sigmas; every element is counted."""
    verdict = execute.run(CASE, Eager(), "interpret", errors=True)
    assert {one.result: one.elements.largest / MAX_SIGMAS for one in verdict.errors} == verdict.shares
    assert {one.result: one.elements.total for one in verdict.errors} == {
        "o": 5 * 2 * 16,
        "state": 2 * 2 * 256,
    }
    assert {one.result: one.rows.total for one in verdict.errors} == {"o": 5 * 2, "state": 2 * 2 * 16}


def test_nothing_is_counted_unless_asked() -> None:
    """And never where there is no noise to count in."""
    assert execute.run(CASE, Eager(), "interpret").errors == ()
    exact = execute.run(EXACT, Eager(), "interpret", errors=True)
    assert (exact.exact, exact.errors) == (True, ())


class Wrong(Eager):
    """Outputs a little too large."""

    def run(self, case: Case, arguments: Arguments) -> dict[str, Tensor]:
        results = super().run(case, arguments)
        results["o"].mul_(1.25)
        return results


def test_errors_beyond_the_limit_are_counted_too() -> None:
    """A distribution without its worst would be a lie."""
    verdict = execute.run(CASE, Wrong(), "interpret", errors=True)
    assert verdict.failure is not None
    assert verdict.errors[0].elements.largest > MAX_SIGMAS


def stored(report: dict[str, Any]) -> dict[str, Any]:
    """As it reads back from a file."""
    found: dict[str, Any] = json.loads(json.dumps(report, allow_nan=False))
    return found


def event(case: Case, largest: float) -> CaseRun:
    counts = Errors("o", Histogram({100: 3}, largest), Histogram({90: 1}, largest / 2))
    return CaseRun(case.op, "explore", 0.1, case=case, errors=(counts,))


def test_a_campaign_keeps_results_apart_and_the_worst_case() -> None:
    """By operation, dtype, result and level; tables and JSON add up what they leave out."""
    tally, other = CalibrationTally(), replace(CASE, dtype="float32")
    for one, largest in ((CASE, 2.0), (other, 4.0), (CASE, 3.0)):
        tally.add(event(one, largest))
    assert {(key.dtype, key.level): found.total for key, found in tally.histograms.items()} == {
        ("bfloat16", "elements"): 6,
        ("bfloat16", "rows"): 2,
        ("float32", "elements"): 3,
        ("float32", "rows"): 1,
    }
    mine = stored(tally.to_json())["operations"]["gdn.update"]
    assert [mine["elements"][name] for name in ("total", "largest", "margin")] == [9, 4.0, MAX_SIGMAS / 4.0]
    assert mine["rows"]["margin"] == MAX_SIGMAS / 2.0
    assert Case.from_json(mine["largest_case"]) == other


def test_an_infinite_error_has_no_margin() -> None:
    tally = CalibrationTally()
    tally.add(event(CASE, math.inf))
    mine = stored(tally.to_json())["operations"]["gdn.update"]["elements"]
    assert (mine["largest"], mine["margin"]) == (None, None)


def test_the_oracles_share_of_the_time() -> None:
    """Over all operations; None where the oracle was not asked."""
    tally = Tally()
    operations = ("gdn.update", "gdn.decode")
    tally(CampaignStarted(campaign.Config("eager", operations, "interpret", 1, 1, Path("findings"))))
    tally(CaseRun("gdn.update", "explore", 3.0, parts={"kernel": 1.0, "oracle": 2.0}))
    assert tally.oracle_share == pytest.approx(2 / 3)
    tally(CaseRun("gdn.decode", "explore", 1.0, parts={"kernel": 1.0}))
    assert tally.oracle_share == pytest.approx(0.5)
    assert tally.operations["gdn.update"].parts == {"kernel": 1.0, "oracle": 2.0}
    assert Tally().oracle_share is None


def explored(folder: Path, mode: str, isolation: str) -> tuple[Tally, str]:
    """A small campaign on the eager target, and what it shows."""
    operations = ("gdn.decode", "kda.recurrent")
    config = campaign.Config(
        "eager",
        operations,
        "interpret",
        1,
        1,
        folder,
        max_cases=12,
        isolation=isolation,
        mode=mode,
    )
    screen, tally = io.StringIO(), Tally()
    report = ConsoleReport(Console(file=screen, width=80))

    def listen(event: Event) -> None:
        tally(event)
        report(event)

    outcome = campaign.run(config, listen)
    assert (outcome.problem, outcome.findings) == (None, ())
    return tally, screen.getvalue()


def test_a_campaign_counts_errors_in_a_child_as_in_the_worker(tmp_path: Path) -> None:
    """The same cases give the same counts, whatever process has the tensors."""
    inside, text = explored(tmp_path, "errors", "none")
    outside, _ = explored(tmp_path, "errors", "child")
    assert inside.calibration.histograms == outside.calibration.histograms
    assert sum(one.total for one in inside.calibration.histograms.values()) > 100
    assert text.startswith("calibrate eager on backend interpret: 12 cases")
    lines = [line.split() for line in text.splitlines()]
    assert ["operation", "of", "count", "50", "%", "99", "%", "99.99", "%", "largest", "margin"] in lines
    shown = {tuple(line[:2]) for line in lines}
    assert shown >= {(op, of) for op in ("gdn.decode", "all") for of in ("elements", "rows")}
    assert "oracle and noise" in text
    assert summary(inside)["calibration"]["limit"] == MAX_SIGMAS
    assert 0 < summary(inside)["totals"]["oracle_share"] < 1


def test_a_campaign_asks_for_vacuity(tmp_path: Path) -> None:
    """No kernel runs and nothing fails: the answer is a table."""
    tally, text = explored(tmp_path, "vacuity", "none")
    assert text.startswith("fuzz vacuity of eager on backend interpret: 12 cases")
    shown = stored(summary(tally))["vacuity"]
    assert shown["cases"] == 12
    assert shown["wrong_results"]["zeros"]["cases"] > 6
    assert shown["vacuous"] >= 1  # the plainest case of all lets a constant pass
    assert Case.from_json(shown["wrong_results"]["constant"]["passes"]).values.law == "ones"
    assert "constant passes: Case(op=" in text
    assert sum(one["cases"] for one in shown["exact"]) == 12
    assert "of them (" in text.splitlines()[-1]
    assert set(tally.operations["gdn.decode"].parts) == {"vacuity"}
    assert summary(tally)["totals"]["oracle_share"] is None


def test_a_plot_needs_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line before anything is run."""
    monkeypatch.setattr("diffgdn.cli.calibrate_command.find_spec", lambda name: None)
    assert run(["calibrate", "--plot", str(tmp_path / "plots"), "--target", "eager"]) == 2
    error = capsys.readouterr().err
    assert error == "diffgdn: --plot: matplotlib is not installed: pip install 'diffgdn[bench]'\n"


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_a_plot_of_each_operation(tmp_path: Path) -> None:
    """Also where there is nothing to see: all errors zero."""
    from diffgdn.report.plot import draw

    found = count_values(spread())
    draw("gdn.update", {("bfloat16", "elements"): found, ("float32", "rows"): found}, tmp_path / "one.png")
    draw("gdn.decode", {("bfloat16", "elements"): Histogram({0: 5})}, tmp_path / "two.png")
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("one.png", "two.png"))


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    known = "oracle, errors, vacuity, relations, serving"
    with pytest.raises(ValueError, match=f"mode: expected one of {known}, got 'speed'"):
        campaign.Config("eager", ("gdn.decode",), "interpret", 1, 1, tmp_path, mode="speed")


def test_the_eager_target_is_within_the_limit() -> None:
    """What the limit promises of a correct target, on one case of each operation's kind."""
    for case in (CASE, replace(CASE, dtype="float16"), replace(CASE, op="kda.update", dtype="float32")):
        errors = execute.run(case, targets.get("eager"), "interpret", errors=True).errors
        assert 0.0 < max(one.elements.largest for one in errors) < MAX_SIGMAS
