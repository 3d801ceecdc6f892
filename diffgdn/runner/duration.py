"""Lengths of time as people write them."""

from __future__ import annotations

import re

UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """90, 90s, 1.5m, 8h in seconds. Raises ValueError for anything else, and for no time at all."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if match is None or float(match.group(1)) == 0:
        raise ValueError(f"expected a time such as 60s, 10m or 8h, got {text!r}")
    return float(match.group(1)) * UNITS[match.group(2)]
