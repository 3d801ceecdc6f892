"""Draws tensors for shapes as large as serving has, in a moment, and makes copies that calls take in turn.

A few hundred tokens and states are drawn as for any case, and repeated. The periods are primes, so that
neither chunks nor sequences fall on the same data again and again: what reads the wrong sequence, chunk or
slot gets other numbers.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.tensors import inputs
from diffgdn.tensors.arena import Arguments
from diffgdn.tensors.inputs import Data

TOKEN_PERIOD = 509
STATE_PERIOD = 13
TOKENS = ("q", "k", "v", "g", "beta", "a", "b")
ROTATED_CACHES = 4  # how many times the L2 cache all copies together fill
LEAST_COPIES, MOST_COPIES = 2, 64


def draw(case: Case, device: str = "cpu") -> Data:
    """Draw the tensors of a case as `inputs.draw` does, but with tokens and states that repeat.

    device: where they are repeated, and come back.
    """
    sequences = min(len(case.lens), STATE_PERIOD)
    states = inputs.draw(_of_lengths(case, (1,) * sequences))
    period = min(case.total, TOKEN_PERIOD)
    out = inputs.draw(_of_lengths(_of_any_length(case), (period,)))
    order = torch.arange(case.total, device=device) % period
    out |= {name: tensor.to(device)[order] for name, tensor in out.items() if name in TOKENS}
    if "state" in states:
        order = torch.arange(len(case.lens), device=device) % sequences
        out["state"] = states["state"].to(device)[order]
    return out


def _of_any_length(case: Case) -> Case:
    """Packed decode has the tensors of decode, which takes several tokens of one sequence."""
    return replace(case, op=case.op.replace("packed_decode", "decode"))


def _of_lengths(case: Case, lens: tuple[int, ...]) -> Case:
    """Make the same case of other sequences, for its tensors alone: with as many slots, and no buffer of
    steps unless the operation must have one."""
    count, steps = len(lens), max(lens) if case.operation.keeps_steps else 0
    order = tuple(range(count))
    rows = order if steps else ()
    pool = replace(case.pool, slots=count, indices=order, steps=steps, buffer=len(rows), rows=rows)
    return replace(case, lens=lens, pool=pool)


def copies_for(moved: int, cache: int) -> int:
    """Say how many copies it takes so that no call finds its tensors in the cache.

    moved: bytes of one call. cache: bytes of the L2 cache, 0 if there is none to be got round.
    """
    if not cache:
        return 1
    return max(LEAST_COPIES, min(MOST_COPIES, -(-ROTATED_CACHES * cache // max(1, moved))))


def copied(arguments: Arguments) -> Arguments:
    """Copy the tensors of a call, strides and all, outside of their arena: nothing watches them.

    cu_seqlens stays the same tensor: a model passes one to all its layers, and kernels keep what they made
    of it.
    """
    tensors = {
        name: tensor if tensor is None or name == "cu_seqlens" else _like(tensor)
        for name, tensor in arguments.tensors.items()
    }
    return replace(arguments, tensors=tensors, far=())


def _like(tensor: Tensor) -> Tensor:
    made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    return made.copy_(tensor)
