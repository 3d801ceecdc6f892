"""Six bugs planted in a serving loop: each is found, and what its trace is made as small as."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from diffgdn import targets
from diffgdn.cases.trace import Trace
from diffgdn.cases.trace_steps import PADDING, Step
from diffgdn.search.traces.find import find
from diffgdn.search.traces.smaller import Outcome
from diffgdn.verdict.failures import BeyondBound
from diffgdn.verdict.serving.loop import Loop
from diffgdn.verdict.serving.memory import Memory
from diffgdn.verdict.serving.play import Player, play


class StaleSlot(Loop):
    """A slot is reset when it is handed out for the first time only."""

    def __init__(self, slots: int, rows: int, memory: Memory) -> None:
        super().__init__(slots, rows, memory)
        self.used: set[int] = set()

    def reset(self, slot: int) -> None:
        if slot not in self.used:
            super().reset(slot)
        self.used.add(slot)


class DiscardedDraftKept(Loop):
    """A draft of which nothing is accepted becomes the state: token -1 of its row is the last one."""

    def commit(self, request: int, accepted: Sequence[int]) -> None:
        super().commit(request, accepted or (-1,))


class WrongStep(Loop):
    """The number of accepted tokens is taken for their last one: right for chains, and wrong for trees."""

    def commit(self, request: int, accepted: Sequence[int]) -> None:
        super().commit(request, range(len(accepted)))


class FreedSlotWritten(Loop):
    """Rows of padding keep the slot that was freed last, as in a captured graph whose indices are not
    cleared."""

    def indices(self, requests: Sequence[int]) -> list[int]:
        indices = super().indices(requests)
        return [self.last if one == PADDING else one for one in indices]

    last = PADDING

    def finish(self, request: int) -> None:
        self.last = self.slots[request]
        super().finish(request)

    def arrive(self, request: int) -> None:
        super().arrive(request)
        if self.slots[request] == self.last:
            self.last = PADDING


class PaddingWritesSlotZero(Loop):
    """Rows of padding name slot 0."""

    def indices(self, requests: Sequence[int]) -> list[int]:
        return [max(one, 0) for one in super().indices(requests)]


class ReuseBeforeCommit(Loop):
    """A draft's row of the buffer is free again as soon as verify has returned."""

    def draft_rows(self, requests: Sequence[int]) -> list[int]:
        rows = super().draft_rows(requests)
        self.free_rows += [row for row in reversed(rows) if row != PADDING]
        return rows

    def commit(self, request: int, accepted: Sequence[int]) -> None:
        super().commit(request, accepted)
        self.free_rows.pop()

    def finish(self, request: int) -> None:
        drafted = request in self.rows
        super().finish(request)
        if drafted:
            self.free_rows.pop()


BUGS: dict[str, type[Loop]] = {
    "stale slot": StaleSlot,
    "discarded draft kept": DiscardedDraftKept,
    "commit of the wrong step": WrongStep,
    "freed slot written": FreedSlotWritten,
    "padding writing slot 0": PaddingWritesSlotZero,
    "reuse before commit": ReuseBeforeCommit,
}

TRACES = 400
SHORTEST = {
    "stale slot": ["arrive 0", "decode 0", "finish 0", "arrive 1"],
    "discarded draft kept": ["arrive 0", "verify 0", "commit 0 none"],
    "commit of the wrong step": [
        "arrive 0",
        "verify 0 (3 tokens) as a tree (-1, 0, 0)",
        "commit 0 up to token 2",
    ],
    "freed slot written": ["arrive 0", "finish 0", "decode padding"],
    "padding writing slot 0": ["decode padding"],
    "reuse before commit": ["arrive 0", "arrive 1", "verify 0", "verify 1"],
}
# Streams whose first failure shrinks to the shortest trace. Of streams 0 to 4, four do for "commit of the
# wrong step" and two for "padding writing slot 0"; the others end one move away from it.
STREAMS = {"commit of the wrong step": 1, "padding writing slot 0": 1}
FAULT = {
    "stale slot": "not_exact",
    "discarded draft kept": "slot_changed",
    "commit of the wrong step": "not_exact",
    "freed slot written": "slot_changed",
    "padding writing slot 0": "slot_changed",
    "reuse before commit": "slot_changed",
}


def player(loop: type[Loop], target: str = "eager") -> Callable[[Trace], Outcome]:
    chosen = targets.get(target)

    def run(trace: Trace) -> Outcome:
        played = play(trace, chosen, "interpret", loop)
        assert played.refused is None
        return None if played.failure is None or played.at is None else (played.failure, played.at)

    return run


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_of_the_loop_is_found_and_made_small(bug: str) -> None:
    run = player(BUGS[bug])
    found = find(
        "gdn",
        targets.get("eager").operations,
        "interpret",
        run,
        max_traces=TRACES,
        number=STREAMS.get(bug, 0),
    )
    assert found is not None
    assert sorted(step.words() for step in found.trace.steps) == sorted(SHORTEST[bug])
    assert found.failure.kind == FAULT[bug]
    # The same trace on the project's own kernels: the bug is the loop's; without it all is well.
    fails = player(BUGS[bug], "vk")(found.trace)
    assert fails is not None
    assert fails[0].kind == FAULT[bug]
    assert player(Loop, "vk")(found.trace) is None


def test_a_right_loop_has_no_failing_trace() -> None:
    operations = targets.get("eager").operations
    assert find("kda", operations, "interpret", player(Loop), max_traces=25, number=1) is None


def test_a_state_that_is_another_requests_is_not_that_of_its_history() -> None:
    """Which the check of a single step cannot see: it starts from what the pool holds."""
    steps = (Step("arrive", (0,)), Step("arrive", (1,)), Step("decode", (0, 1)))
    player = Player(Trace("gdn", steps), targets.get("eager"), "interpret")
    for number in range(len(steps)):
        assert player.step(number) is None
    player.histories.check("gdn.decode", player.memory.states, player.slots)
    player.memory.states[[0, 1]] = player.memory.states[[1, 0]]
    with pytest.raises(BeyondBound, match="not the state of this request's history"):
        player.histories.check("gdn.decode", player.memory.states, player.slots)
