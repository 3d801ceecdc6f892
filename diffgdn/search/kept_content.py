"""Moves on a case whose content is as sparse as it gets: plainer structure around what is left of it.

What a structure of a case can do without goes by its content: a tree, an odd dimension or a token more may be
needed to tell two numbers apart, and no more once all others are zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from diffgdn.cases.case import Case
from diffgdn.cases.sparsity import Only
from diffgdn.search import moves
from diffgdn.search.changes import with_lengths


def structure(case: Case) -> Iterator[Case | None]:
    """Make the moves of a structure, with what is kept of each tensor as it is."""
    for move in moves.AROUND_CONTENT:
        for plainer in move(case):
            yield None if plainer is None else with_only(plainer, case.only)


def from_state(case: Case) -> Iterator[Case | None]:
    """Start from a state drawn by its law in place of zeros, with one token in each sequence, or with one
    less in the longest: what the tokens that go had written to the state, it may then hold from the start.

    Gates and beta stay as sparse as they are, for all tokens. The other tensors are tried whole, then as
    sparse as they were, then without keys.
    """
    if case.values.state != "zero" or max(case.lens) < 2 or case.parents:
        return
    longest = case.lens.index(max(case.lens))
    lengths = tuple(min(length, 1) for length in case.lens)
    less = tuple(length - (n == longest) for n, length in enumerate(case.lens))
    for lens in dict.fromkeys((lengths, less)):
        shorter = with_lengths(case, lens, values=replace(case.values, state="law"))
        if shorter is None:
            continue
        rates = tuple(_any_token(one) for one in case.only if one.tensor in ("g", "beta"))
        for only in (rates, case.only, (Only("k", tokens=()), *rates)):
            yield with_only(shorter, only)


def _any_token(one: Only) -> Only:
    """Return an entry that keeps all tokens."""
    return replace(one, tokens=None)


def with_only(case: Case, only: tuple[Only, ...], **changes: Any) -> Case | None:
    """Keep parts of the tensors of a case; None where it has no such places."""
    try:
        return replace(case, only=only, **changes)
    except ValueError:
        return None
