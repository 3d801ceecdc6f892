"""Keep denormal numbers from slowing arithmetic down.

What strong gates leave of an error in float32 soon is one, and some processors take a hundred times longer
over them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

DENORMAL = 2.0**-140


@contextmanager
def flushed() -> Iterator[None]:
    """Take denormal numbers for zero in arithmetic on this thread's CPU, if the processor can; a context
    manager.

    What was set before is set again at the end.
    """
    before = bool(torch.tensor(DENORMAL) * 1.0 == 0.0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
