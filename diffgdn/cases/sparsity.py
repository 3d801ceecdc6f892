"""Which part of a tensor matters: all other elements are zero.

Shrinking uses it to say which tokens, heads and channels a failure needs (`search.sparsify`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from diffgdn.cases.json_record import Record, require

# Places along one axis, in order: numbers, and pairs (first, last) for runs of two and more.
Kept = tuple[int | tuple[int, ...], ...]

# Axes of the tensors as `inputs.draw` lays them out; g has K in kda alone.
AXES: dict[str, tuple[str, ...]] = {
    "q": ("tokens", "heads", "K"),
    "k": ("tokens", "heads", "K"),
    "v": ("tokens", "heads", "V"),
    "g": ("tokens", "heads", "K"),
    "beta": ("tokens", "heads"),
    "state": ("sequences", "heads", "V", "K"),
}


@dataclass(frozen=True, repr=False)
class Only(Record):
    """A tensor that is zero but where, on every axis, the element lies at a kept place.

    `tensor` is q, k, v, g (0 is no decay), beta or state; g and beta also if the kernel computes them from
    raw gates. The axes: `tokens` counts over the whole batch, without padding; `sequences` is of a state, and
    sequences that share a slot are kept or zeroed together; `heads` are those of the tensor; then K and V.
    For each, None keeps all places and () none. `value` is what the kept elements are set to; None leaves
    what the case's law gives.
    """

    tensor: str
    sequences: Kept | None = None
    tokens: Kept | None = None
    heads: Kept | None = None
    V: Kept | None = None
    K: Kept | None = None
    value: float | None = None

    @property
    def empty(self) -> bool:
        """Tell whether nothing is kept, so that the tensor is zero."""
        return any(getattr(self, axis) == () for axis in AXES[self.tensor])

    def words(self) -> str:
        """Describe the entry for a person: `v is zero except at token 3, V 0 to 1`."""
        if self.empty:
            return f"{self.tensor} is zero"
        kept = [
            f"{axis.removesuffix('s') if len(places) == 1 and type(places[0]) is int else axis} "
            f"{', '.join(_words(place) for place in places)}"
            for axis in AXES[self.tensor]
            if (places := getattr(self, axis)) is not None
        ]
        if not kept:
            return f"{self.tensor} is {'as drawn' if self.value is None else f'{self.value:g}'}"
        value = "" if self.value is None else f", {self.value:g} there"
        return f"{self.tensor} is zero except at {', '.join(kept)}{value}"


def _words(place: int | tuple[int, ...]) -> str:
    return str(place) if isinstance(place, int) else f"{place[0]} to {place[1]}"


def kept(places: Iterable[int]) -> Kept:
    """Write places along an axis in the form that `Only` holds: sorted, with (first, last) for runs of two
    and more.
    """
    runs: list[list[int]] = []
    for place in sorted(set(places)):
        if runs and place == runs[-1][-1] + 1:
            runs[-1][1:] = [place]
        else:
            runs.append([place])
    return tuple(run[0] if len(run) == 1 else (run[0], run[1]) for run in runs)


def places(kept: Kept) -> Iterator[int]:
    """Iterate over the single places that a value of an `Only` axis keeps."""
    for entry in kept:
        yield from (entry,) if isinstance(entry, int) else range(entry[0], entry[1] + 1)


def check(only: tuple[Only, ...], sizes: Mapping[str, Mapping[str, int]]) -> None:
    """Check that entries fit the tensors of a case.

    `sizes` gives, by tensor and by axis, the sizes that the case has. Raises ValueError that names the field
    and its value.
    """
    for n, entry in enumerate(only):
        name = f"only[{n}]"
        require(
            entry.tensor in sizes,
            f"{name}.tensor: expected one of {', '.join(sizes)}, got {entry.tensor!r:.40}",
        )
        for axis in ("sequences", "tokens", "heads", "V", "K"):
            chosen = getattr(entry, axis)
            if chosen is not None:
                size = sizes[entry.tensor].get(axis)
                require(size is not None, f"{name}.{axis}: {entry.tensor} has no such axis")
                assert size is not None
                _check_places(f"{name}.{axis}", chosen, size)
        if entry.value is not None:
            require(math.isfinite(entry.value), f"{name}.value: expected a number, got {entry.value}")
            least, most = {"g": (-math.inf, 0.0), "beta": (0.0, 2.0)}.get(entry.tensor, (-math.inf, math.inf))
            require(
                least <= entry.value <= most,
                f"{name}.value: expected {least:g} to {most:g} for {entry.tensor}, got {entry.value}",
            )
    tensors = [entry.tensor for entry in only]
    require(len(set(tensors)) == len(tensors), f"only: one entry a tensor, got {', '.join(tensors):.80}")


def _check_places(name: str, chosen: Kept, size: int) -> None:
    """Check that places lie below `size`, in order, in runs that do not touch."""
    after = 0  # the least place that may come next: runs that touch are one run
    for entry in chosen:
        pair = (entry, entry) if isinstance(entry, int) else entry
        require(
            len(pair) == 2
            and after <= pair[0] <= pair[1] < size
            and (isinstance(entry, int) or pair[0] < pair[1]),
            f"{name}: expected places below {size} in order, and pairs (first, last), got {chosen!r:.80}",
        )
        after = pair[1] + 2
