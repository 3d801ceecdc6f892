"""Menus for kernels that are compiled for numbers of heads: what their builds hold, and the cases on them."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from diffgdn.cases.case import Case
from diffgdn.cases.promises import Promises
from diffgdn.strategies import Menu, cases, geometries, representatives, specialised


@pytest.mark.parametrize("op", ["gdn.extend", "kda.decode"])
def test_cases_have_the_heads_and_the_configuration_of_a_build(op: str) -> None:
    menu = specialised(Menu.draw(3, [op]), {op: 50})
    held = {(*(build.heads or ()), build.config) for build in menu.entries(op)}
    met = set()

    @seed(1)
    @settings(
        max_examples=60,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases(op, backend="gpu", menu=menu, configs=50))
    def collect(case: Case) -> None:
        met.add((case.H, case.HV, case.config))

    collect()
    assert len(held) > 3
    assert len(met) > 2
    assert met <= held
    for build in menu.entries(op):
        (one,) = representatives(op, build)
        assert ((one.H, one.HV), one.config) == (build.heads, build.config)


@pytest.mark.parametrize("op", ["gdn.extend", "kda.decode"])
def test_one_build_has_the_heads_of_a_model_and_another_seed_has_others(op: str) -> None:
    menu = specialised(Menu.draw(3, [op]), {op: 50})
    model = [build for build in menu.entries(op) if build.K == build.V == 128 and build.crowded]
    assert {build.heads in geometries.heads(op[:3]) for build in model} == {True}
    assert specialised(Menu.draw(3, [op]), {op: 50}) == menu
    heads = [{b.heads for b in specialised(Menu.draw(n, [op]), {op: 50}).entries(op)} for n in range(4)]
    assert len(set.union(*heads)) > len(heads[0])


def test_heads_lie_inside_promises() -> None:
    own = Promises(ratio=(2,), H=(4,))
    menu = specialised(Menu.draw(3, ["gdn.extend"], promises=own), promises=own)
    assert {build.heads for build in menu.entries("gdn.extend")} == {(4, 8)}
