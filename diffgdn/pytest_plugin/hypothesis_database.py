"""Hypothesis' database of failing examples, for speed: a property that failed fails with that case at once
when it is run again. It forgets what a test found when the strategies change; the record is the corpus."""

from __future__ import annotations

import hashlib
from typing import Any


def remember(test: Any, label: str) -> None:
    """Keep a Hypothesis test's examples under a label in the database of its profile, if that has one.

    Hypothesis makes a key of a test's source, which several properties may share, and none where a seed is
    given, as the plugin always does.
    """
    test._hypothesis_internal_database_key = hashlib.sha256(label.encode()).digest()
