"""Triton's interpreter, made to work with the numpy beside it.

Triton 3.6 reads a loop bound by int(array) where numpy 2.4 and later want an array without dimensions: every
kernel with a loop over a run-time count fails. Later Tritons squeeze the array first; `repair` does the
same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_repaired = False


def needs_repair(triton_version: str, numpy_version: str) -> bool:
    """Whether this pair of versions cannot read a loop bound."""

    def parts(version: str) -> tuple[int, ...]:
        return tuple(int(part) for part in version.split(".")[:2])

    return parts(triton_version) < (3, 7) and parts(numpy_version) >= (2, 4)


def repair() -> None:
    """Once a process, before the first kernel of the interpret lane; nothing where nothing is wrong."""
    global _repaired
    if _repaired:
        return
    _repaired = True
    import triton
    from triton.runtime import interpreter

    if not needs_repair(triton.__version__, np.__version__):
        return
    original = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.squeeze()))

    interpreter._patch_lang_tensor = patched
