"""Shrinks tensor contents: which tokens, heads and channels must be non-zero for a failure to remain.

It starts once the structure of a case is as simple as it gets, and tries zero tensors, then zero tokens,
heads and channels, then ones and powers of two. What is left in `Case.only` names the token and the channel
that matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from diffgdn.cases.case import Case, Gates, Values
from diffgdn.cases.sparsity import AXES, Kept, Only, kept, places
from diffgdn.search import by_field, kept_content, moves

# Kinds of failure, as `bucket.fault` names them, that may depend on numbers; others say nothing about them.
SPARSIFIED = ("wrong", "not_finite", "never_written", "poison_leaked", "not_repeatable")
PER_TOKEN = ("q", "k", "v")
POWERS = (1.0, -1.0, 0.5, 2.0, -0.5, -2.0)
# Axes on which tensors are reduced together, before each of them on its own: what matters in one mostly
# matters in all.
TOGETHER = (
    ("tokens", PER_TOKEN),
    ("heads", (*PER_TOKEN, "state")),
    ("V", ("v", "state")),
    ("K", ("q", "k", "state")),
)
ALONE = ("q", "v", "k", "state", "g", "beta")


def simplest(
    case: Case,
    fails: Callable[[Case], bool],
    expired: Callable[[], bool] = lambda: False,
    hint: Callable[[Case], dict[str, int]] = lambda case: {},
) -> Case:
    """Return the case with as little content as it still fails with, or as little as was left when time
    expired.

    `fails` runs a case and says whether it fails as `case` does; `expired` is asked before every run. `hint`
    says where a failing case is wrong, by the words of `bucket.numbers`: a first guess at what matters.
    """
    return _Content(case, fails, expired, hint).simplest()


class _Content:
    """The best case so far, and the ids of those that were run."""

    def __init__(
        self,
        case: Case,
        fails: Callable[[Case], bool],
        expired: Callable[[], bool],
        hint: Callable[[Case], dict[str, int]],
    ) -> None:
        self.best, self.fails, self.expired, self.hint = case, fails, expired, hint
        self.seen = {case.id}

    def simplest(self) -> Case:
        """Make the content sparse, what is around it plainer, and what that brought back sparse again."""
        self.make_sparse()
        before = self.best
        self.follow(kept_content.from_state, kept_content.structure)
        if len(self.best.only) < len(before.only):
            self.make_sparse()
        return self.best

    def make_sparse(self) -> None:
        """Take all steps to sparse content in turn, the largest first."""
        self.try_case(gates=_no_gates(self.best))
        zero = replace(self.best.values, law="zero", v_exponent=0, q_exponent=0)  # gates go by the seed too
        if self.best.values.law == "zero" or self.try_case(values=zero, edits=()):
            tensors: tuple[str, ...] = ("g", "beta")  # of which zero values leave something
        else:
            tensors = ALONE
            self.try_case(values=replace(self.best.values, state="zero"))
            for tensor in PER_TOKEN:
                self.try_only({tensor: _with(self.entry(tensor), "tokens", ())})
            for axis, together in TOGETHER:
                self.reduce(axis, together)
        for tensor in tensors:
            for axis in self.best.axes.get(tensor, ()):
                self.reduce(axis, (tensor,))
        self.follow(_plain, moves.gates, _values)
        self.values(tensors)
        self.follow(_plain, _values)

    def follow(self, *ways: Callable[[Case], Iterator[Case | None]]) -> None:
        """Follow moves to plainer laws for what is left."""
        for move in ways:
            self.best = by_field.follow(move, self.best, self.fails, self.expired, self.seen)

    def try_case(self, **changes: Any) -> bool:
        """Change fields of the best case. If it still fails, take it as the best. Returns whether it does."""
        try:
            candidate = replace(self.best, **changes)
        except ValueError:
            return False
        if candidate.id in self.seen or self.expired():
            return False
        self.seen.add(candidate.id)
        if not self.fails(candidate):
            return False
        self.best = candidate
        return True

    def try_only(self, entries: dict[str, Only]) -> bool:
        """Give some tensors other entries in `only`, as `try_case` does. Returns whether the case still
        fails.
        """
        present = {one.tensor: one for one in self.best.only} | entries
        order = [name for name in AXES if name in present]
        return self.try_case(only=tuple(present[name] for name in order if present[name] != Only(name)))

    def entry(self, tensor: str) -> Only:
        """Return what is kept of a tensor in the best case: all of it, if nothing is said."""
        return next((one for one in self.best.only if one.tensor == tensor), Only(tensor))

    def plain(self, tensor: str) -> bool:
        """Tell whether a tensor is as simple as its law can make it."""
        if tensor == "g":
            return self.best.gates.law == "zero"
        if tensor == "beta":
            return self.best.gates.beta in ("one", "half", "zero")
        return self.best.values.law in ("zero", "ones")

    def reduce(self, axis: str, tensors: Sequence[str]) -> None:
        """Keep as few places of one axis as the failure needs, the same places in all of these tensors.

        Heads may differ in number; a query head then stands for the value heads that it serves.
        """
        sizes = {
            tensor: self.best.axes[tensor][axis]
            for tensor in tensors
            if axis in self.best.axes.get(tensor, ()) and not self.entry(tensor).empty
        }
        if not sizes or (tensors[0] in ("g", "beta") and self.plain(tensors[0])):
            return
        most = max(sizes.values())  # value heads, where tensors differ: a query head serves several
        current = set(range(most))
        for tensor, size in sizes.items():
            chosen = getattr(self.entry(tensor), axis)
            if chosen is not None:
                current &= {
                    place * (most // size) + i for place in places(chosen) for i in range(most // size)
                }

        def still_fails(chosen: Sequence[int]) -> bool:
            entries = {}
            for tensor, size in sizes.items():
                own = {place * size // most for place in chosen}
                entries[tensor] = _with(self.entry(tensor), axis, None if len(own) == size else kept(own))
            return self.try_only(entries)

        _fewest(sorted(current), self.guess(axis), still_fails)

    def guess(self, axis: str) -> int:
        """Return the place along an axis where the best case is wrong, by the hint."""
        at, case = self.hint(self.best), self.best
        n = min(at.get("sequence", 0), len(case.lens) - 1)
        if axis == "tokens":
            return case.starts[n] + at.get("token", max(0, case.lens[n] - 1))
        return {"sequences": n, "heads": at.get("head", 0)}.get(axis, at.get(axis, 0))

    def values(self, tensors: Sequence[str]) -> None:
        """Set what is left of each tensor to a power of two, with either sign."""
        for tensor in tensors:
            entry = self.entry(tensor)
            if entry == Only(tensor) or entry.empty or self.plain(tensor):
                continue
            # A key longer than one makes the recurrence explode.
            if tensor == "k" and not self.best.l2norm and not _single(entry.K):
                continue
            for value in POWERS:
                if self.try_only({tensor: replace(entry, value=value)}):
                    break


def _no_gates(case: Case) -> Gates:
    """Return gates at their defaults, in the case's own formula."""
    return Gates(lower_bound=case.gates.lower_bound, raw=case.gates.raw)


def _plain(case: Case) -> Iterator[Case | None]:
    """Take ones, or zeros if there are zeros already, and no gates, no scale and no edits."""
    values = replace(
        Values(state=case.values.state), law=case.values.law if case.values.law == "zero" else "ones"
    )
    yield replace(case, gates=_no_gates(case), values=values, scale=None, edits=())
    yield replace(case, values=values)
    yield replace(case, gates=_no_gates(case))


def _values(case: Case) -> Iterator[Case | None]:
    """Take plainer values; zeros stay zeros, and the kind of state stays."""
    for plainer in moves.values(case):
        if plainer is None or plainer.values.state != case.values.state:
            continue
        if case.values.law != "zero" or plainer.values.law == "zero":
            yield plainer


def _with(entry: Only, axis: str, chosen: Kept | None) -> Only:
    """Replace the places that an entry keeps on one axis."""
    changes: dict[str, Any] = {axis: chosen}
    return replace(entry, **changes)


def _single(places: Kept | None) -> bool:
    """Tell whether exactly one place is kept."""
    return places is not None and len(places) == 1 and isinstance(places[0], int)


def _fewest(items: list[int], guess: int, still_fails: Callable[[list[int]], bool]) -> None:
    """Look for few items that still fail: the guess alone, or what is left when ever smaller parts are taken
    out.

    The result is what `still_fails` accepted last.
    """
    if len(items) < 2 or (guess in items and still_fails([guess])):
        return
    size = len(items) // 2
    while size:
        start = 0
        while start < len(items) > 1:
            rest = items[:start] + items[start + size :]
            if rest and still_fails(rest):
                items = rest
            else:
                start += size
        size //= 2
