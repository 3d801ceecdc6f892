"""Operands in other forms and dtypes than the usual ones: cases, tensors, kernels, noise and targets."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diffgdn import kernels, targets
from diffgdn.backend import selection
from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.operand_options import Operands
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.promises import EVERYTHING, Promises
from diffgdn.findings import repro
from diffgdn.findings.finding import Finding
from diffgdn.reference import noise, oracle
from diffgdn.strategies import Menu
from diffgdn.targets import FunctionTarget, TargetError
from diffgdn.tensors import inputs
from diffgdn.tensors.layout import arrange
from diffgdn.verdict import execute

BACKEND = selection.detect()
DTYPES = ("float32", "bfloat16")
OWN = (
    Operands(k="float16"),
    Operands(k="float32", v="bfloat16"),
    Operands(beta="raw"),
    Operands(beta="raw", neg_eigval=True),
    Operands(neg_eigval=True),
    Operands(beta="activated"),
    Operands(beta="none"),
    Operands(beta_dtype="bfloat16"),
    Operands(dt_bias="none"),
    Operands(dt_bias="bfloat16"),
    Operands(dt_bias="float16", A_log="bfloat16"),
    Operands(softplus_beta=2.0, softplus_threshold=2.0),
    Operands(softplus_beta=0.5, softplus_threshold=60.0),
)


def case_of(op: str, **changes: Any) -> Case:
    pool = Pool(2, (0, 1)) if OPERATIONS[op].has_pool else Pool(indices=())
    if OPERATIONS[op].drafts:
        pool = replace(pool, steps=3, buffer=2, rows=(0, 1))
    lens, chunk = (1, 1) if "packed" in op else (3, 2), 16 if op.endswith("extend") else 64
    case = Case(op, lens, HV=2, K=17, V=8, pool=pool, values=Values("normal", seed=4), chunk_size=chunk)
    return replace(case, **changes)


def takes(op: str, dtype: str, raw: bool, operands: Operands) -> list[Case]:
    """The cases that there are of an operation with these operands: none, or one for each bound."""
    found = []
    for bound in (None, -5.0):
        gates = Gates("checkpoint", beta="uniform", raw=raw, lower_bound=bound)
        try:
            found.append(case_of(op, dtype=dtype, gates=gates, operands=operands))
        except ValueError:
            continue
    return found


@pytest.mark.parametrize("target", ["vk", "eager"])
@pytest.mark.parametrize("op", OPERATIONS)
def test_kernels_agree_with_the_oracle(op: str, target: str) -> None:
    ran = set()
    for operands in OWN:
        for dtype in DTYPES:
            for raw in (False, True):
                for case in takes(op, dtype, raw, operands):
                    execute.assert_correct(case, targets.get(target), BACKEND)
                    ran.add(operands)
    least = {"extend": 8, "recurrent": 9, "update": 3, "packed_decode": 4}.get(OPERATIONS[op].kind, 8)
    assert len(ran) >= least


@pytest.mark.parametrize(
    ("op", "gates", "own", "words"),
    [
        ("gdn.packed_decode", {}, {"k": "bfloat16"}, "operands.k, v"),
        ("gdn.decode", {}, {"k": "int8"}, "operands.k: expected one of q, float32"),
        ("gdn.extend", {}, {"beta": "activated"}, "operands.beta: 'activated'"),
        ("gdn.extend", {"raw": True}, {"beta": "raw"}, "operands.beta: 'raw'"),
        ("gdn.update", {}, {"beta": "raw"}, "operands.beta: 'raw'"),
        ("gdn.extend", {}, {"beta": "none"}, "operands.beta: only recurrent and update"),
        ("gdn.extend", {}, {"neg_eigval": True}, "operands.neg_eigval"),
        ("gdn.decode", {}, {"neg_eigval": True}, "operands.neg_eigval"),
        ("gdn.update", {}, {"dt_bias": "none"}, "operands.dt_bias, A_log"),
        ("gdn.extend", {}, {"A_log": "bfloat16"}, "operands.dt_bias, A_log"),
        ("gdn.decode", {}, {"beta_dtype": "bfloat16"}, "operands.beta_dtype: expected one of gate, float32"),
        ("gdn.extend", {"raw": True}, {"softplus_beta": 2.0}, "operands.softplus: of unbounded gates"),
        ("kda.decode", {"lower_bound": -5.0}, {"softplus_beta": 2.0}, "operands.softplus: of unbounded"),
        ("gdn.decode", {}, {"softplus_beta": 0.0}, "operands.softplus: beta above 0"),
        (
            "gdn.decode",
            {},
            {"softplus_threshold": 90.0},
            "operands.softplus: beta above 0, threshold 0 to 80",
        ),
        ("gdn.update", {"raw": True}, {}, "gates.raw: only extend and recurrent"),
    ],
)
def test_what_no_operation_takes_is_no_case(
    op: str, gates: dict[str, Any], own: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        case_of(op, gates=Gates(**gates), operands=Operands(**own))


@pytest.mark.parametrize(
    ("case", "version"),
    [
        (case_of("kda.extend", gates=Gates(raw=True)), 1),
        (case_of("gdn.extend", gates=Gates(raw=True)), 4),
        (case_of("kda.recurrent", gates=Gates(raw=True)), 4),
        (case_of("gdn.decode", operands=Operands(A_log="bfloat16")), 4),
    ],
)
def test_other_operands_need_the_fourth_format(case: Case, version: int) -> None:
    stored = json.loads(json.dumps(case.to_json()))
    assert stored["format_version"] == version
    assert ("operands" in stored) == (version == 4)
    assert Case.from_json(stored) == case


def test_tensors_have_the_dtypes_that_are_asked_for() -> None:
    own = Operands(k="float32", v="float16", beta_dtype="float32", dt_bias="float16", A_log="bfloat16")
    case = case_of("gdn.decode", dtype="bfloat16", gates=Gates(dtype="bfloat16"), operands=own)
    found = {name: str(x.dtype).removeprefix("torch.") for name, x in inputs.draw(case).items()}
    assert found == {
        "q": "bfloat16", "k": "float32", "v": "float16", "a": "bfloat16", "b": "float32", "A_log": "bfloat16",
        "dt_bias": "float16", "state": "float32",
    }  # fmt: skip
    arguments = arrange(replace(case, view="packed"), inputs.draw(case), "cpu")
    assert {str(arguments[name].dtype) for name in "qkv"} == {
        "torch.bfloat16",
        "torch.float32",
        "torch.float16",
    }


def test_a_raw_beta_may_count_twice() -> None:
    case = case_of("gdn.recurrent", gates=Gates(beta="uniform"), operands=Operands(beta="raw"))
    once = oracle.lanes.make(case, inputs.draw(case), oracle.Exact()).beta
    twice = replace(case, operands=replace(case.operands, neg_eigval=True))
    assert torch.equal(oracle.lanes.make(twice, inputs.draw(twice), oracle.Exact()).beta, 2.0 * once)
    assert float(once.max()) < 1.0


def test_no_beta_is_one_and_no_dt_bias_zero() -> None:
    case = case_of(
        "gdn.recurrent", gates=Gates("uniform", raw=True), operands=Operands(beta="none", dt_bias="none")
    )
    data = inputs.draw(case)
    assert {"a", "A_log"} <= set(data)
    assert not {"b", "beta", "dt_bias"} & set(data)
    lanes = oracle.lanes.make(case, data, oracle.Exact())
    live = lanes.live
    assert bool((lanes.beta[live] == 1.0).all())
    g = -data["A_log"].double().exp() * torch.nn.functional.softplus(data["a"].double(), threshold=60.0)
    torch.testing.assert_close(lanes.g[:3, :2, 0], g[:3])


@pytest.mark.parametrize("threshold", [2.0, 20.0, 60.0, 100.0, 300.0])
@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_our_softplus_takes_any_numbers(factor: float, threshold: float) -> None:
    """Of a threshold past 88 too, before which exp overflows in fp32."""
    HV, device = 64, "cpu" if BACKEND == "interpret" else "cuda"
    a = torch.linspace(-20.0, 250.0, HV, device=device)
    state = torch.ones(1, HV, 1, 1, device=device)
    zero = torch.zeros(1, 1, HV, 1, device=device)
    kernels.fused_sigmoid_gating_delta_rule_update(
        A_log=torch.full((HV,), -6.0, device=device), a=a.view(1, HV), dt_bias=None, softplus_beta=factor,
        softplus_threshold=threshold, q=zero, k=zero, v=zero, b=torch.zeros(1, HV, device=device),
        initial_state_source=state, initial_state_indices=torch.zeros(1, dtype=torch.int32, device=device),
    )  # fmt: skip
    x = a.cpu().double()
    curved = torch.logaddexp(factor * x, torch.zeros_like(x)) / factor
    softplus = torch.where(factor * x > threshold, x, curved)
    expected = torch.exp(-softplus * torch.tensor(-6.0).exp())
    torch.testing.assert_close(state.flatten().cpu().double(), expected, rtol=1e-5, atol=0)


def spread(case: Case, data: inputs.Data) -> float:
    """The largest noise of a state."""
    return float(noise.measure(case, data, noise.Contract())["state"].max())


def test_noise_has_the_jump_where_rounding_may_cross_the_threshold_and_nowhere_else() -> None:
    own = Operands(softplus_threshold=2.0)
    case = Case(
        "gdn.decode", K=16, V=16, gates=Gates("uniform", beta="zero"), values=Values("ones"), operands=own
    )
    data = inputs.draw(case)
    data["A_log"].zero_()
    data["a"].fill_(2.0)
    data["dt_bias"].fill_(2.0**-30)  # a sum that fp32 does not hold
    at = spread(case, data)
    data["dt_bias"].zero_()
    to_the_bit = spread(case, data)
    data["a"].fill_(2.0 + 2.0**-16)
    data["dt_bias"].fill_(2.0**-30)
    beside = spread(case, data)
    jump = float(torch.log1p(torch.exp(torch.tensor(-2.0))))
    decay = float(torch.exp(torch.tensor(-2.0)))
    assert at > 0.5 * jump * decay  # of a state of ones, which is decayed alone
    assert beside < 1e-6
    assert to_the_bit < 1e-6


def test_without_dt_bias_a_is_not_rounded() -> None:
    """a in fp32 is what softplus gets: of a large rate, the sum's rounding would show."""
    own = case_of("gdn.decode", gates=Gates("checkpoint", beta="uniform"))
    without = replace(own, operands=Operands(dt_bias="none"))
    data = inputs.draw(own)
    data["dt_bias"].zero_()
    bare = {name: x for name, x in data.items() if name != "dt_bias"}
    assert spread(without, bare) <= spread(own, data)


def test_products_may_go_to_the_coarsest_of_q_k_and_v() -> None:
    case = case_of("gdn.extend", operands=Operands(k="bfloat16"))
    assert noise.CHUNKED.dtype(case, "operand") == torch.bfloat16
    assert (
        noise.CHUNKED.dtype(replace(case, dtype="float16", operands=Operands()), "operand") == torch.float16
    )
    coarse, fine = replace(case, operands=Operands(k="float16")), replace(case, operands=Operands())
    sizes = [noise.CHUNKED.sizes(one)["w"].unit for one in (case, coarse, fine)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


def plain(q: Any, k: Any, v: Any, g: Any, beta: Any, scale: Any = None, **rest: Any) -> Any: ...


def narrow(
    q: Any, k: Any, v: Any, g: Any, beta: Any, scale: Any = None, beta_is_raw: bool = False
) -> Any: ...


def test_what_a_function_has_no_keyword_for_is_not_promised() -> None:
    assert FunctionTarget("any", {"gdn.extend": plain}).promises == EVERYTHING
    own = FunctionTarget("narrow", {"gdn.extend": narrow, "gdn.decode": narrow}).promises
    extend, decode = own.of("gdn.extend"), own.of("gdn.decode")
    assert (extend.raw_gates, extend.raw_beta, extend.neg_eigval) == ((False,), (False, True), False)
    assert decode == EVERYTHING
    wanted = Promises(raw_gates=(True,))  # nothing would be left of what the target itself says
    assert FunctionTarget("sure", {"gdn.extend": narrow}, promises=wanted).promises.of(
        "gdn.extend"
    ).raw_gates == (True,)
    with pytest.raises(TargetError):
        FunctionTarget(
            "none", {"gdn.extend": narrow}, promises=Promises(dtype=("bfloat16",), gate_dtype=("float16",))
        )


def test_one_build_of_a_menu_has_other_operands() -> None:
    """So that a campaign compiles no more than before."""
    counts = []
    for number in range(20):
        menu = Menu.draw(number, OPERATIONS)
        for op, found in menu.builds:
            usual = [build for build in found if build.operands == Operands()]
            raw = [build for build in usual if build.raw and op != "kda.extend"]
            counts.append(len(found) - len(usual) + len(raw))
            assert len(found) == 6
    assert set(counts) == {0, 1} or set(counts) == {1}
    assert sum(counts) >= 0.8 * len(counts)


@pytest.mark.parametrize(
    "case",
    [
        case_of(
            "gdn.recurrent",
            gates=Gates("uniform", beta="uniform", raw=True),
            operands=Operands(dt_bias="none", neg_eigval=True),
        ),
        case_of(
            "kda.extend", gates=Gates("uniform", beta="uniform"), operands=Operands(beta="raw", k="bfloat16")
        ),
        case_of("gdn.update", operands=Operands(beta="none", v="float16")),
        case_of(
            "kda.decode", gates=Gates("uniform"), operands=Operands(softplus_threshold=2.0, A_log="bfloat16")
        ),
    ],
    ids=lambda case: case.op,
)
def test_scripts_do_what_the_case_does(case: Case, tmp_path: Path) -> None:
    source = repro.script(Finding(case, "vk", "interpret", "beyond_bound", "", "o", ""))
    assert "diffgdn.scripts" not in source  # it stands alone
    path = tmp_path / "script.py"
    path.write_text(source)
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["right"]), done.stdout + done.stderr
