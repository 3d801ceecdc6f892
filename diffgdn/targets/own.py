"""The project's own Triton kernels, one target a state layout."""

from __future__ import annotations

from diffgdn import kernels
from diffgdn.backend import revision
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.promises import EXACT, ZERO, Promises
from diffgdn.targets import calls
from diffgdn.targets.base import FunctionTarget, TargetError

PROMISES = Promises(tail_output=ZERO, result_form=EXACT)  # every case


def own(layout: str) -> FunctionTarget:
    """Make the target `vk` or `kv`: every operation that has the layout. Raises TargetError."""
    try:
        ours = revision.package(kernels)
    except Exception as error:  # whatever the kernels of another revision raise
        raise TargetError(f"its kernels cannot be imported: {type(error).__name__}: {error}") from error
    functions = {
        op: getattr(ours, calls.FUNCTIONS[op])
        for op, operation in OPERATIONS.items()
        if layout in operation.layouts and hasattr(ours, calls.FUNCTIONS[op])
    }
    return FunctionTarget(layout, functions, layout, promises=PROMISES, heads_compiled=False)
