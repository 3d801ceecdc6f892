"""Draws how single arguments lie in memory: gaps, other nestings, offsets past 32 bits, alignments.

Most cases have none of it. Where one has, several arguments have: what is wrong with one of them shows, and
shrinking leaves out the others.

What a kernel is compiled for on a GPU may depend on whether rows lie end to end and start on 16 bytes, so
there these go by the build; what is drawn freely keeps every stride and every address as they are but for
multiples of 64 elements and of 16 bytes.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from diffgdn.cases import lay as rules
from diffgdn.cases.case import Case
from diffgdn.cases.lay import KIND_OF, STRIDED, Lay, forms, shapes
from diffgdn.cases.operand_options import USUAL
from diffgdn.cases.promises import Promises
from diffgdn.cases.state_options import StateOptions
from diffgdn.strategies.batch_layout import among
from diffgdn.strategies.inside import EVEN, FAR_OFFSET
from diffgdn.strategies.menu import Build

# Of cases; of those that differ from the usual call elsewhere, more, so that two rare things meet. On a GPU
# far arguments take real memory, some 4 GiB each.
HOW = {
    "interpret": ("plain",) * 34 + ("near",) * 4 + ("far",) * 2,
    "gpu": ("plain",) * 170 + ("near",) * 28 + ("far",) * 2,
}
HOW_UNUSUAL = {"interpret": ("plain",) * 12 + ("near",) * 5 + ("far",) * 3, "gpu": HOW["gpu"]}
ODD = 5
MOST_FAR = 1 << 33  # elements from the first to the last of an argument
WORD_BYTES = 2  # on a GPU only arguments of 16 bits lie far
ROWS = {"state": (0, 0, EVEN, 0), "buffer": (0, 0, 0, EVEN, 0)}
UNALIGNED = ("q", "k", "v", "g", "beta", "a", "b", "mixed_qkv", "out", "state", "buffer")


def with_lays(draw: st.DrawFn, case: Case, build: Build, backend: str, own: Promises) -> Case:
    """Draw how the arguments of a case lie. own: what is promised of its operation."""
    fixed = of_build(case, build)
    how = draw(among(*(HOW if is_usual(case) else HOW_UNUSUAL)[backend]))
    if how == "far" and backend == "gpu":
        chosen = draw(st.sampled_from((None, *_sixteen_bits(case))))
        found = [_draw_far(draw, case, chosen, own, True)] if chosen else []
    elif how == "far":
        names = [name for name in shapes(case) if draw(among(False, True))]
        found = [_draw_far(draw, case, name, own, False) for name in names]
    elif how == "near":
        names = [name for name in shapes(case) if draw(among(False, True, True, True))]
        found = [_draw_near(draw, case, name, own, backend == "gpu") for name in names]
    else:
        found = []
    named = {one.tensor for one in fixed}
    free = tuple(one for one in found if one is not None and one != Lay(one.tensor) and _fits(case, one))
    lays = (*fixed, *(one for one in free if one.tensor not in named))
    return case if lays == case.lay else replace(case, lay=lays)


def is_usual(case: Case) -> bool:
    """Tell whether a case has no operands and no options of states but the usual ones, and no lay."""
    return (case.operands, case.state_options, case.lay) == (USUAL, StateOptions(), ())


def _fits(case: Case, lay: Lay) -> bool:
    """Tell whether an argument takes no more room with a lay than MOST_FAR: slots of a pool that lie far
    apart are not put inside another axis.
    """
    shape = shapes(case)[lay.tensor]
    pitch = case.pool.pitch if lay.tensor == "state" and case.operation.has_pool else 0
    return rules.reach(shape, rules.strides(shape, lay, pitch)) <= MOST_FAR


def of_build(case: Case, build: Build) -> tuple[Lay, ...]:
    """Return the lays that every case of a build has, on a GPU: what its kernels are compiled for."""
    found = shapes(case) if build.lay != "even" else {}
    if build.lay == "rows":
        return tuple(Lay(name, gaps) for name, gaps in ROWS.items() if name in found)
    return tuple(Lay(name, offset=rules.ALIGNMENTS[0]) for name in UNALIGNED if name in found)


def _sixteen_bits(case: Case) -> tuple[str, ...]:
    """Name the arguments that may lie far on a GPU."""
    names: tuple[str, ...] = () if case.dtype == "float32" else ("q", "k", "v", "mixed_qkv", "out")
    names += () if case.pool.dtype == "float32" else ("state", "buffer")
    if case.view != "contiguous":  # see `_draw_near`
        names = tuple(name for name in names if KIND_OF[name] != "tokens")
    return tuple(name for name in names if name in shapes(case))


def _promised(lay: Lay, shape: tuple[int, ...], own: Promises) -> bool:
    """Tell whether all forms of an argument's strides are promised."""
    return all(f"{form} {KIND_OF[lay.tensor]}" in own.strides for form in forms(lay, shape))


def _draw_far(draw: st.DrawFn, case: Case, name: str, own: Promises, even: bool) -> Lay | None:
    """Draw an argument of which the last index of one axis, or each after the first, lies past 2**31. even:
    rows of states lie end to end.
    """
    shape = shapes(case)[name]
    last = len(shape) - (name not in STRIDED) - (even and name in ROWS)
    long = [axis for axis in range(last) if shape[axis] > 1]
    if not long:
        return None
    # Where an axis is long enough, a stride below 2**31: a kernel gets to see that a larger one is large.
    axis, spread = draw(st.sampled_from(long)), draw(among(True, True, False))
    gap = -(-FAR_OFFSET // (shape[axis] - 1 if spread else 1) // EVEN) * EVEN
    gaps = tuple(gap if n == axis else 0 for n in range(len(shape)))
    nesting = (axis, *(n for n in range(len(shape)) if n != axis))
    if nesting == tuple(range(len(shape))):
        nesting = ()
    lay = Lay(name, gaps, nesting, 0 if even else _draw_offset(draw, own, False))
    return lay if _fits(case, lay) and _promised(lay, shape, own) else None


def _draw_near(draw: st.DrawFn, case: Case, name: str, own: Promises, even: bool) -> Lay | None:
    """Draw gaps, a nesting and an offset of an argument. even: none that another kernel is compiled for."""
    shape = shapes(case)[name]
    if even and KIND_OF[name] == "tokens" and case.view != "contiguous":
        return None  # by itself it would be aligned as it is not in the view
    gaps = draw(st.sampled_from(_gaps(name, shape, own, even)))
    nesting = draw(st.sampled_from(_nestings(name, shape, own, even)))
    return Lay(name, gaps, nesting, _draw_offset(draw, own, even))


def _draw_offset(draw: st.DrawFn, own: Promises, even: bool) -> int:
    """Draw bytes from a 256-byte boundary, none half the time. even: a multiple of 16."""
    aligned = tuple(n for n in reversed(rules.ALIGNMENTS) if n in own.alignment and not (even and n % 16))
    less = tuple(n for n in aligned if n < 16)
    return draw(among(0, *aligned, *less, *less)) if draw(among(False, True)) else 0


def _gaps(name: str, shape: tuple[int, ...], own: Promises, even: bool) -> list[tuple[int, ...]]:
    """List gaps of an argument: on none of its axes, on each alone, and as often on all of them."""
    free = [axis for axis in range(len(shape)) if axis < len(shape) - 1 or rules.has_gap_last(name, shape)]
    if even:  # rows of states lie end to end
        free = [axis for axis in free if name not in ROWS or axis < len(shape) - 2]
    inside = rules.strides(shape, Lay(name))
    out: list[tuple[int, ...]] = [()]
    for axis in free:
        # One index more: a view of the first indices of a longer axis inside this one.
        more = inside[axis + 1] if axis + 1 < len(shape) else 1
        for gap in (EVEN, 4 * EVEN) if even else dict.fromkeys((1, EVEN, more, ODD)):
            out.append(tuple(gap if n == axis else 0 for n in range(len(shape))))
    single = [gaps for gaps in dict.fromkeys(out) if _promised(Lay(name, gaps), shape, own)]
    every = [
        tuple(gap if n in free else 0 for n in range(len(shape))) for gap in (1, EVEN, ODD)[even : 3 - even]
    ]
    every = [gaps for gaps in every if _promised(Lay(name, gaps), shape, own)]
    return single + every * -(-len(single) // 3)


def _nestings(name: str, shape: tuple[int, ...], own: Promises, even: bool) -> list[tuple[int, ...]]:
    """List nestings of an argument: its own, each axis outermost, and all in the opposite order."""
    kept = len(shape) - (name not in STRIDED)
    if even and name in ROWS:
        kept = len(shape) - 2
    moved, still = list(range(kept)), tuple(range(kept, len(shape)))
    orders = [(axis, *(n for n in moved if n != axis)) for axis in moved[1:]] + [tuple(reversed(moved))]
    out = [(), *((*order, *still) for order in orders if list(order) != moved)]
    return [one for one in dict.fromkeys(out) if _promised(Lay(name, (), one), shape, own)]
