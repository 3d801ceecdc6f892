"""Tests here run under diffgdn's pytest plugin. It is found by its entry point; only what it does is switched
on here.
"""

from pathlib import Path

import pytest

from diffgdn import pytest_plugin
from diffgdn.backend import interpreter, selection

pytest_plugin.activate(corpus=Path(__file__).parent / "tests" / "corpus")


@pytest.fixture(scope="session", autouse=True)
def interpreter_repaired() -> None:
    """Tests that call kernels without the executor need what it does first."""
    if selection.detect() == "interpret":
        interpreter.repair()
