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

TOKEN_PERIOD = 1021
STATE_PERIOD = 53
TOKENS = ("q", "k", "v", "g", "beta", "a", "b")
ROTATED_CACHES = 4  # how many times the L2 cache all copies together fill
LEAST_COPIES, MOST_COPIES = 2, 64


def draw(case: Case) -> Data:
    """Draw the tensors of a case as `inputs.draw` does, but with tokens and states that repeat."""
    sequences = min(len(case.lens), STATE_PERIOD)
    states = inputs.draw(_of_lengths(case, (1,) * sequences))
    tokens = inputs.draw(_of_lengths(case, _token_lengths(case)))
    order = torch.arange(case.total) % min(case.total, TOKEN_PERIOD)
    out = {name: tensor[order] if name in TOKENS else tensor for name, tensor in tokens.items()}
    if "state" in states:
        out["state"] = states["state"][torch.arange(len(case.lens)) % sequences]
    return out


def _token_lengths(case: Case) -> tuple[int, ...]:
    """As many tokens as one period has: of one sequence, or of as many as it takes of single tokens."""
    count = min(case.total, TOKEN_PERIOD)
    return (1,) * count if case.operation.single_token else (count,)


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
