"""What a call leaves behind, as `results_of` says it, is what targets and the emulated kernel leave."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch

from diffgdn import kernels, targets
from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.operand_options import Operands
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.promises import Promises
from diffgdn.cases.state_options import StateOptions
from diffgdn.reference import oracle, reference_kernel
from diffgdn.targets import FunctionTarget, calls
from diffgdn.tensors import inputs
from diffgdn.tensors.inputs import DTYPE
from diffgdn.tensors.layout import arrange
from diffgdn.tensors.results import (
    RETURNED,
    WrongForm,
    by_name,
    collect,
    result_of,
    results_of,
    returned_names,
)
from diffgdn.verdict import execute

DTYPES = ("bfloat16", "float16", "float32")


def cases() -> list[Case]:
    """Of every operation, its states written in place and not, given and not."""
    found = []
    for number, (op, operation) in enumerate(OPERATIONS.items()):
        pool = Pool(slots=3, indices=(2, -1)) if operation.has_pool else Pool(indices=())
        if operation.drafts:
            pool = replace(pool, steps=2, buffer=2, rows=(1, -1))
        case = Case(
            op=op,
            lens=(1, 1) if operation.single_token else (2, 0),
            H=1,
            HV=2,
            K=4,
            V=3,
            dtype=DTYPES[number % 3],
            pool=replace(pool, dtype=DTYPES[(number + 1) % 3]),
            gates=Gates(law="uniform"),
            values=Values(law="normal"),
            chunk_size=16,
            boundary=operation.is_chunked,
        )
        found.append(case)
        if operation.kind in ("extend", "recurrent"):
            none = replace(case.pool, indices=tuple(-1 for _ in case.pool.indices))
            found += [replace(case, inplace=False), replace(case, final=False)]
            found.append(replace(case, pool=none, values=replace(case.values, state="none")))
        if operation.kind == "update":
            found.append(replace(case, inplace=False))
    return found


CASES = cases()
IDS = [f"{case.op}-{n}" for n, case in enumerate(CASES)]


def left_by(target: str, case: Case) -> dict[str, torch.Tensor]:
    run = execute.Run(case, targets.get(target), "interpret", explain=False)
    arguments = arrange(case, inputs.draw(case), "cpu")
    return run.results(arguments, run.call(arguments))


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_our_kernels_leave_it_all_behind(case: Case) -> None:
    left = {name: (tuple(x.shape), x.dtype) for name, x in left_by("vk", case).items()}
    assert left == {one.name: (one.shape, DTYPE[one.dtype]) for one in results_of(case)}


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_without_a_kernel_it_is_the_same_but_for_a_state_returned_again(case: Case) -> None:
    sure = {one.name: (one.shape, DTYPE[one.dtype]) for one in results_of(case) if one.sure}
    assert {name: (tuple(x.shape), x.dtype) for name, x in left_by("eager", case).items()} == sure
    emulated = reference_kernel.stored(case, oracle.expected(case, inputs.draw(case)))
    assert {name: (tuple(x.shape), x.dtype) for name, x in emulated.items()} == sure


def test_final_states_of_gdn_recurrent_are_fp32_and_of_the_others_as_given() -> None:
    given: dict[str, Any] = {"pool": Pool(indices=(), dtype="bfloat16")}
    assert result_of(Case("gdn.recurrent", **given), "final").dtype == "float32"
    assert result_of(Case("kda.recurrent", **given), "final").dtype == "bfloat16"
    assert result_of(Case("gdn.extend", pool=Pool(dtype="float16")), "final").dtype == "float16"
    none = Case("gdn.extend", pool=Pool(indices=(-1,), dtype="float16"), values=Values(state="none"))
    assert result_of(none, "final").dtype == "float32"


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_call_may_write_where_results_lie_and_nowhere_else(case: Case) -> None:
    arguments = arrange(case, inputs.draw(case), "cpu")
    lying = [one for one in results_of(case) if one.lies != RETURNED]
    for one in lying:
        arguments[one.lies][one.index] = 0.5
    assert arguments.find_change() is None
    if case.writes_state and not case.operation.has_pool:
        arguments["state"][1] += 1  # of an empty sequence, which leaves its state as it is
        assert arguments.find_change() is not None


def test_results_are_told_apart_by_their_place_in_what_is_returned() -> None:
    o, state = torch.zeros(1), torch.ones(1)
    case = Case("kda.extend", boundary=True, final=False)
    assert by_name(returned_names(case), (o, state)) == {"o": o, "boundary": state}
    assert by_name(returned_names(Case("gdn.extend")), (o, None, state)) == {"o": o}
    with pytest.raises(TypeError, match="returned NoneType for o, expected a tensor"):
        by_name(returned_names(case), None)
    with pytest.raises(KeyError, match="leaves no final behind"):
        result_of(Case("gdn.decode"), "final")


def test_a_result_that_a_keyword_asks_for_has_to_come() -> None:
    """Of a function that declares the keyword; one that does not is compared in what it returns."""
    case, o = Case("gdn.extend", boundary=False), torch.zeros(1)
    arguments: Any = {}  # the results are returned
    assert "final" in returned_names(case)
    with pytest.raises(WrongForm, match="returned no final, which output_final_state=True asks for"):
        calls.results(case, arguments, (o, None), frozenset({"output_final_state"}))
    assert calls.results(case, arguments, o) == {"o": o}


def extend(spoil: Any, **promised: Any) -> FunctionTarget:
    """A target of our gdn.extend, of which (o, final, boundary) are spoiled."""

    def spoiled(**keywords: Any) -> Any:
        return spoil(*kernels.chunk_gated_delta_rule(**keywords))

    return FunctionTarget("spoiled", {"gdn.extend": spoiled}, promises=Promises(**promised))


def failure_of(case: Case, spoil: Any, **promised: Any) -> tuple[str, str | None, str] | None:
    failure = execute.run(case, extend(spoil, **promised), "interpret").failure
    return None if failure is None else (failure.kind, failure.tensor, failure.message)


PAIR = Pool(slots=2, indices=(0, 1))
TWO = Case("gdn.extend", lens=(17, 17), pool=PAIR, packed=False, HV=2, K=2, V=3, chunk_size=16, boundary=True)
SHAPES = {
    "as it is": (lambda o, final, h: (o, final, h), None),
    "chunks alone": (lambda o, final, h: (o, final, h.flatten(0, 1)), None),
    "all in one row": (lambda o, final, h: (o, final, h.flatten(0, 1)[None]), None),
    "tokens for chunks": (
        lambda o, final, h: (o, final, h.transpose(1, 2)[:, :, :1]),
        (
            "wrong_shape",
            "boundary",
            "expected [2, 2, 2, 3, 2] or [1, 4, 2, 3, 2] or [4, 2, 3, 2], got [2, 2, 1, 3, 2]",
        ),
    ),
    "heads for V": (
        lambda o, final, h: (o.reshape(2, 17, 3, 2), final, h),
        ("wrong_shape", "o", "expected [2, 17, 2, 3], got [2, 17, 3, 2]"),
    ),
    "tokens in a row": (
        lambda o, final, h: (o.flatten(0, 1), final, h),
        ("wrong_shape", "o", "expected [2, 17, 2, 3], got [34, 2, 3]"),
    ),
    "the other layout": (
        lambda o, final, h: (o, final.mT, h),
        ("wrong_shape", "final", "expected [2, 2, 3, 2], got [2, 2, 2, 3]"),
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_result_of_another_shape_is_refused_though_it_has_as_many_elements(name: str) -> None:
    spoil, said = SHAPES[name]
    assert failure_of(TWO, spoil) == said


def test_where_exact_is_promised_boundary_states_come_by_sequence() -> None:
    """As ours do, so that one who reads h[n] gets the states of sequence n."""
    row = lambda o, final, h: (o, final, h.flatten(0, 1)[None])
    said = "expected [2, 2, 2, 3, 2], got [1, 4, 2, 3, 2]"
    assert failure_of(TWO, row, result_form="exact") == ("wrong_shape", "boundary", said)
    assert failure_of(TWO, lambda *parts: parts, result_form="exact") is None


def test_states_k_v_come_in_their_own_shape() -> None:
    case = replace(TWO, boundary=False)
    function = {"gdn.extend": kernels.chunk_gated_delta_rule}
    assert execute.run(case, FunctionTarget("k_v", function, layout="kv"), "interpret").failure is None
    [final] = [one for one in results_of(case) if one.name == "final"]
    with pytest.raises(WrongForm, match=r"expected \[2, 2, 2, 3\], got \[2, 2, 3, 2\]"):
        collect([final], {}, {"final": torch.zeros(final.shape)}, "kv")


@pytest.mark.parametrize(
    ("came", "exact", "wider"),
    [
        (
            torch.bfloat16,
            "expected float16, got bfloat16",
            "expected float16 or float32 or float64, got bfloat16",
        ),
        (torch.float32, "expected float16, got float32", None),
        (torch.float16, None, None),
    ],
)
def test_a_dtype_that_does_not_hold_the_contracts_numbers_is_refused_and_a_wider_one_where_exact(
    came: torch.dtype, exact: str | None, wider: str | None
) -> None:
    case = Case("gdn.extend", chunk_size=16, pool=Pool(dtype="float16"))
    spoil = lambda o, final, h: (o, final.to(came), h)
    assert failure_of(case, spoil, result_form="exact") == (exact and ("wrong_dtype", "final", exact))
    assert failure_of(case, spoil) == (wider and ("wrong_dtype", "final", wider))
    assert failure_of(case, spoil, result_form="any") is None


def kda(spoil: Any, **promised: Any) -> FunctionTarget:
    """A target of our kda functions, of which what they return is spoiled."""
    made = {"kda.extend": kernels.chunk_kda, "kda.recurrent": kernels.fused_recurrent_kda}
    spoiled = {op: lambda made=one, **given: spoil(made(**given), given) for op, one in made.items()}
    return FunctionTarget("kda", spoiled, promises=Promises(**promised))


BARE: dict[str, Any] = {"values": Values(state="none"), "final": False}
MORE = {
    "a tuple of one": (
        Case("kda.extend", chunk_size=16, pool=Pool(indices=(-1,)), **BARE),
        lambda o, given: (o,),
        ("wrong_shape", "o", "expected a tensor, got a tuple of 1"),
    ),
    "states": (
        Case("kda.extend", chunk_size=16, pool=Pool(indices=(-1,)), **BARE),
        lambda o, given: (o, o[0]),
        ("wrong_shape", "o", "expected a tensor, got a tuple of 2"),
    ),
    "a final state": (
        Case("kda.recurrent", pool=Pool(indices=()), **BARE),
        lambda parts, given: (parts[0], parts[0][0]),
        ("not_asked", "value 2", "expected None, as nothing asks for it, got [1, 1, 16]"),
    ),
    "the state that was passed": (
        Case("kda.recurrent", pool=Pool(indices=()), final=False),
        lambda parts, given: (parts[0], given["initial_state"]),
        None,
    ),
}


@pytest.mark.parametrize("name", MORE)
def test_what_nothing_asks_for_is_refused_where_exact_is_promised(name: str) -> None:
    case, spoil, said = MORE[name]
    failure = execute.run(case, kda(spoil, result_form="exact"), "interpret").failure
    assert (failure and (failure.kind, failure.tensor, failure.message)) == said
    assert execute.run(case, kda(spoil), "interpret").failure is None


def test_without_an_output_one_element_stands_for_it() -> None:
    options = StateOptions(output=False)
    case = Case("gdn.update", state_options=options)
    for spoil, kind in ((lambda o: o, None), (lambda o: o.new_zeros(1, 1, 1, 16), "not_asked")):
        function = lambda spoil=spoil, **given: spoil(
            kernels.fused_recurrent_gated_delta_rule_update(**given)
        )
        made = FunctionTarget("silent", {"gdn.update": function}, promises=Promises(result_form="exact"))
        failure = execute.run(case, made, "interpret").failure
        assert (failure and failure.kind) == kind


@pytest.mark.parametrize(("inplace", "final"), [(True, True), (True, False), (False, True), (False, False)])
def test_kda_recurrent_is_called_without_a_state_in_every_way(inplace: bool, final: bool) -> None:
    """In place is its default, and None asks for a final state where none is overwritten."""
    case = Case("kda.recurrent", pool=Pool(indices=()), inplace=inplace, **{**BARE, "final": final})
    given = calls.keywords(case, arrange(case, inputs.draw(case), "cpu"))
    asked = None if inplace and not final else final
    assert (given["inplace_final_state"], given["output_final_state"]) == (inplace, asked)
    assert execute.run(case, targets.get("vk"), "interpret").failure is None


def test_an_output_has_the_dtype_of_q_or_where_that_is_promised_of_v() -> None:
    case = Case("gdn.extend", chunk_size=16, dtype="float32", operands=Operands(v="bfloat16"))
    as_v = lambda o, final, h: (o.to(torch.bfloat16), final, h)
    assert failure_of(case, as_v) == ("wrong_dtype", "o", "expected float32 or float64, got bfloat16")
    assert failure_of(case, as_v, output_dtype="v", result_form="exact") is None
    as_q = ("wrong_dtype", "o", "expected bfloat16, got float32")
    assert failure_of(case, lambda *parts: parts, output_dtype="v", result_form="exact") == as_q


@pytest.mark.parametrize("declares", [True, False])
def test_a_kernel_without_the_state_that_it_was_asked_for(declares: bool) -> None:
    def forgetful(**keywords: Any) -> Any:
        return kernels.chunk_gated_delta_rule(**keywords)[0]

    if declares:
        forgetful.__signature__ = inspect.signature(kernels.chunk_gated_delta_rule)  # type: ignore[attr-defined]
    target = FunctionTarget("forgetful", {"gdn.extend": forgetful})
    failure = execute.run(Case("gdn.extend", chunk_size=16), target, "interpret").failure
    assert (None if failure is None else failure.kind) == ("not_returned" if declares else None)
