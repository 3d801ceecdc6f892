"""Which options of states a build is compiled for, and what is promised of them."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from diffgdn.cases.promises import Promises
from diffgdn.cases.state_options import options_of

SECOND_IN = 4  # of what has an option, with a second one
# Of each option its axis of promises, and what that says without the option and with it.
AXES: dict[str, tuple[str, bool, bool]] = {
    "step_update": ("step_update", False, True),
    "token_slots": ("token_slots", False, True),
    "no_output": ("output", True, False),
    "no_indices": ("indices", True, False),
    "flags": ("initial_flags", False, True),
    "track": ("track", False, True),
}
APART = {"step_update": "token_slots", "token_slots": "step_update"}  # what does not go together


def promised(name: str, own: Promises) -> bool:
    """Tell whether an option is promised, with all that it brings along."""
    axis, _, wanted = AXES[name]
    if name == "token_slots":
        return wanted in getattr(own, axis) and False in own.tree and True in own.steps
    return wanted in getattr(own, axis) and (name != "no_indices" or own.slot_zero)


def takes(states: tuple[str, ...], own: Promises) -> bool:
    """Tell whether all options of a build are promised."""
    return all(promised(name, own) for name in states)


def with_states(op: str, found: set[Any], kept: Any, own: Promises, seed: str) -> set[Any]:
    """Return the builds of a menu of which one has an option of states, or two; `kept` never has.

    The number of builds, and so of what is compiled, stays. seed: decides which.
    """
    rng = random.Random(f"{seed}/states")
    able = [(build, one) for build in sorted(found - {kept}, key=repr) if (one := _suiting(op, build, own))]
    if not able:
        return found
    build, names = rng.choice(able)
    states = [rng.choice(names)]
    others = [name for name in names if name not in states and APART.get(name) not in states]
    if others and rng.randrange(SECOND_IN) == 0:
        states.append(rng.choice(others))
    steps = build.steps or ("token_slots" in states and op.endswith("update"))
    return (found - {build}) | {replace(build, states=tuple(sorted(states)), steps=steps)}


def _suiting(op: str, build: Any, own: Promises) -> tuple[str, ...]:
    """Name the options that a build may be given."""
    return tuple(name for name in options_of(op) if promised(name, own) and _suits(name, op, build, own))


def _suits(name: str, op: str, build: Any, own: Promises) -> bool:
    """Tell whether an option goes with the rest of a build."""
    keeps = op.endswith("verify") or build.steps
    if name == "step_update":
        return keeps and False in own.token_slots
    if name == "token_slots":
        return build.inplace and not build.tree and False in own.step_update
    if name == "no_output":
        return keeps or build.inplace
    return name == "track" or build.given
