"""How small an error is found: the errors, the criteria, the search, the figures and the command."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path

import pytest
import torch

from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cli import run
from diffgdn.selftest.resolution import criteria, injections, smallest_error, study, summary
from diffgdn.selftest.resolution.criteria import CRITERIA, OURS
from diffgdn.selftest.resolution.injections import INJECTIONS, Coarse
from diffgdn.selftest.resolution.smallest_error import Measured, Smallest
from diffgdn.selftest.resolution.subject import Subject
from diffgdn.targets.base import default_contract
from diffgdn.verdict.comparison import Comparison

CASE = Case(
    "gdn.update",
    lens=(5, 3),
    H=1,
    HV=2,
    K=8,
    V=4,
    dtype="bfloat16",
    pool=Pool(slots=3, indices=(2, 0)),
    gates=Gates("uniform", beta="uniform"),
    values=Values("normal", seed=7),
)
EXACT = Case(
    "gdn.update", lens=(3,), K=4, V=4, values=Values("exact", seed=3), gates=Gates("exact"), scale=1.0
)


@cache
def subject(case: Case = CASE) -> Subject:
    return Subject.prepare(case, default_contract(case.op))


def changes(name: str, size: float, case: Case = CASE, seed: int = 0) -> injections.Results:
    """By how much an injection changes each result, before the last rounding."""
    strike = INJECTIONS[name].draw(subject(case), random.Random(seed))
    assert strike is not None
    return {result: wrong - subject(case).results[result] for result, wrong in strike.at(size).items()}


def compared(
    errors: list[float], expected: list[float], op: str = "gdn.update", name: str = "o"
) -> Comparison:
    """A result with these errors, whose own noise allows none of them."""
    wanted, error = (torch.tensor([[numbers]], dtype=torch.float64) for numbers in (expected, errors))
    got, none = wanted + error, torch.zeros_like(wanted)
    return Comparison(Case(op), name, torch.float32, got, wanted, none, none, none.bool())


@pytest.mark.parametrize(
    ("name", "elements"),
    [("element", {1}), ("row", {4, 8}), ("token", {8})],
)
def test_errors_in_noises_strike_one_place(name: str, elements: set[int]) -> None:
    """Each element there is off by the size times its own noise, and nothing else is."""
    for seed in range(8):
        ((result, error),) = changes(name, 3.0, seed=seed).items()
        struck = error != 0
        assert int(struck.sum()) in elements
        assert torch.allclose(error[struck].abs(), 3.0 * subject().unit(result)[struck])


def test_elements_of_every_result_are_struck() -> None:
    assert {result for seed in range(20) for result in changes("element", 1.0, seed=seed)} == {"o", "state"}


def test_a_noise_is_no_less_than_the_rounding_of_the_stored_format() -> None:
    """A state in bf16 cannot show what a state in fp32 can."""
    o = subject().comparisons["o"]
    assert bool((subject().unit("o") >= o.half_ulp * 0.57).all())
    assert bool((subject().unit("o") >= o.noise).all())


def test_a_gain_multiplies_the_output_of_one_head() -> None:
    ((result, error),) = changes("gain", 0.5).items()
    head = int(error.abs().sum((0, 2)).argmax())
    assert result == "o"
    assert torch.allclose(error[:, head], 0.5 * subject().results["o"][:, head])
    assert not error[:, 1 - head].any()


def test_a_bias_is_one_number_in_every_output() -> None:
    ((result, error),) = changes("bias", 0.5).items()
    assert result == "o"
    assert torch.allclose(error.abs(), 0.5 * subject().comparisons["o"].expected.square().mean().sqrt())
    assert error.min() == pytest.approx(error.max())


def test_padding_has_no_bias() -> None:
    """Its output is zero by contract: an error there is found at once by all."""
    case = Case(
        "gdn.packed_decode", lens=(1, 1), pool=Pool(slots=2, indices=(-1, 1)), values=Values("normal")
    )
    error = changes("bias", 1.0, case)["o"]
    assert not error[0].any()
    assert error[1].all()


def test_a_whole_stale_slot_is_the_result_of_the_other_state() -> None:
    state = subject().data["state"]
    other = subject().moved({"state": state[[1, 1]]}), subject().moved({"state": state[[0, 0]]})
    error = changes("stale slot", 1.0)
    assert any(all(torch.allclose(error[name], one[name]) for name in error) for one in other)
    assert torch.allclose(changes("stale slot", 0.25)["o"], 0.25 * error["o"])


def test_a_forgotten_slot_is_not_stale() -> None:
    """Where no result moves by a part in 256 of its length, another state is no error to find."""
    gone = Gates("constant", strength=8.0, beta="uniform")
    forgotten = Case(
        "gdn.update", lens=(5, 3), pool=Pool(slots=2, indices=(0, 1)), gates=gone, values=Values("normal")
    )
    assert INJECTIONS["stale slot"].draw(subject(forgotten), random.Random(0)) is None


def test_a_coarse_state_has_the_bits_of_the_format() -> None:
    x = torch.randn(64, dtype=torch.float32).double()
    contract = default_contract(CASE.op)
    assert torch.equal(Coarse(CASE, contract, summary.BF16, None).state(x), x.bfloat16().double())
    assert torch.equal(Coarse(CASE, contract, summary.FP16, None).state(x), x.half().double())
    once = Coarse(CASE, contract, summary.BF16, 1)
    assert [torch.equal(once.state(x), x) for _ in range(3)] == [True, False, True]


ONES = [1.0] * 100
WITHIN = [
    ("FLA", "gdn.update", "o", [0.0049] * 100, True),
    ("FLA", "gdn.update", "o", [0.0051] * 100, False),
    ("FLA", "gdn.update", "state", [0.049] + [0.0] * 99, True),
    ("FLA in CI", "gdn.update", "o", [0.29] * 100, True),
    ("FLA in CI", "gdn.update", "o", [0.31] * 100, False),
    ("FLA in CI", "gdn.update", "o", [0.31] + [0.0] * 9999, True),
    ("SGLang", "gdn.update", "o", [0.029] * 100, True),
    ("SGLang", "gdn.update", "o", [0.031] + [0.0] * 99, False),
    ("SGLang", "kda.update", "o", [0.031] + [0.0] * 99, True),
    ("SGLang", "kda.update", "o", [0.0101] * 100, False),
    ("vLLM", "gdn.update", "o", [0.0249] * 100, True),
    ("vLLM", "gdn.update", "o", [0.0251] + [0.0] * 99, False),
    ("FlashInfer", "gdn.update", "o", [0.0199] * 100, True),
    ("FlashInfer", "gdn.update", "o", [0.0201] + [0.0] * 99, False),
    ("FlashInfer", "gdn.update", "state", [0.0059] * 100, True),
    ("FlashInfer", "gdn.update", "state", [0.0061] + [0.0] * 99, False),
    ("FlashQLA", "gdn.update", "o", [0.0199] * 100, True),
    ("FlashQLA", "gdn.update", "o", [0.0201] * 100, False),
    (OURS, "gdn.update", "o", [1e-3] + [0.0] * 99, False),
]


@pytest.mark.parametrize(("name", "op", "result", "errors", "passes"), WITHIN)
def test_a_criterion_on_either_side_of_its_tolerance(
    name: str, op: str, result: str, errors: list[float], passes: bool
) -> None:
    one = compared(errors, [1.0] * len(errors), op, result)
    assert CRITERIA[name].rejects(one, False) is not passes


def test_fla_lets_any_ratio_pass_below_a_millionth() -> None:
    assert not criteria.fla(compared([0.9e-6], [1e-9]), False)
    assert criteria.fla(compared([1.1e-6], [1e-9]), False)


@pytest.mark.parametrize("name", CRITERIA)
def test_results_that_are_not_finite_are_rejected(name: str) -> None:
    assert CRITERIA[name].rejects(compared([float("inf")] + [0.0] * 99, ONES), False)
    assert CRITERIA[name].rejects(compared([float("nan")] + [0.0] * 99, ONES), False)


def test_the_smallest_size_that_is_found() -> None:
    sizes = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert smallest_error.least(sizes, lambda size: size >= 0.5) == 1.0
    assert smallest_error.least(sizes, lambda size: size >= 3.0) == 4.0
    assert smallest_error.least(sizes, lambda size: size >= 16.0) == 16.0
    assert smallest_error.least(sizes, lambda size: False) is None


@pytest.mark.parametrize("name", [name for name in CRITERIA if name != OURS])
def test_every_size_is_the_smallest_its_criterion_finds(name: str) -> None:
    """One grid step below, the same strike passes."""
    strike = INJECTIONS["element"].draw(subject(), random.Random(3))
    assert strike is not None

    def found(size: float) -> bool:
        return smallest_error.rejects(name, subject().judged(strike.at(size)), exact=False)

    size = smallest_error.least(INJECTIONS["element"].sizes, found)
    assert size is not None
    assert found(size)
    assert not found(size / 2.0 ** (1 / injections.STEPS))


@pytest.mark.parametrize("op", ["gdn.extend", "kda.decode", "gdn.verify"])
def test_one_wrong_element_is_found_at_16_noises_or_less(op: str) -> None:
    """And no correct result is rejected."""
    measured = summary.rounding(study.measured(op, "bfloat16", "1", 3))
    assert not any(OURS in one.rejected for one in measured)
    (row,) = (row for row in summary.rows(measured) if row.injection == "element")
    ours = row.figures[OURS].size
    assert ours is not None
    assert 1.0 < ours <= 16.0
    assert op == "gdn.extend" or all(
        figure.median_ratio is None or figure.median_ratio >= 1.0 for figure in row.figures.values()
    ), "only where correct kernels stray far may a norm over all elements find less"


def test_in_an_exact_case_any_error_is_found_and_told_apart() -> None:
    one = smallest_error.measure(EXACT, random.Random(0))
    assert one.exact
    assert summary.rounding([one]) == []
    (size,) = (found.sizes[OURS] for found in one.found if found.injection == "gain")
    assert size is not None
    assert size < 1e-6


def test_the_same_seed_gives_the_same_figures() -> None:
    assert study.measured("gdn.packed_decode", "float16", "5", 2) == study.measured(
        "gdn.packed_decode", "float16", "5", 2
    )


def test_workers_change_no_figure() -> None:
    ops = ("gdn.packed_decode", "kda.packed_decode")
    alone, together = (study.run(study.Study(ops, cases=2, seed=5, workers=n)) for n in (1, 2))
    assert alone == together
    assert {one.op for one in alone} == set(ops)


def test_without_a_number_of_cases_it_goes_on_until_the_time_is_up() -> None:
    """Each operation has one batch, however short the time."""
    ops = ("gdn.packed_decode", "kda.packed_decode")
    done: list[int] = []
    found = study.run(study.Study(ops, cases=None, seed=5), done.append, max_seconds=0.001)
    assert len(done) == len(ops)
    assert {one.op for one in found} == set(ops)


def test_the_number_of_batches_is_that_of_the_batches() -> None:
    for cases in (1, 10, 11, 30):
        asked = study.Study(("gdn.decode", "kda.decode"), cases=cases, seed=5)
        assert asked.number_of_batches == len(list(asked.batches()))
        assert sum(count for *_, count in asked.batches()) == 2 * cases


def test_the_99th_of_a_hundred() -> None:
    sizes: list[float | None] = [float(i) for i in range(100, 0, -1)]
    assert summary.quantile(sizes, 0.99) == 99.0
    assert summary.quantile([None, *sizes[1:]], 0.99) == 99.0
    assert summary.quantile([None, None, *sizes[2:]], 0.99) is None
    assert summary.quantile([], 0.99) is None


def case_with(ours: float, theirs: float | None = None, rejected: tuple[str, ...] = ()) -> Measured:
    sizes: dict[str, float | None] = {OURS: ours}
    if not rejected:
        sizes["FLA"] = theirs
    return Measured("0" * 12, "gdn.update", False, rejected, (Smallest("element", sizes, 0.5),))


def test_ratios_are_of_the_cases_that_both_judge() -> None:
    (row,) = summary.rows([case_with(2.0, 8.0), case_with(4.0, 64.0), case_with(32.0, rejected=("FLA",))])
    ours, fla = row.figures[OURS], row.figures["FLA"]
    assert (ours.strikes, ours.size, ours.of_rms) == (3, 32.0, 16.0)
    assert (fla.strikes, fla.size, fla.ratio, fla.median_ratio) == (2, 64.0, 16.0, 4.0)
    assert {op: figure.size for op, figure in row.operations.items()} == {"gdn.update": 32.0}


def test_what_is_never_found_has_a_share_and_no_size() -> None:
    (row,) = summary.rows([case_with(2.0, 8.0), case_with(4.0, None)])
    fla = row.figures["FLA"]
    assert (fla.size, fla.found, fla.ratio) == (None, 0.5, None)


def test_the_command_shows_a_table_and_writes_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = "resolution --op gdn.recurrent --max-cases 3 --seed 1 --workers 1 --json out.json"
    assert run(line.split()) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("resolution: 1 operation, bfloat16, 1 worker, seed 1\n")
    lines = [line.split() for line in shown.splitlines()]
    report = json.loads((tmp_path / "out.json").read_text())
    assert list(report["operations"]) == ["gdn.recurrent"]
    assert (report["seed"], report["dtype"]) == (1, "bfloat16")
    assert set(report["criteria"]) == set(CRITERIA)
    counts = report["operations"]["gdn.recurrent"]
    assert 1 <= counts["cases"] + counts["exact"] <= 3
    for name, figures in report["injections"].items():
        assert figures["words"] in shown
        assert set(figures["criteria"]) == set(CRITERIA), name
    assert sum(line[:1] == [OURS] for line in lines) == len(report["injections"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json"]


WRONG = [
    ("--op gdn.encode", "--op: no operation matches 'gdn.encode'; known: gdn.extend, "),
    ("--cases 0", "Invalid value for '--cases': 0 is not in the range x>=1."),
    ("--cases many", "Invalid value for '--cases': 'many' is not a valid integer"),
    (
        "--cases 3 --max-cases 36",
        "--max-cases: of all operations together; leave out --cases, which is of each",
    ),
    ("--max-cases 13", "--max-cases 13: fewer than 14 operations; choose some with --op"),
    ("--dtype float8", "Invalid value for '--dtype': 'float8' is not one of "),
    ("--seed -1", "Invalid value for '--seed': -1 is not in the range"),
    ("--workers 0", "Invalid value for '--workers': expected auto or a number from 1 to 1024, got '0'"),
    ("--json .", "--json .: it is a folder"),
    ("--json nowhere/out.json", "--json nowhere/out.json: folder nowhere does not exist"),
    ("gdn.decode", "Got unexpected extra argument (gdn.decode)"),
]


@pytest.mark.parametrize(("line", "message"), WRONG, ids=[line for line, _ in WRONG])
def test_a_wrong_command_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["resolution", *line.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("diffgdn: ")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
