"""What the plugin keeps in a process: what `activate` decided, and what belongs to the test that runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from diffgdn.findings import known_file
from diffgdn.findings.finding import Finding
from diffgdn.findings.known import KnownFailures
from diffgdn.pytest_plugin.answers import Answers
from diffgdn.pytest_plugin.plugin_harness import PluginHarness

RUNNING = "diffgdn_running"  # of a worker's input: the folder in which workers note the case that they run


@dataclass(frozen=True)
class Activation:
    """What `activate` decided: the backend, and the folder whose findings become tests."""

    backend: str
    corpus: Path | None


@dataclass
class State:
    """What belongs to a run of pytest, under STATE in the configuration's stash.

    answers: of the test that runs. first: the finding of each class of failure of that test, as it was before
    it was shrunk; of one that does not come alone, by the id of its case. saved: ids of those of them that
    were not there before. left_behind: what to say about the worker that went down last. interrupted: lines
    about what was being shrunk. repeats: a seed was given.
    """

    backend: str
    corpus: Path | None
    harness: PluginHarness
    answers: Answers = field(default_factory=Answers)
    first: dict[type | str, Finding] = field(default_factory=dict)
    saved: set[str] = field(default_factory=set)
    left_behind: str | None = None
    interrupted: list[str] = field(default_factory=list)
    repeats: bool = False


STATE = pytest.StashKey[State]()
_activated: Activation | None = None  # conftest.py calls `activate` without a configuration in hand


def remember(activation: Activation) -> None:
    """Keep what a conftest.py has activated for the configuration that comes."""
    global _activated
    _activated = activation


def activated() -> Activation | None:
    """What a conftest.py has activated in this process, or None."""
    return _activated


def state_of(config: pytest.Config) -> State | None:
    """The state of a run; None where the plugin is not active. It is made when first asked for: a conftest.py
    further down may activate the plugin after the configuration."""
    if STATE not in config.stash and _activated is not None:
        config.stash[STATE] = State(
            _activated.backend, _activated.corpus, _harness(config, _activated.backend)
        )
    return config.stash.get(STATE, None)


def active(config: pytest.Config) -> State:
    """The state of a run in which the plugin is active."""
    state = state_of(config)
    assert state is not None
    return state


def close(config: pytest.Config) -> None:
    """End what the run has started."""
    if STATE in config.stash:
        config.stash[STATE].harness.close()
        del config.stash[STATE]


def _harness(config: pytest.Config, backend: str) -> PluginHarness:
    given: dict[str, Any] = getattr(config, "workerinput", {})
    folder = given.get(RUNNING)
    return PluginHarness(
        backend,
        config.getoption("--diffgdn-isolation"),
        Path(config.getoption("--diffgdn-corpus")),
        given.get("workerid", "main"),
        None if folder is None else Path(folder),
        config.getoption("--diffgdn-hang-after"),
        _known(config),
    )


def _known(config: pytest.Config) -> KnownFailures:
    """The known failures that count for the folder of the tests. Raises pytest.UsageError."""
    try:
        return known_file.declared(config.rootpath, config.getoption("--diffgdn-run-known-crashes"))
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
