"""Extend on a GPU for pairs of head dimensions that do not match: each pair is compiled with tiles of its
own, and some have met compiler faults."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.verdict.failures import Verdict

pytestmark = pytest.mark.gpu

PAIRS = ((20, 12), (12, 20), (24, 16), (64, 8), (8, 64), (255, 255), (256, 16), (16, 256), (36, 12), (96, 20))


@pytest.mark.parametrize("op", ["gdn.extend", "kda.extend"])
@pytest.mark.parametrize(("K", "V"), PAIRS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dimensions_that_do_not_match(
    op: str, K: int, V: int, dtype: str, diffgdn_check: Callable[..., Verdict]
) -> None:
    case = Case(
        op=op,
        lens=(130, 64, 1),
        H=2,
        HV=4,
        K=K,
        V=V,
        dtype=dtype,
        pool=Pool(slots=3, indices=(0, 1, 2)),
        gates=Gates(law="uniform", strength=0.5, beta="uniform"),
        values=Values(law="normal", seed=1),
        l2norm=True,
    )
    assert diffgdn_check(case, "vk").shares
