"""Draws serving traces with Hypothesis: the serving loop as a state machine, each rule one step.

The machine itself calls no kernel. Its rules write a trace, which is played as a whole when the machine is
torn down: so a trace can be played in a child process, a crash or a hang fails like anything else, and what
Hypothesis prints of a failure is beside the trace that replays it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from diffgdn.cases.trace import Trace, replace_steps
from diffgdn.cases.trace_steps import CALLS, PADDING, REJECTED, Book, Step, chain, plain

LONGEST_PREFILL = 5  # tokens of one piece; pieces follow each other
LONGEST_CALL = 3  # tokens a sequence in decode and update
MOST_ROWS = 4  # of a batch, padding included
ORDERS = ("ascending", "ascending", "ascending", "descending", "shuffled")  # of programs, in the interpreter
DATA = st.data()


def loops(family: str, backend: str) -> st.SearchStrategy[Trace]:
    """Draw traces without steps: the sizes of a loop.

    On a GPU, whatever kernels are compiled for is the same in all of them.
    """
    small = backend != "gpu"
    return st.builds(
        Trace,
        family=st.just(family),
        slots=st.integers(2, 4),
        rows=st.integers(2, 3),
        draft=st.integers(2, 4),
        HV=st.integers(1, 2),
        K=st.sampled_from((1, 4, 8, 5)) if small else st.just(64),
        V=st.sampled_from((1, 4, 8, 3)) if small else st.just(64),
        dtype=st.sampled_from(("float32", "bfloat16", "float16")) if small else st.just("bfloat16"),
        state=st.sampled_from(("float32", "bfloat16", "float16")) if small else st.just("float32"),
        pitch=st.sampled_from((0, 16, 5)),
        gate=st.sampled_from(("zero", "model", "mixed", "uniform")),
        beta=st.sampled_from(("half", "uniform", "one")),
        l2norm=st.booleans() if small else st.just(True),
        chunk_size=st.sampled_from((64, 16)) if small else st.just(64),
        seed=st.integers(0, 999),
        order=st.sampled_from(ORDERS) if small else st.just(ORDERS[0]),
        graphs=st.just(False) if small else st.booleans(),
    )


class Serving(RuleBasedStateMachine):
    """What may happen to a loop, in any order. `machine` makes a class of it that plays its traces."""

    start: ClassVar[st.SearchStrategy[Trace]]
    kinds: ClassVar[frozenset[str]]
    finished: ClassVar[Callable[[Trace], None]]

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []

    @initialize(data=DATA)
    def begin(self, data: st.DataObject) -> None:
        """Draw the sizes of the loop."""
        self.loop = data.draw(self.start)
        self.book = Book(self.loop)

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

    @precondition(lambda self: self.book.arrived and "extend" in self.kinds)
    @rule(data=DATA)
    def extend(self, data: st.DataObject) -> None:
        """Prefill a piece of each of some requests."""
        self._call("extend", data, _chains(0, LONGEST_PREFILL))

    @precondition(lambda self: self.book.arrived and "decode" in self.kinds)
    @rule(data=DATA)
    def decode(self, data: st.DataObject) -> None:
        """Decode a few tokens of each of some requests."""
        self._call("decode", data, _chains(1, LONGEST_CALL))

    @precondition(lambda self: self.book.arrived and "packed_decode" in self.kinds)
    @rule(data=DATA)
    def packed_decode(self, data: st.DataObject) -> None:
        """Decode one token of each of some requests."""
        self._call("packed_decode", data, _chains(1, 1))

    @precondition(lambda self: self.book.arrived and "update" in self.kinds)
    @rule(data=DATA)
    def update(self, data: st.DataObject) -> None:
        """Update the states of some requests by a few tokens."""
        self._call("update", data, _chains(0, LONGEST_CALL))

    @precondition(lambda self: "verify" in self.kinds and self.book.ready and self.book.free_rows > 0)
    @rule(data=DATA)
    def verify(self, data: st.DataObject) -> None:
        """Verify a chain as the draft of each of some requests."""
        self._call("verify", data, _chains(1, self.loop.draft), self.book.free_rows)

    @precondition(lambda self: "verify" in self.kinds and self.book.ready and self.book.free_rows > 0)
    @rule(data=DATA)
    def verify_tree(self, data: st.DataObject) -> None:
        """Verify a tree as the draft of each of some requests."""
        self._call("verify", data, _trees(self.loop.draft), self.book.free_rows)

    @precondition(lambda self: self.book.drafts)
    @rule(data=DATA)
    def commit(self, data: st.DataObject) -> None:
        """Accept a part of the drafts of some requests."""
        drawn = data.draw(st.lists(st.sampled_from(list(self.book.drafts)), min_size=1, max_size=MOST_ROWS))
        requests = tuple(dict.fromkeys(drawn))
        accepted = tuple(
            data.draw(st.sampled_from((*reversed(range(len(self.book.drafts[one]))), REJECTED)))
            for one in requests
        )
        self.note(Step("commit", requests, accepted=accepted))

    @precondition(lambda self: self.book.live)
    @rule(data=DATA)
    def finish(self, data: st.DataObject) -> None:
        """Let a request finish, which frees its slot."""
        self.note(Step("finish", (data.draw(st.sampled_from(self.book.live)),)))

    def _call(
        self,
        act: str,
        data: st.DataObject,
        shapes: st.SearchStrategy[tuple[int, ...]],
        most: int | None = None,
    ) -> None:
        """Call requests that are ready, each at most once and at most `most` of them, with rows of padding
        among them.

        `shapes` draws the tokens of a row, as the parent of each.
        """
        row = st.tuples(st.sampled_from((*self.book.ready, PADDING)), shapes)
        requests: list[int] = []
        parents: list[tuple[int, ...]] = []
        for one, shape in data.draw(st.lists(row, min_size=1, max_size=MOST_ROWS)):
            named = len([other for other in requests if other != PADDING])
            if one != PADDING and (one in requests or (most is not None and named >= most)):
                continue
            requests.append(one)
            parents.append(shape)
        lens = tuple(len(shape) for shape in parents)
        trees = tuple(parents) if act == "verify" else ()
        self.note(plain(Step(act, tuple(requests), lens, trees)))


def _chains(least: int, longest: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Draw a chain of `least` to `longest` tokens."""
    return st.sampled_from([chain(length) for length in range(least, longest + 1)])


def _trees(longest: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Draw a tree in which some token does not follow the one before it, or a chain if there is no room for
    one.
    """
    of_length: dict[int, list[tuple[int, ...]]] = {1: [(-1,)]}
    for length in range(2, longest + 1):
        of_length[length] = [
            (*tree, parent) for tree in of_length[length - 1] for parent in range(length - 1)
        ]
    every = [tree for trees in of_length.values() for tree in trees]
    return st.sampled_from([tree for tree in every if tree != chain(len(tree))] or every)


def machine(
    family: str, operations: Collection[str], backend: str, finished: Callable[[Trace], None]
) -> type[Serving]:
    """Make a state machine of those operations of a family that a target has.

    It gives each trace to `finished`, which raises for one that fails.
    """
    kinds = frozenset(kind for kind in CALLS if f"{family}.{kind}" in operations)
    body: dict[str, Any] = {
        "start": loops(family, backend),
        "kinds": kinds,
        "finished": staticmethod(finished),
    }
    return type("Serving", (Serving,), body)
