"""A failing case without one of its features, or with that of another case: which of them the failure needs.

A feature is a word of `needs` with its condition: what tells a shrunk case from the plainest one. All that is
tried is a move of the shrinker, or one field of another case, so it is a valid case and inside the promises.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from diffgdn.cases.case import Case
from diffgdn.cases.promises import EVERYTHING, Promises
from diffgdn.search import needs, promised
from diffgdn.search.changes import changed
from diffgdn.search.moves import MOVES, bare

# Words about how large a case is: most failures show from some size on, whatever their cause.
SIZES = frozenset(
    ("K", "V", "square", "H", "ratio", "length", "sequences", "chunk_size", "tail", "pool.indices")
)
CONTENT = ("gates.", "values.")  # beginnings of words about what tensors hold: a failure shows in some
FAILS, PASSES, UNTOLD = "fails", "passes", "untold"
Ask = Callable[[Case], str]
Features = dict[str, Any]


def features(case: Case, promises: Promises = EVERYTHING) -> Features:
    """List the features of a case by their word."""
    return needs.of(case, promises)


def without(case: Case, word: str, promises: Promises = EVERYTHING) -> Case | None:
    """Return the case without a feature and with as many of its others as can be; None if there is none."""
    own = features(case, promises)
    best, most = None, -1
    if word not in own:
        return None
    for candidate in _plainer(case, word, promises):
        left = features(candidate, promises)
        kept = sum(left.get(other) == value for other, value in own.items() if other != word)
        added = sum(other not in own for other in left)
        if word not in left and kept - added > most:
            best, most = candidate, kept - added
    return best


def _plainer(case: Case, word: str, promises: Promises) -> Iterator[Case]:
    """List cases that a move, or the plainest case's value on an axis, makes of a case."""
    plain = bare(case, 1, 0)
    if plain is not None:
        one = changed(case, **promised.restored(word, case, plain))
        if one is not None and one != case and promises.broken_by(one) is None:
            yield one
    for move in MOVES:
        for moved in move(case):
            inside = None if moved is None else promised.inside(moved, case, promises)
            if inside is not None and inside != case:
                yield inside


def exchanged(
    case: Case, words: Collection[str], other: Case, promises: Promises = EVERYTHING
) -> Case | None:
    """Return the case with what another has for some words; None if that cannot be, or changes nothing."""
    changes: dict[str, Any] = {}
    for word in sorted(words):
        changes |= promised.restored(word, case, other)
    one = changed(case, **changes)
    return None if one is None or one == case or promises.broken_by(one) is not None else one


@dataclass(frozen=True)
class Needed:
    """What a failure needs.

    case: as it fails still, without the features that it does not need. features: those that are left.
    shown: whether a replay without it passes, for each of them; what could not be taken away or run is not
    shown.
    """

    case: Case
    features: Features
    shown: dict[str, bool]

    @property
    def core(self) -> Features:
        """The features that name a cause: those that are no sizes, else sizes, else what tensors hold."""
        named = {word: value for word, value in self.features.items() if not word.startswith(CONTENT)}
        large = {word: value for word, value in named.items() if word in SIZES}
        return {word: value for word, value in named.items() if word not in SIZES} or large or self.features


def needed(case: Case, ask: Ask, promises: Promises = EVERYTHING) -> Needed:
    """Take features from a failing case, one after another, and keep those without which it passes.

    ask: says of a case FAILS, if it fails as the first one does, PASSES or UNTOLD.
    """
    case = _fewer_lays(case, ask, promises)
    shown: dict[str, bool] = {}
    again = True
    while again:
        again = False
        for word in features(case, promises):
            if word in shown:
                continue
            plainer = without(case, word, promises)
            told = UNTOLD if plainer is None else ask(plainer)
            if told == FAILS:
                assert plainer is not None
                case, again = plainer, True
                break
            shown[word] = told == PASSES
    left = features(case, promises)
    return Needed(case, left, {word: shown.get(word, False) for word in left})


def _fewer_lays(case: Case, ask: Ask, promises: Promises) -> Case:
    """Let tensors lie as usual where it fails still, one after another: a word names one way of lying."""
    for lay in case.lay:
        others = tuple(one for one in case.lay if one is not lay)
        fewer = changed(case, lay=others)
        if (
            len(case.lay) > 1
            and fewer is not None
            and promises.broken_by(fewer) is None
            and ask(fewer) == FAILS
        ):
            case = fewer
    return case
