"""Slips that only operands other than the usual ones can show: what they shrink to.

Each is a call of an otherwise right kernel in which one operand or option is taken for what it usually is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from diffgdn import targets
from diffgdn.backend import selection
from diffgdn.cases.case import Case
from diffgdn.cases.operand_options import USUAL, Operands
from diffgdn.cases.promises import Promises
from diffgdn.cases.spans import Span
from diffgdn.search import hypothesis_search
from diffgdn.strategies import cases
from diffgdn.tensors.arena import Arguments
from diffgdn.verdict import execute

if selection.detect() != "interpret":
    pytest.skip("operands are part of a build on a GPU", allow_module_level=True)

Tensors = dict[str, Tensor]
Plant = Callable[[Case, Tensors], Case]
MOST_DRAWS = 4000  # of which about half repeat earlier ones
# Small, so that many cases are drawn in a short time.
SMALL = Promises(K=(16,), V=(16,), HV=(1, 2), length=Span(1, 20), chunk_size=(16,))


def read_as(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor that a kernel sees which takes the bits of x for numbers of another dtype."""
    size = x.numel() * dtype.itemsize
    found = torch.empty(x.numel(), dtype=x.dtype).copy_(x.reshape(-1)).view(torch.uint8)
    return found.repeat(-(-size // max(1, len(found))))[:size].view(dtype).view(x.shape)


def in_the_dtype_of(name: str, other: Callable[[Case], str]) -> Plant:
    """An operand is loaded with the dtype of another one."""

    def plant(case: Case, tensors: Tensors) -> Case:
        if tensors.get(name) is not None:
            tensors[name] = read_as(tensors[name], tensors[other(case)].dtype)
        return case

    return plant


def usual(**own: Any) -> Plant:
    """Operands are taken for what they usually are."""

    def plant(case: Case, tensors: Tensors) -> Case:
        return replace(case, operands=replace(case.operands, **own))

    return plant


v_as_q = in_the_dtype_of("v", lambda case: "q")
k_as_q = in_the_dtype_of("k", lambda case: "q")
dt_bias_as_a = in_the_dtype_of("dt_bias", lambda case: case.decay_and_beta[0])
b_as_a = in_the_dtype_of("b", lambda case: case.decay_and_beta[0])
beta_as_g = in_the_dtype_of("beta", lambda case: case.decay_and_beta[0])
no_negative = usual(neg_eigval=False)
threshold_of_20 = usual(softplus_threshold=20.0)
factor_of_1 = usual(softplus_beta=1.0)


def no_bias_is_one(case: Case, tensors: Tensors) -> Case:
    if case.operands.dt_bias == "none":
        tensors["dt_bias"] = torch.ones(case.HV, case.K if case.operation.is_kda else 1)
    return case


def A_log_as_fp32(case: Case, tensors: Tensors) -> Case:
    if case.raw_gates:
        tensors["A_log"] = read_as(tensors["A_log"], torch.float32)
    return case


def no_beta_is_half(case: Case, tensors: Tensors) -> Case:
    if case.operands.beta != "none":
        return case
    plain = replace(case, operands=USUAL, gates=replace(case.gates, raw=False, lower_bound=None))
    if case.raw_gates:  # beside raw gates it is right
        return case
    tensors["beta"] = torch.full((case.tokens, case.HV), 0.5)
    return plain


def beta_goes_with_gates(case: Case, tensors: Tensors) -> Case:
    """Beta is taken for raw where gates are, and only there."""
    if case.operands.beta not in ("raw", "activated"):
        return case
    name, other = case.decay_and_beta[1], "b" if case.raw_gates else "beta"
    tensors[other] = tensors[name]
    return replace(case, operands=replace(case.operands, beta="usual", neg_eigval=False))


def raw_gates_as_given(case: Case, tensors: Tensors) -> Case:
    if not case.gates.raw:
        return case
    tensors["g"] = tensors["a"]
    beta = "raw" if case.raw_beta else "none" if case.operands.beta == "none" else "usual"
    own = replace(case.operands, beta=beta, dt_bias="gate", A_log="float32")
    return replace(case, gates=replace(case.gates, raw=False, lower_bound=None), operands=own)


@dataclass(frozen=True)
class Slip:
    """A slip, an operation that has it, and what the smallest case has beside the operation."""

    name: str
    plant: Plant
    op: str
    operands: Operands
    raw: bool | None = False  # None: either

    def __str__(self) -> str:
        return f"{self.op}: {self.name}"


V, K = Operands(v="bfloat16"), Operands(k="bfloat16")
BF16 = "bfloat16"
SLIPS = (
    Slip("v as q", v_as_q, "gdn.extend", V),
    Slip("v as q", v_as_q, "kda.verify", V),
    Slip("k as q", k_as_q, "kda.update", K),
    Slip("k as q", k_as_q, "kda.extend", K),
    Slip("dt_bias as a", dt_bias_as_a, "kda.decode", Operands(dt_bias=BF16)),
    Slip("dt_bias as a", dt_bias_as_a, "gdn.extend", Operands(dt_bias=BF16), raw=True),
    Slip("no dt_bias is one", no_bias_is_one, "gdn.packed_decode", Operands(dt_bias="none")),
    Slip("no dt_bias is one", no_bias_is_one, "gdn.recurrent", Operands(dt_bias="none"), raw=True),
    Slip("A_log as fp32", A_log_as_fp32, "gdn.verify", Operands(A_log=BF16)),
    Slip("A_log as fp32", A_log_as_fp32, "kda.recurrent", Operands(A_log=BF16), raw=True),
    Slip("b as a", b_as_a, "gdn.decode", Operands(beta_dtype=BF16)),
    Slip("beta as g", beta_as_g, "kda.recurrent", Operands(beta_dtype=BF16)),
    Slip("no beta is half", no_beta_is_half, "gdn.update", Operands(beta="none")),
    Slip("no beta is half", no_beta_is_half, "kda.recurrent", Operands(beta="none")),
    Slip("2 sigmoid(b) ignored", no_negative, "gdn.extend", Operands(beta="raw", neg_eigval=True)),
    Slip("2 sigmoid(b) ignored", no_negative, "kda.recurrent", Operands(beta="raw", neg_eigval=True)),
    Slip("beta goes with gates", beta_goes_with_gates, "gdn.recurrent", Operands(beta="raw"), raw=None),
    Slip("beta goes with gates", beta_goes_with_gates, "kda.extend", Operands(beta="raw"), raw=None),
    Slip("raw gates as given", raw_gates_as_given, "gdn.recurrent", USUAL, raw=True),
    Slip("raw gates as given", raw_gates_as_given, "gdn.extend", USUAL, raw=True),
    Slip("threshold of 20", threshold_of_20, "kda.verify", Operands(softplus_threshold=2.0)),
    Slip("factor of 1", factor_of_1, "kda.verify", Operands(softplus_beta=2.0)),
)


class Slipped:
    """The eager target with a slip."""

    name, layout = "slipped", "vk"

    def __init__(self, plant: Plant) -> None:
        self._eager, self._plant = targets.get("eager"), plant

    def __getattr__(self, name: str) -> Any:
        return getattr(self._eager, name)

    def run(self, case: Case, arguments: Arguments) -> dict[str, Tensor]:
        tensors: Any = dict(arguments.tensors)
        other = self._plant(case, tensors)
        return self._eager.run(other, replace(arguments, tensors=tensors))


def found(slip: Slip) -> tuple[Case, int]:
    """The case that the first failure shrinks to, and how many cases were run until it failed."""
    target, before = Slipped(slip.plant), [0]
    seen: list[Any] = []

    def run(case: Case) -> Any:
        before[0] += not seen
        return execute.run(case, target, "interpret")

    (first, *_) = hypothesis_search.find(
        cases(slip.op, promises=SMALL),
        run,
        max_examples=MOST_DRAWS,
        seed=7,
        deadline=1.0,
        clock=lambda: 2.0 * bool(seen),  # no other case is drawn after the first failure
        on_failure=seen.append,
        ignore=("not_finite",),  # of some bits, which have to stay as they are
        by_field=True,
        promises=SMALL,
    )
    return first.case, before[0]


def others(operands: Operands) -> set[str]:
    """What is not usual: which of the other dtypes it is, or which number, may depend on the failure."""
    return {
        spec.name for spec in fields(Operands) if getattr(operands, spec.name) != getattr(USUAL, spec.name)
    }


@pytest.mark.parametrize("slip", SLIPS, ids=str)
def test_a_slip_shrinks_to_the_operands_that_show_it(slip: Slip) -> None:
    case, _ = found(slip)
    more = others(case.operands) - others(slip.operands)
    # Ones may hide the slip where beta is one; then what makes it another number stays.
    assert others(slip.operands) <= others(case.operands)
    assert more <= {"neg_eigval"}
    assert slip.raw is None or case.gates.raw == slip.raw
    assert (case.H, case.HV, len(case.lens)) == (1, 1, 1)
    assert case.lens[0] <= 2
