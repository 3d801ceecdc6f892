"""Promises: what they read, what they say of a case, and that cases are drawn inside them, all of them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, find, given, reject, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument
from hypothesis.statistics import collector

from diffgdn import campaign, targets
from diffgdn.campaign import engine, events, tasks
from diffgdn.campaign.worker_pool import Pool as WorkerPool
from diffgdn.cases import promises_file
from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.prelude import Call
from diffgdn.cases.promise_axes import Flag, Floats, Words
from diffgdn.cases.promises import AXES, EVERYTHING, OUTSIDE, Promises
from diffgdn.cases.spans import Span
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import Finding
from diffgdn.pytest_plugin import answers
from diffgdn.runner.confirm import Confirmed
from diffgdn.search import by_field, hypothesis_search, preludes, promised
from diffgdn.strategies import Menu, cases, representatives
from diffgdn.targets import FunctionTarget, TargetError, promises_of, refusal
from diffgdn.verdict.failures import KernelCrashed, NotFinite, Verdict

TOYS = Path(__file__).with_name("toys.py")
DECODE = Case("gdn.decode")
VERIFY = Case("gdn.verify", pool=Pool(steps=1, buffer=1, rows=(0,)))
BF16 = Promises(dtype=("bfloat16",))
NARROW = Promises(  # of one decode kernel
    dtype=("bfloat16",),
    state_dtype=("float32",),
    K=(64, 128),
    V=(64, 128),
    H=(2, 4),
    ratio=(2, 4),
    view=("packed",),
    batch=("packed",),
    l2norm=(True,),
    length=(1,),
    empty=False,
    padding=False,
    slot_zero=False,
    scale=("default",),
)
LIMITS = {"length": 20, "tail": 40, "pitch": 300}  # of what random promises name; elsewhere the axis' own


def _axis(name: str, axis: Any) -> st.SearchStrategy[Any]:
    """The strategy of what may be promised on an axis."""
    if isinstance(axis, Flag):
        return st.booleans()
    if isinstance(axis, Words):
        return st.lists(st.sampled_from(axis.known), min_size=1, unique=True)
    if isinstance(axis, Floats):
        negative = st.floats(-10.0, -0.01)
        return st.one_of(st.lists(negative, min_size=1, max_size=3), negative.map(lambda low: Span(low, 0.0)))
    most = LIMITS.get(name, 64 if name in ("H", "HV", "ratio") else axis.most)
    number = st.integers(axis.least, most)
    spans = st.builds(
        lambda ends, multiple: Span(min(ends), max(*ends, min(multiple * max(1, min(ends)), most)), multiple),
        st.tuples(number, number),
        st.sampled_from((1, 1, 2, 8, 16)),
    )
    return st.one_of(st.lists(number, min_size=1, max_size=4), spans)


@st.composite
def narrow(draw: st.DrawFn, op: str) -> Promises:
    """Draw promises that leave cases of an operation, with few axes or many that are narrower than all."""
    names = draw(st.lists(st.sampled_from(AXES), max_size=len(AXES), unique_by=lambda spec: spec.name))
    fields = {spec.name: draw(_axis(spec.name, spec.metadata["axis"])) for spec in names}
    with contextlib.suppress(ValueError):
        promises = Promises(**fields)
        promises.of(op)
        return promises
    reject()


def sample(op: str, promises: Promises, count: int = 300, number: int = 1, **options: Any) -> list[Case]:
    """Cases of a stream; every example must come out as one, or the draw was thrown away."""
    found: list[Case] = []

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases(op, promises=promises, **options))
    def test(case: Case) -> None:
        found.append(case)

    test()
    return found


@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize("backend", ["interpret", "gpu"])
def test_every_case_lies_inside_random_promises(op: str, backend: str) -> None:
    """Whatever is promised: without a menu, on one, and what is compiled ahead of time."""

    @seed(1)
    @settings(max_examples=25, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(promises=narrow(op), number=st.integers(0, 99))
    def test(promises: Promises, number: int) -> None:
        menu = Menu.draw(number, [op], backend=backend, promises=promises) if backend == "gpu" else None
        for build in menu.entries(op) if menu else ():
            for case in representatives(op, build, promises):
                assert promises.broken_by(case) is None
        for case in sample(op, promises, 12, number, backend=backend, menu=menu):
            assert promises.broken_by(case) is None

    test()


def test_no_draw_is_thrown_away() -> None:
    """By Hypothesis' own statistics, over 2,000 draws of a narrow target."""
    seen: dict[str, Any] = {}
    with collector.with_value(seen.update):  # type: ignore[arg-type]
        found = sample("gdn.decode", NARROW, 2000)
    ended = Counter(one["status"] for one in seen["generate-phase"]["test-cases"])
    assert ended["valid"] == len(found) == 2000
    assert ended["invalid"] == 0
    assert all(NARROW.broken_by(case) is None for case in found)


def test_narrow_promises_reach_all_that_they_allow() -> None:
    found = sample("gdn.decode", NARROW, 1000)
    assert {(case.K, case.V) for case in found} == {(K, V) for K in (64, 128) for V in (64, 128)}
    assert {(case.H, case.HV) for case in found} == {(2, 4), (2, 8), (4, 8), (4, 16)}
    assert {case.gates.dtype for case in found} == {"float32", "bfloat16"}
    assert {case.pool.pitch for case in found} >= {0, 1, 64, 65}
    assert max(case.pool.pitch for case in found) == 0 or max(len(case.lens) for case in found) > 3
    assert {index for case in found for index in case.pool.indices} >= {1, 2, 3}


def test_numbers_that_are_never_drawn_otherwise_are_drawn_where_they_are_promised() -> None:
    promises = Promises(
        K=(72, 200), V=Span(40, 80, 8), tail=(7,), length=(5, 9), lower_bound=(-3.5,), pitch=(24,)
    )
    found = sample("kda.verify", replace(promises, bounded=(True,), batch=("packed",)), 400)
    assert {case.K for case in found} == {72, 200}
    assert {case.V for case in found} == {40, 48, 56, 64, 72, 80}
    assert {case.tail for case in found} == {7}
    assert {n for case in found for n in case.lens} == {0, 5, 9}
    assert {case.gates.lower_bound for case in found} == {-3.5}
    assert {case.pool.pitch for case in found} == {24}


@pytest.mark.parametrize(
    "promises",
    [
        Promises(K=(8, 16), V=(8, 16), square=(False,)),
        Promises(K=(8,), V=Span(8, 9), square=(False,)),
        Promises(K=(8, 24), V=(16, 24), square=(True,)),
        Promises(K=(1,), scale=("default",)),  # where the scale makes a case tell more
        Promises(dtype=("bfloat16", "float16"), gate_dtype=("q",), state_dtype=("q",)),
        Promises(scale=("default",), l2norm=(False,)),
    ],
)
def test_values_that_depend_on_each_other_are_drawn_inside(promises: Promises) -> None:
    found = sample("gdn.recurrent", promises, 150)
    assert [promises.broken_by(case) for case in found if promises.broken_by(case)] == []


def test_a_shrink_ends_at_the_simplest_that_is_promised() -> None:
    smallest = find(cases("gdn.decode", promises=NARROW), lambda case: case.total > 0)
    assert (smallest.K, smallest.V, smallest.H, smallest.HV) == (64, 64, 2, 4)
    assert (smallest.lens, smallest.pool.indices, smallest.pool.pitch) == ((1,), (1,), 0)
    assert (smallest.dtype, smallest.gates.dtype, smallest.view) == ("bfloat16", "float32", "packed")


def test_a_menu_inside_little_has_few_builds() -> None:
    one = replace(
        NARROW, K=(64,), V=(64,), gate_dtype=("q",), pitch=(0,), index_dtype=("int64",), inplace=(True,)
    )
    one = replace(one, batch_invariant=(False,), cu_dtype=("int32",))
    entries = Menu.draw(3, ["gdn.decode"], promises=one).entries("gdn.decode")
    assert {(build.K, build.gate_dtype, build.index_dtype) for build in entries} == {
        (64, "bfloat16", "int64")
    }
    assert len(entries) == 2  # crowded, and not
    everything = Menu.draw(3, ["gdn.decode"])
    assert Menu.draw(3, ["gdn.decode"], promises=EVERYTHING) == everything
    for case in sample(
        "gdn.decode", BF16, 30, backend="gpu", menu=everything
    ):  # entries outside are left out
        assert BF16.broken_by(case) is None
    with pytest.raises(InvalidArgument, match=r"no entry for .gdn\.decode. lies inside the promises"):
        cases("gdn.decode", backend="gpu", menu=everything, promises=Promises(K=(77,)))


ASKED: list[
    tuple[dict[str, Any], Case, str]
] = [  # the promise, a case that asks more, and what is said of it
    ({"dtype": ["bfloat16"]}, DECODE, "dtype: bfloat16 promised, float32 asked"),
    (
        {"state_dtype": ["q"]},
        replace(DECODE, pool=Pool(dtype="float16")),
        "state_dtype: q promised, float16 asked",
    ),
    ({"gate_dtype": ["float16"]}, DECODE, "gate_dtype: float16 promised, float32 asked"),
    ({"K": [64, 128]}, DECODE, "K: 64, 128 promised, 16 asked"),
    ({"V": Span(8, multiple=8)}, replace(DECODE, V=4), "V: 8 or more in multiples of 8 promised, 4 asked"),
    ({"square": [True]}, replace(DECODE, V=4), "square: true promised, false asked"),
    ({"H": [2]}, DECODE, "H: 2 promised, 1 asked"),
    ({"HV": Span(2, 4)}, DECODE, "HV: 2 to 4 promised, 1 asked"),
    ({"ratio": [1]}, replace(DECODE, HV=2), "ratio: 1 promised, 2 asked"),
    ({"chunk_size": [16]}, Case("gdn.extend"), "chunk_size: 16 promised, 64 asked"),
    ({"batch": ["dense"]}, DECODE, "batch: dense promised, packed asked"),
    ({"batch": ["packed"]}, replace(DECODE, batched=True), "batch: packed promised, batched asked"),
    ({"length": [1]}, replace(DECODE, lens=(3,)), "length: 1 promised, 3 asked"),
    ({"empty": False}, replace(DECODE, lens=(0,)), "empty: false promised, true asked"),
    ({"tail": [0]}, replace(DECODE, tail=2), "tail: 0 promised, 2 asked"),
    ({"cu_dtype": ["int64"]}, DECODE, "cu_dtype: int64 promised, int32 asked"),
    ({"index_dtype": ["int64"]}, DECODE, "index_dtype: int64 promised, int32 asked"),
    ({"view": ["gapped"]}, DECODE, "view: gapped promised, contiguous asked"),
    ({"pitch": [0]}, replace(DECODE, pool=Pool(pitch=8)), "pitch: 0 promised, 8 asked"),
    ({"padding": False}, replace(DECODE, pool=Pool(indices=(-1,))), "padding: false promised, true asked"),
    (
        {"shared": False},
        replace(DECODE, lens=(1, 1), inplace=False, pool=Pool(indices=(0, 0))),
        "shared: false promised, true asked",
    ),
    ({"slot_zero": False}, DECODE, "slot_zero: false promised, true asked"),
    (
        {"unkept": False},
        replace(VERIFY, pool=replace(VERIFY.pool, rows=(-1,))),
        "unkept: false promised, true asked",
    ),
    (
        {"spare_steps": False},
        replace(VERIFY, pool=replace(VERIFY.pool, steps=2)),
        "spare_steps: false promised, true asked",
    ),
    ({"l2norm": [True]}, DECODE, "l2norm: true promised, false asked"),
    ({"scale": ["given"]}, DECODE, "scale: given promised, default asked"),
    ({"initial_state": [False]}, Case("gdn.extend"), "initial_state: false promised, true asked"),
    ({"inplace": [False]}, DECODE, "inplace: false promised, true asked"),
    ({"final": [False]}, Case("gdn.extend"), "final: false promised, true asked"),
    ({"boundary": [True]}, Case("gdn.extend"), "boundary: true promised, false asked"),
    ({"batch_invariant": [True]}, DECODE, "batch_invariant: true promised, false asked"),
    ({"raw_gates": [True]}, Case("kda.extend"), "raw_gates: true promised, false asked"),
    ({"bounded": [True]}, Case("kda.decode"), "bounded: true promised, false asked"),
    (
        {"lower_bound": Span(-5.0, 0.0)},
        Case("kda.decode", gates=Gates(lower_bound=-8.0)),
        "lower_bound: -5.0 to 0.0 promised, -8.0 asked",
    ),
    ({"steps": [True]}, Case("gdn.update"), "steps: true promised, false asked"),
    ({"tree": [True]}, VERIFY, "tree: true promised, false asked"),
]


@pytest.mark.parametrize(("given", "case", "said"), ASKED, ids=[next(iter(row[0])) for row in ASKED])
def test_what_a_case_asks_beyond_the_promises_is_said_in_words(
    given: dict[str, Any], case: Case, said: str
) -> None:
    assert Promises(**given).broken_by(case) == said
    assert EVERYTHING.broken_by(case) is None


def test_every_axis_has_its_words_above() -> None:
    assert {name for row in ASKED for name in row[0]} == {spec.name for spec in AXES}
    assert len(AXES) == len(fields(Promises)) - 1


@pytest.mark.parametrize(
    ("given", "case"),
    [
        ({"cu_dtype": ["int64"]}, replace(DECODE, packed=False)),
        ({"length": [1], "batch": ["dense"]}, Case("gdn.packed_decode")),
        ({"chunk_size": [16], "boundary": [True]}, DECODE),
        (
            {"padding": False, "pitch": [8]},
            Case("gdn.extend", pool=Pool(indices=(-1,)), values=Values(state="none")),
        ),
        ({"tree": [True]}, DECODE),
        ({"state_dtype": ["q"]}, replace(DECODE, dtype="float16", pool=Pool(dtype="float16"))),
    ],
)
def test_a_field_counts_only_where_a_case_has_something_to_say(given: dict[str, Any], case: Case) -> None:
    assert Promises(**given).broken_by(case) is None


WRONG = [
    ({"dtype": "bfloat16"}, "dtype: expected a list of float32, float16, bfloat16, got 'bfloat16'"),
    ({"dtype": ["fp8"]}, "dtype: expected a list of float32, float16, bfloat16, got ['fp8']"),
    ({"dtype": []}, "dtype: expected a list of float32, float16, bfloat16, got []"),
    ({"l2norm": True}, "l2norm: expected a list of false, true, got True"),
    ({"l2norm": [1]}, "l2norm: expected a list of false, true, got [1]"),
    ({"empty": [False]}, "empty: expected true or false, got [False]"),
    ({"K": [0]}, "K: expected whole numbers from 1 to 256, got [0]"),
    ({"K": [64.0]}, "K: expected whole numbers from 1 to 256, got [64.0]"),
    ({"K": 64}, "K: expected a list or a span of numbers from 1 to 256, got 64"),
    ({"K": Span(8, 512)}, "K: expected numbers from 1 to 256, got Span(least=8, most=512)"),
    ({"K": {"from": 3}}, "K: expected least, most and multiple, got ['from']"),
    ({"K": Span(9, 15, 8)}, "K: no number is in Span(least=9, most=15, multiple=8)"),
    ({"K": Span(1, 8, 0)}, "K: expected numbers from 1 to 256, got Span(least=1, most=8, multiple=0)"),
    ({"lower_bound": [0.5]}, "lower_bound: expected numbers below 0, got [0.5]"),
    ({"lower_bound": Span(0.0)}, "lower_bound: no number below 0 is in Span(least=0.0)"),
    ({"operations": {"gdn.prefill": {}}}, "operations: expected names of gdn.extend"),
    ({"operations": {"gdn.decode": {"k": [1]}}}, "operations['gdn.decode']: promises: unknown field ['k']"),
    ({"operations": {"gdn.decode": {"K": [0]}}}, "operations['gdn.decode']: K: expected whole numbers"),
    ({"operations": ["gdn.decode"]}, "operations: expected a table for each operation, got ['gdn.decode']"),
]


@pytest.mark.parametrize(("given", "said"), WRONG, ids=[row[1][:40] for row in WRONG])
def test_a_wrong_field_is_named_with_what_was_expected_and_what_came(
    given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError) as error:
        Promises(**given)
    assert str(error.value).startswith(said)


@pytest.mark.parametrize(
    ("op", "given", "said"),
    [
        ("gdn.decode", {"dtype": ["bfloat16"], "gate_dtype": ["float16"]}, "no dtype is left"),
        ("gdn.decode", {"K": [3], "V": [4], "square": [True]}, "no K and V are left"),
        ("gdn.decode", {"K": [3], "V": [3], "square": [False]}, "no K and V are left"),
        ("gdn.decode", {"H": [3], "HV": [4]}, "no heads are left"),
        ("gdn.extend", {"batch": ["batched"]}, "batch must name one of packed, dense"),
        ("gdn.packed_decode", {"length": [2]}, "length must allow 1"),
        ("kda.verify", {"tree": [True], "length": [70]}, "length must allow 61 or less"),
    ],
)
def test_promises_that_leave_no_case_are_refused_where_they_are_made(
    op: str, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(TargetError, match=f"target it: promises: {op}: {said}"):
        FunctionTarget("it", {op: print}, promises=Promises(**given))
    with pytest.raises(InvalidArgument, match=said):
        cases(op, promises=Promises(**given))


TABLE = """
dtype = ["bfloat16"]
K = [64, 128]
V = { least = 32, most = 128, multiple = 32 }
[%s."gdn.verify"]
tree = [false]
K = [128]
"""
SAME = Promises(
    dtype=("bfloat16",),
    K=(64, 128),
    V=Span(32, 128, 32),
    operations={"gdn.verify": {"tree": (False,), "K": (128,)}},
)


@pytest.mark.parametrize(
    ("file", "table"),
    [("pyproject.toml", "tool.diffgdn.targets.decode"), ("diffgdn.toml", 'targets."mine:decode"')],
)
def test_a_file_says_the_same_as_python(tmp_path: Path, file: str, table: str) -> None:
    """And is read without importing the target: there is none."""
    (tmp_path / file).write_text(f"[{table}]{TABLE % table}")
    (tmp_path / "below").mkdir()
    assert promises_file.declared("mine:decode", tmp_path / "below") == SAME
    assert promises_file.declared("mine:verify", tmp_path) is None
    assert SAME.of("gdn.verify").K == (128,)
    assert SAME.of("gdn.decode").K == (64, 128)
    assert SAME.of("gdn.decode").tree == (False, True)


def test_the_nearest_file_counts_and_diffgdn_toml_first(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "pyproject.toml").write_text(
        "[tool.diffgdn.targets.it]\nK = [1]\n[tool.diffgdn.targets.other]\nK = [4]"
    )
    (tmp_path / "diffgdn.toml").write_text("[targets.it]\nK = [2]")
    (tmp_path / "below" / "pyproject.toml").write_text("[tool.ruff]")
    found = [promises_file.declared(name, tmp_path / "below") for name in ("it", "other")]
    assert found == [Promises(K=(2,)), Promises(K=(4,))]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[targets.it]\nk = [1]", "diffgdn.toml: targets.it: promises: unknown field ['k']"),
        ("[targets.it]\nK = [0]", "diffgdn.toml: targets.it: K: expected whole numbers"),
        ("[targets.it", "diffgdn.toml: "),
        ("targets = 3", "diffgdn.toml: targets: expected a table for each target, got 3"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    (tmp_path / "diffgdn.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TargetError) as error:
        targets.get("vk")
    assert said in str(error.value)


def test_reading_promises_imports_no_torch() -> None:
    script = "import sys; from diffgdn.cases.promises_file import declared; declared('it'); "
    script += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_file_takes_the_place_of_what_the_code_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert targets.promises(f"{TOYS}:promising").K == (8, 32)
    (tmp_path / "diffgdn.toml").write_text("[targets.promising]\nK = [4]")
    target = targets.get(f"{TOYS}:promising")
    assert promises_of(target) == targets.promises(f"{TOYS}:promising") == Promises(K=(4,))
    assert refusal(target, DECODE, "interpret") == f"{OUTSIDE}K: 4 promised, 16 asked"
    assert refusal(target, replace(DECODE, K=4), "interpret") is None


def test_our_own_targets_promise_everything() -> None:
    assert {name: promises_of(targets.get(name)) for name in ("vk", "kv", "eager")} == dict.fromkeys(
        ("vk", "kv", "eager"), EVERYTHING
    )


# --- shrinks ---

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

    def _each(self, work: list[tasks.RunCase]) -> None:
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
