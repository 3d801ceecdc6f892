"""The fourteen operations: what each computes, which tensors it takes, and what it leaves behind.

An operation is named `family.kind`. The family says how the gate acts (gdn: one number per head; kda: a
vector over K), the kind says how the state is addressed and what comes in.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

FAMILIES = ("gdn", "kda")
KINDS = ("extend", "recurrent", "update", "decode", "packed_decode", "verify", "verify_commit")


@dataclass(frozen=True)
class Operation:
    """What is computed, whoever computes it: a gate (`family`) and a way to address the state (`kind`)."""

    family: str
    kind: str

    @property
    def name(self) -> str:
        """Return `family.kind`, the key in OPERATIONS."""
        return f"{self.family}.{self.kind}"

    @property
    def is_kda(self) -> bool:
        """Tell whether the gate is a vector over K, not one number for each head."""
        return self.family == "kda"

    @property
    def is_chunked(self) -> bool:
        """Tell whether it is a prefill by chunks: rounding points lie between chunk stages, and boundary
        states exist.
        """
        return self.kind == "extend"

    @property
    def raw_gates(self) -> bool:
        """Tell whether the kernel computes g and beta itself, from a, b, A_log and dt_bias."""
        return self.kind == "packed_decode" or self.is_sigmoid_gating

    @property
    def is_sigmoid_gating(self) -> bool:
        """Tell whether its function takes raw gates of several tokens: with numbers of their softplus, and
        batches in every form.
        """
        return self.kind in ("decode", "verify", "verify_commit")

    @property
    def has_pool(self) -> bool:
        """Tell whether the state lives in a pool addressed by slot; otherwise it is dense, one row for each
        sequence.
        """
        return self.kind != "recurrent"

    @property
    def writes_pool(self) -> bool:
        """Tell whether the pool's named slots end with the state after the last token."""
        return self.kind in ("extend", "update", "decode", "packed_decode") or self.commits

    @property
    def keeps_steps(self) -> bool:
        """Tell whether the state after every step is kept in an intermediate buffer."""
        return self.kind == "verify"

    @property
    def commits(self) -> bool:
        """Tell whether tokens are a draft of which the accepted ones reach the pool, in a call of their own:
        the change of each step is kept between the two.
        """
        return self.kind == "verify_commit"

    @property
    def drafts(self) -> bool:
        """Tell whether tokens are always a draft, which may be a tree and has a row for its steps."""
        return self.keeps_steps or self.commits

    @property
    def single_token(self) -> bool:
        """Tell whether every sequence has exactly one token."""
        return self.kind == "packed_decode"

    @property
    def layouts(self) -> tuple[str, ...]:
        """List the state layouts in which kernels of this operation exist here."""
        both = self.kind in ("extend", "update") or self.is_sigmoid_gating
        return ("vk", "kv") if both else ("vk",)


OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (Operation(family, kind) for kind in KINDS for family in FAMILIES)
}


def matching(pattern: str) -> tuple[str, ...]:
    """List the names of the operations that a shell pattern selects (`gdn.*`, `*.verify`), in the order of
    OPERATIONS.

    Raises ValueError if the pattern selects none.
    """
    names = tuple(name for name in OPERATIONS if fnmatch.fnmatchcase(name, pattern))
    if not names:
        raise ValueError(f"no operation matches {pattern!r}; known: {', '.join(OPERATIONS)}")
    return names
