"""What our own functions take and no other's: raw gates of a packed decode with an axis of heads."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from diffgdn import targets
from diffgdn.backend import selection
from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.mutants.mutant_targets import name_of
from diffgdn.tensors import inputs, layout
from diffgdn.verdict import execute

BACKEND = selection.detect()


def case(view: str, op: str = "kda.packed_decode") -> Case:
    gates, pool = Gates("uniform", beta="uniform"), Pool(2, (0, 1))
    return Case(op, (1, 1), HV=2, K=8, pool=pool, gates=gates, values=Values("normal"), view=view)


@pytest.mark.parametrize("lower_bound", [None, -5.0])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gates_with_an_axis_of_heads_give_what_is_right(dtype: str, lower_bound: float | None) -> None:
    gates = Gates("uniform", beta="uniform", dtype=dtype, lower_bound=lower_bound)
    one = Case("kda.packed_decode", (1,), HV=2, K=8, dtype=dtype, gates=gates, view="gapped")
    execute.assert_correct(one, targets.get("vk"), BACKEND)


@pytest.mark.parametrize(
    "mutant",
    ["ignore-option@packed_decode._packed_decode.1", "drop-condition@packed_decode._packed_decode.3"],
)
def test_a_kernel_that_takes_them_in_one_form_alone_is_found(mutant: str) -> None:
    target = targets.get(name_of(mutant))
    failure = execute.run(case("gapped"), target, BACKEND).failure
    assert failure is not None
    assert failure.kind == "raised"
    assert execute.run(case("contiguous"), target, BACKEND).failure is None


@pytest.mark.parametrize(
    ("view", "op", "dimensions"),
    [
        ("gapped", "kda.packed_decode", 3),
        ("packed", "kda.packed_decode", 2),
        ("gapped", "gdn.packed_decode", 2),
    ],
)
def test_the_axis_is_there_where_gates_of_channels_lie_with_gaps(view: str, op: str, dimensions: int) -> None:
    target: Any = targets.get("vk")
    one = case(view, op)
    arguments = layout.arrange(one, inputs.draw(one), torch.device("cpu"))
    given, plain = target.given(one, arguments)["a"], arguments["a"]
    assert given.ndim == dimensions
    assert given.data_ptr() == plain.data_ptr()
    assert torch.equal(given.flatten(1), plain)
