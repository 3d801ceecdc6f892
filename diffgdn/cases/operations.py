"""The twelve operations: what each computes, which tensors it takes, and what it leaves behind.

An operation is named `family.kind`. The family says how the gate acts (gdn: one number per head; kda: a
vector over K), the kind says how the state is addressed and what comes in.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

FAMILIES = ("gdn", "kda")
KINDS = ("extend", "recurrent", "update", "decode", "packed_decode", "verify")


@dataclass(frozen=True)
class Operation:
    """What is computed, apart from who computes it."""

    family: str
    kind: str

    @property
    def name(self) -> str:
        return f"{self.family}.{self.kind}"

    @property
    def is_kda(self) -> bool:
        return self.family == "kda"

    @property
    def is_chunked(self) -> bool:
        """Prefill by chunks: rounding points lie between chunk stages, and boundary states exist."""
        return self.kind == "extend"

    @property
    def raw_gates(self) -> bool:
        """The kernel computes g and beta itself, from a, b, A_log and dt_bias."""
        return self.kind in ("decode", "packed_decode", "verify")

    @property
    def has_pool(self) -> bool:
        """The state lives in a pool addressed by slot index; otherwise it is dense, one row a sequence."""
        return self.kind != "recurrent"

    @property
    def writes_pool(self) -> bool:
        """The pool's named slots end with the state after the last token."""
        return self.kind in ("extend", "update", "decode", "packed_decode")

    @property
    def keeps_steps(self) -> bool:
        """The state after every step is kept in an intermediate buffer."""
        return self.kind == "verify"

    @property
    def single_token(self) -> bool:
        return self.kind == "packed_decode"

    @property
    def layouts(self) -> tuple[str, ...]:
        """State layouts in which kernels of this operation exist here."""
        return ("vk", "kv") if self.kind in ("extend", "update", "decode", "verify") else ("vk",)


OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (Operation(family, kind) for kind in KINDS for family in FAMILIES)
}


def matching(pattern: str) -> tuple[str, ...]:
    """Names of the operations that a shell pattern selects (`gdn.*`, `*.verify`), in a fixed order.

    Raises ValueError if the pattern selects none.
    """
    names = tuple(name for name in OPERATIONS if fnmatch.fnmatchcase(name, pattern))
    if not names:
        raise ValueError(f"no operation matches {pattern!r}; known: {', '.join(OPERATIONS)}")
    return names
