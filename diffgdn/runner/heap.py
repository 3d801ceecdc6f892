"""Has something written over the bookkeeping of this process's heap? Such damage ends a process later, often
over something else.

glibc keeps before each block that it hands out its size, so that the blocks of the main heap can be walked
from the first to the last, which ends where the heap does. `process.keep_memory` makes the process take
almost all its tensors from there.
"""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

WORD = ctypes.sizeof(ctypes.c_size_t)
FLAGS = 7  # the low bits of a size
PREVIOUS_IN_USE = 1
LEAST_BYTES, UNIT = 4 * WORD, 2 * WORD  # of a block, and what its size is a multiple of


def damage() -> str | None:
    """What is wrong with the heap, or None. Where its bookkeeping is not glibc's, even of an untouched
    process something is.

    Objects of Python are visited too: what points to nowhere ends the process here.
    """
    gc.collect()
    start = _start()
    place, before, end = start, 0, _end()
    while start and place < end:
        word = ctypes.c_size_t.from_address(place + WORD).value
        size = word & ~FLAGS
        if place + size > end:
            end = _end()  # it may have grown meanwhile
        if size < LEAST_BYTES or size % UNIT or place + size > end:
            return f"the block {place - start:#x} bytes into the heap has a size of {size:#x}"
        if not word & PREVIOUS_IN_USE and ctypes.c_size_t.from_address(place).value != before:
            return f"the free block before {place - start:#x} bytes into the heap has two sizes"
        place, before = place + size, size
    return None


def _start() -> int:
    """Where the heap begins; 0 in a process that has none."""
    try:
        with Path("/proc/self/maps").open() as lines:
            found = next((line for line in lines if line.rstrip().endswith("[heap]")), "0-")
    except OSError:
        return 0
    return int(found.partition("-")[0], 16)


def _end() -> int:
    """Where it ends now: it is cut down whenever enough of its end has been freed."""
    try:
        place_of_break = ctypes.CDLL(None).sbrk
    except AttributeError:  # another C library
        return 0
    place_of_break.restype, place_of_break.argtypes = ctypes.c_size_t, [ctypes.c_ssize_t]
    return int(place_of_break(0))
