"""Tile choices of the chunk stages. They depend on dtypes and dimensions, and one on the number of states."""

import torch
import triton

from ..device import INTERPRETED

# Set by benchmarks and tests: {stage: entries that replace the table's}. The state stage needs BK >= K.
OVERRIDES: dict[str, dict[str, int]] = {}

# For bf16 and fp16 products on tensor cores; BK and BV are cut to the padded K and V. wy_kda: 215 us at 1 x
# 2048 tokens and 32 heads on an H200, against 235 us with LEAF 4 and 289 us with 8 warps; element by element
# costs an exponential per pair of tokens and channel, products one per token and channel but two matrix
# products a level; BC channels of all LEAF x LEAF blocks are in registers at a time. state: all of K is in
# registers, 32 columns of V keep the accumulator at 64 registers a thread even for K = 256.
#
# chunk_matrices, walk, transition, starts: an H200, K = V = 128, triton 3.6, ptxas 12.8; registers a thread,
# spilled ones in brackets. chunk_matrices, 1 x 8192 tokens and 32 heads: 123 us with 168 (2); 148 with 200,
# which the compiler takes by itself; 143 with 128 (66). walk, 255 (8), around its loop: 303 us there with 3
# stages, 343 with 2; 457 with BV 128 and 8 warps, 255 (176). transition: 236 (0). starts: 255 (152), 9 us a
# segment.
HALF = {
    "wy_gdn": {"BK": 64, "BV": 64, "num_warps": 4, "num_stages": 2},
    "wy_kda": {"BK": 64, "BV": 64, "BC": 32, "LEAF": 2, "num_warps": 4, "num_stages": 1},
    "state": {"BK": 256, "BV": 32, "num_warps": 4, "num_stages": 3},
    "output": {"BK": 64, "BV": 128, "num_warps": 4, "num_stages": 3},
    "chunk_matrices": {"BK": 64, "BV": 64, "num_warps": 4, "num_stages": 1, "maxnreg": 168},
    "walk": {"BK": 128, "BV": 64, "num_warps": 4, "num_stages": 3},
    "transition": {"BK": 128, "BV": 64, "num_warps": 4, "num_stages": 3},
}
# The state pass with enough states to fill a card: wider tiles read k and w less often. Measured on an H200
# at K = V = 128, bf16: 116 us against 151 us at 8 x 1024 tokens and 32 heads; at 1 x 8192 the narrow tile
# above, 158 us, is best.
MANY_STATES = {"BV": 64, "num_warps": 4, "num_stages": 2}
MANY = 256  # states from which these hold
# IEEE fp32 products run on the plain cores, with operands twice the size: small tiles keep them in registers.
SINGLE = {
    "wy_gdn": {"BK": 32, "BV": 32, "num_warps": 4, "num_stages": 1},
    "wy_kda": {"BK": 32, "BV": 32, "BC": 16, "LEAF": 4, "num_warps": 8, "num_stages": 1},
    "state": {"BK": 256, "BV": 16, "num_warps": 8, "num_stages": 1},
    "output": {"BK": 32, "BV": 32, "num_warps": 4, "num_stages": 1},
    "starts": {"BK": 128, "BV": 64, "num_warps": 4, "num_stages": 1},
}
# Whether gdn may run in two stages at all, where `is_walked` says so.
TWO_STAGES = True
# Programs of the walk that give each multiprocessor of an H100 or H200 one. With more, two share one, each
# with room for a chunk less to wait in: 128 us against 179 at 8 x 1024 tokens, 228 against 316 at 64 x 128.
WALKS = 128
MANY_WALKS = {"num_stages": 2}
# From how many chunks on a sequence is cut, and how many make a segment worth two further passes.
LONG_CHUNKS = 64
SEGMENT_CHUNKS = 16
# The interpreter pays for operations, not for elements. Still a split past 64, so that loops over tiles stay
# exercised, where a small case has none.
INTERPRETER = {"BK": 64, "BV": 64, "num_warps": 1, "num_stages": 1}
INTERPRETER_ALSO = {
    "wy_kda": {"BC": 64, "LEAF": 16},
    "state": {"BK": 256},
    "walk": {"BK": 256},
    "transition": {"BK": 256},
}


def padded(dim):
    """Return the block that holds a head dimension: a power of two, at least the 16 that tl.dot asks for."""
    return max(16, triton.next_power_of_2(dim))


def tile(stage, dtype, chunk_size, K, V, states=0):
    """Return launch options of one stage: BK, BV, num_warps, num_stages, for wy_kda also BC and LEAF.

    states: N * HV, at which the state pass looks, and times segments the walk, whose number of stages changes
    no bit; 0 where the choice must not depend on the batch.
    """
    if INTERPRETED:
        chosen = dict(INTERPRETER, **INTERPRETER_ALSO.get(stage, {}))
    else:
        chosen = dict((SINGLE if dtype == torch.float32 else HALF)[stage])
        if stage == "state" and states >= MANY and dtype != torch.float32 and K <= 128:
            chosen.update(MANY_STATES)
        if stage == "walk" and states * (V // chosen["BV"]) > WALKS:
            chosen.update(MANY_WALKS)
    chosen.update(OVERRIDES.get(stage, {}))
    chosen["BK"] = min(chosen["BK"], padded(K))
    chosen["BV"] = min(chosen["BV"], padded(V))
    if "BC" in chosen:
        chosen["BC"] = min(chosen["BC"], padded(K))
    if not INTERPRETED and dtype != torch.float32:
        _keep_descriptors_apart(stage, chosen)
    return chosen


def _keep_descriptors_apart(stage, chosen):
    """Widen tiles so that no two tensor-core operands of a stage share an address with different row widths.

    ptxas 12.8, which triton 3.6 brings, forms the second such operand's descriptor from a register that no
    longer holds the address (12.9 and later do not): at K = 20, V = 12 in chunks of 64, rows of u and o came
    out as rows of other matrices, with wy_kda for every BK > BV. The extra columns are masked.
    """
    if stage in ("wy_gdn", "wy_kda"):
        chosen["BK"] = chosen["BV"] = max(chosen["BK"], chosen["BV"])
    elif stage == "output":
        chosen["BV"] = max(chosen["BV"], chosen["BK"])


def is_walked(dtype, chunk_size, K, V):
    """Tell whether gdn runs state and output as one stage: bf16, chunks of 64, K and V of 64 or 128.

    fp16 does not: v - exp(g) k S may be past its end where u, w and v_new are not.
    """
    return TWO_STAGES and dtype == torch.bfloat16 and chunk_size == 64 and {K, V} <= {64, 128}


def walk_segments(N, HV, V, chunks):
    """Return into how many segments each of N sequences is cut, of `chunks` chunks together.

    As many as give WALKS programs, while a segment has SEGMENT_CHUNKS chunks or more on average; 1 where a
    sequence has fewer than LONG_CHUNKS.
    """
    if "SEGMENTS" in OVERRIDES.get("segments", {}):
        return OVERRIDES["segments"]["SEGMENTS"]
    each = chunks // max(N, 1)
    if each < LONG_CHUNKS:
        return 1
    return max(1, min(WALKS // max(N * HV * (V // 64), 1), each // SEGMENT_CHUNKS))
