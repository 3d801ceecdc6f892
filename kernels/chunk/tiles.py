"""Tile choices of the chunk stages. They depend on dtypes and dimensions alone, never on the batch."""

import torch
import triton

from ..device import INTERPRETED

# Set by benchmarks and tests: {stage: entries that replace the table's}. The state stage needs BK >= K.
OVERRIDES: dict[str, dict[str, int]] = {}

# Not measured yet. For bf16 and fp16 products on tensor cores; BK and BV are cut to the padded K and V.
# wy_kda: element by element costs an exponential per pair of tokens and channel, products one per token and
# channel but two matrix products a level; BC channels of all LEAF x LEAF blocks are in registers at a time.
# state: all of K is in registers, 32 columns of V keep the accumulator at 64 registers a thread
# even for K = 256.
HALF = {
    "wy_gdn": {"BK": 64, "BV": 64, "num_warps": 4, "num_stages": 2},
    "wy_kda": {"BK": 64, "BV": 64, "BC": 16, "LEAF": 4, "num_warps": 8, "num_stages": 1},
    "state": {"BK": 256, "BV": 32, "num_warps": 4, "num_stages": 2},
    "output": {"BK": 64, "BV": 128, "num_warps": 4, "num_stages": 3},
}
# IEEE fp32 products run on the plain cores, with operands twice the size: small tiles keep them in registers.
SINGLE = {
    "wy_gdn": {"BK": 32, "BV": 32, "num_warps": 4, "num_stages": 1},
    "wy_kda": {"BK": 32, "BV": 32, "BC": 16, "LEAF": 4, "num_warps": 8, "num_stages": 1},
    "state": {"BK": 256, "BV": 16, "num_warps": 8, "num_stages": 1},
    "output": {"BK": 32, "BV": 32, "num_warps": 4, "num_stages": 1},
}
# The interpreter pays for operations, not for elements.
WHOLE = {"BK": 256, "BV": 256, "num_warps": 1, "num_stages": 1}


def padded(dim):
    """The block size that holds a head dimension: a power of two, at least the 16 that tl.dot asks for."""
    return max(16, triton.next_power_of_2(dim))


def tile(stage, dtype, chunk_size, K, V):
    """Launch options of one stage: BK, BV, num_warps, num_stages, for wy_kda also BC and LEAF."""
    if INTERPRETED:
        chosen = dict(WHOLE, BC=256, LEAF=16) if stage == "wy_kda" else dict(WHOLE)
    else:
        chosen = dict((SINGLE if dtype == torch.float32 else HALF)[stage])
    chosen.update(OVERRIDES.get(stage, {}))
    chosen["BK"] = min(chosen["BK"], padded(K))
    chosen["BV"] = min(chosen["BV"], padded(V))
    if "BC" in chosen:
        chosen["BC"] = min(chosen["BC"], padded(K))
    return chosen
