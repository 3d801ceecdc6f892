"""One way to ask for a minimal case."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, find, settings
from hypothesis.strategies import SearchStrategy

from diffgdn.cases.case import Case

Minimal = Callable[[SearchStrategy[Case], Callable[[Case], bool]], Case]

SETTINGS = settings(
    max_examples=10_000,  # the rarest condition here is met by one case in a few hundred
    database=None,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def minimal() -> Minimal:
    """The case that Hypothesis shrinks to among those that meet a condition, always the same one."""

    def ask(strategy: SearchStrategy[Case], condition: Callable[[Case], bool]) -> Case:
        return find(strategy, condition, settings=SETTINGS, random=random.Random(0))

    return ask
