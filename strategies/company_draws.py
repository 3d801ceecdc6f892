"""Draws the calls that a case makes before its own: none for most, of the others mostly one."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from diffgdn.cases import company
from diffgdn.cases.case import Case
from diffgdn.cases.promises import Promises
from diffgdn.strategies.batch_layout import among, rarely
from diffgdn.strategies.menu import STATES

ONE_IN = 12  # cases has earlier calls: each takes as long as a call of its own
TWO_IN = 5  # of these has two
OFTEN = 3  # new values in the same memory, for each other word: it meets the most kinds of stale things


def draw_before(draw: st.DrawFn, case: Case, backend: str, own: Promises) -> Case:
    """Give a case earlier calls, now and then. Each lies inside the promises, and on a GPU runs kernels that
    the case itself has compiled."""
    if not draw(rarely(ONE_IN)):
        return case
    words = tuple(word for word in company.EARLIER if _fits(word, case, backend, own))
    if not words or not own.company:
        return case
    often = (company.IN_PLACE,) * (OFTEN - 1) * (company.IN_PLACE in words)
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
