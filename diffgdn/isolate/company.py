"""Makes calls that fail together fewer and simpler, in few runs: each takes a process of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import fields, replace

from diffgdn import simplify
from diffgdn.case import Case
from diffgdn.prelude import Call

Expired = Callable[[], bool]
LIKEST = 3  # single calls that are tried first


def with_less(
    prelude: tuple[Call, ...], fails: Callable[[tuple[Call, ...]], bool], call: Call, expired: Expired
) -> tuple[Call, ...]:
    """The shortest part of a prelude that still makes a call fail, as far as it was found in time.

    First the calls that are most like the failing one, each alone: what is kept under too short a key is met
    by a call that shares the key. Then halves, quarters and so on, and what is left without each.
    """
    if len(prelude) < 2:
        return prelude
    likest = sorted(prelude, key=lambda one: -_likeness(one, call))[:LIKEST]
    for one in likest:
        if expired():
            return prelude
        if fails((one,)):
            return (one,)
    parts = 2
    while len(prelude) > 1 and not expired():
        for candidate in _parts(prelude, parts):
            if expired():
                return prelude
            if fails(candidate):
                prelude, parts = candidate, 2
                break
        else:
            if parts >= len(prelude):
                break
            parts = min(len(prelude), 2 * parts)
    return prelude


def _parts(calls: tuple[Call, ...], count: int) -> Iterator[tuple[Call, ...]]:
    """So many parts of a list, the last first, and what is left without each."""
    bounds = [len(calls) * n // count for n in range(count + 1)]
    spans = list(itertools.pairwise(bounds))[::-1]
    yield from (calls[start:stop] for start, stop in spans)
    yield from (calls[:start] + calls[stop:] for start, stop in spans if count > 2)


def _likeness(one: Call, other: Call) -> int:
    """Fields that two calls share."""
    a, b = one.subject, other.subject
    if type(a) is not type(b) or a.op != b.op:
        return -1
    return sum(getattr(a, spec.name) == getattr(b, spec.name) for spec in fields(a))


def simpler(
    prelude: tuple[Call, ...],
    call: Call,
    fails: Callable[[tuple[Call, ...], Call], bool],
    expired: Expired,
) -> tuple[tuple[Call, ...], Call]:
    """A prelude and a call that fail together and are simpler, where both are cases."""
    if len(prelude) == 1:
        for pair in _bare(prelude[0], call):
            if not expired() and fails(pair[:1], pair[1]):
                prelude, call = pair[:1], pair[1]
                break
    if isinstance(call.subject, Case):
        smallest = simplify.simplest(
            call.subject, lambda case: fails(prelude, replace(call, subject=case)), expired
        )
        call = replace(call, subject=smallest)
    for number, one in enumerate(prelude):
        if isinstance(one.subject, Case):
            smallest = simplify.simplest(
                one.subject,
                lambda case: fails(_put(prelude, number, case), call),  # noqa: B023 (called at once)
                expired,
            )
            prelude = _put(prelude, number, smallest)
    return prelude, call


def _put(prelude: tuple[Call, ...], number: int, case: Case) -> tuple[Call, ...]:
    return (*prelude[:number], replace(prelude[number], subject=case), *prelude[number + 1 :])


def _bare(first: Call, second: Call) -> Iterator[tuple[Call, Call]]:
    """Two cases at their simplest but for what sets them apart: what they share is rarely what matters."""
    a, b = first.subject, second.subject
    if not isinstance(a, Case) or not isinstance(b, Case):
        return
    apart = [spec.name for spec in fields(Case) if getattr(a, spec.name) != getattr(b, spec.name)]
    plain = [name for name in apart if name in simplify.FLAGS or name in ("H", "HV", "K", "V", "chunk_size")]
    for keep in dict.fromkeys((tuple(name for name in plain if name in ("dtype",)), tuple(plain))):
        try:
            pair = tuple(
                replace(
                    call,
                    subject=replace(
                        simplify.bare(case, 1, 0) or case, **{name: getattr(case, name) for name in keep}
                    ),
                )
                for call, case in ((first, a), (second, b))
            )
        except ValueError:
            continue
        yield pair[0], pair[1]
