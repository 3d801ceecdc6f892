"""Seeds for the parts of a search, made from the seed of the whole."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *labels: object) -> int:
    """A seed for one part of a campaign: other labels, another stream."""
    text = "/".join(map(str, (seed, *labels)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
