"""Makes a failing trace smaller: fewer requests, fewer steps, fewer rows, fewer tokens, simpler sizes.

Like `by_field` for cases, this goes by what a trace is, in a few dozen runs, where Hypothesis would shrink
the choices behind it in hundreds. The largest step comes first: a whole request with all that it did. Every
candidate is a trace that a loop could do, is smaller or simpler than the one that it comes from, and is
played once at most; one that fails in the same way is cut off after the step that failed. Where steps cannot
follow each other once something is left out, they are mended: who started from a snapshot that is gone
arrives anew, and a step that makes no sense any more is left out as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from diffgdn.cases.trace import Trace, replace_steps
from diffgdn.cases.trace_form import Form
from diffgdn.cases.trace_steps import CALLS, LATER_ACTS, PADDING, REJECTED, STARTS, Book, Step, plain
from diffgdn.findings import bucket
from diffgdn.verdict.failures import CheckFailure

Outcome = tuple[CheckFailure, int] | None  # the failure and the number of its step; None if there is none
Play = Callable[[Trace], Outcome]

NOBODY = -2  # whose snapshot a step names that is to be mended

# The simplest value of each field, tried in this order; whole numbers also go down to half and by one.
SIMPLEST: dict[str, Any] = {
    "HV": 1,
    "H": 1,
    "K": 1,
    "V": 1,
    "slots": 1,
    "rows": 1,
    "draft": 1,
    "pitch": 0,
    "dtype": "float32",
    "state": "float32",
    "l2norm": False,
    "gate": "zero",
    "beta": "half",
    "law": "ones",
    "chunk_size": 64,
    "seed": 0,
    "order": "ascending",
    "graphs": False,
    "reuse": False,
}


def simplest(
    trace: Trace, failure: CheckFailure, play: Play, expired: Callable[[], bool]
) -> tuple[Trace, CheckFailure, int]:
    """Return the smallest trace known to fail in the same way, its failure, and how many traces were played
    for it.

    `play` plays a trace and returns its failure and the number of the step that failed, or None. `expired` is
    asked before every trace.
    """
    seen, played = {trace.id}, 0
    progress = True
    while progress:
        progress = False
        for candidate in _smaller(trace):
            if expired():
                return trace, failure, played
            if candidate.id in seen:
                continue
            seen.add(candidate.id)
            outcome, played = play(candidate), played + 1
            if outcome is not None and bucket.fault(outcome[0].kind) == bucket.fault(failure.kind):
                failure, at = outcome
                trace = replace_steps(candidate, candidate.steps[: at + 1])
                seen.add(trace.id)
                progress = True
                break
    return trace, failure, played


def _smaller(trace: Trace) -> Iterator[Trace]:
    """Iterate over traces a little smaller than this one, the largest steps down first."""
    for make in (
        _without_moves,
        _without_requests,
        _without_steps,
        _without_drafts,
        _without_rows,
        _without_columns,
        _with_all_shorter,
        _with_less,
        _with_simpler_fields,
    ):
        yield from (candidate for candidate in make(trace) if candidate != trace)


def _made(trace: Trace, steps: list[Step]) -> Iterator[Trace]:
    """Give the trace other steps, mended where they cannot follow each other; nothing if none are left."""
    try:
        yield replace_steps(trace, steps)
    except ValueError:
        mended = _mended(trace, steps)
        if mended:
            yield replace_steps(trace, mended)


def _mended(trace: Trace, steps: list[Step]) -> list[Step]:
    """Leave out of some steps, or put right, what cannot follow what is left."""
    book, kept = Book(trace), list[Step]()
    for step in steps:
        form = next((form for form in (step, *_possible(step, book)) if book.allows(form)), None)
        if form is not None:
            book.apply(form)
            kept.append(form)
    return kept


def _possible(step: Step, book: Book) -> Iterator[Step]:
    """Iterate over forms of a step that may be possible where it is not itself."""
    if step.act in ("fork", "adopt"):
        yield Step("arrive", step.requests)
    if step.act in CALLS or step.act == "commit":
        there = {PADDING, *(book.live if step.act in CALLS else (*book.drafts, *book.gone))}
        left = _picked(step, [n for n, one in enumerate(step.requests) if one in there])
        if left is not None and step.accepted:
            drafts = {**book.drafts, **(book.gone if step.act == "commit" else {})}
            rows = zip(left.requests, left.accepted, strict=True)
            accepted = tuple(min(token, len(drafts.get(one, ())) - 1) for one, token in rows)
            left = dataclasses.replace(left, accepted=accepted)
        if left is not None:
            yield left
            if step.act == "verify":
                yield dataclasses.replace(left, accepted=())
            if step.chunks:
                yield dataclasses.replace(left, chunks=())


def _without_moves(trace: Trace) -> Iterator[Trace]:
    """Leave out all that keeps and moves states, then all that compacts, then all snapshots."""
    for acts in (LATER_ACTS, ("compact",), ("snapshot", "fork", "adopt", "drop")):
        kept = [step for step in trace.steps if step.act not in acts or step.act in STARTS]
        if "snapshot" in acts:
            kept = [
                Step("arrive", step.requests) if step.act in acts else dataclasses.replace(step, chunks=())
                for step in kept
            ]
        if acts == LATER_ACTS or len(kept) < len(trace.steps):
            yield from _made(trace, kept)


def _without_requests(trace: Trace) -> Iterator[Trace]:
    """Leave out a request with all that it did, and number the later ones anew."""
    for request in range(sum(step.act in STARTS for step in trace.steps)):
        kept = [_without(step, request) for step in trace.steps]
        yield from _made(trace, [_renumbered(step, request) for step in kept if step is not None])


def _without(step: Step, request: int) -> Step | None:
    """Leave a request out of a step; None if nothing is left of it."""
    places = [n for n, one in enumerate(step.requests) if one != request]
    if len(places) == len(step.requests):
        return step
    return _picked(step, places)


def _picked(step: Step, places: list[int]) -> Step | None:
    """Keep the rows of a step at these places; None if there are none."""
    if not places:
        return None
    return Step(
        step.act,
        tuple(step.requests[n] for n in places),
        tuple(step.lens[n] for n in places) if step.lens else (),
        tuple(step.parents[n] for n in places) if step.parents else (),
        tuple(step.accepted[n] for n in places) if step.accepted else (),
        step.sources,
        tuple(step.chunks[n] for n in places) if step.chunks else (),
    )


def _renumbered(step: Step, gone: int) -> Step:
    """Number the requests of a step as if one had never arrived; its snapshot is nobody's."""
    sources = tuple(NOBODY if one == gone else one - (one > gone) for one in step.sources)
    return dataclasses.replace(
        step, requests=tuple(one - (one > gone) for one in step.requests), sources=sources
    )


def _without_steps(trace: Trace) -> Iterator[Trace]:
    """Leave out a step, and with a verify the commits of its drafts."""
    for number, step in enumerate(trace.steps):
        if step.act in STARTS:
            continue
        rest = list(trace.steps[number + 1 :])
        if step.act == "verify":
            for request in step.requests:
                rest = _without_commit(rest, request)
        yield from _made(trace, [*trace.steps[:number], *rest])


def _without_commit(steps: list[Step], request: int) -> list[Step]:
    """Leave the next commit of a request out of steps."""
    for n, step in enumerate(steps):
        if step.act == "commit" and request in step.requests:
            left = _without(step, request)
            return [*steps[:n], *([] if left is None else [left]), *steps[n + 1 :]]
    return steps


def _without_drafts(trace: Trace) -> Iterator[Trace]:
    """Decode where a draft was committed, and leave out the verifies of its requests."""
    for number, step in enumerate(trace.steps):
        if step.act != "commit":
            continue
        before: list[Step | None] = list(trace.steps[:number])
        for n, earlier in enumerate(trace.steps[:number]):
            if earlier.act == "verify":
                rows = range(len(earlier.requests))
                before[n] = _picked(
                    earlier, [row for row in rows if earlier.requests[row] not in step.requests]
                )
        left = [one for one in before if one is not None]
        yield from _made(trace, [*left, Step("decode", step.requests), *trace.steps[number + 1 :]])


def _without_rows(trace: Trace) -> Iterator[Trace]:
    """Leave one row out of a step, and with a row of a verify the commit of its draft; the last row of a call
    becomes padding."""
    for number, step in enumerate(trace.steps):
        if step.act in CALLS and len(step.requests) == 1 and step.requests != (PADDING,):
            alone = dataclasses.replace(step, requests=(PADDING,), accepted=(), chunks=())
            yield from _made(trace, [*trace.steps[:number], alone, *trace.steps[number + 1 :]])
        for row, request in enumerate(step.requests):
            if len(step.requests) == 1:
                break
            rest = list(trace.steps[number + 1 :])
            if step.act == "verify" and request != PADDING:
                rest = _without_commit(rest, request)
            left = _picked(step, [n for n in range(len(step.requests)) if n != row])
            assert left is not None
            yield from _made(trace, [*trace.steps[:number], left, *rest])


def _without_columns(trace: Trace) -> Iterator[Trace]:
    """Leave a row out of every call that has it and another: tables that are used again keep one shape."""
    widest = max((len(step.requests) for step in trace.steps if step.act in CALLS), default=0)
    for row in range(widest):
        steps = []
        for step in trace.steps:
            rows = len(step.requests)
            fewer = _picked(step, [n for n in range(rows) if n != row]) if step.act in CALLS else None
            steps.append(fewer if fewer is not None and rows > row else step)
        yield from _made(trace, steps)


def _with_all_shorter(trace: Trace) -> Iterator[Trace]:
    """Cut the rows of all calls at one length, for what shows in rows of the same length alone."""
    longest = max((max(step.lengths) for step in trace.steps if step.act in CALLS), default=1)
    for most in sorted({1, longest // 2, longest - 1} - {0}):
        if most < longest:
            yield from _made(trace, [_cut(step, most) for step in trace.steps])


def _cut(step: Step, most: int) -> Step:
    """Cut the rows of a call at a length."""
    if not step.lens:
        return step
    lens = tuple(min(length, most) for length in step.lens)
    parents = tuple(tree[:length] for tree, length in zip(step.parents, lens, strict=False))
    return plain(dataclasses.replace(step, lens=lens, parents=parents))


def _with_less(trace: Trace) -> Iterator[Trace]:
    """Take fewer tokens in a row, accept fewer, take chains for trees and decode for other calls."""
    for number, step in enumerate(trace.steps):
        for simpler in _less(step):
            yield from _made(trace, [*trace.steps[:number], plain(simpler), *trace.steps[number + 1 :]])


def _less(step: Step) -> Iterator[Step]:
    """Iterate over simpler forms of one step."""
    if step.act in ("fork", "adopt"):
        yield Step("arrive", step.requests)
    if step.act in ("extend", "update", "packed_decode"):
        yield dataclasses.replace(step, act="decode", chunks=())
    if step.act == "verify":
        yield dataclasses.replace(step, act="decode", parents=(), accepted=())
        if step.accepted and max(step.accepted) == REJECTED:
            yield dataclasses.replace(step, accepted=())
    if step.tracks:
        rows = zip(step.requests, step.chunks, strict=True)
        yield Step("snapshot", tuple(one for one, chunk in rows if chunk >= 0))
    for row, chunk in enumerate(step.chunks):
        for earlier in range(REJECTED, chunk):
            chunks = (*step.chunks[:row], earlier, *step.chunks[row + 1 :])
            yield dataclasses.replace(step, chunks=chunks if max(chunks) >= 0 else ())
    least = REJECTED if step.act == "verify" else 0
    for row, accepted in enumerate(step.accepted):
        for token in range(least, accepted):
            yield dataclasses.replace(step, accepted=(*step.accepted[:row], token, *step.accepted[row + 1 :]))
    if step.lens:
        yield dataclasses.replace(step, lens=(), parents=())
    if step.parents:
        yield dataclasses.replace(step, parents=())
    for row, length in enumerate(step.lens):
        for shorter in sorted({1, length // 2, length - 1} - {0, length}):
            if shorter < length:
                lens = (*step.lens[:row], shorter, *step.lens[row + 1 :])
                parents = tuple(tree[:size] for tree, size in zip(step.parents, lens, strict=False))
                yield dataclasses.replace(step, lens=lens, parents=parents)


def _with_simpler_fields(trace: Trace) -> Iterator[Trace]:
    """Take a simpler value for one field of the loop: the simplest, half, or one less."""
    for name, simple in SIMPLEST.items():
        value = getattr(trace, name)
        if value == simple:
            continue
        tries = [simple]
        if type(value) is int and type(simple) is int:
            tries += [number for number in (value // 2, value - 1) if simple < number < value]
        for candidate in tries:
            yield from _replaced(trace, {name: candidate})
    plain_form = Form()
    yield from _replaced(trace, {"form": plain_form})
    for spec in dataclasses.fields(Form):
        simple_part = {spec.name: getattr(plain_form, spec.name)}
        yield from _replaced(trace, {"form": dataclasses.replace(trace.form, **simple_part)})


def _replaced(trace: Trace, changes: dict[str, Any]) -> Iterator[Trace]:
    """Change fields of the loop; nothing if that makes no loop."""
    try:
        yield dataclasses.replace(trace, **changes)
    except ValueError:
        return
