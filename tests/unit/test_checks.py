"""Each way of being wrong is named by its own class, at its place; what is right passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.promises import Promises
from diffgdn.reference import noise, oracle
from diffgdn.targets.base import default_contract
from diffgdn.targets.eager import Eager
from diffgdn.tensors import inputs
from diffgdn.tensors.arena import Arguments
from diffgdn.verdict import execute, failures

Spoil = Callable[[Case, Arguments, dict[str, Tensor]], Any]

PLAIN = Values(law="normal", seed=1)
MODEL = Gates(law="model", beta="uniform")
DECODE = Case(
    op="gdn.decode", lens=(2, 1), HV=2, pool=Pool(slots=4, indices=(2, 0)), values=PLAIN, gates=MODEL
)
TAIL = replace(DECODE, tail=2)
VERIFY = Case(
    op="gdn.verify",
    lens=(2,),
    pool=Pool(slots=2, indices=(1,), steps=3, buffer=2, rows=(1,)),
    values=PLAIN,
    gates=MODEL,
)
EXACT = Case(
    op="gdn.decode", lens=(2,), values=Values(law="exact"), gates=Gates(law="exact", beta="exact"), scale=1.0
)


class Spoiled(Eager):
    """Right in every way but one."""

    name = "spoiled"

    def __init__(self, spoil: Spoil) -> None:
        self.spoil = spoil

    def run(self, case: Case, arguments: Arguments) -> dict[str, Tensor]:
        results = super().run(case, arguments)
        replaced = self.spoil(case, arguments, results)
        return replaced if isinstance(replaced, dict) else results


def raises(case: Case, arguments: Arguments, results: dict[str, Tensor]) -> None:
    raise RuntimeError("no such kernel image")


def change_input(case: Case, arguments: Arguments, results: dict[str, Tensor]) -> None:
    arguments["k"][0, 1, 0, 3] = 7.0


def write_past_the_end(case: Case, arguments: Arguments, results: dict[str, Tensor]) -> None:
    v = arguments["v"]
    v.as_strided((1,), (1,), v.storage_offset() + v.numel()).fill_(1.0)


def leave_a_hole(case: Case, arguments: Arguments, results: dict[str, Tensor]) -> dict[str, Tensor]:
    o = torch.empty(results["o"].shape, dtype=results["o"].dtype)
    o[:, :2] = results["o"][:, :2]
    return {**results, "o": o}


def read_an_unnamed_slot(case: Case, arguments: Arguments, results: dict[str, Tensor]) -> None:
    results["o"][0, 0, 0, 5] += arguments["state"][3, 0, 0, 0]


def divide_by_zero(case: Case, arguments: Arguments, results: dict[str, Tensor]) -> None:
    results["o"][0, 1, 1, 2] = torch.inf


def off_by_one_rounding(case: Case, arguments: Arguments, results: dict[str, Tensor]) -> None:
    results["o"][0, 1, 0, 4] += 2.0**-20


def off_by_a_little(case: Case, arguments: Arguments, results: dict[str, Tensor]) -> None:
    results["o"][0, 2, 1, 3] += 1e-3


def spoil_a_state(case: Case, arguments: Arguments, results: dict[str, Tensor]) -> None:
    arguments["state"][0, 1, 2, 3] += 1e-3


def leave_the_tail(case: Case, arguments: Arguments, results: dict[str, Tensor]) -> dict[str, Tensor]:
    o = torch.empty(results["o"].shape, dtype=results["o"].dtype)
    o[:, : case.total] = results["o"][:, : case.total]
    return {**results, "o": o}


def zero_a_part_of_the_tail(case: Case, arguments: Arguments, results: dict[str, Tensor]) -> None:
    results["o"][0, -1, 1, 3:] = torch.tensor(-0.5)
    results["o"][0, -1, 0] = -0.0  # is zero too


def write_another_slot(case: Case, arguments: Arguments, results: dict[str, Tensor]) -> None:
    arguments["state"][3, 0, 0, 0] = 0.0


def advance_the_pool(case: Case, arguments: Arguments, results: dict[str, Tensor]) -> None:
    arguments["state"][1] *= 0.5


def write_a_step_past_the_draft(case: Case, arguments: Arguments, results: dict[str, Tensor]) -> None:
    arguments["buffer"][1, 2] = 0.0


CASES: list[tuple[Case, Spoil, type[failures.CheckFailure], str]] = [
    (DECODE, raises, failures.KernelRaised, "gdn.decode: RuntimeError: no such kernel image"),
    (DECODE, change_input, failures.InputChanged, "gdn.decode k [0, 1, 0, 3]: a read-only input was written"),
    (DECODE, write_past_the_end, failures.GuardWritten, "gdn.decode v at element 96: memory past its end"),
    (DECODE, leave_a_hole, failures.NeverWritten,
     "gdn.decode o (sequence 1, token 0, head 0, V 0): never written (32 of"),
    (DECODE, read_an_unnamed_slot, failures.PoisonLeaked,
     "gdn.decode o (sequence 0, token 0, head 0, V 5): memory that must"),
    (DECODE, divide_by_zero, failures.NotFinite,
     "gdn.decode o (sequence 0, token 1, head 1, V 2): got inf, expected"),
    (EXACT, off_by_one_rounding, failures.NotExact, "gdn.decode o (sequence 0, token 1, head 0, V 4): got"),
    (DECODE, off_by_a_little, failures.BeyondBound, "gdn.decode o (sequence 1, token 0, head 1, V 3): got"),
    (DECODE, spoil_a_state, failures.BeyondBound, "gdn.decode state (sequence 1, head 1, V 2, K 3): got"),
    (TAIL, leave_the_tail, failures.TailNotZero,
     "gdn.decode o (padding token 0, head 0, V 0): an output row behind the last sequence is promised to be "
     "zero; it was never written (64 of 64"),
    (TAIL, zero_a_part_of_the_tail, failures.TailNotZero,
     "gdn.decode o (padding token 1, head 1, V 3): an output row behind the last sequence is promised to be "
     "zero; got -0.5 (13 of 64"),
    (DECODE, write_another_slot, failures.SlotChanged,
     "gdn.decode state slot 3: the slot was written, and no sequence"),
    (VERIFY, advance_the_pool, failures.SlotChanged,
     "gdn.verify state slot 1: the slot was written, and sequence 0"),
    (VERIFY, write_a_step_past_the_draft, failures.SlotChanged,
     "gdn.verify buffer row 1 step 2: a step that no draft"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("case", "spoil", "kind", "message"), CASES, ids=[spoil.__name__ for _, spoil, _, _ in CASES]
)
def test_a_wrong_kernel_is_named_by_what_is_wrong_with_it(
    case: Case, spoil: Spoil, kind: type[failures.CheckFailure], message: str
) -> None:
    verdict = execute.run(case, Spoiled(spoil), "interpret")
    assert type(verdict.failure) is kind
    assert str(verdict.failure).startswith(message)


@pytest.mark.parametrize("spoil", [leave_the_tail, zero_a_part_of_the_tail])
def test_a_tail_is_looked_at_where_it_is_promised_to_be_zero_alone(spoil: Spoil) -> None:
    target = Spoiled(spoil)
    target.promises = Promises()
    assert execute.run(TAIL, target, "interpret").ok
    target.promises = Promises(operations={"gdn.decode": {"tail_output": "zero"}})
    assert not execute.run(TAIL, target, "interpret").ok


def repeated(case: Case) -> Case:
    """The case with a seed for which the interpreter backend makes its second run."""
    for seed in range(100):
        chosen = replace(case, values=Values(law="normal", seed=seed))
        if int(chosen.id[0], 16) % 4 == 0:
            return chosen
    raise AssertionError("one case in four is repeated")


def test_a_second_run_with_other_bits_is_named() -> None:
    calls = []

    def drift(case: Case, arguments: Arguments, results: dict[str, Tensor]) -> None:
        calls.append(1)
        if len(calls) == 2:
            results["o"][0, 0, 0, 0] += 2.0**-22

    verdict = execute.run(repeated(DECODE), Spoiled(drift), "interpret")
    assert type(verdict.failure) is failures.NotRepeatable


def test_a_result_whose_memory_the_next_call_takes_is_named() -> None:
    kept: dict[str, Tensor] = {}

    def reuse(case: Case, arguments: Arguments, results: dict[str, Tensor]) -> dict[str, Tensor]:
        kept.setdefault("o", torch.zeros_like(results["o"])).copy_(results["o"])
        return {**results, "o": kept["o"]}

    verdict = execute.run(repeated(DECODE), Spoiled(reuse), "interpret")
    assert type(verdict.failure) is failures.NotRepeatable
    assert "the memory of the first call's result" in str(verdict.failure)


@pytest.mark.parametrize("op", OPERATIONS)
def test_a_right_kernel_passes(op: str) -> None:
    operation = OPERATIONS[op]
    steps = 2 if operation.drafts else 0
    pool = Pool(
        indices=(0,) if operation.has_pool else (), steps=steps, buffer=steps // 2, rows=(0,) * (steps // 2)
    )
    case = Case(op=op, lens=(1,) if operation.single_token else (2,), pool=pool, values=PLAIN, gates=MODEL)
    verdict = execute.run(case, Eager(), "interpret")
    assert verdict.failure is None
    assert 0 < max(verdict.shares.values()) < 1


def test_failures_survive_json() -> None:
    failure = failures.BeyondBound("gdn.decode", "o", "(sequence 0)", "too far")
    again = failures.CheckFailure.from_json(failure.to_json())
    assert (type(again), str(again)) == (failures.BeyondBound, "gdn.decode o (sequence 0): too far")


def test_noise_of_a_rounding_that_all_share_is_its_size() -> None:
    """A gate's rounding moves a whole state: eight samples give its size, not a lucky draw."""
    case = Case(
        op="gdn.recurrent",
        K=128,
        V=16,
        pool=Pool(indices=()),
        values=PLAIN,
        gates=Gates(law="constant", beta="zero"),
    )
    data = inputs.draw(case)
    truth = oracle.expected(case, data)
    spread = noise.measure(case, data, default_contract(case.op))["state"] / truth.state.abs()
    # (2 |g| + 4) half units of the exponent at |g| = 1, besides two roundings of the state; smaller elements
    # have what is pooled with larger ones.
    size = truth.state.square()
    large = size > size.mean(-1, keepdim=True)
    assert 3.0 * 2.0**-24 < float(spread[large].median()) < 3.6 * 2.0**-24
    assert float(spread.min()) > 2.0 * 2.0**-24


def test_equal_terms_are_allowed_an_error_that_grows_with_their_number() -> None:
    few, many = (
        Case(op="gdn.decode", K=K, gates=Gates(law="constant", beta="half"), l2norm=True) for K in (8, 200)
    )
    relative = []
    for case in (few, many):
        data = inputs.draw(case)
        truth = oracle.expected(case, data)
        relative.append(
            float((noise.measure(case, data, default_contract(case.op))["o"] / truth.o.abs()).mean())
        )
    assert relative[1] > 5 * relative[0]
