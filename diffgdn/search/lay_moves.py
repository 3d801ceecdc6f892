"""Moves on how the arguments of a case lie in memory: fewer lays, then smaller gaps and plainer nestings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from diffgdn.cases import lay as lays
from diffgdn.cases.case import Case
from diffgdn.cases.lay import FAR, Lay
from diffgdn.cases.size_limits import MOST_REACH
from diffgdn.search.changes import changed, with_lengths

GAPS = (1, 2, 8, 64, FAR, 2 * FAR)  # tried for larger ones
LARGE = 1 << 24  # elements; such a gap may be far for an axis with so many indices


def fewer(case: Case) -> Iterator[Case | None]:
    """Leave one lay, then leave out a half, a quarter, ... of them."""
    for one in case.lay if len(case.lay) > 1 else ():
        yield changed(case, lay=(one,))
    size = len(case.lay) // 2
    while size:
        for n in range(0, len(case.lay), size):
            yield changed(case, lay=case.lay[:n] + case.lay[n + size :])
        size //= 2
    yield from _farther(case)


def _farther(case: Case) -> Iterator[Case | None]:
    """Make large gaps larger, so that the first or second index lies as far as the last one did, and the axis
    can become shorter; sequences of few tokens at once, as what else lies far may go by how many there are.
    """
    few = (*(min(length, 1) for length in case.lens[:-1]), min(case.lens[-1], 2))
    for n, (one, shape, _) in enumerate(lays.placed(case)):
        for axis, gap in enumerate(one.gaps):
            for size in (2 * FAR, FAR) if LARGE <= gap < FAR else ():
                gaps = tuple(size if m == axis else own for m, own in enumerate(one.gaps))
                wider = (*case.lay[:n], replace(one, gaps=gaps), *case.lay[n + 1 :])
                if few != case.lens:
                    yield with_lengths(case, few, lay=wider)
                if len(case.lay) == 1 and lays.reach(shape, lays.strides(shape, wider[n])) <= MOST_REACH:
                    yield changed(case, lay=wider)


def plainer(case: Case) -> Iterator[Case | None]:
    """Make each lay plainer: no offset or a rounder one, axes in their own order, smaller gaps; leave out
    those that say nothing.
    """
    found = lays.shapes(case) if case.lay else {}
    for n, one in enumerate(case.lay):
        rest = case.lay[:n], case.lay[n + 1 :]
        yield changed(case, lay=(*rest[0], *rest[1]))
        if one.tensor in found:
            for other in _plainer(one, found[one.tensor]):
                yield changed(case, lay=(*rest[0], other, *rest[1]))


def _plainer(lay: Lay, shape: tuple[int, ...]) -> Iterator[Lay]:
    if lay.offset:
        yield replace(lay, offset=0)
        aligned = lay.offset & -lay.offset
        yield from (replace(lay, offset=n) for n in reversed(lays.ALIGNMENTS) if n > aligned)
    if lay.nesting:
        yield replace(lay, nesting=())
        for axis in range(len(shape)):  # a gap is plainer
            yield replace(lay, nesting=(), gaps=tuple(int(n == axis) for n in range(len(shape))))
    if lay.nesting == tuple(range(len(shape))) or not any(lay.gaps):
        yield Lay(lay.tensor, (), lay.nesting, lay.offset)
    if any(lay.gaps):
        yield replace(lay, gaps=())
    gapped = [axis for axis, gap in enumerate(lay.gaps) if gap]
    for first in range(gapped[0]) if len(gapped) == 1 else ():  # one gap alone: on an axis further out
        yield replace(lay, gaps=tuple(max(lay.gaps) * (n == first) for n in range(len(shape))))
    for axis, gap in enumerate(lay.gaps):
        for smaller in (0, *(size for size in GAPS if size < gap)) if gap else ():
            gaps = tuple(smaller if n == axis else own for n, own in enumerate(lay.gaps))
            yield replace(lay, gaps=gaps)
