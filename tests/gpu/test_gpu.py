"""What only a GPU can show: model geometries with all their heads, pools past 2**31 elements, the same bits
as on the CPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch

from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.operations import OPERATIONS
from diffgdn.reference import noise, reference_kernel
from diffgdn.strategies import geometries
from diffgdn.targets.base import default_contract
from diffgdn.tensors import inputs
from diffgdn.tensors.layout import arrange
from diffgdn.tensors.transfer import moved
from diffgdn.verdict.failures import Verdict

pytestmark = pytest.mark.gpu

WAITS = 8  # of the oracle for a GPU that many processes share, at some milliseconds each

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
    on_cpu, on_gpu = (arrange(case, data, device).bits() for device in ("cpu", "cuda"))
    assert on_cpu.equal(on_gpu)


@pytest.mark.parametrize("op", OPERATIONS)
def test_the_oracle_says_the_same_on_both_devices_and_seldom_waits(op: str) -> None:
    case = geometries.cases(op)[0]
    data, contract, stored = inputs.draw(case), default_contract(case.op), reference_kernel.truth_dtypes(case)
    there = noise.reference(case, data, contract, stored, "cuda")  # once for what is made once
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")  # which is worth a warning too
        try:
            there = noise.reference(case, data, contract, stored, "cuda")
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [f"{one.filename}:{one.lineno}" for one in caught if "synchronizing" in str(one.message)]
    assert 1 <= len(waits) <= WAITS, waits
    here = noise.reference(case, data, contract, stored)
    for name, truth in here.truth.items().items():
        torch.testing.assert_close(there.truth.items()[name], truth, rtol=1e-9, atol=1e-12)
        ratio = there.noise[name] / here.noise[name]
        assert 0.8 < float(ratio[here.noise[name] > 0].median()) < 1.25, name


def test_bits_arrive_on_a_gpu_and_come_back() -> None:
    tensors = {
        "half": torch.arange(3, dtype=torch.float16),
        "turned": torch.arange(12, dtype=torch.float64).view(3, 4).T,
        "none": torch.empty(0, 7, dtype=torch.int64),
    }
    back = moved(moved(tensors, "cuda"), "cpu")
    for name, tensor in tensors.items():
        assert torch.equal(back[name], tensor), name
