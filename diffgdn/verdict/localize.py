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
from diffgdn.verdict.comparison import Comparison

WIDTH = 64  # characters of a picture: rows and columns beyond are merged, the worst one showing
HEIGHT = 24
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


def summary(comparison: Comparison) -> list[str]:
    """Write one line each about the sequences, tokens, heads, rows and columns that are affected."""
    mask, case = wrong(comparison), comparison.case
    if not mask.any():
        return ["no element is wrong"]
    lines = [f"{int(mask.sum())} of {mask.numel()} elements of {comparison.name} are wrong"]
    named = comparison.origins
    hit = [named[i] for i in mask.flatten(1).any(1).nonzero().flatten().tolist()]
    if comparison.name in ("o", "steps"):
        lines += _tokens(case, hit)
    elif comparison.name in ("boundary", "tracked"):
        lines += [f"boundary states: {_which(hit, mask.shape[0])}"]
    else:
        lines += [f"sequences: {_which(hit, len(case.lens))}"]
    for axis, word in zip(range(1, mask.dim()), ("heads", "V", "K"), strict=False):
        others = [other for other in range(mask.dim()) if other != axis]
        lines.append(f"{word}: {_which(mask.any(others).nonzero().flatten().tolist(), mask.shape[axis])}")
    return lines


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


def _draw(values: Tensor, mask: Tensor, rows: str, columns: str) -> list[str]:
    """Draw error / bound [rows, columns] in characters; mask: the wrong elements."""
    shown, down, across = _squeeze(values, HEIGHT, WIDTH)
    marks, _, _ = _squeeze(mask.double(), HEIGHT, WIDTH)
    merged = [f"{size} {word} a cell" for size, word in ((down, rows), (across, columns)) if size > 1]
    lines = [f"{rows} down, {columns} across" + (f" ({', '.join(merged)})" if merged else "")]
    for i, (row, marked) in enumerate(zip(shown.tolist(), marks.tolist(), strict=True)):
        cells = "".join(_shade(value, bool(mark)) for value, mark in zip(row, marked, strict=True))
        lines.append(f"{i * down:>6} {cells}")
    return lines


def _overview(comparison: Comparison) -> tuple[Tensor, Tensor, str]:
    """Reduce a result to [HV, rows]: the largest ratio, whether any element is wrong, and the word for
    rows."""
    word = {"o": "tokens", "steps": "tokens", "boundary": "chunks", "tracked": "chunks"}.get(
        comparison.name, "sequences"
    )
    return ratio(comparison).flatten(2).amax(2).T, wrong(comparison).flatten(2).any(2).T, word


def _detail(comparison: Comparison) -> tuple[Tensor, Tensor, str, str, str]:
    """Pick the head with the worst element: [tokens, V] of its sequence's outputs, or [V, K] of one state.

    Returns ratio, mask, title and the words for both axes.
    """
    values, mask, worst = ratio(comparison), wrong(comparison), comparison.worst()
    head = worst[1]
    if values.dim() == 3:
        n, _ = _owner(comparison.case, worst[0])
        start, stop = comparison.case.starts[n], comparison.case.starts[n + 1]
        title = f"sequence {n}, head {head}:"
        return values[start:stop, head], mask[start:stop, head], title, "tokens", "V"
    return values[worst[0], head], mask[worst[0], head], f"{comparison.place(worst[:2])}:", "V", "K"


def _owner(case: Case, token: int) -> tuple[int, int]:
    """Find the sequence of a row of the output, and the token's position in it."""
    n = max(n for n, length in enumerate(case.lens) if case.starts[n] <= token and length > 0)
    return n, token - case.starts[n]


def text(comparison: Comparison) -> str:
    """Write what is wrong, and draw two small pictures: heads x tokens of everything, then the worst head."""
    lines = summary(comparison)
    if not comparison.got.numel():
        return "\n".join(lines)
    values, mask, word = _overview(comparison)
    lines += ["", LEGEND, "", *_draw(values, mask, "heads", word)]
    values, mask, title, rows, columns = _detail(comparison)
    lines += ["", title, *_draw(values, mask, rows, columns)]
    index = comparison.worst()
    got, expected = float(comparison.got[index]), float(comparison.expected[index])
    bound = float(comparison.bound[index])
    lines += [
        "",
        f"worst at {comparison.place(index)}: got {got:.9g}, expected {expected:.9g}, bound {bound:.3g}",
    ]
    return "\n".join(lines)


def write_picture(comparison: Comparison, path: Path) -> Path:
    """Write an image of both pictures to `path` (.png); without matplotlib the text beside it as .txt.

    Returns the path written.
    """
    if find_spec("matplotlib") is None or not comparison.got.numel():
        path = path.with_suffix(".txt")
        path.write_text(text(comparison) + "\n", encoding="utf-8")
        return path
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without pyplot: no global state, no window, and no warning about a display.
    figure = Figure(figsize=(10, 8), layout="constrained")
    FigureCanvasAgg(figure)
    overview, _, word = _overview(comparison)
    detail, _, title, rows, columns = _detail(comparison)
    panels = ((overview, "everything", "heads", word), (detail, title.rstrip(":"), rows, columns))
    for axes, (values, name, down, across) in zip(figure.subplots(2, 1), panels, strict=True):
        scaled = torch.log2(values.clamp(2.0**-8, 2.0**8)).numpy()
        image = axes.imshow(
            scaled, cmap="RdBu_r", vmin=-8, vmax=8, aspect="auto", interpolation="nearest", origin="upper"
        )
        axes.set(title=name, xlabel=across, ylabel=down)
        figure.colorbar(image, ax=axes, label="log2(error / bound)")
    figure.suptitle(
        f"{comparison.case.op} {comparison.name}: " + "; ".join(summary(comparison)), wrap=True, fontsize=9
    )
    figure.savefig(path, dpi=100)
    return path
