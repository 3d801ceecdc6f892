"""Tile choices of the recurrent kernel, by how many states there are to move and by what is kept of them."""

from typing import NamedTuple

import triton

from .device import INTERPRETED


class Tile(NamedTuple):
    BV: int  # rows of the state a program holds
    num_warps: int
    num_stages: int


# One state in, one state out. Measured on an H200 at K = V = 128, HV = 32, batches of 1, 8, 64 and 256, over
# thirteen tiles: one warp that reads whole rows of K beats every choice with more warps by 10 to 40 %. For
# gdn 8 rows are the best or within 4 % of it at each batch; for kda, whose gates cost registers, 16 (269 us
# against 298 us with 8, at 256).
STEP = {"gdn": Tile(8, 1, 1), "kda": Tile(16, 1, 1)}
# Many tokens, or a state kept after each: rows of (N * HV up to which the row holds, tile). Few states leave
# the card empty unless their rows are dealt to many programs.
WALK = ((2048, Tile(4, 1, 1)), (None, Tile(32, 1, 1)))  # many tokens, or a state kept after each

# The bits of a result may depend on the tile: the one tile used where they must not depend on the batch.
INVARIANT = Tile(16, 1, 1)

# The interpreter pays for each operation, not for its size. Still a split where V > 128, so that it stays
# exercised.
INTERPRETER = Tile(128, 1, 1)

# A benchmark or a test puts a Tile here to use it for every launch.
override: Tile | None = None


def pick(states, V, kda, walks, batch_invariant):
    """The tile for `states` = N * HV states of V rows; `walks` where they take many tokens or are kept."""
    if override is not None:
        tile = override
    elif INTERPRETED:
        tile = INTERPRETER
    elif batch_invariant:
        tile = INVARIANT
    elif not walks:
        tile = STEP["kda" if kda else "gdn"]
    else:
        tile = next(tile for limit, tile in WALK if limit is None or states <= limit)
    return tile._replace(BV=min(tile.BV, triton.next_power_of_2(V)))
