"""Tests here run under diffgdn's pytest plugin. It is found by its entry point; only what it does is switched
on here.
"""

from pathlib import Path

from diffgdn import pytest_plugin

pytest_plugin.activate(corpus=Path(__file__).parent / "tests" / "corpus")
