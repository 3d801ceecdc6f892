"""Says in words where a result first differs, and what shape its wrong part has."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from diffgdn.verdict.comparison import Comparison

BLOCK = 16  # of V and of K, for words alone, where the kernel's tile is not known: no tile is smaller
ORDINALS = {2: "second", 3: "third"}


@dataclass(frozen=True)
class Tile:
    """The tile of a kernel: how many rows (V) and columns (K) of a state; None where that is not known."""

    V: int | None = None
    K: int | None = None

    def of(self, axis: str) -> int | None:
        """Return the size along "V" or "K", None if it is not known."""
        return self.V if axis == "V" else self.K if axis == "K" else None


def first(comparison: Comparison, mask: Tensor, tile: Tile) -> str:
    """Say where the first wrong element is: V and K by tile, or by block of 16 if the tile is not known.

    mask: the wrong elements, at least one, in the shape of the result.
    """
    index = tuple(mask.nonzero()[0].tolist())
    words = comparison.place(index)[1:-1].split(", ")
    case = comparison.case
    if case.operation.is_chunked and words[1].startswith("token "):
        words.insert(1, f"chunk {int(words[1].split()[1]) // case.chunk_size}")
    kept = len(words) - (len(index) - 2)  # behind these: V, and K of a state
    for axis, at, size in zip(("V", "K"), index[2:], mask.shape[2:], strict=False):
        words[kept] = f"{axis} {_span(at, tile.of(axis) or BLOCK, size)}"
        kept += 1
    return "first: " + ", ".join(words)


def patterns(comparison: Comparison, mask: Tensor, tokens: dict[int, list[int]], tile: Tile) -> list[str]:
    """List what the wrong part is all of, if it is: tokens behind one, tails of chunks, heads, tiles.

    tokens: of each affected sequence the affected tokens, sorted; empty if the result has no tokens.
    """
    hits = [_hits(mask, axis) for axis in range(mask.dim())]
    found = [_of_tokens(comparison, tokens), _of_heads(comparison, hits[1])]
    for axis, indices, size in zip(("V", "K"), hits[2:], mask.shape[2:], strict=False):
        found.append(_of_tiles(axis, indices, size, tile.of(axis)))
    return [one for one in found if one]


def _hits(mask: Tensor, axis: int) -> list[int]:
    others = [other for other in range(mask.dim()) if other != axis]
    return [int(i) for i in mask.any(others).nonzero().flatten()]


def _span(at: int, tile: int, size: int) -> str:
    """Write the tile that holds an index."""
    low = at // tile * tile
    high = min(low + tile, size) - 1
    return str(low) if low == high else f"{low} to {high}"


def _of_tokens(comparison: Comparison, tokens: dict[int, list[int]]) -> str:
    """Name all tokens behind one, or all of a chunk behind one; one token alone is no pattern."""
    case = comparison.case
    if not any(len(hit) > 1 for hit in tokens.values()):
        return ""
    if all(hit[0] > 0 and hit == list(range(hit[0], case.lens[n])) for n, hit in tokens.items()):
        start = {hit[0] for hit in tokens.values()}
        if len(start) == 1:
            return f"every token from {start.pop()} on"
        return "every token behind the first wrong one of its sequence"
    if not case.operation.is_chunked:
        return ""
    size = case.chunk_size
    tails = {(n, t // size): [u % size for u in hit if u // size == t // size]
             for n, hit in tokens.items() for t in hit}  # fmt: skip
    begins = {tail[0] for tail in tails.values()}
    whole = all(
        tail == list(range(tail[0], min(size, case.lens[n] - chunk * size)))
        for (n, chunk), tail in tails.items()
    )
    if not whole or len(begins) > 1 or begins == {0}:
        return ""
    return f"all of a chunk's tail, from its token {begins.pop()} on"


def _of_heads(comparison: Comparison, heads: list[int]) -> str:
    """Name heads at equal steps, all through, or those of one key head."""
    case = comparison.case
    group, steps = case.HV // case.H, {b - a for a, b in pairwise(heads)}
    of = heads[0] // group  # key head of the first
    if case.H > 1 and group > 1 and heads == list(range(of * group, (of + 1) * group)):
        return f"all value heads of key head {of}"
    if len(steps) != 1 or steps == {1}:
        return ""
    step = steps.pop()
    if heads != list(range(heads[0], case.HV, step)) or heads[0] >= step:
        return ""
    if len(heads) == 2 and step != group and 2 * step != case.HV:
        return ""  # any two heads far apart
    shares = ", one of each group that shares a key head" if step == group and case.H > 1 else ""
    return f"every {ORDINALS.get(step, f'{step}th')} head{shares}"


def _of_tiles(axis: str, indices: list[int], size: int, known: int | None) -> str:
    """Name one tile, or one edge of tiles; nothing if a tile holds the whole axis."""
    tile, word = known or BLOCK, "tile" if known else "block"
    if size <= tile:
        return ""
    low = indices[0] // tile * tile
    if indices == list(range(low, min(low + tile, size))):
        rest = "the last, partial" if low + tile > size else "one"
        return f"{rest} {word} of {axis}, {_span(low, tile, size)}"
    if all(i % tile == tile - 1 for i in indices):
        return f"the last {axis} of {word}s of {tile}"
    if indices[-1] > 0 and all(i % tile == 0 for i in indices):
        return f"the first {axis} of {word}s of {tile}"
    return ""
