"""Keeps one table for each kind of indices, which the loop overwrites for every call, as engines do."""

from __future__ import annotations

import torch
from torch import Tensor

from diffgdn.cases.trace import Trace
from diffgdn.cases.trace_steps import CALLS
from diffgdn.tensors.arena import Arguments
from diffgdn.verdict.failures import InputChanged

NAMES = ("indices", "rows", "cu_seqlens", "parents")
STALE = -1  # what a table holds once its call has returned


class Tables:
    """The tables of a loop, one for each argument in NAMES and dtype.

    Calls of the same shape get the very same tensor, with other values in it: what a target keeps of it, by
    its address or as an object, is out of date by the next call.
    """

    def __init__(self, trace: Trace, device: str) -> None:
        batches = [len(step.requests) for step in trace.steps if step.act in CALLS]
        self._room = (max(batches, default=0) + 1) * (trace.draft + 1)
        self._device = device
        self._words: dict[tuple[str, torch.dtype], Tensor] = {}
        self._views: dict[tuple[object, ...], Tensor] = {}
        self._lent: dict[str, tuple[Tensor, Tensor]] = {}  # the words of a table, and a copy of them

    def lend(self, arguments: Arguments) -> None:
        """Have a call's indices lie in the tables: copy their values there, and replace the arguments."""
        for name in NAMES:
            given = arguments.get(name)
            if given is not None:
                place = self._view(name, given)
                place.copy_(given)
                arguments.tensors[name] = place
                words = self._words[name, given.dtype]
                self._lent[name] = words, words.clone()

    def take_back(self, op: str) -> None:
        """Overwrite all that was lent, after a call. Raises InputChanged if the call itself wrote there."""
        lent, self._lent = self._lent, {}
        written = [(name, words != copy) for name, (words, copy) in lent.items()]
        for words, _ in lent.values():
            words.fill_(STALE)
        for name, mask in written:
            if bool(mask.any()):
                place = f"at element {int(mask.nonzero()[0])}"
                raise InputChanged(op, name, place, "the loop's table of indices was written")

    def _view(self, name: str, like: Tensor) -> Tensor:
        """Return the tensor of a table in the shape, strides and dtype of another."""
        key = (name, like.dtype, like.shape, like.stride())
        if key not in self._views:
            words = self._words.get((name, like.dtype))
            if words is None:
                words = torch.full((self._room,), STALE, dtype=like.dtype, device=self._device)
                self._words[name, like.dtype] = words
            assert 1 + sum((n - 1) * s for n, s in zip(like.shape, like.stride(), strict=True)) <= self._room
            self._views[key] = words.as_strided(like.shape, like.stride())
        return self._views[key]
