"""Draws serving traces with Hypothesis: the serving loop as a state machine, each rule one step.

The machine itself calls no kernel. Its rules write a trace, which is played as a whole when the machine is
torn down: so a trace can be played in a child process, a crash or a hang fails like anything else, and what
Hypothesis prints of a failure is beside the trace that replays it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from diffgdn.cases import spans
from diffgdn.cases.promises import EVERYTHING, Promises
from diffgdn.cases.trace import Trace, replace_steps
from diffgdn.cases.trace_steps import CALLS, PADDING, REJECTED, Book, Step, chain, plain
from diffgdn.search.traces.loops import Served, loops

LONGEST_PREFILL = 5  # tokens of one piece but for a few; pieces follow each other
LONG_PREFILL = 32  # a chunk of so many tokens or fewer is prefilled whole now and then, to reach the next
LONGEST_CALL = 3  # tokens a sequence in decode and update
MOST_ROWS = 4  # of a batch, padding included
LEAST_HELD = 3  # states before a compaction, so that one may move to where another was
LEAST_TREE = 3  # tokens: with fewer there are chains alone
LONGEST_LISTED = 5  # tokens: of longer trees there are too many to list them
DATA = st.data()


class Serving(RuleBasedStateMachine):
    """What may happen to a loop, in any order. `machine` makes a class of it that plays its traces."""

    start: ClassVar[st.SearchStrategy[Served]]
    finished: ClassVar[Callable[[Trace], None]]

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []

    @initialize(data=DATA)
    def begin(self, data: st.DataObject) -> None:
        """Draw the sizes of the loop."""
        served = data.draw(self.start)
        self.loop, self.own, self.moves = served.loop, served.own, served.moves
        self.book = Book(self.loop)

    def waiting(self) -> dict[int, tuple[int, ...]]:
        """Return the drafts that a commit may name."""
        return {**self.book.drafts, **(self.book.gone if self.moves else {})}

    def takes(self, kind: str) -> bool:
        """Tell whether a kind of operation may be called now."""
        if kind not in self.own or not self.book.arrived:
            return False
        if kind == "verify":
            return bool((self.moves and self.book.drafts) or (self.book.ready and self.book.free_rows > 0))
        return self.own[kind].padding or bool(self.book.ready)

    def note(self, step: Step) -> None:
        """Add a step to the trace."""
        self.book.apply(step)
        self.steps.append(step)

    def trace(self) -> Trace:
        """Return the trace so far."""
        return replace_steps(self.loop, self.steps)

    def teardown(self) -> None:
        # Not where drawing itself ended early: then there is nothing whole to play.
        """Hand the whole trace to `finished`."""
        if sys.exc_info()[0] is None and self.steps:
            type(self).finished(self.trace())

    @precondition(lambda self: self.book.free_slots > 0)
    @rule()
    def arrive(self) -> None:
        """Let the next request arrive."""
        self.note(Step("arrive", (self.book.arrived,)))

    @precondition(lambda self: self.takes("extend"))
    @rule(data=DATA)
    def extend(self, data: st.DataObject) -> None:
        """Prefill a piece of each of some requests."""
        chunk = self.loop.chunk_size
        lengths = [*range(LONGEST_PREFILL + 1)]
        if self.moves:
            lengths += [*lengths, *([chunk, chunk + 1] if chunk <= LONG_PREFILL else [])]
            lengths += [self.loop.draft] * 4 if "verify" in self.own else []  # a prompt may look like a draft
        self._call("extend", data, lengths)

    @precondition(lambda self: self.takes("decode"))
    @rule(data=DATA)
    def decode(self, data: st.DataObject) -> None:
        """Decode a few tokens of each of some requests."""
        self._call("decode", data, range(1, LONGEST_CALL + 1))

    @precondition(lambda self: self.takes("packed_decode"))
    @rule(data=DATA)
    def packed_decode(self, data: st.DataObject) -> None:
        """Decode one token of each of some requests."""
        self._call("packed_decode", data, (1,))

    @precondition(lambda self: self.takes("update"))
    @rule(data=DATA)
    def update(self, data: st.DataObject) -> None:
        """Update the states of some requests by a few tokens."""
        self._call("update", data, range(LONGEST_CALL + 1))

    @precondition(lambda self: self.takes("verify") and False in self.own["verify"].tree)
    @rule(data=DATA)
    def verify(self, data: st.DataObject) -> None:
        """Verify a chain as the draft of each of some requests."""
        self._call("verify", data, range(1, self.loop.draft + 1))

    @precondition(lambda self: self.takes("verify") and True in self.own["verify"].tree)
    @rule(data=DATA)
    def verify_tree(self, data: st.DataObject) -> None:
        """Verify a tree as the draft of each of some requests."""
        longest = self.loop.draft
        self._call("verify", data, (1, *range(min(LEAST_TREE, longest), longest + 1)), trees=True)

    @precondition(lambda self: self.waiting())
    @rule(data=DATA)
    def commit(self, data: st.DataObject) -> None:
        """Accept a part of the drafts of some requests, of some that have finished meanwhile too."""
        drafts = self.waiting()
        drawn = data.draw(st.lists(st.sampled_from(list(drafts)), min_size=1, max_size=MOST_ROWS))
        requests = tuple(dict.fromkeys(drawn))
        accepted = tuple(_accepted(data, drafts[one]) for one in requests)
        self.note(Step("commit", requests, accepted=accepted))

    @precondition(lambda self: self.moves and self.book.live and (self.book.free_slots > 0 or self.book.kept))
    @rule(data=DATA)
    def snapshot(self, data: st.DataObject) -> None:
        """Take a snapshot of a request's state."""
        room = self.book.free_slots > 0
        fit = [one for one in self.book.live if room or one in self.book.kept]
        if fit:
            self.note(Step("snapshot", (data.draw(st.sampled_from(fit)),)))

    @precondition(lambda self: self.book.kept and self.book.free_slots > 0)
    @rule(data=DATA)
    def fork(self, data: st.DataObject) -> None:
        """Let the next request start from a copy of a snapshot."""
        self._from_snapshot("fork", data)

    @precondition(lambda self: self.book.kept)
    @rule(data=DATA)
    def adopt(self, data: st.DataObject) -> None:
        """Let the next request take over the slot of a snapshot, or drop one."""
        self._from_snapshot(data.draw(st.sampled_from(("adopt", "adopt", "drop"))), data)

    def _from_snapshot(self, act: str, data: st.DataObject) -> None:
        """Do something with a snapshot."""
        source = data.draw(st.sampled_from(self.book.kept))
        drops = act == "drop"
        self.note(Step(act, (source if drops else self.book.arrived,), sources=() if drops else (source,)))

    @precondition(lambda self: self.moves and len(self.book.live) + len(self.book.kept) >= LEAST_HELD)
    @rule()
    def compact(self) -> None:
        """Let the request finish that was there first, and move all other states to the lowest slots."""
        if self.book.live:
            self.note(Step("finish", (self.book.live[0],)))
        self.note(Step("compact", ()))

    @precondition(lambda self: self.book.live)
    @rule(data=DATA)
    def finish(self, data: st.DataObject) -> None:
        """Let a request finish, which frees its slot."""
        self.note(Step("finish", (data.draw(st.sampled_from(self.book.live)),)))

    def _call(self, act: str, data: st.DataObject, lengths: Sequence[int], trees: bool = False) -> None:
        """Call requests, each at most once, with rows of padding among them. A verify may name those whose
        draft waits, and takes no more others than there are free rows.

        lengths: what the tokens of a row are drawn from. trees: verify trees instead of chains.
        """
        own, book = self.own[act], self.book
        few = _promised(lengths, own)
        if act == "verify" and not own.spare_steps:
            few = [self.loop.draft]  # the buffer has no step more than the longest draft
        if self.loop.form.is_even(act):
            few = [data.draw(st.sampled_from([length for length in few if length] or few))]
        new = book.ready if act != "verify" or book.free_rows > 0 else []
        verifies = act == "verify" and self.moves
        again = list(book.drafts) if verifies and (not new or data.draw(st.booleans())) else []
        named = [*new, *again, *([PADDING] if own.padding else [])]
        if not named:
            return
        row = st.tuples(st.sampled_from(named), st.sampled_from(few))
        requests: list[int] = []
        lens: list[int] = []
        room = book.free_rows if act == "verify" else len(new)
        for one, length in data.draw(st.lists(row, min_size=1, max_size=MOST_ROWS)):
            if one != PADDING and (one in requests or (one in new and room == 0)):
                continue
            room -= one in new
            requests.append(one)
            lens.append(length)
        parents = tuple(data.draw(_trees(length)) if trees else chain(length) for length in lens)
        step = Step(act, tuple(requests), tuple(lens), parents if act == "verify" else ())
        if any(one in again for one in requests):
            accepted = (_accepted(data, book.drafts[one]) if one in again else REJECTED for one in requests)
            step = replace(step, accepted=tuple(accepted))
        if act == "extend" and self.moves and True in own.boundary:
            step = replace(step, chunks=self._tracked(data, requests, lens))
        self.note(step if trees and False not in own.tree else plain(step))

    def _tracked(self, data: st.DataObject, requests: list[int], lens: list[int]) -> tuple[int, ...]:
        """Draw the chunks before which an extend takes snapshots, or nothing."""
        if not data.draw(st.booleans()):
            return ()
        room, chunks = self.book.free_slots, []
        for one, length in zip(requests, lens, strict=True):
            count = -(-length // self.loop.chunk_size)
            new = one not in self.book.kept
            if one == PADDING or count == 0 or (new and room == 0):
                chunks.append(-1)
                continue
            room -= new
            chunks.append(data.draw(st.sampled_from(range(count - 1, -1, -1))))
        return tuple(chunks) if max(chunks) >= 0 else ()


def _accepted(data: st.DataObject, tree: tuple[int, ...]) -> int:
    """Draw the last accepted token of a draft, or none."""
    return data.draw(st.sampled_from((*reversed(range(len(tree))), REJECTED)))


def _promised(lengths: Sequence[int], own: Promises) -> list[int]:
    """Keep the promised of some lengths; the nearest to the longest, if none is."""
    kept = [length for length in lengths if (own.empty if length == 0 else spans.holds(own.length, length))]
    return kept if any(kept) else [*kept, spans.nearest(own.length, max(lengths))]


@cache
def _trees(length: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Draw a tree of `length` tokens in which some token does not follow the one before it, or a chain if
    there is no room for one.
    """
    if length > LONGEST_LISTED:
        return st.tuples(*(st.sampled_from(range(-1, 0) if n == 0 else range(n)) for n in range(length)))
    every: list[tuple[int, ...]] = [(-1,)]
    for n in range(1, length):
        every = [(*tree, parent) for tree in every for parent in range(n)]
    return st.sampled_from([tree for tree in every if tree != chain(length)] or every)


def machine(
    family: str,
    operations: Collection[str],
    backend: str,
    finished: Callable[[Trace], None],
    promises: Promises = EVERYTHING,
) -> type[Serving] | None:
    """Make a state machine of those operations of a family that a target has, inside its promises; None if no
    loop can call any of them.

    It gives each trace to `finished`, which raises for one that fails.
    """
    kinds = [kind for kind in CALLS if f"{family}.{kind}" in operations]
    start = loops(family, kinds, backend, promises)
    if start.is_empty:
        return None
    body: dict[str, Any] = {"start": start, "finished": staticmethod(finished)}
    return type("Serving", (Serving,), body)
