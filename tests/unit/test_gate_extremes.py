"""Raw gates at their limits: what the oracle says, and that kernels agree.

exp(A_log) that overflows gives a decay of 0 wherever softplus is above 0, A_log = -inf one of exactly 1. Past
88, where exp overflows, a + dt_bias counts as itself.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import find, settings

from diffgdn import targets
from diffgdn.backend import selection
from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.operand_options import Operands
from diffgdn.cases.operations import OPERATIONS
from diffgdn.mutants import mutant_targets
from diffgdn.reference import noise, oracle
from diffgdn.reference.oracle import Exact
from diffgdn.strategies import cases
from diffgdn.tensors import inputs
from diffgdn.verdict import execute

BACKEND = selection.detect()
VALUES = Values("normal", seed=4)
TWO = Pool(2, (0, 1))
RAW = tuple(op for op, operation in OPERATIONS.items() if operation.raw_gates)


def case_of(op: str, law: str, bound: float | None, K: int) -> Case:
    """Two sequences in three heads, and with K = 17 channels that are beyond K in a kernel's block."""
    pool = replace(TWO, steps=3, buffer=2, rows=(0, 1)) if OPERATIONS[op].drafts else TWO
    lens, raw = (1, 1) if "packed" in op else (3, 2), op.endswith("extend")
    gates = Gates(law, beta="uniform", lower_bound=bound, raw=raw)
    return Case(op, lens, HV=5, K=K, pool=pool, gates=gates, values=VALUES, chunk_size=16 if raw else 64)


@pytest.mark.parametrize("target", ["vk", "eager"])
@pytest.mark.parametrize("K", [16, 17])
@pytest.mark.parametrize("law", ["checkpoint", "extreme"])
@pytest.mark.parametrize("op", [*RAW, "kda.extend"])
def test_kernels_agree_with_the_oracle(op: str, law: str, K: int, target: str) -> None:
    for bound in (None, -5.0) if op.startswith("kda") else (None,):
        case = case_of(op, law, bound, K)
        verdict = execute.assert_correct(case, targets.get(target), BACKEND)
        assert all(0.0 <= share < math.inf for share in verdict.shares.values())


def decay(A_log: float, a: float) -> torch.Tensor:
    """The state after a token of zeros, over the state before it."""
    case = Case("gdn.decode", gates=Gates("checkpoint"), values=Values("ones"))
    data = inputs.draw(case)
    data |= {name: torch.zeros_like(data[name]) for name in ("k", "dt_bias")}
    data["a"].fill_(a)
    data["A_log"].fill_(A_log)
    return oracle.expected(case, data).state.flatten() / data["state"].double().flatten()


@pytest.mark.parametrize(
    ("A_log", "a", "expected"),
    [
        (89.0, -3.0, 0.0),
        (math.inf, 1.0, 0.0),
        (-math.inf, 3000.0, 1.0),
        (-60.0, 100.0, 1.0),
        (-6.0, 100.0, math.exp(-100.0 * math.exp(-6.0))),
    ],
)
def test_the_oracle_has_the_limits(A_log: float, a: float, expected: float) -> None:
    torch.testing.assert_close(decay(A_log, a), torch.full((256,), expected, dtype=torch.float64))


def test_the_laws_reach_what_they_are_for() -> None:
    laws = [(Gates(law), Values(seed=seed)) for law in ("checkpoint", "extreme") for seed in range(20)]
    many = [inputs.draw(Case("gdn.decode", (4, 4), HV=6, pool=TWO, gates=g, values=v)) for g, v in laws]
    A_log = torch.cat([data["A_log"] for data in many])
    x = torch.cat([(data["a"] + data["dt_bias"]).flatten() for data in many])
    rates = torch.cat([data["A_log"].expand(8, 6).flatten() for data in many])
    inside = A_log[(A_log > -7) & (A_log < 6)]
    assert inside.min() < -5.5
    assert inside.max() > 4.5
    assert bool((A_log == -math.inf).any())
    assert bool((torch.exp(A_log) == math.inf).any())
    assert bool(((x > 88.8) & (rates < -50)).any())
    assert bool((x != 0).all())
    bias = torch.cat([data["dt_bias"] for data in many])
    assert bool((bias * 2.0**10 != (bias * 2.0**10).round()).any())  # not dyadic


@pytest.mark.parametrize("bound", [None, -5.0])
def test_a_rate_that_overflows_makes_no_noise_of_its_own(bound: float | None) -> None:
    """Errors of a decay that is 0 whatever its gate: as numbers, they would be beyond any bound."""
    case = case_of("kda.extend", "extreme", bound, 17)
    measured = noise.measure(case, inputs.draw(case), targets.get("vk").contract(case.op), "cpu")
    assert 0.0 < float(measured["o"].max()) < 1e-6


class Plain(Exact):
    """softplus as SGLang and vLLM write it: log(1 + exp(x)) in fp32."""

    def softplus(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log(1.0 + torch.exp(x.float())).double()


def worst(points: dict[str, str | None]) -> float:
    """The largest error of a state under `Plain`, in sigmas, over a few seeds."""
    found = []
    for number in range(4):
        gates, values = Gates("checkpoint", beta="uniform"), Values("normal", seed=number)
        case = Case("gdn.decode", (3, 3), HV=16, pool=TWO, gates=gates, values=values)
        data = inputs.draw(case)
        truth, plain = oracle.expected(case, data), oracle.expected(case, data, Plain())
        size = noise.measure(case, data, noise.Contract(points=points))["state"]
        found.append(float(((plain.state - truth.state).abs() / (size + noise.TINY)).max()))
    return max(found)


def test_softplus_may_round_its_sum() -> None:
    """1 + exp(x) in fp32 is off by a unit, which a rate of a hundred makes large beside a slow decay."""
    assert worst({}) < noise.MAX_SIGMAS < worst({"softplus_sum": None})


AT = [(1.0, 2.0), (2.0, 20.0), (2.0, 0.0), (0.5, 2.0), (1.0, 60.0)]  # factor and threshold of softplus


def met(factor: float, threshold: float, dtype: str = "float32") -> Case:
    """Gates of many channels at a threshold of softplus."""
    pool = Pool(steps=2, buffer=1, rows=(0,))
    gates = Gates("threshold", dtype=dtype, beta="uniform")
    operands = Operands(softplus_beta=factor, softplus_threshold=threshold)
    return Case(
        "kda.verify", (2,), HV=3, dtype=dtype, pool=pool, gates=gates, operands=operands, values=VALUES
    )


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("factor", "threshold"), AT)
def test_raw_gates_lie_at_a_threshold_to_the_bit_and_next_to_it(
    factor: float, threshold: float, dtype: str
) -> None:
    data = inputs.draw(met(factor, threshold, dtype))
    z = factor * (data["a"].float() + data["dt_bias"].float())
    near = (z - threshold).abs() <= 2.0**-6 * max(threshold, 1.0)
    assert bool((z == threshold).any())
    for side in (z < threshold, z > threshold):
        assert bool((side & near).any() and (side & ~near).any())


@pytest.mark.parametrize("target", ["vk", "eager"])
@pytest.mark.parametrize(("factor", "threshold"), AT)
def test_kernels_agree_with_the_oracle_at_a_threshold(factor: float, threshold: float, target: str) -> None:
    for dtype in ("float32", "bfloat16"):
        execute.assert_correct(met(factor, threshold, dtype), targets.get(target), BACKEND)


@pytest.mark.parametrize(("factor", "threshold"), [(1.0, 2.0), (2.0, 0.0), (0.5, 2.0)])
def test_a_gate_at_the_threshold_is_not_past_it(factor: float, threshold: float) -> None:
    mutant = mutant_targets.name_of("off-by-one@device.softplus.1")  # >= for >
    failure = execute.run(met(factor, threshold), targets.get(mutant), BACKEND).failure
    assert failure is not None
    assert failure.kind == "beyond_bound"


def test_gates_at_a_threshold_are_drawn() -> None:
    for op in ("gdn.decode", "kda.verify"):
        case = find(
            cases(op),
            lambda case: case.gates.law == "threshold",
            settings=settings(max_examples=2000, database=None, derandomize=True, deadline=None),
        )
        assert not case.operands.plain_softplus


def test_gates_that_are_given_or_bounded_meet_no_threshold() -> None:
    with pytest.raises(ValueError, match="threshold"):
        Case("gdn.update", gates=Gates("threshold"))
    with pytest.raises(ValueError, match="threshold"):
        Case("kda.decode", gates=Gates("threshold", lower_bound=-5.0))
