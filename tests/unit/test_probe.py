"""A probe: each feature is decided by itself, what ends a process ends one cell, and the promises that are
printed are those that fit.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import diffgdn
from diffgdn.cases import lay, promise_axes, spans
from diffgdn.cases.case import Case
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.promises import EVERYTHING, Promises
from diffgdn.cases.spans import Span
from diffgdn.cli import probe_command, run
from diffgdn.probe import fitted_promises, plain_search, plan
from diffgdn.probe.argument_lays import in_form
from diffgdn.probe.asker import Asked, Asker
from diffgdn.probe.cells import Cell, Matrix, Row
from diffgdn.probe.features import cases, features
from diffgdn.probe.fitted_promises import fit, numbers
from diffgdn.probe.matrix import Config, probe
from diffgdn.probe.needs_of_cases import KIND
from diffgdn.report import probe_files, promises_text
from diffgdn.runner.messages import RunnerError
from diffgdn.verdict.failures import Verdict

PROBED = Path(__file__).with_name("probed.py")
EAGER = "interpret"
HANG_SECONDS = 4.0


@cache
def probed(name: str, pattern: str = "*") -> Matrix:
    """The matrix of a target of probed.py."""
    config = Config(f"{PROBED}:{name}", EAGER, tuple(OPERATIONS), pattern, 2, 300.0, HANG_SECONDS)
    return probe(config)


def statuses(matrix: Matrix) -> dict[str, str]:
    return {cell.name: cell.status for row in matrix.rows for cell in row.cells}


@pytest.mark.parametrize("cells", [1, 6])
def test_an_interrupted_probe_tells_what_it_knows(cells: int) -> None:
    def stop(words: str, done: int, known: int) -> None:
        if done >= cells:
            raise KeyboardInterrupt

    config = Config("vk", EAGER, ("gdn.decode",), "K=*", 1, 300.0, HANG_SECONDS)
    matrix = probe(config, stop)
    assert (matrix.interrupted, matrix.exit_code) == (True, 130)
    found = [cell.status for row in matrix.rows for cell in row.cells]
    assert "right" in found
    left = {cell.message for row in matrix.rows for cell in row.cells if cell.status == "not reached"}
    assert left == {"the probe was interrupted"}
    told = json.loads(probe_files.text(matrix))
    assert (told["interrupted"], told["promises"]) == (True, {"python": "", "toml": ""})
    assert "Promises that fit" not in probe_files.html(matrix)


def test_a_probe_interrupted_before_it_knows_anything_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> Cell:
        raise KeyboardInterrupt

    monkeypatch.setattr(Asker, "cell", stop)
    with pytest.raises(KeyboardInterrupt):
        probe(Config("vk", EAGER, ("gdn.decode",), "K=*", 1, 300.0, HANG_SECONDS))


@pytest.mark.parametrize("op", OPERATIONS)
def test_a_case_differs_from_the_plain_one_in_its_feature_and_what_is_a_feature_too(op: str) -> None:
    usual = plan.usual(op)
    every = features(op, usual)
    named = {(one.axis, one.value) for one in every}
    plain: dict[str, set[Any]] = {}
    for axis, value in promise_axes.asked(usual.case()):
        plain.setdefault(axis, set()).add(value)
    assert len({one.name for one in every}) == len(every)
    for feature in every:
        for case in cases(feature, usual):
            asked = set(promise_axes.asked(case))
            assert (feature.axis, feature.value) in asked
            for axis, value in asked:
                known = axis not in plain or value in plain[axis] or axis in feature.axes
                number = not isinstance(KIND[axis], promise_axes.Words)
                assert known or number or (axis, value) in named, (feature.name, axis, value)


@pytest.mark.parametrize("op", OPERATIONS)
def test_every_axis_of_promises_that_an_operation_has_is_asked_about(op: str) -> None:
    asked = {axis for axis, _ in promise_axes.asked(plan.usual(op).case())}
    asked |= {
        axis
        for feature in features(op, plan.usual(op))
        for case in cases(feature, plan.usual(op))
        for axis, _ in promise_axes.asked(case)
    }
    goes_by_others = {"HV"} | ({"empty", "shared"} if OPERATIONS[op].single_token else set())
    goes_by_others |= {"shared"} if OPERATIONS[op].commits else set()
    assert asked - goes_by_others <= {feature.axis for feature in features(op, plan.usual(op))}


def test_lays_of_a_form_have_no_other_form() -> None:
    case = plan.usual("gdn.verify").case()
    for word in ("gapped tokens", "nested states", "gapped buffers", "lying tokens"):
        laid = Case(**{**vars(case), "lay": in_form(case, word)})
        assert {value for axis, value in promise_axes.asked(laid) if axis == "strides"} == {word}
    with pytest.raises(ValueError, match="wide tokens"):
        in_form(case, "wide tokens")


def test_nested_arguments_have_no_stride_that_they_had() -> None:
    case = plan.usual("gdn.verify").case()
    compact = {name: lay.strides(shape, lay.Lay(name)) for name, shape in lay.shapes(case).items()}
    for word in ("nested tokens", "nested states", "nested buffers"):
        laid = Case(**{**vars(case), "lay": in_form(case, word)})
        for one, shape, steps in lay.placed(laid):
            moved = [axis for axis in range(len(shape) - 1) if shape[axis] > 1]
            middle = [axis for axis in moved if steps[axis] == compact[one.tensor][axis]]
            assert len(middle) < len(moved) - 1, (one, shape, steps)


def test_exactly_the_features_with_a_fault_are_not_right() -> None:
    found = statuses(probed("faulty"))
    bad = {name: status for name, status in found.items() if status not in ("right", "not reached")}
    assert bad == {
        "view=packed": "wrong",
        "scale=given": "raises",
        "index_dtype=int64": "crashes",
        "cu_dtype=int64": "hangs",
        "pitch=1": "wrong",
    }
    assert {name for name, status in found.items() if status == "not reached"} == {
        f"execution={word}" for word in ("graph", "graph_stale", "graph_poisoned", "stream", "device")
    }


def test_a_pair_is_wrong_where_each_feature_alone_is_right() -> None:
    [row] = probed("faulty").rows
    assert {cell.name for cell in row.pairs} == {"ratio=2, batch=dense", "ratio=3, batch=dense"}
    assert {cell.status for cell in row.pairs} == {"wrong"}
    assert row.pairs_asked > len(row.pairs)


def test_a_wrong_cell_has_the_smallest_case_that_keeps_its_feature() -> None:
    [cell] = [cell for cell in probed("faulty").every if cell.name == "view=packed"]
    assert cell.case == Case("gdn.decode", view="packed")


def test_all_is_promised_where_a_target_says_nothing_so_what_is_wrong_breaks_promises() -> None:
    matrix = probed("faulty")
    assert matrix.exit_code == 1
    assert {cell.name for cell in matrix.broken} >= {"view=packed", "cu_dtype=int64", "ratio=2, batch=dense"}


def test_a_kernel_for_one_dtype_and_one_size_has_a_plain_case_of_these() -> None:
    matrix = probed("narrow")
    [row] = matrix.rows
    assert set(row.instead) == {"dtype=float16", "K=128", "V=128"}
    found = statuses(matrix)
    assert {name for name in found if found[name] == "right"} >= {"dtype=float16", "K=V=128", "l2norm=false"}
    assert found["dtype=bfloat16"] == found["K=V=64"] == found["square=false"] == "raises"
    assert found["V=64"] == "not reached"
    assert found["view=gapped"] == "refused"
    assert found["gate_dtype=float16"] == "right"
    fitted = fit(matrix).promises()
    assert (fitted.dtype, fitted.K, fitted.V) == (("float16",), (128,), (128,))
    assert fitted.square == (True,)
    assert fitted.view == ("contiguous", "packed")


def test_a_kernel_that_takes_nothing_usual_still_has_a_plain_case() -> None:
    matrix = probed("server", "[rb]*")  # raw gates, ratios, bounds
    [row] = matrix.rows
    assert {*row.instead} == {"K=128", "V=128", "raw=True", "bound=-5.0"}
    found = statuses(matrix)
    assert found["bounded=true"] == found["raw_gates=true"] == found["raw_beta=true"] == "right"
    assert found["bounded=false"] == found["raw_gates=false"] == found["ratio=2"] == "raises"
    fitted = fit(matrix).promises()
    assert (fitted.raw_gates, fitted.raw_beta, fitted.bounded) == ((True,), (True,), (True,))
    assert fitted.ratio == (1,)


@pytest.mark.nightly
def test_where_no_plain_case_is_right_nothing_else_is_reached() -> None:
    matrix = probed("broken", "dtype=*")
    [row] = matrix.rows
    assert row.plain.status == "wrong"
    assert {cell.status for cell in row.cells} == {"not reached"}
    assert matrix.exit_code == 1
    assert fit(matrix).promises() == EVERYTHING


def test_what_a_target_says_of_results_stays_as_it_is() -> None:
    matrix = probed("narrow", "dtype=*")
    unsaid = fit(replace(matrix, declared=Promises()))
    assert "tail_output" not in promises_text.python(unsaid)
    said = fit(replace(matrix, declared=Promises(tail_output="zero")))
    assert said.promises().tail_output == "zero"
    assert 'tail_output="zero"' in promises_text.python(said)
    assert 'tail_output = "zero"' in promises_text.toml(said, "it")


def test_what_is_promised_and_what_is_not_are_told_apart() -> None:
    matrix = probed("rash", "K=*")
    cells = {cell.name: cell for cell in matrix.every}
    assert cells["K=17"].status == "wrong"
    assert cells["K=17"].promised
    assert not cells["K=32"].promised
    assert cells["K=32"].status == "right"
    assert [cell.name for cell in matrix.broken] == ["K=17"]
    assert "K=V=17" in cells
    assert not cells["K=V=17"].promised


@pytest.mark.parametrize(
    ("takes", "others", "expected"),
    [
        ([16, 64, 128], [1, 17], Span(multiple=16)),
        ([16, 48, 64, 128], [1, 8, 17, 100], Span(multiple=16)),
        ([128], [16, 64, 256], (128,)),
        ([1, 2], [5, 17], Span(None, 2)),
        ([5, 17], [1, 2], Span(5)),
        ([1, 16, 64], [17, 32], (1, 16, 64)),
    ],
)
def test_numbers_that_fit_are_the_plainest(takes: list[int], others: list[int], expected: Any) -> None:
    found = numbers(takes, others, 1, 256)
    assert found == expected
    held = Promises(K=found).K
    assert all(spans.holds(held, n) for n in takes)
    assert not any(spans.holds(held, n) for n in others)


def cell(name: str, axis: str, value: Any, status: str, promised: bool = True) -> Cell:
    return Cell("gdn.decode", name, axis, value, status, promised, kind="beyond_bound")


def matrix_of(*cells: Cell, op: str = "gdn.decode", declared: Promises = EVERYTHING) -> Matrix:
    plain = Cell(op, "plain", "plain", None, "right")
    asked = tuple(promise_axes.asked(plan.usual(op).case()))
    return Matrix("t.py:f", EAGER, "cpu", (Row(op, plain, (), asked, cells),), 1.0, declared)


def test_what_raises_is_left_out_and_what_is_wrong_is_a_question() -> None:
    dtypes = [
        cell("dtype=float32", "dtype", "float32", "wrong"),
        cell("dtype=float16", "dtype", "float16", "raises"),
        cell("dtype=bfloat16", "dtype", "bfloat16", "right"),
        cell("empty=true", "empty", True, "crashes"),
    ]
    fitted = fit(matrix_of(*dtypes))
    assert fitted.promises().dtype == ("float32", "bfloat16")
    assert fitted.promises().empty is True
    assert fitted.promises(strict=True).dtype == ("bfloat16",)
    assert fitted.promises(strict=True).empty is False
    text = promises_text.python(fitted)
    assert "# dtype float32: wrong (beyond_bound): a fault, or not promised? If not:" in text
    assert '    # dtype=("bfloat16",),\n    dtype=("float32", "bfloat16"),  # float16: raises' in text
    assert "    # empty=False,\n)" in text


def test_what_is_not_reached_stays_as_it_was_promised() -> None:
    some = [
        cell("execution=eager", "execution", "eager", "right"),
        cell("execution=graph", "execution", "graph", "not reached"),
        cell("execution=device", "execution", "device", "not reached", promised=False),
    ]
    declared = Promises(execution=("eager", "graph", "stream"))
    assert fit(matrix_of(*some, declared=declared)).promises().execution == ("eager", "graph", "stream")


def evaluated(text: str) -> Promises:
    names: dict[str, Any] = {}
    exec(text, names)
    made = names["PROMISES"]
    assert isinstance(made, Promises)
    return made


def decided(text: str) -> str:
    """A text in which the user has decided that what is in doubt is not promised."""
    out: list[str] = []
    field = re.compile(r'^(\s*)# ((?:"?)(\w+)(?:"?)\s*[=:] ?[\[("{FTS\dft].*)$')
    dropped = ""
    for line in text.splitlines():
        commented = field.match(line)
        if commented:
            out.append(commented[1] + commented[2])
            dropped = commented[3]
        elif dropped and re.match(rf'\s*"?{dropped}"?\s*[=:]', line):
            dropped = ""
        else:
            out.append(line)
    return "\n".join(out)


@pytest.mark.parametrize("name", ["faulty", "narrow"])
def test_printed_promises_say_in_both_forms_what_they_were_made_of(name: str) -> None:
    matrix = probed(name)
    fitted = fit(matrix)
    python, toml = promises_text.python(fitted), promises_text.toml(fitted, matrix.target)
    assert evaluated(python) == fitted.promises()
    assert Promises.from_table(tomllib.loads(toml)["targets"][matrix.target]) == fitted.promises()
    assert evaluated(decided(python)) == fitted.promises(strict=True)
    table = tomllib.loads(decided(toml))["targets"][matrix.target]
    assert Promises.from_table(table) == fitted.promises(strict=True)
    for row in matrix.rows:
        for one in row.cells:  # with the decisions taken, what is right is inside, and what is not is outside
            assert one.case is None or (fitted.promises(strict=True).broken_by(one.case) is None) == (
                one.status == "right"
            ), one


def test_operations_that_differ_have_lines_of_their_own() -> None:
    first = matrix_of(cell("l2norm=false", "l2norm", False, "raises"))
    second = matrix_of(cell("l2norm=false", "l2norm", False, "right"), op="kda.decode")
    both = Matrix("t.py:f", EAGER, "cpu", (*first.rows, *second.rows), 1.0)
    fitted = fit(both)
    assert fitted.promises() == Promises(operations={"gdn.decode": {"l2norm": (True,)}})
    assert evaluated(promises_text.python(fitted)) == fitted.promises()
    loaded = tomllib.loads(promises_text.toml(fitted, "t.py:f"))["targets"]["t.py:f"]
    assert Promises.from_table(loaded) == fitted.promises()


@pytest.mark.parametrize("op", ["gdn.decode", "gdn.extend", "kda.verify"])
def test_the_plain_plan_is_inside_what_is_promised(op: str) -> None:
    promises = Promises(
        dtype=("float16",),
        gate_dtype=("q",),
        K=(24, 128),
        V=Span(32, 96, 32),
        ratio=(3,),
        l2norm=(False,),
        batch=("dense",),
        length=(7, 9),
        pitch=Span(64),
        view=("gapped",),
        dt_bias=("none",),
        index_dtype=("int64",),
    ).of(op)
    found = plain_search.inside(plan.usual(op), promises)
    assert promises.broken_by(found.case()) is None


class Text(HTMLParser):
    """What stands on a page, tag by tag: `rows` of its table."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        self.outside += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_data(self, data: str) -> None:
        if self.rows and self.lasttag in ("th", "td") and data.strip():
            self.rows[-1].append(data)


def test_a_page_has_the_table_and_loads_nothing() -> None:
    page = Text()
    page.feed(probe_files.html(probed("faulty")))
    assert ["view=packed", "WRONG"] in page.rows
    assert ["view=gapped", "right"] in page.rows
    assert page.outside == []


def test_json_has_cells_with_cases_that_can_be_read_back() -> None:
    told = json.loads(probe_files.text(probed("faulty")))
    assert told["exit_code"] == 1
    cells = {one["feature"]: one for one in told["operations"]["gdn.decode"]["cells"]}
    assert cells["view=packed"]["status"] == "wrong"
    assert Case.from_json(cells["view=packed"]["case"]) == Case("gdn.decode", view="packed")
    assert evaluated(told["promises"]["python"]) == fitted_promises.fit(probed("faulty")).promises()


def test_the_command_prints_the_table_and_how_to_see_a_cell_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"{PROBED}:rash"
    args = ["probe", name, "--backend", EAGER, "--feature", "K=17", "--json", "m.json", "--html", "m.html"]
    assert run(args) == 1
    printed = capsys.readouterr().out
    assert re.search(r"^K=17 +WRONG", printed, re.MULTILINE)
    assert f"Reproduce with: diffgdn probe {name} --op gdn.decode --feature K=17" in printed
    assert json.loads((tmp_path / "m.json").read_text())["exit_code"] == 1
    assert (tmp_path / "m.html").read_text().startswith("<!doctype html>")
    assert run(["probe", name, "--backend", EAGER, "--feature", "nothing=*"]) == 2
    assert run(["probe", name, "--backend", EAGER, "--op", "kda.*"]) == 2


def test_a_log_has_a_line_every_few_seconds_and_no_more() -> None:
    lines: list[str] = []
    times = iter([0.0, 1.0, 5.5, 6.0, 11.0])
    told = probe_command._in_lines(lines.append, lambda: next(times))
    for done in range(4):
        told(f"gdn.decode lens=[{done}]: right", done, 9)
    assert lines == [
        r"probing, 6 s: 1 of 9 cells; gdn.decode lens=\[1]: right",
        r"probing, 11 s: 3 of 9 cells; gdn.decode lens=\[3]: right",
    ]


def test_promises_and_spans_are_what_the_printed_text_imports() -> None:
    assert (diffgdn.Promises, diffgdn.Span) == (Promises, Span)


def test_a_lack_of_memory_is_no_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: Any) -> Verdict:
        raise RunnerError("out of memory")

    asker = Asker("eager", EAGER, tmp_path)
    monkeypatch.setattr(asker, "ask", full)
    about = Asked("gdn.decode", "pitch=1", "pitch", 1)
    found = asker.cell(about, [plan.usual("gdn.decode").case()], EVERYTHING)
    assert (found.status, found.message) == ("not reached", "out of memory")
