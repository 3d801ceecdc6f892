"""Moves on the calls that a case makes before its own: fewer of them, before a case that is itself simple."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from diffgdn.cases import company
from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.search.changes import changed

# Tokens of the sequences of the simplest cases: one, two, and two that are told apart in another order.
SHAPES = ((1,), (1, 1), (1, 2))
# The field that a word is about.
ABOUT = {
    "other_dtype": "dtype",
    "other_gate_dtype": "dtype",
    "other_strides": "view",
    "other_l2norm": "l2norm",
    "other_scale": "scale",
    "other_outputs": "inplace",
}


def none(case: Case) -> Iterator[Case | None]:
    """Make no earlier call."""
    if case.before:
        yield changed(case, before=())


def leap(case: Case) -> Iterator[Case | None]:
    """Take one of the earlier calls before the simplest case: of one sequence or two, with values that
    differ, or with the case's own laws. Each step of a shrink in company takes a process.
    """
    for one in _simplest(case):
        if one == case:
            return
        yield one
    for word in case.before if len(case.before) > 1 else ():
        yield changed(case, before=(word,))


def words(case: Case) -> Iterator[Case | None]:
    """Make one earlier call fewer, or a simpler one in the place of one."""
    for n, word in enumerate(case.before):
        rest = (*case.before[:n], *case.before[n + 1 :])
        if rest:
            yield changed(case, before=rest)
        for other in company.EARLIER[: company.EARLIER.index(word)]:
            if other not in rest:
                yield changed(case, before=(*case.before[:n], other, *case.before[n + 1 :]))


def _simplest(case: Case) -> Iterator[Case]:
    """Iterate over the simplest cases with one of the earlier calls, none of more sequences or tokens, nor
    with other laws than the plainest where the case has those.
    """
    own = {"gates": case.gates, "values": case.values}
    laws: list[dict[str, Any]] = [{"values": Values(law="normal")}, own]
    if own == {"gates": Gates(), "values": Values()}:
        laws = [own]
    for content in laws:
        for lens in SHAPES:
            for word in case.before if len(lens) <= len(case.lens) and sum(lens) <= case.total else ():
                kept = {ABOUT[word]: getattr(case, ABOUT[word])} if word in ABOUT else {}
                made = _of(case, lens, word, {**content, **kept})
                if made is not None:
                    yield made


def _of(case: Case, lens: tuple[int, ...], word: str, fields: dict[str, Any]) -> Case | None:
    """Make the simplest case of these sequences with one earlier call; None if there is none such."""
    operation, count = case.operation, len(lens)
    pool = Pool(slots=count, indices=tuple(range(count))) if operation.has_pool else Pool(indices=())
    if case.needs_steps:
        pool = replace(pool, steps=max(lens), buffer=count, rows=tuple(range(count)))
    chunk = 16 if operation.is_chunked else Case.chunk_size
    try:
        return Case(case.op, lens, pool=pool, chunk_size=chunk, before=(word,), **fields)
    except ValueError:
        return None
