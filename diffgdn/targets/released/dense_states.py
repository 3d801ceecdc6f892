"""Calls functions that take dense states, one a sequence, and know no padding, as a server does.

States are gathered from the pool (zeros for index -1, and where a flag says that there is none), final ones
are put back where a sequence has tokens, and tokens behind the last sequence are left out; their output is
zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """What a call has beside its tokens.

    pool [slots, HV, V, K], indices [N], flags [N], cu_seqlens [N + 1]: as the caller gave them, or None.
    count: of sequences. total: of their tokens in a row of the batch.
    """

    pool: Tensor | None
    indices: Tensor | None
    flags: Tensor | None
    cu_seqlens: Tensor | None
    count: int
    total: int

    @classmethod
    def of(
        cls,
        q: Tensor,
        pool: Tensor | None,
        indices: Tensor | None,
        flags: Tensor | None,
        cu_seqlens: Tensor | None,
    ) -> Batch:
        """Read the batch of a call, q [B, T, H, K]."""
        if cu_seqlens is None:
            return cls(pool, indices, flags, None, q.shape[0], q.shape[1])
        return cls(pool, indices, flags, cu_seqlens, len(cu_seqlens) - 1, int(cu_seqlens[-1]))

    @property
    def slots(self) -> list[int]:
        """The slot of each sequence."""
        return list(range(self.count)) if self.indices is None else self.indices.tolist()

    def real(self, tokens: Tensor) -> Tensor:
        """Take the tokens of sequences alone."""
        return tokens[:, : self.total].contiguous()

    def with_tail(self, o: Tensor, tokens: int) -> Tensor:
        """Append zeros for the tokens behind the last sequence, of so many in a row."""
        missing = tokens - o.shape[1]
        if not missing:
            return o
        return torch.cat([o, o.new_zeros(o.shape[0], missing, *o.shape[2:])], dim=1)

    def gathered(self) -> Tensor | None:
        """Copy the initial states [N, HV, V, K], in the pool's dtype; None without a pool."""
        if self.pool is None:
            return None
        out = self.pool.new_zeros(self.count, *self.pool.shape[1:])
        for n, slot in enumerate(self.slots):
            if slot >= 0 and (self.flags is None or bool(self.flags[n])):
                out[n] = self.pool[slot]
        return out

    def scatter(self, final: Tensor) -> None:
        """Write the final states of sequences that have tokens into the pool, in place."""
        assert self.pool is not None
        lengths = [self.total] * self.count
        if self.cu_seqlens is not None:
            lengths = self.cu_seqlens.diff().tolist()
        for n, (slot, length) in enumerate(zip(self.slots, lengths, strict=True)):
            if slot >= 0 and length > 0:
                self.pool[slot] = final[n].to(self.pool.dtype)
