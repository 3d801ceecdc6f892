"""Tests here run under diffgdn's pytest plugin. It is found by its entry point; only what it does is switched
on here.
"""

import os
from pathlib import Path

import pytest

from diffgdn import pytest_plugin
from diffgdn.backend import interpreter, selection

pytest_plugin.activate(corpus=Path(__file__).parent / "tests" / "corpus")


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker of what takes long and guards what other tests run into as well."""
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        os.environ.pop(name, None)  # what campaigns of tests find is no news of the job that runs them
    config.addinivalue_line("markers", "nightly: takes long; skipped unless DIFFGDN_NIGHTLY is set")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the nightly ones to the night."""
    if not os.environ.get("DIFFGDN_NIGHTLY"):
        for item in items:
            if item.get_closest_marker("nightly"):
                item.add_marker(pytest.mark.skip(reason="runs at night: DIFFGDN_NIGHTLY=1"))


@pytest.fixture(scope="session", autouse=True)
def interpreter_repaired() -> None:
    """Tests that call kernels without the executor need what it does first."""
    if selection.detect() == "interpret":
        interpreter.repair()
