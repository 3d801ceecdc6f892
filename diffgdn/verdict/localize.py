"""Shows where a result is wrong: in words, as a text picture, and as an image if matplotlib is installed.

Everything is drawn from error / bound: 1 is the limit that a correct kernel keeps.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.verdict import pattern, picture
from diffgdn.verdict.comparison import TAIL, Comparison, holds_tokens
from diffgdn.verdict.pattern import Tile
from diffgdn.verdict.picture import Panel

WIDTH = 64  # characters of a picture: rows and columns beyond are merged, the worst one showing
HEIGHT = 24
IMAGE_WIDTH, IMAGE_HEIGHT = 480, 120  # cells of an image
UNKNOWN = Tile()
SHADES = ((1.0, "·"), (2.0, "░"), (8.0, "▒"), (64.0, "▓"), (math.inf, "█"))
LEGEND = "error / bound: · passes   ░ > 1   ▒ > 2   ▓ > 8   █ > 64 or not finite"


def ratio(comparison: Comparison) -> Tensor:
    """Compute error / bound of every element, float64: infinite if the result is unwritten, or not finite
    though it should be; 0 if it may overflow."""
    share = torch.where(comparison.overflows, 0.0, comparison.error / comparison.bound)
    return torch.where(comparison.unwritten, torch.inf, share.nan_to_num(nan=torch.inf, posinf=torch.inf))


def wrong(comparison: Comparison) -> Tensor:
    """Mark the elements that exceed their bound; if none does, as in an exact case, those that differ at
    all."""
    beyond = ratio(comparison) > 1
    return beyond if beyond.any() else comparison.got != comparison.expected


def summary(comparison: Comparison, tile: Tile = UNKNOWN) -> list[str]:
    """Write one line each about the first place and the pattern of what is wrong, and about the sequences,
    tokens, heads, rows and columns that are affected.

    tile: of the kernel, where it is known.
    """
    mask, case = wrong(comparison), comparison.case
    if not mask.any():
        return ["no element is wrong"]
    lines = [f"{int(mask.sum())} of {mask.numel()} elements of {comparison.name} are wrong"]
    named = comparison.origins
    hit = [named[i] for i in mask.flatten(1).any(1).nonzero().flatten().tolist()]
    lines.append(pattern.first(comparison, mask, tile))
    found = pattern.patterns(comparison, mask, _by_sequence(comparison, hit), tile)
    lines += [f"pattern: {'; '.join(found)}"] if found else []
    if holds_tokens(case, comparison.name):
        lines += _tokens(case, hit)
    elif comparison.name == TAIL:
        lines += [f"padding tokens: {_which(hit, mask.shape[0])}"]
    elif comparison.name in ("boundary", "tracked"):
        lines += [f"boundary states: {_which(hit, mask.shape[0])}"]
    else:
        lines += [f"sequences: {_which(hit, len(case.lens))}"]
    for axis, word in zip(range(1, mask.dim()), ("heads", "V", "K"), strict=False):
        others = [other for other in range(mask.dim()) if other != axis]
        lines.append(f"{word}: {_which(mask.any(others).nonzero().flatten().tolist(), mask.shape[axis])}")
    return lines


def _by_sequence(comparison: Comparison, hit: list[int]) -> dict[int, list[int]]:
    """Sort affected rows of the output into sequences, each as its own tokens; nothing of other results."""
    tokens: dict[int, list[int]] = {}
    owner = [(n, t) for n, length in enumerate(comparison.case.lens) for t in range(length)]
    for row in hit if holds_tokens(comparison.case, comparison.name) else ():
        n, token = owner[row]
        tokens.setdefault(n, []).append(token)
    return tokens


def _tokens(case: Case, hit: list[int]) -> list[str]:
    """Write lines about the affected sequences, the tokens within them, and chunks if the operation has any.

    hit: affected rows of the output.
    """
    owner = [(n, t) for n, length in enumerate(case.lens) for t in range(length)]
    sequences = sorted({owner[i][0] for i in hit})
    places = sorted({owner[i][1] for i in hit})
    longest = max(case.lens[n] for n in sequences)
    lines = [f"sequences: {_which(sequences, len(case.lens))}", f"tokens: {_which(places, longest)}"]
    if case.operation.is_chunked:
        size = case.chunk_size
        if all(place >= size for place in places):
            lines.append(f"no token of a first chunk ({size} tokens){_where_from(case, hit)}")
        elif len(places) > 1 and longest > size:
            within = sorted({place % size for place in places})
            if within != list(range(min(longest, size))):
                lines.append(f"tokens within their chunk of {size}: {_which(within, min(size, longest))}")
    return lines


def _where_from(case: Case, hit: list[int]) -> str:
    """Say what is suspect if no first chunk is wrong. A wrong state that a chunk hands on reaches all the
    chunks after it; if the last of several is wrong alone, what is special about it is as likely.
    """
    size, wrong = case.chunk_size, list[tuple[set[int], int]]()
    for n, length in enumerate(case.lens):
        chunks = {(i - case.starts[n]) // size for i in hit if case.starts[n] <= i < case.starts[n] + length}
        wrong += [(chunks, (length - 1) // size)] if chunks else []
    if all(chunks == {last} and last > 1 for chunks, last in wrong):
        return ", and only of a last one: that chunk is suspect, or the state that reaches it"
    if all(chunks == set(range(min(chunks), last + 1)) for chunks, last in wrong):
        return ": the state carried between chunks is suspect"
    return ", but of single later ones: those are suspect, not the state carried between them"


def _which(indices: list[int], size: int) -> str:
    """Write sorted indices below `size` in few words: all of them, one, a range, a step, or a list."""
    if len(indices) == size:
        return "every one" if size > 1 else "the only one"
    if len(indices) == 1:
        return f"only {indices[0]} of {size}"
    first, last, steps = indices[0], indices[-1], {b - a for a, b in pairwise(indices)}
    if steps == {1}:
        if last == size - 1:
            return f"only >= {first} of {size}"
        return f"only < {last + 1} of {size}" if first == 0 else f"only {first} to {last} of {size}"
    if len(steps) == 1 and len(indices) > 2:
        return f"only {first} to {last} in steps of {steps.pop()} (of {size})"
    shown = ", ".join(map(str, indices[:8]))
    return f"only {shown}{', ...' if len(indices) > 8 else ''} ({len(indices)} of {size})"


def _squeeze(grid: Tensor, height: int, width: int) -> tuple[Tensor, int, int]:
    """Shrink a grid to at most height x width, each cell the largest of the block that it stands for.

    Returns it, and the two sizes of a block.
    """
    down, across = (max(-(-size // most), 1) for size, most in zip(grid.shape, (height, width), strict=True))
    pad = (0, -grid.shape[1] % across, 0, -grid.shape[0] % down)
    grid = torch.nn.functional.pad(grid, pad, value=0.0)
    blocks = grid.reshape(grid.shape[0] // down, down, grid.shape[1] // across, across)
    return blocks.amax((1, 3)), down, across


def _shade(value: float, wrong: bool) -> str:
    """Choose the character for error / bound of a cell."""
    if not wrong:
        return SHADES[0][1]
    return next(sign for limit, sign in SHADES[1:] if value <= limit)


def _draw(panel: Panel) -> list[str]:
    """Draw error / bound in characters, and mark the cells in which a sequence, a chunk or a tile begins."""
    rows, columns = panel.rows, panel.columns
    shown, down, across = _squeeze(panel.values, HEIGHT, WIDTH)
    marks, _, _ = _squeeze(panel.mask.double(), HEIGHT, WIDTH)
    merged = [f"{size} {word} a cell" for size, word in ((down, rows), (across, columns)) if size > 1]
    left, below = _signs(panel.starts_down, down, len(shown), {"sequence": "=", "chunk": "-", "tile": "-"})
    over, beside = _signs(
        panel.starts_across, across, shown.shape[1], {"sequence": "║", "chunk": "|", "tile": "|"}
    )
    lines = [f"{rows} down, {columns} across" + (f" ({', '.join(merged)})" if merged else "")]
    if below + beside:
        lines[0] += f"; begins: {', '.join(below + beside)}"
    if beside:
        lines.append(f"       {over}".rstrip())
    for i, (row, marked) in enumerate(zip(shown.tolist(), marks.tolist(), strict=True)):
        cells = "".join(_shade(value, bool(mark)) for value, mark in zip(row, marked, strict=True))
        lines.append(f"{i * down:>6}{left[i]}{cells}")
    return lines


def _signs(
    starts: dict[str, list[int]], size: int, cells: int, signs: dict[str, str]
) -> tuple[str, list[str]]:
    """Mark the cells of one axis, of `size` each, in which something begins: sequences over chunks.

    Returns a character a cell, and words for each sign in use. Signs on most cells would say nothing: none.
    """
    marks, words = [" "] * cells, list[str]()
    for kind in ("chunk", "tile", "sequence"):
        hit = {start // size for start in starts.get(kind, ())}
        if hit and 2 * len(hit) <= cells:
            words.append(f"{signs[kind]} a {kind}")
            for cell in hit:
                marks[cell] = signs[kind]
    return "".join(marks), words


def _panels(comparison: Comparison, tile: Tile) -> tuple[Panel, Panel]:
    """Cut two panels out of a result that is not empty.

    [HV, rows] of all of it; then the head with the worst element: [tokens, V] of its sequence's outputs or of
    the padding behind, or [V, K] of one state.
    """
    values, mask, worst, case = ratio(comparison), wrong(comparison), comparison.worst(), comparison.case
    words = {
        "o": "tokens",
        "steps": "tokens",
        "boundary": "chunks",
        "tracked": "chunks",
        TAIL: "padding tokens",
    }
    word = words.get(comparison.name, "sequences")
    overview = Panel(
        values.flatten(2).amax(2).T, mask.flatten(2).any(2).T,
        f"all heads and {word}, the worst element of each", "heads", word, {}, _starts(comparison),
    )  # fmt: skip
    row, head = worst[:2]
    tiles = [
        {"tile": list(range(size, extent, size)) if size else []}
        for extent, size in zip(values.shape[2:], (tile.V, tile.K), strict=False)
    ]
    if comparison.name == TAIL:
        title = f"padding tokens, head {head}"
        detail = Panel(values[:, head], mask[:, head], title, word, "V", {}, tiles[0])
    elif values.dim() == 3:
        n, _ = _owner(case, row)
        start, stop = case.starts[n], case.starts[n + 1]
        chunks = range(case.chunk_size, stop - start, case.chunk_size) if case.operation.is_chunked else ()
        title, down = f"sequence {n}, head {head}", {"chunk": list(chunks)}
        detail = Panel(values[start:stop, head], mask[start:stop, head], title, "tokens", "V", down, tiles[0])
    else:
        title = comparison.place(worst[:2])
        detail = Panel(values[row, head], mask[row, head], title, "V", "K", *tiles)
    return overview, detail


def _starts(comparison: Comparison) -> dict[str, list[int]]:
    """List the rows of a result, but the first, with which a sequence begins, and those of chunks in it."""
    case, size = comparison.case, comparison.case.chunk_size
    if holds_tokens(case, comparison.name):
        chunk = size if case.operation.is_chunked else max(case.total, 1)
        owners = [(n, t // chunk) for n, length in enumerate(case.lens) for t in range(length)]
    elif comparison.name in ("boundary", "tracked"):
        owners = [(n, 0) for n, length in enumerate(case.lens) for _ in range(-(-length // size))]
    else:
        return {}
    rows = [owners[row] for row in comparison.origins]
    found: dict[str, list[int]] = {"sequence": [], "chunk": []}
    for i, (before, here) in enumerate(pairwise(rows), start=1):
        if before != here:
            found["chunk" if before[0] == here[0] else "sequence"].append(i)
    return found


def _owner(case: Case, token: int) -> tuple[int, int]:
    """Find the sequence of a row of the output, and the token's position in it."""
    n = max(n for n, length in enumerate(case.lens) if case.starts[n] <= token and length > 0)
    return n, token - case.starts[n]


def text(comparison: Comparison, tile: Tile = UNKNOWN, stage: str = "") -> str:
    """Write what is wrong, and draw two small pictures: heads x tokens of everything, then the worst head.

    tile: of the kernel, where it is known. stage: what is said of the stage that is wrong (`stages`), or "".
    """
    lines = summary(comparison, tile) + ([stage] if stage else [])
    if not comparison.got.numel():
        return "\n".join(lines)
    overview, detail = _panels(comparison, tile)
    lines += ["", LEGEND, "", *_draw(overview)]
    lines += ["", f"{detail.title}:", *_draw(detail)]
    index = comparison.worst()
    got, expected = float(comparison.got[index]), float(comparison.expected[index])
    bound = float(comparison.bound[index])
    lines += [
        "",
        f"worst at {comparison.place(index)}: got {got:.9g}, expected {expected:.9g}, bound {bound:.3g}",
    ]
    return "\n".join(lines)


def write_picture(
    comparison: Comparison, path: Path, target: str = "", tile: Tile = UNKNOWN, stage: str = ""
) -> Path:
    """Write an image of both pictures to `path` (.png); without matplotlib the text beside it as .txt.

    target: its name, for the title. tile, stage: as of `text`. Returns the path written.
    """
    if find_spec("matplotlib") is None or not comparison.got.numel():
        path = path.with_suffix(".txt")
        path.write_text(text(comparison, tile, stage) + "\n", encoding="utf-8")
        return path
    panels = [(panel, *levels(panel)) for panel in _panels(comparison, tile)]
    told = title(comparison, target, tile) + ([stage] if stage else [])
    picture.figure(panels, told).savefig(path)
    return path


def title(comparison: Comparison, target: str, tile: Tile = UNKNOWN) -> list[str]:
    """Write the lines over an image: the operation and target, the case, and how much is wrong where."""
    case = comparison.case
    lines = [case.op + (f", target {target}" if target else "") + f": {comparison.name} is wrong", repr(case)]
    told = summary(comparison, tile)
    return lines + told[:1] + [line for line in told if line.startswith(("first: ", "pattern: "))]


def levels(panel: Panel) -> tuple[Tensor, int, int]:
    """Shrink a panel to the cells of an image: 0 where all passes, else the shade (see LEGEND), 1 to 4.

    Returns them, int64 [down, across], and how many rows and columns a cell stands for.
    """
    limits = torch.tensor([limit for limit, _ in SHADES[1:-1]], dtype=panel.values.dtype)
    shades = torch.where(panel.mask, 1 + torch.bucketize(panel.values.contiguous(), limits), 0)
    cells, down, across = _squeeze(shades.double(), IMAGE_HEIGHT, IMAGE_WIDTH)
    return cells.long(), down, across
