"""Promises: what they read, from Python and from files, and what they say of a case."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis.errors import InvalidArgument

from diffgdn import targets
from diffgdn.cases import promises_file
from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.lay import Lay
from diffgdn.cases.operand_options import Operands
from diffgdn.cases.promises import AXES, EVERYTHING, OUTSIDE, SAID, Promises
from diffgdn.cases.spans import Span
from diffgdn.cases.state_options import StateOptions
from diffgdn.strategies import cases
from diffgdn.targets import FunctionTarget, TargetError, promises_of, refusal

TOYS = Path(__file__).with_name("toys.py")
DECODE = Case("gdn.decode")
VERIFY = Case("gdn.verify", pool=Pool(steps=1, buffer=1, rows=(0,)))
MIXED_BETA = Case("gdn.decode", dtype="bfloat16", operands=Operands(beta_dtype="bfloat16"))


def with_operands(op: str, **own: Any) -> Case:
    return Case(op, operands=Operands(**own))


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
    (
        {"strides": ["compact", "gapped tokens"]},
        replace(DECODE, lay=(Lay("state", (0, 0, 1, 0)),)),
        "strides: compact, gapped tokens promised, gapped states asked",
    ),
    (
        {"alignment": [16, 256]},
        replace(DECODE, lay=(Lay("q", offset=4),)),
        "alignment: 16, 256 promised, 4 asked",
    ),
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
    (
        {"execution": ["eager", "graph"]},
        replace(DECODE, execution="graph_stale"),
        "execution: eager, graph promised, graph_stale asked",
    ),
    (
        {"mixed_qkv": False},
        with_operands("gdn.decode", v="bfloat16"),
        "mixed_qkv: false promised, true asked",
    ),
    ({"mixed_beta": False}, MIXED_BETA, "mixed_beta: false promised, true asked"),
    (
        {"A_log": ["float32"]},
        with_operands("gdn.decode", A_log="bfloat16"),
        "A_log: float32 promised, bfloat16 asked",
    ),
    ({"dt_bias": ["none"]}, DECODE, "dt_bias: none promised, float32 asked"),
    ({"raw_beta": [True]}, Case("gdn.extend"), "raw_beta: true promised, false asked"),
    (
        {"neg_eigval": False},
        with_operands("gdn.extend", beta="raw", neg_eigval=True),
        "neg_eigval: false promised, true asked",
    ),
    ({"no_beta": False}, with_operands("gdn.update", beta="none"), "no_beta: false promised, true asked"),
    (
        {"softplus": False},
        with_operands("gdn.decode", softplus_threshold=2.0),
        "softplus: false promised, true asked",
    ),
    ({"step_update": [True]}, VERIFY, "step_update: true promised, false asked"),
    (
        {"step_rows": ["given"]},
        replace(VERIFY, state_options=StateOptions(step_rows="slots")),
        "step_rows: given promised, slots asked",
    ),
    (
        {"cache_steps": ["longest", "none"]},
        VERIFY,
        "cache_steps: longest, none promised, buffer asked",
    ),
    ({"token_slots": [True], "tree": [False]}, VERIFY, "token_slots: true promised, false asked"),
    ({"output": [False]}, Case("gdn.update"), "output: false promised, true asked"),
    ({"indices": [False]}, Case("gdn.extend"), "indices: false promised, true asked"),
    ({"initial_flags": [True]}, Case("gdn.extend"), "initial_flags: true promised, false asked"),
    ({"track": [True]}, Case("kda.extend"), "track: true promised, false asked"),
    ({"company": False}, replace(DECODE, before=("same",)), "company: false promised, true asked"),
]


@pytest.mark.parametrize(("given", "case", "said"), ASKED, ids=[next(iter(row[0])) for row in ASKED])
def test_what_a_case_asks_beyond_the_promises_is_said_in_words(
    given: dict[str, Any], case: Case, said: str
) -> None:
    assert Promises(**given).broken_by(case) == said
    assert EVERYTHING.broken_by(case) is None


def test_every_axis_has_its_words_above() -> None:
    assert {name for row in ASKED for name in row[0]} == {spec.name for spec in AXES}
    assert len(AXES) + len(SAID) == len(fields(Promises)) - 1


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
    ({"tail_output": "zeros"}, "tail_output: expected one of any, zero, got 'zeros'"),
    ({"tail_output": ["zero"]}, "tail_output: expected one of any, zero, got ['zero']"),
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


def test_what_is_said_of_results_is_no_limit_and_is_of_one_operation_where_it_says_so() -> None:
    table = {"tail_output": "zero", "K": [16], "gdn.decode": {"tail_output": "any", "K": [8]}}
    said = Promises.from_table(table)
    assert [said.of(op).tail_output for op in ("gdn.verify", "gdn.decode")] == ["zero", "any"]
    freed = said.without_limits()
    assert freed.of("gdn.decode") == EVERYTHING
    assert [freed.of(op).tail_output for op in ("gdn.verify", "gdn.decode")] == ["zero", "any"]
    only = Promises(tail_output="zero")
    assert only == EVERYTHING  # the same cases
    assert only.of("gdn.decode").tail_output == "zero" != EVERYTHING.of("gdn.decode").tail_output
    assert repr(only) == "Promises(tail_output='zero')"


def test_our_own_targets_promise_zeros_behind_the_last_sequence_and_others_nothing() -> None:
    for name in ("vk", "kv", "eager"):
        assert promises_of(targets.get(name)).of("gdn.extend").tail_output == "zero"
    assert promises_of(targets.get(f"{TOYS}:promising")).tail_output == "any"


def test_our_own_targets_promise_everything_and_the_eager_one_all_but_graphs() -> None:
    assert promises_of(targets.get("vk")) == promises_of(targets.get("kv")) == EVERYTHING
    assert promises_of(targets.get("eager")) == Promises(execution=("eager", "stream", "device"))
