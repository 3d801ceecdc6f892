"""Mutants as targets: `--target diffgdn.mutants.mutant_targets:ID` runs kernels with that bug."""

from __future__ import annotations

from diffgdn.cases.operations import OPERATIONS
from diffgdn.mutants.catalogue import MUTANTS
from diffgdn.mutants.mutated_kernels import load
from diffgdn.targets import FunctionTarget, calls
from diffgdn.targets.own import PROMISES


def name_of(mutant: str) -> str:
    """Return the name under which a mutant is a target."""
    return f"{__name__}:{mutant}"


def __getattr__(name: str) -> FunctionTarget:
    if name not in MUTANTS:
        raise AttributeError(f"no mutant {name!r}")
    module = load(MUTANTS[name])
    functions = {op: getattr(module, calls.FUNCTIONS[op]) for op in OPERATIONS}
    return FunctionTarget(name, functions, promises=PROMISES, heads_compiled=False)
