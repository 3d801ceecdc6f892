"""A finding's script gives the verdict of a replay, whatever is wrong, and where it is wrong."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diffgdn import targets
from diffgdn.campaign import replay_findings
from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.operations import OPERATIONS
from diffgdn.findings import repro
from diffgdn.findings.finding import Finding
from diffgdn.reference import noise
from diffgdn.tensors import inputs
from diffgdn.tensors.layout import arrange
from diffgdn.tensors.results import RETURNED, result_of, returned_names
from diffgdn.verdict import execute
from diffgdn.verdict.comparison import Comparison, compare_results, received_dtypes
from diffgdn.verdict.failures import Verdict

TARGET = str(Path(__file__).parents[1] / "unit" / "planted_functions.py") + ":planted"
DTYPES = ("bfloat16", "float16", "float32")
PAIRS = [(dtype, pool) for dtype in DTYPES for pool in DTYPES]
# What is planted, and the kind of failure that it is in a replay.
FAULTS = {
    "raised": "raised",
    "input_changed": "input_changed",
    "guard_written": "guard_written",
    "guard of a workspace": "guard_written",
    "never_written": "never_written",
    "poison_leaked": "poison_leaked",
    "not_finite": "not_finite",
    "wrong": "beyond_bound",
    "tail_not_zero": "tail_not_zero",
    "slot_changed": "slot_changed",
    "unowned step": "slot_changed",
    "not_repeatable": "not_repeatable",
    "memory returned twice": "not_repeatable",
    "of another shape": "wrong_shape",
    "turned": "wrong_shape",
    "of another dtype": "wrong_dtype",
    "no tensor": "raised",
}


def expected_kind(fault: str, case: Case) -> str | None:
    """What a fault is on an operation; None where the operation has nothing for it to spoil."""
    if fault == "unowned step" and not case.keeps_steps:
        return None
    returned = ("memory returned twice", "of another shape", "turned", "of another dtype", "no tensor")
    if fault in returned and case.operation.single_token:
        return None  # what it returns is not looked at
    if fault == "tail_not_zero" and not case.tail:
        return None
    if fault == "slot_changed" and not case.operation.has_pool:
        return "input_changed"
    return FAULTS[fault]


FACTORS = (0.5, 0.9, 1.1, 2.0)  # of the bound


def case_of(op: str, dtype: str, pool_dtype: str, exact: bool = False, **changed: Any) -> Case:
    """A small case with an empty sequence, padding and an unnamed slot, where the operation has them; the
    interpreter makes its call twice."""
    operation = OPERATIONS[op]
    lens = (18, 0, 2) if operation.is_chunked else (1, 1, 1) if operation.single_token else (3, 0, 2)
    pool = Pool(slots=4, indices=(3, 0, -1), pitch=3) if operation.has_pool else Pool(indices=())
    if operation.drafts:
        pool = replace(pool, steps=4, buffer=3, rows=(1, 0, -1))
    case = Case(
        op=op,
        lens=lens,
        H=1,
        HV=2,
        K=4,
        V=3,
        dtype=dtype,
        pool=replace(pool, dtype=pool_dtype),
        gates=Gates(law="exact" if exact else "model", beta="exact" if exact else "uniform"),
        values=Values(law="exact" if exact else "normal"),
        chunk_size=16,
        tail=0 if operation.single_token else 1,
        boundary=operation.is_chunked,
        view="packed",
    )
    case = replace(case, **changed)
    seeds = (replace(case, values=replace(case.values, seed=seed)) for seed in range(100))
    return next(case for case in seeds if execute.is_repeated(case, "interpret"))


@functools.cache
def target() -> targets.Target:
    return targets.get(TARGET)


def script_of(case: Case) -> str:
    return repro.script(Finding(case, TARGET, "interpret", "beyond_bound", "message", "o", "place"))


class Agreement:
    """Runs a case's script here, and replays it; both must say the same."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, case: Case, fault: str, script: str) -> Verdict:
        self.monkeypatch.setenv("PLANTED", fault)
        self.monkeypatch.setenv("PLANTED_CALLS", "0")
        verdict = execute.run(case, target(), "interpret")
        self.monkeypatch.setenv("PLANTED_CALLS", "0")
        self.capsys.readouterr()
        try:
            with pytest.raises(SystemExit) as ended:
                exec(compile(script, "script", "exec"), {"__name__": "__main__"})
        finally:
            torch.use_deterministic_algorithms(False)
        shown = self.capsys.readouterr().out
        assert (ended.value.code == 0) == verdict.ok, (
            f"{fault}: replay says {verdict.failure}\n{shown}\n{case}"
        )
        compared = verdict.comparison
        if verdict.failure is not None and verdict.failure.kind in ("beyond_bound", "not_exact"):
            assert compared is not None
            worst = compared.worst()
            place = [compared.origins[worst[0]], *worst[1:]]
            assert f"{compared.name} [" in shown
            assert f"  worst at {place}: " in shown, f"{verdict.failure}\n{shown}"
        return verdict


@pytest.fixture
def agree(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Agreement:
    return Agreement(monkeypatch, capsys)


@pytest.mark.parametrize("op", OPERATIONS)
def test_right_kernels_pass_both(op: str, agree: Agreement) -> None:
    number = list(OPERATIONS).index(op)
    for dtype, pool_dtype in PAIRS[number % 2 :: 2]:
        case = case_of(op, dtype, pool_dtype, exact=pool_dtype == dtype)
        assert agree(case, "right", script_of(case)).ok


@pytest.mark.parametrize("op", OPERATIONS)
def test_where_no_state_is_written_none_is_compared(op: str, agree: Agreement) -> None:
    """Padding alone, or no token at all."""
    case = case_of(op, "bfloat16", "float32")
    if case.operation.has_pool:
        rows = (-1, -1, -1) if case.has_rows else ()
        case = replace(case, pool=replace(case.pool, indices=(-1, -1, -1), rows=rows))
    if not case.operation.single_token:
        case = replace(case, lens=(0, 0, 0))
    script = script_of(case)
    assert agree(case, "right", script).ok
    assert not agree(case, "guard_written", script).ok


@pytest.mark.parametrize("op", OPERATIONS)
def test_whatever_is_wrong_fails_both(op: str, agree: Agreement) -> None:
    scripts: dict[Any, Any] = {}
    for number, fault in enumerate(FAULTS, list(OPERATIONS).index(op)):
        dtype, pool_dtype = PAIRS[number % len(PAIRS)]
        case = case_of(op, dtype, pool_dtype)
        script = scripts[case] = scripts.get(case) or script_of(case)
        failure = agree(case, fault, script).failure
        assert (None if failure is None else failure.kind) == expected_kind(fault, case), (fault, failure)


@pytest.mark.parametrize("op", OPERATIONS)
def test_what_leaves_nothing_to_round_must_be_exact_in_both(op: str, agree: Agreement) -> None:
    case = case_of(op, "float32", "float32", exact=True)
    script = script_of(case)
    failure = agree(case, "wrong", script).failure
    assert failure is not None
    assert failure.kind == "not_exact"


def near_the_bound(comparison: Comparison, factor: float) -> tuple[tuple[int, ...], float, bool]:
    """An element of a result, a value of its dtype whose error is about so many bounds, and whether it
    passes."""
    bound = comparison.bound
    places = ~comparison.overflows & (comparison.expected != 0)
    at = tuple(int(i) for i in places.nonzero()[-1])
    value = comparison.expected[at] + factor * bound[at]
    value = value.to(comparison.dtype).double()
    return at, float(value), bool((value - comparison.expected[at]).abs() <= bound[at])


@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize("op", OPERATIONS)
def test_errors_near_the_bound_are_judged_alike(
    op: str, final: bool, agree: Agreement, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every result that a call leaves behind; in each of them one element is off by about its bound."""
    number = list(OPERATIONS).index(op)
    dtype, pool_dtype = PAIRS[(number + 4 * final) % len(PAIRS)]
    if op.endswith("recurrent") and final:
        pool_dtype = "bfloat16"  # final comes in fp32 from gdn, in the pool's dtype from kda
    case = case_of(op, dtype, pool_dtype, inplace=not final or not op.endswith(("extend", "recurrent")))
    script, judged = script_of(case), 0
    for comparison in right_results(case, monkeypatch):
        for factor in FACTORS:
            at, value, passes = near_the_bound(comparison, factor)
            monkeypatch.setenv("PLANTED_AT", json.dumps((*place_of(case, comparison.name, at), value)))
            verdict = agree(case, "set", script)
            assert verdict.ok == passes, (comparison.name, factor, verdict.failure)
            judged += 1
    assert judged >= len(FACTORS)


def right_results(case: Case, monkeypatch: pytest.MonkeyPatch) -> list[Comparison]:
    """The results of a case as the kernel leaves them, beside the truth."""
    monkeypatch.setenv("PLANTED", "right")
    run = execute.Run(case, target(), "interpret", explain=False)
    arguments = arrange(case, inputs.draw(case), "cpu")
    results = run.results(arguments, run.call(arguments))
    stored = received_dtypes(case, results)
    reference = noise.reference(case, inputs.draw(case), target().contract(case.op), stored)
    return list(compare_results(case, results, reference))


def place_of(case: Case, name: str, at: tuple[int, ...]) -> tuple[str | int, list[int]]:
    """Where an element of a result lies: in which argument, or which of what is returned."""
    result = result_of(case, name)
    if result.lies == "state":
        dense = not case.operation.has_pool or case.operation.kind in ("extend", "packed_decode")
        argument = "initial_state" if dense else "initial_state_source"
        return argument, [*result.at[at[0]], *at[1:]]
    if result.lies == "buffer":
        return "intermediate_states_buffer", [*result.at[at[0]], *at[1:]]
    flat = 0
    for size, index in zip(result.shape, at, strict=True):
        flat = flat * size + index
    return (returned_names(case).index(name) if result.lies == RETURNED else "out"), [flat]


def test_what_overflows_passes_both(agree: Agreement, monkeypatch: pytest.MonkeyPatch) -> None:
    """An output of fp16 past its range may be infinite, or NaN; a hole in it is a hole."""
    case = case_of("gdn.decode", "float16", "float32", values=Values(law="ones", v_exponent=15, q_exponent=6))
    script = script_of(case)
    [o] = [one for one in right_results(case, monkeypatch) if one.name == "o"]
    assert o.overflows.any()
    at = tuple(int(i) for i in o.overflows.nonzero()[0])
    for value in (torch.inf, torch.nan):
        monkeypatch.setenv("PLANTED_AT", json.dumps((*place_of(case, "o", at), value)))
        assert agree(case, "set", script).ok
    assert not agree(case, "never_written", script).ok


def test_a_pool_far_away_is_watched_by_both(agree: Agreement) -> None:
    case = case_of("gdn.decode", "float32", "float32")
    case = replace(case, pool=replace(case.pool, slots=9_000_000, indices=(8_999_999, 0, -1)))
    case = replace(case, H=1, HV=1, K=16, V=16)
    seeds = (replace(case, values=replace(case.values, seed=seed)) for seed in range(100))
    case = next(case for case in seeds if execute.is_repeated(case, "interpret"))
    script = script_of(case)
    assert agree(case, "right", script).ok
    assert not agree(case, "slot_changed", script).ok


@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [("right", 0, None), ("wrong", 1, "beyond_bound"), ("dies", 3, "crashed"), ("leaves", 1, "crashed")],
)
def test_a_process_of_its_own_says_the_same_as_diffgdn_replay(
    fault: str, status: int, kind: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = Finding(
        case_of("gdn.update", "bfloat16", "float32"), TARGET, "interpret", "beyond_bound", "message"
    )
    path = repro.write(finding, tmp_path)
    monkeypatch.setenv("PLANTED", fault)
    monkeypatch.setenv("PLANTED_CALLS", "0")
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert done.returncode == status, done.stdout + done.stderr
    [result] = replay_findings.run([finding], isolation="child", trusted=True)
    [failure] = result.failures
    assert (None if failure is None else failure["kind"]) == kind, result.detail
    assert re.search("^WRONG$|^right$", done.stdout, re.MULTILINE) or fault == "dies"
