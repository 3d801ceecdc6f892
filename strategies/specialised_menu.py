"""A menu for kernels that are compiled anew for each number of heads, and for each of their configurations.

H and HV are `tl.constexpr` in most released kernels, and their autotuners have lists. Were both drawn for
each case, a campaign on a GPU would compile all the time: so each build has one pair of heads and one entry
of the list, and another seed has others.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.promises import EVERYTHING, Promises
from diffgdn.strategies import geometries
from diffgdn.strategies.generate import drawn_heads
from diffgdn.strategies.menu import Build, Menu, promised, published


def specialised(
    menu: Menu, configs: Mapping[str, int] | None = None, promises: Promises = EVERYTHING
) -> Menu:
    """Return the menu with heads and a configuration in each build; the same menu gives the same.

    configs: entries of a kernel's configuration list, by operation; 1 where it says nothing. promises: of the
    target, within which the heads lie.
    """
    builds = tuple(
        (
            op,
            tuple(
                _held(op, build, random.Random(f"{menu.seed}/{op}/{n}"), (configs or {}).get(op, 1), promises)
                for n, build in enumerate(found)
            ),
        )
        for op, found in menu.builds
    )
    return replace(menu, builds=builds)


def _held(op: str, build: Build, rng: random.Random, configs: int, promises: Promises) -> Build:
    """Return a build with heads and a configuration; the one of published models has the heads of a model."""
    operation, own = OPERATIONS[op], promised(promises, op)
    pairs = drawn_heads(operation, build, own)
    if (build.K, build.V, build.crowded) == (published(op).K, published(op).V, True):
        models = [pair for pair in geometries.heads(operation.family) if pair in pairs]
        pairs = tuple(models) or pairs
    return replace(build, heads=rng.choice(pairs), config=rng.randrange(configs))
