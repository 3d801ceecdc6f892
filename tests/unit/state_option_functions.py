"""Targets for scripts of cases with options of states: our kernels, of whose results one is spoiled.

Loaded as `tests/unit/state_option_functions.py:spoiled`. Which result, the environment variable SPOILED says.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from diffgdn import kernels
from diffgdn.cases.operations import OPERATIONS
from diffgdn.targets import FunctionTarget, calls


def _spoiled(op: str) -> Callable[..., Any]:
    function = getattr(kernels, calls.FUNCTIONS[op])

    def call(**given: Any) -> Any:
        returned = function(**given)
        name = os.environ.get("SPOILED", "")
        if name:
            tensor: torch.Tensor = given[name]
            tensor.masked_fill_(tensor == tensor.nan_to_num(nan=-1e9).max(), 1234.0)
        return returned

    return call


spoiled = FunctionTarget("spoiled", {op: _spoiled(op) for op in OPERATIONS})
