"""Wrong results are noticed on a case that tells, pass on one that does not, and are left out where a case's
shape makes them right."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from diffgdn import targets
from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.state_options import StateOptions
from diffgdn.reference import reference_kernel
from diffgdn.strategies.informative import make_informative
from diffgdn.verdict import vacuity
from diffgdn.verdict.vacuity import WRONG

EAGER = targets.get("eager")
GATES, VALUES = Gates(law="uniform", beta="uniform"), Values(law="normal", seed=3)
PAIR = Pool(slots=3, indices=(2, 0))
INFORMATIVE = Case("gdn.update", (3, 2), H=2, HV=4, pool=PAIR, gates=GATES, values=VALUES)
KEPT = replace(INFORMATIVE, op="gdn.verify", pool=Pool(3, (2, 0), steps=3, buffer=2, rows=(1, 0)))
DENSE = Pool(indices=())
RETURNED = Case("kda.recurrent", (3, 2), H=1, HV=2, pool=DENSE, gates=GATES, values=VALUES, inplace=False)
CHUNKED = Case(
    "gdn.extend", (20, 3), H=1, HV=2, chunk_size=16, pool=PAIR, gates=GATES, values=VALUES, boundary=True
)
RAW = Case("kda.decode", (2, 2), H=1, HV=2, pool=PAIR, gates=GATES, values=VALUES, dtype="bfloat16")
COMMITTED = replace(KEPT, op="gdn.verify_commit", state_options=StateOptions(accepted=(1, 2)))
IDLE = Gates(law="zero", beta="zero")  # the state stays as it is
VACUOUS = {
    "zeros": replace(INFORMATIVE, values=Values(law="zero")),
    "constant": Case("gdn.update", (1,), pool=Pool(1, (0,)), values=Values(law="ones")),
    "input v": Case("gdn.update", (1,), K=1, pool=Pool(1, (0,)), values=Values(law="ones", state="zero")),
    "stale output": replace(INFORMATIVE, gates=IDLE, values=Values(law="normal", state="zero")),
    "unchanged state": replace(INFORMATIVE, gates=IDLE),
    "swapped heads": replace(INFORMATIVE, gates=Gates(), values=Values(law="ones")),
    "neighbour's slot": replace(INFORMATIVE, values=Values(law="ones")),
    "whole draft": replace(COMMITTED, gates=IDLE),
    "last token dropped": replace(INFORMATIVE, values=Values(law="zero")),
}
EVERY = [INFORMATIVE, KEPT, COMMITTED, RETURNED, CHUNKED, RAW]


def asked(case: Case) -> dict[str, bool]:
    """What the checks make of each wrong result that applies."""
    return vacuity.run(case, EAGER, "interpret").rejected


@pytest.mark.parametrize("case", EVERY, ids=lambda case: case.op)
def test_an_informative_case_rejects_every_wrong_result(case: Case) -> None:
    """All apply, that of a commit to a commit alone, and not one passes."""
    names = [name for name in WRONG if name != "whole draft" or case.operation.commits]
    assert asked(case) == dict.fromkeys(names, True)


@pytest.mark.parametrize("case", EVERY, ids=lambda case: case.op)
def test_right_results_pass(case: Case) -> None:
    """What is rejected is wrong: the truth, rounded once, is not."""
    right = vacuity.prepare(case, EAGER.contract(case.op))
    assert not vacuity.rejects(right, right.results)


@pytest.mark.parametrize("name", WRONG)
def test_a_vacuous_case_lets_it_pass(name: str) -> None:
    """Measuring means that a case can fail to notice."""
    assert WRONG[name].unless(VACUOUS[name]) is None
    assert asked(VACUOUS[name])[name] is False


@pytest.mark.parametrize(
    ("name", "case", "why"),
    [
        ("zeros", replace(INFORMATIVE, lens=(0, 0)), "no token"),
        (
            "zeros",
            Case("gdn.packed_decode", (1,), pool=Pool(1, (-1,)), values=VALUES),
            "all sequences are padding",
        ),
        ("constant", Case("gdn.recurrent", (1,), V=1, pool=DENSE), "one element"),
        ("unchanged state", replace(INFORMATIVE, inplace=False), "no state is left behind"),
        (
            "unchanged state",
            replace(INFORMATIVE, pool=Pool(3, (-1, -1))),
            "every sequence is empty or padding",
        ),
        ("swapped heads", replace(INFORMATIVE, H=1, HV=1), "one head"),
        (
            "neighbour's slot",
            replace(INFORMATIVE, values=Values(state="zero")),
            "every initial state is zero",
        ),
        ("neighbour's slot", replace(INFORMATIVE, pool=Pool(3, (2, -1))), "no two sequences"),
        ("neighbour's slot", replace(INFORMATIVE, lens=(3, 0)), "no two sequences"),
        (
            "neighbour's slot",
            replace(INFORMATIVE, K=1, gates=Gates(beta="one")),
            "the place of the whole state",
        ),
        ("neighbour's slot", replace(INFORMATIVE, gates=Gates(law="underflow")), "forgets the state"),
        ("last token dropped", replace(INFORMATIVE, lens=(0, 0)), "none can be dropped"),
    ],
)
def test_a_wrong_result_that_is_right_is_not_asked_for(name: str, case: Case, why: str) -> None:
    """Where a case's shape leaves no way to be wrong, it says why, and the answers leave it out."""
    assert why in (WRONG[name].unless(case) or "")
    assert name not in asked(case)


def test_a_dropped_token_is_missing_from_output_and_state() -> None:
    """Either alone is enough to be noticed; other tokens have their output."""
    right = vacuity.prepare(INFORMATIVE, EAGER.contract(INFORMATIVE.op))
    (wrong,) = WRONG["last token dropped"].make(right)
    assert [row for row in range(5) if not wrong["o"][row].any()] == [2, 4]
    assert torch.equal(wrong["o"][[0, 1, 3]], right.results["o"][[0, 1, 3]])
    assert all(vacuity.rejects(right, {name: wrong[name]}) for name in ("o", "state"))


def test_weak_gates_forget_nothing() -> None:
    """Under the law of strong decay it is the strength that says whether the state before a token matters."""
    weak = replace(INFORMATIVE, gates=Gates(law="underflow", strength=0.0078125))
    assert asked(weak)["neighbour's slot"] is True


def test_a_stale_output_needs_other_numbers() -> None:
    """Where the call before this one had the very same tensors, its output is no mistake."""
    assert "stale output" not in asked(VACUOUS["swapped heads"])


def test_a_refused_case_is_not_asked() -> None:
    """What the target does not take has no contract to measure against."""

    class Picky(type(EAGER)):  # type: ignore[misc]
        def refuses(self, case: Case, backend: str) -> str | None:
            return "not today"

    verdict = vacuity.run(INFORMATIVE, Picky(), "interpret")
    assert (verdict.refused, verdict.rejected) == ("not today", {})


def test_exact_cases_are_told_apart() -> None:
    """The verdict says whether the tolerance was zero."""
    exact = replace(
        INFORMATIVE, values=Values(law="exact"), gates=Gates(law="exact", beta="exact"), scale=1.0
    )
    assert vacuity.run(exact, EAGER, "interpret").exact
    assert not vacuity.run(INFORMATIVE, EAGER, "interpret").exact


@pytest.mark.parametrize("op", OPERATIONS)
def test_emulated_results_are_those_of_a_run(op: str) -> None:
    """Names, shapes and dtypes of the results that wrong ones are made of: what the eager target leaves."""
    from diffgdn.tensors import inputs
    from diffgdn.tensors.layout import arrange
    from diffgdn.verdict.execute import Run

    length = 1 if OPERATIONS[op].single_token else 2
    keeps: dict[str, Any] = {"steps": length, "buffer": 2, "rows": (1, -1)} if OPERATIONS[op].drafts else {}
    case = Case(
        op,
        (length, length),
        H=1,
        HV=2,
        V=8,
        dtype="bfloat16",
        pool=Pool(3, (2, -1), dtype="float16", **keeps) if OPERATIONS[op].has_pool else DENSE,
        gates=GATES,
        values=VALUES,
        boundary=OPERATIONS[op].kind == "extend",
    )
    run = Run(case, EAGER, "interpret", explain=False)
    arguments = arrange(case, inputs.draw(case), "cpu", EAGER.layout)
    kernel = run.results(arguments, run.call(arguments))
    ours = vacuity.prepare(case, EAGER.contract(op)).results
    assert {name: (t.shape, t.dtype) for name, t in ours.items()} == {
        name: (t.shape, t.dtype) for name, t in kernel.items()
    }
    assert all(torch.allclose(ours[name].double(), kernel[name].double(), atol=0.05) for name in ours)


def test_every_rounding_of_a_contract_can_be_made() -> None:
    """Results of a kernel that rounds wherever it may differ from the truth, and pass."""
    right = vacuity.prepare(RAW, EAGER.contract(RAW.op))
    rounded = reference_kernel.computed(RAW, right.data, EAGER.contract(RAW.op))
    assert not torch.equal(rounded["state"], right.results["state"])
    assert not vacuity.rejects(right, rounded)


@pytest.mark.parametrize("name", ["constant", "stale output", "unchanged state", "swapped heads"])
def test_making_it_informative_mends_a_vacuous_case(name: str) -> None:
    """The strategies' last step: the same shape under laws that let nothing pass."""
    mended = make_informative(VACUOUS[name])
    assert (mended.lens, mended.pool, mended.HV) == (VACUOUS[name].lens, VACUOUS[name].pool, VACUOUS[name].HV)
    assert all(asked(mended).values())


def test_an_informative_case_is_left_alone() -> None:
    """Nothing is changed without need."""
    assert make_informative(INFORMATIVE) is INFORMATIVE
