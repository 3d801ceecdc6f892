"""No stage of a right kernel leaves its bound, the inverse of a chunk included."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from diffgdn import strategies, targets
from diffgdn.cases.case import Case
from diffgdn.kernels.chunk import pipeline
from diffgdn.reference.noise import intermediates as noise_of_stages
from diffgdn.targets import refusal
from diffgdn.verdict import execute, stages

pytestmark = pytest.mark.explores

FEWER = 8  # of the cases that a property gets: each is computed some thirty times
MOST_NUMBERS = 1 << 20


@pytest.mark.parametrize("op", ["gdn.extend", "kda.extend"])
def test_no_stage_of_a_right_kernel_leaves_its_bound(
    op: str, diffgdn_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise_of_stages, "MOST_NUMBERS", MOST_NUMBERS)
    if diffgdn_backend != "interpret":
        pytest.skip("bounds do not go by the backend, and each new case is compiled")
    target = targets.get("vk")

    @settings(max_examples=max(1, settings().max_examples // FEWER))
    @given(case=strategies.cases(op, backend=diffgdn_backend))
    def test(case: Case) -> None:
        if refusal(target, case, diffgdn_backend):
            return
        trace = stages._Trace(execute.Run(case, target, diffgdn_backend, explain=False), pipeline)
        assert trace.first() is None
        known = noise_of_stages.intermediates(case, trace.data, trace.contract, -150.0)
        if known is not None:
            assert trace._wrong_inverse(known["A"], both=True) is None

    test()
