"""How the arguments of a case lie in memory where a probe asks about one form of strides, or an alignment."""

from __future__ import annotations

from diffgdn.cases.case import Case
from diffgdn.cases.lay import FAR, KIND_OF, STRIDED, Lay, forms, reach, shapes, strides
from diffgdn.cases.size_limits import MOST_REACH

NEAR = 8  # elements of a gap: what lies behind it is still on 16 bytes


def in_form(case: Case, word: str) -> tuple[Lay, ...]:
    """Return lays that give every argument of a kind one form of strides: "gapped tokens".

    Raises ValueError where no argument of the case can have it without another one, but for "far", which is
    gapped or wide as well.
    """
    form, kind = word.split()
    found = []
    for name, shape in shapes(case).items():
        if KIND_OF[name] == kind:
            lay = next((one for one in _candidates(name, shape, form) if _fits(case, one, shape)), None)
            found += [] if lay is None else [lay]
    if not found:
        raise ValueError(f"no argument of {case.op} is {word}")
    return tuple(found)


def aligned(case: Case, offset: int) -> tuple[Lay, ...]:
    """Return lays in which every argument starts so many bytes past a multiple of 256."""
    return tuple(Lay(name, offset=offset) for name in shapes(case))


def _fits(case: Case, lay: Lay, shape: tuple[int, ...]) -> bool:
    pitch = case.pool.pitch if lay.tensor == "state" and case.operation.has_pool else 0
    return reach(shape, strides(shape, lay, pitch)) <= MOST_REACH


def _candidates(name: str, shape: tuple[int, ...], form: str) -> list[Lay]:
    """List lays of an argument that have a form, and no other one that is not part of it."""
    last = len(shape) - (name not in STRIDED)
    out = []
    if form == "nested":
        # In the opposite order, so that every stride is another one.
        if sum(size > 1 for size in shape[:last]) > 1:
            out = [Lay(name, (), (*reversed(range(last)), *range(last, len(shape))))]
    elif form == "far":
        for axis in range(last):
            if shape[axis] > 1:
                gaps = tuple(2 * FAR if n == axis else 0 for n in range(len(shape)))
                nesting = (axis, *(n for n in range(len(shape)) if n != axis)) if axis else ()
                out.append(Lay(name, gaps, nesting))
    else:
        every = [axis for axis in range(last) if (shape[axis] == 1) == (form == "lying")]
        for axes in (every, *([axis] for axis in every)):
            out.append(Lay(name, tuple(NEAR * (n in axes) for n in range(len(shape)))))
    part = {"far": {"far", "gapped", "wide", "nested"}}.get(form, {form})
    return [one for one in out if form in (met := forms(one, shape)) and part >= {*met}]
