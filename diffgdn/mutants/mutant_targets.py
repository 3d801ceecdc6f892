"""Mutants as targets: `--target diffgdn.mutants.mutant_targets:ID` runs kernels with that bug.

ID: of the catalogue, or of a mutant that an operator makes.
"""

from __future__ import annotations

from diffgdn.cases.operations import OPERATIONS
from diffgdn.mutants.catalogue import MUTANTS
from diffgdn.mutants.generated import generated
from diffgdn.mutants.mutated_kernels import load
from diffgdn.targets import FunctionTarget, calls
from diffgdn.targets.own import PROMISES, OwnTarget


def name_of(mutant: str) -> str:
    """Return the name under which a mutant is a target."""
    return f"{__name__}:{mutant}"


def __getattr__(name: str) -> FunctionTarget:
    known = MUTANTS if name in MUTANTS else generated()
    if name not in known:
        raise AttributeError(f"no mutant {name!r}")
    module, layout = load(known[name]), known[name].layout
    functions = {
        op: getattr(module, calls.FUNCTIONS[op])
        for op, operation in OPERATIONS.items()
        if layout in operation.layouts
    }
    return OwnTarget(name, functions, layout, promises=PROMISES, heads_compiled=False)
