"""Every operation against the oracle: on the target that --diffgdn-target names, and on the others with fewer
cases.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings

from diffgdn import strategies, targets
from diffgdn.cases.case import Case
from diffgdn.cases.operations import OPERATIONS
from diffgdn.pytest_plugin.hypothesis_database import remember
from diffgdn.strategies import Menu
from diffgdn.targets import Target
from diffgdn.verdict.failures import Verdict

pytestmark = pytest.mark.explores

OTHERS = ("kv", "eager")
FEWER = 5  # of the cases that the chosen target gets
MENU_SEED = 0  # on a GPU everything is compiled first: the builds are the same in every run


def property_of(
    op: str, target: Target, name: str, backend: str, check: Callable[..., Verdict], share: int = 1
) -> Callable[[], None]:
    """A Hypothesis test of one operation of one target."""
    promises = targets.promises_of(target)
    menu = Menu.draw(MENU_SEED, [op], backend=backend, promises=promises) if backend == "gpu" else None
    cases = strategies.cases(
        op,
        backend=backend,
        menu=menu,
        configs=target.configurations(op),
        layout=target.layout,
        promises=promises,
    )

    @settings(max_examples=max(1, settings().max_examples // share))
    @given(case=cases)
    def test(case: Case) -> None:
        check(case, name)

    remember(test, f"operation {op} {name}")
    return test


@pytest.mark.parametrize("op", OPERATIONS)
def test_the_target_agrees_with_the_oracle(
    op: str,
    request: pytest.FixtureRequest,
    diffgdn_target: Target,
    diffgdn_backend: str,
    diffgdn_check: Callable[..., Verdict],
) -> None:
    if op not in diffgdn_target.operations:
        pytest.skip(f"{diffgdn_target.name} does not implement {op}")
    property_of(
        op, diffgdn_target, request.config.getoption("--diffgdn-target"), diffgdn_backend, diffgdn_check
    )()


@pytest.mark.parametrize(
    ("name", "op"), [(name, op) for name in OTHERS for op in OPERATIONS if op in targets.get(name).operations]
)
def test_the_other_targets_agree_with_the_oracle(
    name: str, op: str, diffgdn_backend: str, diffgdn_check: Callable[..., Verdict]
) -> None:
    property_of(op, targets.get(name), name, diffgdn_backend, diffgdn_check, FEWER)()
