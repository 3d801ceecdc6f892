"""Our kernels behind launchers that keep something from call to call under too short a key, or for too long.

Alone in a fresh process each of them is right, whatever the call. Child processes load them as
`tests/unit/stale_calls.py:NAME`; with DIFFGDN_MENDED in the environment they keep nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffgdn.kernels import chunk_gated_delta_rule, fused_sigmoid_gating_delta_rule_update
from diffgdn.targets import FunctionTarget

MENDED = "DIFFGDN_MENDED"
SCRATCH_ROWS = 64

Given = dict[str, Any]
_kept: dict[Any, Any] = {}


def keep(name: str, key: Any, value: Any) -> Any:
    """What was kept under a key first."""
    return value if MENDED in os.environ else _kept.setdefault((name, key), value)


def by_address(given: Given) -> Any:
    """A chunk table made of cu_seqlens is kept by where they lie: new lengths in the same memory are not
    seen."""
    cu_seqlens = given["cu_seqlens"]
    if cu_seqlens is not None:
        given["cu_seqlens"] = keep("table", cu_seqlens.data_ptr(), cu_seqlens.clone())
    return chunk_gated_delta_rule(**given)


def by_shape(given: Given) -> Any:
    """The same, kept by how many sequences and tokens there are."""
    cu_seqlens = given["cu_seqlens"]
    if cu_seqlens is not None:
        key = cu_seqlens.numel(), int(cu_seqlens[-1]), given["q"].shape[1]
        given["cu_seqlens"] = keep("shape", key, cu_seqlens.clone())
    return chunk_gated_delta_rule(**given)


def by_first_dtype(given: Given) -> Tensor:
    """The kernel is kept under the sizes of its operands: it rounds all later ones as it did the first."""
    own = {name: given[name] for name in "qkv"}
    key = own["q"].shape[-1], own["v"].shape[-1]
    kept = keep("dtype", key, {name: x.dtype for name, x in own.items()})
    given |= {name: x if x.dtype == kept[name] else x.to(kept[name]).to(x.dtype) for name, x in own.items()}
    o: Tensor = fused_sigmoid_gating_delta_rule_update(**given)
    return o


def by_options(given: Given) -> Tensor:
    """The same, without the option of normalising in the key."""
    name = "use_qk_l2norm_in_kernel"
    given[name] = keep("l2norm", given["q"].shape[-1], given[name])
    o: Tensor = fused_sigmoid_gating_delta_rule_update(**given)
    return o


def short_workspace(given: Given) -> Tensor:
    """A workspace has a row for each sequence of the first call; of more, the last ones are left out."""
    o: Tensor = fused_sigmoid_gating_delta_rule_update(**given)
    count = given["initial_state_indices"].numel()
    if keep("rows", None, count) < count:
        o.view(-1, *o.shape[-2:])[-1] = 0
    return o


def dirty_scratch(given: Given) -> Tensor:
    """Partial sums are added up over a power of two of rows, of which a call leaves its own behind."""
    o: Tensor = fused_sigmoid_gating_delta_rule_update(**given)
    count = given["initial_state_indices"].numel()
    scratch = keep("scratch", None, torch.zeros(SCRATCH_ROWS))
    rows = 1 << count.bit_length()
    o += scratch[count:rows].sum().to(o.dtype)
    scratch[:count] = 1.0
    return o


def _target(name: str, op: str, function: Callable[[Given], Any]) -> FunctionTarget:
    def called(**given: Any) -> Any:
        return function(given)

    return FunctionTarget(name, {op: called})


address = _target("address", "gdn.extend", by_address)
shape = _target("shape", "gdn.extend", by_shape)
first_dtype = _target("first_dtype", "gdn.decode", by_first_dtype)
options = _target("options", "gdn.decode", by_options)
workspace = _target("workspace", "gdn.decode", short_workspace)
scratch = _target("scratch", "gdn.decode", dirty_scratch)
