"""What only a GPU can show: model geometries with all their heads, pools past 2**31 elements, the same bits
as on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from diffgdn import arena, inputs
from diffgdn.case import Case, Gates, Pool, Values
from diffgdn.execute import Verdict
from diffgdn.operations import OPERATIONS
from diffgdn.strategies import geometries

pytestmark = pytest.mark.gpu

FAR = 2**31
SIZE = 4 * 128 * 128  # elements of a slot


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=f"{op}-{i}") for op in OPERATIONS for i, case in enumerate(geometries.cases(op))],
)
def test_a_model_geometry_with_all_its_heads(case: Case, diffgdn_check: Callable[..., Verdict]) -> None:
    verdict = diffgdn_check(case, "vk")
    assert verdict.shares or verdict.exact


@pytest.mark.parametrize("op", ["gdn.extend", "gdn.update", "gdn.decode", "gdn.packed_decode"])
@pytest.mark.parametrize("past", [0, 1])
def test_slots_on_both_sides_of_two_to_the_31_elements(
    op: str, past: int, diffgdn_check: Callable[..., Verdict]
) -> None:
    slot = FAR // SIZE - 1 + past
    case = Case(
        op=op,
        lens=(1, 1),
        H=2,
        HV=4,
        K=128,
        V=128,
        dtype="bfloat16",
        pool=Pool(slots=slot + 1, indices=(slot, 0), dtype="bfloat16"),
        gates=Gates(law="model", beta="uniform"),
        values=Values(law="normal", seed=past),
    )
    assert diffgdn_check(case, "vk").shares


@pytest.mark.parametrize("op", OPERATIONS)
def test_a_case_has_the_same_bits_on_both_devices(op: str) -> None:
    case = geometries.cases(op)[0]
    data = inputs.draw(case)
    on_cpu, on_gpu = (arena.arrange(case, data, device).bits() for device in ("cpu", "cuda"))
    assert on_cpu.equal(on_gpu)
