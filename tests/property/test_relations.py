"""Every relation on the operations that it is about, on the target that --diffgdn-target names."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffgdn import strategies
from diffgdn.cases.case import Case
from diffgdn.pytest_plugin.hypothesis_database import remember
from diffgdn.strategies import Menu
from diffgdn.targets import Target, promises_of
from diffgdn.verdict import relations
from diffgdn.verdict.failures import Verdict
from diffgdn.verdict.relations import RELATIONS

pytestmark = pytest.mark.explores

FEWER = 10  # of the cases that an operation gets in its comparison with the oracle, but one an operation
MENU_SEED = 0


@pytest.mark.parametrize("name", RELATIONS)
def test_the_relation_holds(
    name: str,
    request: pytest.FixtureRequest,
    diffgdn_target: Target,
    diffgdn_backend: str,
    diffgdn_check: Callable[..., Verdict],
) -> None:
    target: str = request.config.getoption("--diffgdn-target")
    has = tuple(diffgdn_target.operations)
    ops = [op for op in has if name in relations.applicable(op, target, has)]
    if not ops:
        pytest.skip(f"{target} has no operation that it is about")
    promises = promises_of(diffgdn_target)
    gpu = diffgdn_backend == "gpu"
    menu = Menu.draw(MENU_SEED, ops, backend=diffgdn_backend, promises=promises) if gpu else None
    cases = [
        strategies.cases(
            op,
            backend=diffgdn_backend,
            menu=menu,
            configs=diffgdn_target.configurations(op),
            layout=diffgdn_target.layout,
            promises=promises,
        ).filter(lambda case: case.total > 0 and RELATIONS[name].unless(case) is None)
        for op in ops
    ]

    @settings(
        max_examples=max(len(ops), settings().max_examples // FEWER),
        suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
    )
    @given(case=st.one_of(cases))
    def test(case: Case) -> None:
        diffgdn_check(case, target, relation=name)

    remember(test, f"relation {name} {target}")
    test()
