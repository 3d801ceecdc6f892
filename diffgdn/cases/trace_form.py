"""How a serving loop makes its calls, where kernels differ in what they take: dtypes and forms that a target
may not promise. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffgdn.cases.case_checks import DTYPES, VIEWS
from diffgdn.cases.json_record import Record, require
from diffgdn.cases.operations import OPERATIONS

INDEX_DTYPES = ("int32", "int64")
BATCHES = ("packed", "dense", "batched")
BATCHED = ("decode", "verify")  # kinds that take [B, T, ...] with cu_seqlens


@dataclass(frozen=True, repr=False)
class Form(Record):
    """The form of all calls of a loop; the names and values are those of a case.

    `gate_dtype` is that of g and beta, or of a and b. `batch` is "packed" with cu_seqlens, "dense"
    without, or "batched", which decode and verify alone take; rows of the last two are all of one length.
    `lower_bound` goes with raw kda gates, and `raw` has kda.extend take these. With `boundary` every extend
    returns the states before its chunks. The first `reserved` slots are never handed out.
    """

    gate_dtype: str = "float32"
    index_dtype: str = "int32"
    cu_dtype: str = "int32"
    view: str = "contiguous"
    batch: str = "packed"
    scale: float | None = None
    lower_bound: float | None = None
    raw: bool = False
    batch_invariant: bool = False
    final: bool = True
    boundary: bool = False
    reserved: int = 0

    def is_even(self, kind: str) -> bool:
        """Tell whether all rows of a call of a kind of operation have one length."""
        return self.batch == "dense" or (self.batch == "batched" and kind in BATCHED)

    def fields(self, op: str) -> Mapping[str, Any]:
        """Return the fields of a case of an operation that the form fixes, apart from its gates."""
        return {
            "index_dtype": self.index_dtype,
            "cu_dtype": self.cu_dtype,
            "view": self.view,
            "packed": self.batch != "dense" or OPERATIONS[op].single_token,
            "batched": self.batch == "batched" and OPERATIONS[op].kind in BATCHED,
            "scale": self.scale,
            "batch_invariant": self.batch_invariant,
            "final": self.final,
        }

    def gates(self, op: str) -> Mapping[str, Any]:
        """Return the fields of the gates of an operation that the form fixes."""
        operation = OPERATIONS[op]
        raw = self.raw and op == "kda.extend"
        bound = self.lower_bound if operation.is_kda and (raw or operation.raw_gates) else None
        return {"dtype": self.gate_dtype, "lower_bound": bound, "raw": raw}


def check(form: Form, family: str, dtype: str, slots: int) -> None:
    """Check the form of a loop of a family, whose q has a dtype, over a pool of `slots`.

    Raises ValueError that names the field.
    """
    for name, value, allowed in (
        ("gate_dtype", form.gate_dtype, DTYPES),
        ("gate_dtype", form.gate_dtype, ("float32", dtype)),
        ("index_dtype", form.index_dtype, INDEX_DTYPES),
        ("cu_dtype", form.cu_dtype, INDEX_DTYPES),
        ("view", form.view, VIEWS),
        ("batch", form.batch, BATCHES),
    ):
        require(value in allowed, f"form.{name}: expected one of {', '.join(allowed)}, got {value!r:.40}")
    bound = form.lower_bound
    require(
        bound is None or (family == "kda" and bound < 0.0),
        f"form.lower_bound: below 0 in a loop of kda, got {bound}",
    )
    require(
        0 <= form.reserved < slots,
        f"form.reserved: expected 0 to {slots - 1} of {slots} slots, got {form.reserved}",
    )
    require(not form.raw or family == "kda", "form.raw: only kda.extend takes either form of gates")
