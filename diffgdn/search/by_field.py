"""Makes a failing case simpler, one field after another, in few runs.

Hypothesis shrinks the choices behind a case and needs hundreds of runs; where a run takes a second, a
campaign has time for a dozen. Here every candidate is a plausible case, the largest step comes first, and
what makes a case slow (sequences, heads, dimensions, tokens) goes first, so that most runs are of small
cases.

A move takes the best failing case so far and yields candidates for its place, the boldest first; None stands
for one that would be no valid case. The moves are in `moves`. What holds of each candidate, and so of the
result:

- It is valid: a case checks itself when it is made, and changes that do not fit together give None.
- It is of the same operation as the case that it comes from.
- It fails in the same way, or it is not taken. What `simplest` returns has been seen to fail.
- It is simpler in what its move is about: nearer to one sequence of one token, one head, dimensions of 16, no
  edits, flags and laws at their defaults, and a pool whose first slots the sequences take in their order. No
  move adds sequences, heads or tokens, or a dimension above 16. This is no total order: K = 16 is tried for
  K = 8, and one token for an empty sequence, as the plainer choice.
- It is inside the promises of the target: what a candidate would take out of them stays as it is.
- It is run once at most: no case is asked for again, whichever move yields it. So moves cannot chase each
  other, and the search ends: at a case of which no candidate of any move fails, if there is time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from diffgdn.cases.case import Case
from diffgdn.cases.promises import EVERYTHING, Promises
from diffgdn.search import promised
from diffgdn.search.moves import MOVES

Move = Callable[[Case], Iterator[Case | None]]


def simplest(
    case: Case,
    fails: Callable[[Case], bool],
    expired: Callable[[], bool] = lambda: False,
    promises: Promises = EVERYTHING,
) -> Case:
    """Follow all moves in turn until none succeeds or time expires, and return the simplest case that fails.

    `fails` runs a case and says whether it fails as `case` does. It is asked once a case at most, so it needs
    no memory; what it raises ends the search. `expired` is asked before every run. `promises` of the target:
    no case outside is run.
    """
    seen, best = {case.id}, case
    while True:
        before = best
        for move in MOVES:
            best = follow(move, best, fails, expired, seen, promises)
        if best == before or expired():
            return best


def follow(
    move: Move,
    best: Case,
    fails: Callable[[Case], bool],
    expired: Callable[[], bool],
    seen: set[str],
    promises: Promises = EVERYTHING,
) -> Case:
    """Follow one move as often as it succeeds, and return the last case that failed, or else `best`.

    After each success the move starts again, from the case that failed. `seen` holds the ids of all cases
    that were run; those run here are added.
    """
    again = True
    while again:
        again = False
        for moved in move(best):
            candidate = None if moved is None else promised.inside(moved, best, promises)
            if candidate is None or candidate.id in seen:
                continue
            if expired():
                return best
            seen.add(candidate.id)
            if fails(candidate):
                best, again = candidate, True
                break
    return best
