"""The project's own Triton kernels, one target a state layout."""

from __future__ import annotations

from typing import Any

from diffgdn import kernels
from diffgdn.backend import revision
from diffgdn.cases.case import Case
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.promises import EXACT, ZERO, Promises
from diffgdn.targets import calls
from diffgdn.targets.base import FunctionTarget, TargetError
from diffgdn.tensors.arena import Arguments

PROMISES = Promises(tail_output=ZERO, result_form=EXACT)  # every case


class OwnTarget(FunctionTarget):
    """Kernels as this project has them, with what its functions take and no other's do."""

    def given(self, case: Case, arguments: Arguments) -> dict[str, Any]:
        """Collect keyword arguments; raw gates [B, HV * K] of a packed decode also as [B, HV, K], where they
        lie with gaps."""
        given = super().given(case, arguments)
        if case.op == "kda.packed_decode" and case.view == "gapped":
            given["a"] = given["a"].unflatten(-1, (case.HV, case.K))
        return given


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
    return OwnTarget(layout, functions, layout, promises=PROMISES, heads_compiled=False)
