"""The project's own Triton kernels, one target a state layout."""

from __future__ import annotations

from diffgdn import kernels
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.promises import EVERYTHING
from diffgdn.targets import calls
from diffgdn.targets.base import FunctionTarget


def own(layout: str) -> FunctionTarget:
    """Make the target `vk` or `kv`: every operation that has the layout."""
    functions = {
        op: getattr(kernels, calls.FUNCTIONS[op])
        for op, operation in OPERATIONS.items()
        if layout in operation.layouts
    }
    return FunctionTarget(layout, functions, layout, promises=EVERYTHING)
