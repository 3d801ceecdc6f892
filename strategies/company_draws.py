"""Draws the calls that a case makes before its own: none for most, of the others mostly one."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from diffgdn.cases import company
from diffgdn.cases.case import Case
from diffgdn.cases.promises import Promises
from diffgdn.strategies import lays
from diffgdn.strategies.batch_layout import among, rarely
from diffgdn.strategies.menu import STATES

# One in so many cases has earlier calls, each of which takes as long as a call of its own: of plain ones, and
# of those that differ from the usual call elsewhere.
ONE_IN, ONE_IN_UNUSUAL = 18, 6
TWO_IN = 5  # of these has two
# How often a word is drawn for each other one: new values in the same memory meet the most kinds of stale
# things, the others say something about few operations.
OFTEN = {company.IN_PLACE: 3, "other_chunk_size": 3, "other_gate": 3, "other_outputs": 2, "smaller_batch": 2}


def draw_before(draw: st.DrawFn, case: Case, backend: str, own: Promises) -> Case:
    """Give a case earlier calls, now and then. Each lies inside the promises, and on a GPU runs kernels that
    the case itself has compiled."""
    if not draw(rarely(ONE_IN if lays.is_usual(case) else ONE_IN_UNUSUAL)):
        return case
    words = tuple(word for word in company.EARLIER if _fits(word, case, backend, own))
    if not words or not own.company:
        return case
    often = tuple(word for word in words for _ in range(OFTEN.get(word, 1) - 1))
    first, second = draw(among(*words, *often)), draw(among(*words))
    both = draw(rarely(TWO_IN)) and first != second
    return replace(case, before=(first, second) if both else (first,))


def _fits(word: str, case: Case, backend: str, own: Promises) -> bool:
    """Tell whether a word says something about a case, and names a call that may be made."""
    made = company.earlier(case, word)
    if made is None or own.broken_by(made) is not None:
        return False
    # A launcher may take another tile for more states.
    crowd = max(len(case.lens), len(made.lens)) * case.HV
    return backend != "gpu" or (
        word in company.SAME_KERNELS and (len(made.lens) == len(case.lens) or crowd <= STATES)
    )
