"""Triton's interpreter beside newer numpy."""

from __future__ import annotations

import pytest

from diffgdn import interpreter


@pytest.mark.parametrize(
    ("triton_version", "numpy_version", "needed"),
    [
        ("3.6.0", "2.5.2", True),
        ("3.6.1", "2.4.0", True),
        ("3.6.0", "2.3.9", False),
        ("3.7.0", "2.5.2", False),
    ],
)
def test_only_pairs_that_cannot_read_a_loop_bound_are_repaired(
    triton_version: str, numpy_version: str, needed: bool
) -> None:
    assert interpreter.needs_repair(triton_version, numpy_version) is needed
