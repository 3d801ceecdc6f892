"""The released flash-linear-attention kernels against the oracle, on a GPU: a few cases of each operation.

A failure here may be fla's own: look into it, save the case in the corpus, and say so there.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from diffgdn import strategies, targets
from diffgdn.cases.case import Case
from diffgdn.strategies import Menu
from diffgdn.targets import Target
from diffgdn.verdict.execute import assert_correct

pytestmark = pytest.mark.gpu

EXAMPLES = 20
MENU_SEED = 0
BUILDS = 2  # of each operation: fla's chunk kernels take long to compile
CONFIGURATIONS = 2  # both state layouts


@pytest.fixture(scope="module")
def fla() -> Target:
    reason = targets.missing("fla", "gpu")
    if reason is not None:
        pytest.skip(reason)
    return targets.get("fla")


def test_the_chunk_kernels_have_configurations_to_pin(fla: Target) -> None:
    """Autotuners are found in what is installed: else nothing is pinned, and every shape benchmarked."""
    assert fla.configurations("gdn.extend") > 1
    assert fla.configurations("kda.extend") > 1


@pytest.mark.parametrize("op", ["gdn.extend", "gdn.recurrent", "kda.extend", "kda.recurrent"])
def test_fla_agrees_with_the_oracle(op: str, fla: Target) -> None:
    if op not in fla.operations:
        pytest.skip(f"this version of fla has no function for {op}")
    promises = targets.promises_of(fla)
    menu = Menu.draw(MENU_SEED, [op], backend="gpu", per_operation=BUILDS, promises=promises)
    cases = strategies.cases(op, backend="gpu", menu=menu, configs=CONFIGURATIONS, promises=promises)

    @settings(max_examples=EXAMPLES)
    @given(case=cases)
    def test(case: Case) -> None:
        assert assert_correct(case, fla, "gpu").refused is None

    test()
