"""Derives seeds for the parts of a search from the seed of the whole."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *labels: object) -> int:
    """Derive a 64-bit seed for one part of a campaign; each sequence of labels gives a stream of its own."""
    text = "/".join(map(str, (seed, *labels)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
