"""How one argument lies in memory, where the case's view does not say it: strides and alignment."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffgdn.cases.json_record import Record, require

if TYPE_CHECKING:
    from diffgdn.cases.case import Case

ALIGNMENTS = (2, 4, 8, 16, 32, 64, 128)  # bytes; what has no offset starts on 256
FAR = 1 << 30  # elements; a gap from here on takes the second or third index past 2**31
# Kinds of arguments, and the forms in which strides may differ from compact ones.
KINDS = {
    "tokens": ("q", "k", "v", "g", "beta", "a", "b", "mixed_qkv"),
    "outputs": ("out",),
    "weights": ("A_log", "dt_bias"),
    "indices": ("indices", "rows"),
    "bounds": ("cu_seqlens",),
    "trees": ("parents",),
    "states": ("state",),
    "buffers": ("buffer", "changes"),
}
NAMES = tuple(name for names in KINDS.values() for name in names)
KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}
FORMS = ("gapped", "wide", "nested", "far", "lying")
ONE_AXIS = ("indices", "bounds")
# Their last axis has a stride too; elsewhere it is contiguous.
STRIDED = ("A_log", "dt_bias", "indices", "rows", "cu_seqlens", "parents")
STRIDES = tuple(
    f"{form} {kind}"
    for kind in KINDS
    for form in FORMS
    if (form != "wide" or kind == "tokens")
    and (form != "nested" or kind not in ONE_AXIS)
    and (form != "lying" or kind != "bounds")  # of one sequence there are two
)


@dataclass(frozen=True, repr=False)
class Lay(Record):
    """Strides and alignment of one argument.

    tensor: its name. gaps: for each of its axes, elements between the end of what lies inside the axis and
    its next index; empty for none. nesting: its axes from the outermost to the innermost; empty for their
    own order. offset: bytes from a 256-byte boundary to its first element, rounded up to whole elements.

    An argument that a case does not pass may have one, which says nothing. With a `view`, what has a lay of
    its own lies by it alone. A pool's pitch adds to the gap of its slots.
    """

    tensor: str
    gaps: tuple[int, ...] = ()
    nesting: tuple[int, ...] = ()
    offset: int = 0


def shapes(case: Case) -> dict[str, tuple[int, ...]]:
    """Return the shape of each argument of a case that may have a lay, by name.

    States are [..., V, K] whatever the layout. A table of slots for each token has no lay.
    """
    operation, pool, count = case.operation, case.pool, len(case.lens)
    options = case.state_options
    state, kda = (case.HV, case.V, case.K), operation.is_kda
    tokens: tuple[int, ...] = (1, case.tokens)
    if not case.packed or case.batched:
        tokens = (count, case.lens[0])
    merged = kda and operation.raw_gates  # a is [..., HV * K], as SGLang's callers pass it
    decay = (case.HV * case.K,) if merged else (case.HV, case.K) if kda else (case.HV,)
    out: dict[str, tuple[int, ...]] = {}
    if operation.single_token:
        tokens = (case.tokens,)
        out["mixed_qkv"] = (case.tokens, 2 * case.H * case.K + case.HV * case.V)
        out["out"] = (case.tokens, 1, case.HV, case.V)
    else:
        out["q"] = out["k"] = (*tokens, case.H, case.K)
        out["v"] = (*tokens, case.HV, case.V)
    name, *beta = case.decay_and_beta
    out |= {name: (*tokens, *decay)} | dict.fromkeys(beta, (*tokens, case.HV))
    if case.raw_gates:
        out["A_log"] = (case.HV,)
        if case.operands.dt_bias != "none":
            out["dt_bias"] = (case.HV, case.K) if kda else (case.HV,)
    if case.packed and not operation.single_token:
        out["cu_seqlens"] = (count + 1,)
    if case.values.state != "none":
        out["state"] = (pool.slots if operation.has_pool else count, *state)
        if operation.has_pool and options.indices and not options.slots:
            out["indices"] = (count,)
    if case.has_buffer:
        out["buffer"] = (pool.buffer, pool.steps, *state)
        if options.step_rows == "given":
            out["rows"] = (count,)
    if operation.commits:
        out["changes"], out["rows"] = (pool.buffer, pool.steps, case.numbers), (count,)
    if case.parents:
        out["parents"] = (count, pool.steps)
    return out


def strides(shape: tuple[int, ...], lay: Lay, pitch: int = 0) -> tuple[int, ...]:
    """Return the strides, in elements, of an argument of a shape that lies so. pitch: more of a gap on its
    first axis.
    """
    out, inside = [0] * len(shape), 1
    gaps = list(lay.gaps or (0,) * len(shape))
    gaps[0] += pitch
    for axis in reversed(lay.nesting or range(len(shape))):
        out[axis] = inside + gaps[axis]
        inside += out[axis] * max(shape[axis] - 1, 0)
    return tuple(out)


def has_gap_last(name: str, shape: tuple[int, ...]) -> bool:
    """Tell whether the last axis of an argument may have a gap: it has a stride, or a single index, which of
    a state must hold in either layout.
    """
    single = shape[-2:] == (1, 1) if KIND_OF[name] in ("states", "buffers") else shape[-1] == 1
    return name in STRIDED or single


def reach(shape: tuple[int, ...], steps: tuple[int, ...]) -> int:
    """Count the elements from the first to one past the last, gaps included, of a shape with strides."""
    if not math.prod(shape):
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, steps, strict=True))


def placed(case: Case) -> Iterator[tuple[Lay, tuple[int, ...], tuple[int, ...]]]:
    """List the lays of arguments that a case passes, each with its shape and its strides."""
    found = shapes(case) if case.lay else {}
    for lay in case.lay:
        if lay.tensor in found:
            shape, pitch = found[lay.tensor], 0
            if lay.tensor == "state" and case.operation.has_pool:
                pitch = case.pool.pitch
            yield lay, shape, strides(shape, lay, pitch)


def forms(lay: Lay, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Name the forms in which the strides of an argument differ from compact ones, in the order of FORMS."""
    natural = tuple(range(len(shape)))
    gaps = [(axis, gap) for axis, gap in enumerate(lay.gaps) if gap]
    stepped = [(axis, gap) for axis, gap in gaps if shape[axis] > 1]
    batch = KIND_OF[lay.tensor] == "tokens" and len(shape) > 2
    wide = [axis for axis, _ in stepped if axis == 0 and batch]
    met = {
        "lying": len(stepped) < len(gaps),
        "wide": bool(wide),
        "gapped": len(stepped) > len(wide),
        "nested": lay.nesting not in ((), natural),
        "far": any(gap * (shape[axis] - 1) >= FAR for axis, gap in stepped),
    }
    return tuple(form for form in FORMS if met[form])


def asked(case: Case) -> Iterator[tuple[str, Any]]:
    """List (axis of promises, value) for what the lays of a case ask."""
    for lay, shape, _ in placed(case):
        for form in forms(lay, shape):
            yield "strides", f"{form} {KIND_OF[lay.tensor]}"
        if lay.offset:
            yield "alignment", lay.offset & -lay.offset


def check(case: Case) -> None:
    """Check how the arguments of a case lie. Raises ValueError."""
    if not case.lay:
        return
    names = [lay.tensor for lay in case.lay]
    require(len({*names}) == len(names), f"lay: one for each argument, got {', '.join(names):.80}")
    found = shapes(case)
    for lay in case.lay:
        where = f"lay of {lay.tensor!r:.40}"
        require(lay.tensor in NAMES, f"{where}: expected one of {', '.join(NAMES)}")
        require(0 <= lay.offset < 256, f"{where}: offset: 0 to 255 bytes, got {lay.offset}")
        require(lay.offset % 2 == 0, f"{where}: offset: an even number, got {lay.offset}")
        require(all(gap >= 0 for gap in lay.gaps), f"{where}: gaps: 0 or more, got {lay.gaps}")
        if lay.tensor in found:
            _check_axes(lay, found[lay.tensor], where)


def _check_axes(lay: Lay, shape: tuple[int, ...], where: str) -> None:
    """Check that gaps and nesting are those of an argument of a shape."""
    natural, last = tuple(range(len(shape))), len(shape) - 1
    require(len(lay.gaps) in (0, len(shape)), f"{where}: gaps: {len(shape)} or none, got {lay.gaps}")
    require(
        not lay.nesting or tuple(sorted(lay.nesting)) == natural,
        f"{where}: nesting: the axes 0 to {last} in some order, got {lay.nesting}",
    )
    if lay.tensor in STRIDED:
        return
    require(not lay.nesting or lay.nesting[-1] == last, f"{where}: nesting: its last axis stays innermost")
    require(
        not lay.gaps or lay.gaps[-1] == 0 or has_gap_last(lay.tensor, shape),
        f"{where}: gaps: none on its last axis, which is contiguous, got {lay.gaps}",
    )
