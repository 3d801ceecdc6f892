"""The chunk table: each chunk's first token and number of tokens, made on the device.

The number of chunks is on the device too, so the kernels run over an upper bound of it. Entries past the
last chunk cover the padding tokens past cu_seqlens[-1]: their row count is negative, and the output stage
writes zeros there.
"""

from itertools import pairwise

import torch
import triton
import triton.language as tl

from ..device import INTERPRETED

BLOCK_C = 64  # table entries per program
BLOCK_N = 64  # sequences looked at in one step


@triton.jit(do_not_specialize=["N", "tokens", "bound"])
def chunk_table_kernel(
    p_cu, p_table, p_first, N, tokens, bound, BT: tl.constexpr, BC: tl.constexpr, BN: tl.constexpr
):
    """Store BC entries of p_table [bound, 2], int32: first token and number of tokens of a chunk.

    p_cu [N + 1]: bounds of the sequences. Written by the first program: p_first [N], int32, the number of
    each sequence's first chunk. Entries past the last chunk have the padding tokens up to `tokens`, their
    number negative. BN: sequences that are looked at at once.
    """
    i_p = tl.program_id(0)
    o_c = i_p * BC + tl.arange(0, BC)
    start = tl.full([BC], 0, tl.int32)
    rows = tl.full([BC], 0, tl.int32)
    seen = 0  # chunks of the sequences looked at so far
    for i_n in range(0, N, BN):
        o_n = i_n + tl.arange(0, BN)
        m_n = o_n < N
        bos = tl.load(p_cu + o_n, mask=m_n, other=0).to(tl.int32)
        eos = tl.load(p_cu + o_n + 1, mask=m_n, other=0).to(tl.int32)
        chunks = (eos - bos + BT - 1) // BT
        end = seen + tl.cumsum(chunks, axis=0)
        first = end - chunks
        if i_p == 0:
            tl.store(p_first + o_n, first, mask=m_n)
        # [BC, BN]: at most one sequence owns a chunk
        owns = (o_c[:, None] >= first[None, :]) & (o_c[:, None] < end[None, :])
        at = bos[None, :] + (o_c[:, None] - first[None, :]) * BT
        start += tl.sum(tl.where(owns, at, 0), axis=1)
        rows += tl.sum(tl.where(owns, tl.minimum(eos[None, :] - at, BT), 0), axis=1)
        seen += tl.sum(chunks, axis=0)
    past = o_c >= seen
    # in 64 bits: many empty sequences leave many entries past the last token
    padding = tl.minimum(tl.load(p_cu + N).to(tl.int64) + (o_c - seen).to(tl.int64) * BT, tokens)
    start = tl.where(past, padding.to(tl.int32), start)
    rows = tl.where(past, -tl.minimum(tokens - start, BT), rows)
    tl.store(p_table + o_c * 2, start, mask=o_c < bound)
    tl.store(p_table + o_c * 2 + 1, rows, mask=o_c < bound)


def chunk_table(cu_seqlens, tokens, chunk_size):
    """Return (table [bound, 2] of first token and row count, first [N] of each sequence's first chunk).

    bound = cdiv(tokens, chunk_size) + N is enough for all chunks and for the padding after them. Made anew
    on each call: a cache would have to know that the values of cu_seqlens are still the same.
    """
    N = cu_seqlens.numel() - 1
    bound = triton.cdiv(tokens, chunk_size) + N
    table = torch.empty(bound, 2, dtype=torch.int32, device=cu_seqlens.device)
    first = torch.empty(N, dtype=torch.int32, device=cu_seqlens.device)
    block_c = max(BLOCK_C, triton.next_power_of_2(bound)) if INTERPRETED else BLOCK_C
    chunk_table_kernel[(triton.cdiv(bound, block_c),)](
        cu_seqlens, table, first, N, tokens, bound, BT=chunk_size, BC=block_c, BN=BLOCK_N, num_warps=4
    )
    return table, first


def chunk_count(cu_seqlens, chunk_size):
    """Return the number of chunks of the batch. Reads cu_seqlens back: on a GPU, one synchronisation."""
    bounds = cu_seqlens.tolist()
    return sum(triton.cdiv(end - start, chunk_size) for start, end in pairwise(bounds))
