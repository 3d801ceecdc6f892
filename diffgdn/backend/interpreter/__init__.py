"""Repair Triton's interpreter: a kernel in ordinary Triton means on CPU tensors what it means on a GPU.

The interpreter that Triton ships truncates casts to bf16, computes with the raw bits of bf16 numbers, knows
no builtin by another name, and is slow wherever one device function calls another. Each `Repair` mends one
such thing for every kernel of this process. It says which versions of Triton need it, and its probe shows
whether the one at hand still does; one that does not is left as it is.

Nothing here knows any kernel, and nothing imports torch or Triton before `repair` is called.
"""

from __future__ import annotations

from diffgdn.backend.interpreter.program_order import program_order
from diffgdn.backend.interpreter.repairs import (
    EMULATED,
    NOT_EMULATED,
    REPAIRS,
    Repair,
    explain,
    needed,
    repair,
)

__all__ = ["EMULATED", "NOT_EMULATED", "REPAIRS", "Repair", "explain", "needed", "program_order", "repair"]
