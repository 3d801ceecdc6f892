"""The pytest plugin. In a conftest.py:

from diffgdn import pytest_plugin
pytest_plugin.activate(corpus="tests/corpus")
"""

from __future__ import annotations

from diffgdn.pytest_plugin.hooks import activate as activate

__all__ = ["activate"]
