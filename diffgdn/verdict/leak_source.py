"""Finds the memory that leaked into a result: makes the call again and again with ever smaller parts of the
poison, everything else being zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from diffgdn.tensors.arena import Arguments
from diffgdn.tensors.poison import Fresh
from diffgdn.tensors.region import Change
from diffgdn.verdict.checks import describe_side


class Leaks(Protocol):
    """Makes the call with a part of the poison; whether the result is then not finite.

    words: of the arena, int64; None for none. only: the number of one fresh tensor and the part of it, as in
    `PoisonedEmpty`.
    """

    def __call__(self, words: Tensor | None = None, only: tuple[int, str] | None = None) -> bool: ...


def find_source(
    poisoned: Arguments, calm: Arguments, leaks: Leaks, fresh: Callable[[], Sequence[Fresh]]
) -> str | None:
    """Name the memory that leaks; None if no part of it does so alone.

    poisoned, calm: the arguments with poison and without, neither called with yet. fresh: gives the memory
    that the latest call allocated.
    """
    words = poisoned.poisoned_words(calm)
    if words.numel() and leaks(words):
        while words.numel() > 1:
            half = words.numel() // 2
            words = words[:half] if leaks(words[:half]) else words[half:]
        return _describe(poisoned.locate_word(int(words[0]))) if leaks(words) else None
    leaks()
    for number, one in enumerate(fresh()):
        for part, where in (("inside", ""), ("before", " before its start"), ("after", " past its end")):
            if leaks(only=(number, part)):
                shape = f"{list(one.tensor.shape)} {str(one.tensor.dtype).removeprefix('torch.')}"
                return f"a fresh tensor {shape}{where or ', before it was written'}"
    return None


def _describe(change: Change) -> str:
    if change.where != "element":
        return f"{change.tensor} {describe_side(change)}, at element {change.offset}"
    place = list(change.index)
    if change.tensor == "state":
        return f"state slot {place[0]}, which no sequence names, at {place}"
    if change.tensor in ("out", "buffer", "changes"):
        return f"{change.tensor} at {place}, before it was written"
    return f"{change.tensor} of a padding token, at {place}"
