"""Set the order in which the interpreter runs the programs of a grid, for the time of one call.

Triton's interpreter runs one program after another, the last axis of the grid fastest: what one program
spoils and a later one repairs is never seen. A GPU promises no order. This works for every launch of any
kernel, by the interpreter's own launcher as by the repaired one, since both tell the builder which program is
next. `findings.repro` copies it into scripts, so it uses nothing of diffgdn.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

Program = tuple[int, ...]  # its place in a grid


def ordered(sizes: Sequence[int], order: str, seed: int, backwards: bool) -> list[Program]:
    """List the programs of a grid in the order in which they run.

    Args:
        sizes: of the grid.
        order: "ascending", the last axis fastest; "descending"; or "shuffled", the same for the same seed and
            grid on every machine.
        seed: of the shuffle.
        backwards: the last one first, so that each pair of programs runs the other way round.
    """
    places = list(itertools.product(*(range(size) for size in sizes)))
    if order == "shuffled":
        keys = {place: hashlib.sha256(f"{seed}/{place}".encode()).digest() for place in places}
        places.sort(key=keys.__getitem__)
    return places[::-1] if (order == "descending") != backwards else places


@contextmanager
def program_order(order: str, seed: int = 0, backwards: bool = False) -> Iterator[None]:
    """Have all kernels that are launched inside run their programs in an order, see `ordered`.

    The process must have entered the interpreter. Such contexts do not nest.
    """
    if order == "ascending" and not backwards:
        yield  # as the interpreter has it
        return
    from triton.runtime import interpreter

    builder = interpreter.interpreter_builder
    set_sizes, set_place = builder.set_grid_dim, builder.set_grid_idx
    places: list[Program] = []

    def begin(*sizes: int) -> None:
        places[:] = ordered(sizes, order, seed, backwards)
        set_sizes(*sizes)

    def instead(x: int, y: int, z: int) -> None:
        _, ny, nz = builder.grid_dim
        set_place(*places[(x * ny + y) * nz + z])

    vars(builder).update(set_grid_dim=begin, set_grid_idx=instead)
    try:
        yield
    finally:
        for name in ("set_grid_dim", "set_grid_idx"):
            del vars(builder)[name]  # the methods of its class again
