"""Options and Hypothesis profiles of the pytest plugin."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from diffgdn.backend.selection import HANG_SECONDS
from diffgdn.runner import duration, ways

PROFILE = "dev"
EXAMPLES = {"dev": 50, "ci": 25, "fuzz": 1000, "replay": 1}
UNLIMITED = 10**9  # examples, where time is the limit


def add(parser: pytest.Parser) -> None:
    """The command-line options."""
    group = parser.getgroup("diffgdn", "differential testing of gated delta-rule kernels")
    group.addoption(
        "--diffgdn-target", default="vk", metavar="TARGET", help="what the property tests check (default: vk)"
    )
    group.addoption(
        "--diffgdn-corpus",
        default="findings",
        metavar="DIR",
        help="folder that new findings are saved to (default: findings)",
    )
    group.addoption(
        "--diffgdn-isolation",
        choices=ways.WAYS,
        help="run kernels in a child process that may die, or in the test process (default: child on a GPU "
        "and for targets that are not built in)",
    )
    group.addoption(
        "--diffgdn-hang-after",
        type=_time,
        metavar="TIME",
        help="after how long a case in a child process counts as hung (default: "
        f"{HANG_SECONDS['interpret']:g}s in the interpreter, {HANG_SECONDS['gpu']:g}s on a GPU)",
    )
    group.addoption(
        "--diffgdn-run-known-crashes",
        action="store_true",
        help="also run cases that are known to crash or to hang",
    )
    group.addoption(
        "--diffgdn-seed",
        type=_seed,
        metavar="SEED",
        help="draw the same cases as the run with this seed; the same as --hypothesis-seed",
    )
    group.addoption(
        "--diffgdn-max-time",
        type=_time,
        metavar="TIME",
        help="explore each property for this long (30s, 10m, 8h), however many cases that is",
    )
    group.addoption(
        "--diffgdn-shards",
        type=_shards,
        metavar="N",
        help="run each property N times, each from a stream of its own; auto: once a worker (default: auto "
        "under the fuzz profile, else 1)",
    )


def _seed(text: str) -> str:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number from 0 on, got {text!r}")
    return text


def _time(text: str) -> float:
    try:
        return duration.seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _shards(text: str) -> int:
    """0 for auto."""
    if text != "auto" and not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected auto or a number from 1 on, got {text!r}")
    return 0 if text == "auto" else int(text)


def profile(config: pytest.Config) -> str:
    return config.getoption("--hypothesis-profile", None) or PROFILE


def shards(config: pytest.Config) -> int:
    """How often each property is run."""
    asked: int | None = config.getoption("--diffgdn-shards")
    if asked is None:
        asked = 0 if profile(config) == "fuzz" else 1
    given: dict[str, int] = getattr(config, "workerinput", {})
    return asked or given.get("workercount", 1)


def register_profiles() -> None:
    from hypothesis import HealthCheck, Phase, Verbosity, settings

    # Every field is given: what is left out comes from the profile that is current, which under CI=1 is one
    # without exploration.
    common: dict[str, Any] = {
        "deadline": None,
        "print_blob": False,
        "database": None,
        "report_multiple_bugs": True,
        "derandomize": False,
        "phases": (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
        "verbosity": Verbosity.quiet,  # a failure is shown as a finding instead, with its case in one line
        # It is kernels in an interpreter that take the time, and a target may refuse most cases.
        "suppress_health_check": (
            HealthCheck.too_slow,
            HealthCheck.filter_too_much,
            HealthCheck.data_too_large,
        ),
    }
    # For speed alone: findings are kept in the corpus.
    examples = {"database": settings.get_profile("default").database}
    changes: dict[str, dict[str, Any]] = {
        "dev": examples,
        "fuzz": examples,
        "ci": {"derandomize": True},
        "replay": {"phases": (Phase.explicit,)},
    }
    for name, count in EXAMPLES.items():
        settings.register_profile(name, **{**common, "max_examples": count, **changes.get(name, {})})
    settings.load_profile(PROFILE)


def adjust_profiles(config: pytest.Config, repeats: bool) -> None:
    """Time instead of a number of examples; and streams that differ, where derandomized ones would not.

    repeats: a seed was given, which means the same cases and none that an earlier run found.
    """
    from hypothesis import settings

    name, changes = profile(config), dict[str, Any]()
    if name in EXAMPLES and config.getoption("--diffgdn-max-time") is not None:
        changes["max_examples"] = UNLIMITED
    if name == "ci" and shards(config) > 1:
        changes["derandomize"] = False
        config.option.hypothesis_seed = "0"
    if repeats:
        changes["database"] = None
    if changes:
        settings.register_profile(name, settings.get_profile(name), **changes)
        settings.load_profile(name)
