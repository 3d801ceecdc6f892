"""Makes calls that fail together fewer and simpler, in few runs: each run takes a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace

from diffgdn.cases import company
from diffgdn.cases.case import Case
from diffgdn.cases.operand_options import USUAL
from diffgdn.cases.prelude import Call, fitting
from diffgdn.cases.promises import EVERYTHING, Promises
from diffgdn.cases.trace import Trace
from diffgdn.runner.confirm import Confirm, Confirmed, message_of, said, with_words
from diffgdn.search import by_field, moves
from diffgdn.search.traces import smaller
from diffgdn.verdict.failures import CheckFailure

Expired = Callable[[], bool]
SIZES = ("H", "HV", "K", "V", "chunk_size")
LIKEST = 3  # single calls that are tried first
# Words for a prelude, those first that make most differ.
LIKELY = tuple(dict.fromkeys(("other_dtype", "bigger_batch", "other_strides", *company.EARLIER)))


def shorter(
    confirm: Confirm,
    found: Confirmed,
    expired: Expired = lambda: False,
    promises: Promises = EVERYTHING,
) -> Confirmed:
    """Shorten the prelude of a failure that shows in a fresh process only after other calls, and make all
    calls simpler.

    Each step takes a process. What is returned has failed once more after its prelude, and has passed alone;
    otherwise it is told as what it has turned out to be: a failure of one call, or one that was seen but does
    not come back each time. No call outside the promises of the target is tried.
    """
    if found.alone or not found.reproduced:
        return found
    verdicts = {(found.prelude, found.call): found.verdict}

    def fails(prelude: tuple[Call, ...], call: Call) -> bool:
        if any(_is_outside(one, promises) for one in (*prelude, call)):
            return False
        verdict = confirm.fails(prelude, call, found)
        if verdict is not None:
            verdicts[prelude, call] = verdict
        return verdict is not None

    prelude, call = found.prelude, found.call
    named = None if found.heap else _named(prelude, call, fails, expired)
    if named is not None:
        prelude, call = (), named
    prelude = with_less(prelude, lambda less: fails(less, call), call, expired)
    prelude, call = simpler(prelude, call, fails, expired, promises)
    if not prelude:
        return Confirmed(call, verdicts[prelude, call], heap=found.heap)
    alone = confirm.fails((), call, found)
    if alone is not None:
        return Confirmed(call, alone, heap=found.heap)
    if confirm.fails(prelude, call, found) is None:
        seen = said(found.verdict, f"{message_of(found.verdict)}; not each time in a fresh process")
        return Confirmed(found.call, seen, fitting(found.prelude), reproduced=False)
    return Confirmed(call, verdicts[prelude, call], fitting(prelude), heap=found.heap)


def _named(
    prelude: tuple[Call, ...],
    call: Call,
    fails: Callable[[tuple[Call, ...], Call], bool],
    expired: Expired,
) -> Call | None:
    """Return the call with a word before it that does what the prelude does, if there is one: it fails in any
    process, and each try makes two calls only.
    """
    for one in _with_likely_words(call) if prelude else ():
        if expired():
            break
        if fails((), one):
            return one
    return None


def _with_likely_words(call: Call) -> Iterator[Call]:
    """Iterate over a call with words before it: also in fp32 after another dtype, since a word has one dtype
    for each, and what is cached for one coarse dtype may be met by another.
    """
    yield from with_words(call, LIKELY[:1])
    case = call.subject
    if isinstance(case, Case) and case.dtype != "float32":
        gates, pool = replace(case.gates, dtype="float32"), replace(case.pool, dtype="float32")
        try:
            plain = replace(case, dtype="float32", gates=gates, pool=pool, operands=USUAL)
        except ValueError:
            pass  # its gates or beta come in a form that its operands alone have
        else:
            yield from with_words(replace(call, subject=plain), LIKELY[:1])
    yield from with_words(call, LIKELY[1:])


def _is_outside(call: Call, promises: Promises) -> bool:
    return isinstance(call.subject, Case) and promises.broken_by(call.subject) is not None


def with_less(
    prelude: tuple[Call, ...], fails: Callable[[tuple[Call, ...]], bool], call: Call, expired: Expired
) -> tuple[Call, ...]:
    """Return the shortest part of a prelude that still makes a call fail, as far as it was found in time.

    First the calls that are most like the failing one, each alone: what is cached under too short a key is
    met by a call that shares the key. Otherwise one call that matters after the other, the latest first: it
    is the last of the shortest beginning that fails together with those already known, which is found by
    bisection.
    """
    if len(prelude) < 2:
        return prelude
    for one in sorted(prelude, key=lambda one: -_likeness(one, call))[:LIKEST]:
        if expired():
            return prelude
        if fails((one,)):
            return (one,)
    known: tuple[Call, ...] = ()
    best, rest = prelude, prelude
    while rest and not expired():
        passes, enough = 0, len(rest)  # calls from the beginning
        while enough - passes > 1 and not expired():
            middle = (passes + enough) // 2
            if fails((*rest[:middle], *known)):
                enough, best = middle, (*rest[:middle], *known)
            else:
                passes = middle
        known, rest = (rest[enough - 1], *known), rest[: enough - 1]
        if not expired() and (not rest or fails(known)):
            return known if rest or fails(known) else best
    return best


def _likeness(one: Call, other: Call) -> int:
    """Count the fields that two calls share; -1 if they are of different operations."""
    a, b = one.subject, other.subject
    if type(a) is not type(b) or a.op != b.op:
        return -1
    return sum(getattr(a, spec.name) == getattr(b, spec.name) for spec in fields(a))


def simpler(
    prelude: tuple[Call, ...],
    call: Call,
    fails: Callable[[tuple[Call, ...], Call], bool],
    expired: Expired,
    promises: Promises = EVERYTHING,
) -> tuple[tuple[Call, ...], Call]:
    """Make a prelude and a call simpler that fail together, inside the promises of the target, and return
    both. Traces in a prelude stay as they are.
    """
    for first, second, barest in _bare(prelude[0], call) if len(prelude) == 1 else ():
        if not expired() and fails((first,), second):
            prelude, call = (first,), second
            if barest:
                return prelude, call
            break
    if isinstance(call.subject, Case):
        smallest = by_field.simplest(
            call.subject, lambda case: fails(prelude, replace(call, subject=case)), expired, promises
        )
        call = replace(call, subject=smallest)
    else:
        call = replace(call, subject=_simplest_trace(call.subject, prelude, fails, expired))
    for number, one in enumerate(prelude):
        if isinstance(one.subject, Case):
            smallest = by_field.simplest(
                one.subject,
                lambda case: fails(_put(prelude, number, case), call),  # noqa: B023 (called at once)
                expired,
                promises,
            )
            prelude = _put(prelude, number, smallest)
    return prelude, call


def _simplest_trace(
    trace: Trace,
    prelude: tuple[Call, ...],
    fails: Callable[[tuple[Call, ...], Call], bool],
    expired: Expired,
) -> Trace:
    """Return the smallest trace found that fails after a prelude, in whatever way `fails` accepts."""

    def play(candidate: Trace) -> smaller.Outcome:
        failed = fails(prelude, Call(candidate))
        return (CheckFailure(candidate.op, None, None, ""), len(candidate.steps) - 1) if failed else None

    return smaller.simplest(trace, CheckFailure(trace.op, None, None, ""), play, expired)[0]


def _put(prelude: tuple[Call, ...], number: int, case: Case) -> tuple[Call, ...]:
    """Put another case in the place of one call of a prelude."""
    return (*prelude[:number], replace(prelude[number], subject=case), *prelude[number + 1 :])


def _bare(first: Call, second: Call) -> Iterator[tuple[Call, Call, bool]]:
    """Iterate over two cases at their simplest but for the fields in which they differ, since what they share
    rarely matters.

    First they keep the dtype only, then all flags and sizes that differ. The third value says that nothing is
    left to leave out.
    """
    a, b = first.subject, second.subject
    if not isinstance(a, Case) or not isinstance(b, Case):
        return
    apart = [name for name in (*SIZES, *moves.FLAGS) if getattr(a, name) != getattr(b, name)]
    for keep in dict.fromkeys((tuple({"dtype"} & set(apart)), tuple(apart))):
        try:
            one, other = (_simplest(a, keep), _simplest(b, keep))
        except ValueError:
            continue
        yield replace(first, subject=one), replace(second, subject=other), set(keep) <= {"dtype"}


def _simplest(case: Case, keep: tuple[str, ...]) -> Case:
    """Make the simplest case of an operation with some fields of this one. Raises ValueError if they do not
    fit.
    """
    bare = moves.bare(case, 1, 0)
    if bare is None:
        raise ValueError("no simplest case")
    return replace(bare, order=Case.order, **{name: getattr(case, name) for name in keep})
