"""Tile choices of the recurrent kernel."""

from typing import NamedTuple

import triton

from .device import INTERPRETED


class Tile(NamedTuple):
    """How the recurrent kernel is cut and compiled."""

    BV: int  # rows of the state a program holds
    num_warps: int
    num_stages: int


# Measured on an H200 at K = V = 128, HV = 32, batches of 1, 8, 64 and 256, over eight to thirteen tiles: one
# warp that reads whole rows of K beats more warps by 10 to 40 %, in decode and in verify of four tokens. For
# gdn 8 rows are the best or within 10 % of it at each batch; for kda, whose gates cost registers, 16 are
# (decode at 256: 269 us against 298 us with 8). Nothing is gained by looking at the batch, so that the bits
# do not depend on it either.
GDN = Tile(8, 1, 1)
KDA = Tile(16, 1, 1)

# The interpreter pays for each operation, not for its size. Still a split where V > 128, so that it stays
# exercised.
INTERPRETER = Tile(128, 1, 1)

# A benchmark or a test puts a Tile here to use it for every launch.
override: Tile | None = None


def pick(V, kda):
    """Return the tile for states of V rows: BV is at most V, rounded up to a power of two."""
    tile = override if override is not None else INTERPRETER if INTERPRETED else KDA if kda else GDN
    return tile._replace(BV=min(tile.BV, triton.next_power_of_2(V)))
