"""Tile choices of the recurrent kernel, by how many states there are to move and by what is kept of them."""

from typing import NamedTuple

import triton

from .device import INTERPRETED


class Tile(NamedTuple):
    BV: int  # rows of the state a program holds
    num_warps: int
    num_stages: int


# Rows of (N * HV up to which the row holds, tile). Not measured yet. One warp reads whole rows of K; few
# states leave the card empty unless their rows are dealt to many programs, many states want long runs of rows
# and few programs.
STEP = ((64, Tile(8, 1, 1)), (512, Tile(16, 1, 1)), (None, Tile(32, 1, 1)))  # one state in, one state out
WALK = ((2048, Tile(4, 1, 1)), (None, Tile(32, 1, 1)))  # many tokens, or a state kept after each

# The bits of a result may depend on the tile: the one tile used where they must not depend on the batch.
INVARIANT = Tile(16, 1, 1)

# The interpreter pays for each operation, not for its size. Still a split where V > 128, so that it stays
# exercised.
INTERPRETER = Tile(128, 1, 1)

# A benchmark or a test puts a Tile here to use it for every launch.
override: Tile | None = None


def pick(states, V, walks, batch_invariant):
    """The tile for `states` = N * HV states of V rows; `walks` where they take many tokens or are kept."""
    if override is not None:
        tile = override
    elif INTERPRETED:
        tile = INTERPRETER
    elif batch_invariant:
        tile = INVARIANT
    else:
        tile = next(tile for limit, tile in (WALK if walks else STEP) if limit is None or states <= limit)
    return tile._replace(BV=min(tile.BV, triton.next_power_of_2(V)))
