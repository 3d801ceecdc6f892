"""Slips that only snapshots, compaction, drafts verified again or late, and kept tables can show.

Planted in a loop or in a kernel, each is found, and its trace made as small as it gets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from torch import Tensor

from diffgdn import targets
from diffgdn.cases.case import Case
from diffgdn.cases.trace import Trace
from diffgdn.reference.noise import Contract
from diffgdn.search.traces import loops
from diffgdn.search.traces.find import find
from diffgdn.search.traces.smaller import Outcome
from diffgdn.tensors.arena import Arguments
from diffgdn.verdict.serving.loop import Loop
from diffgdn.verdict.serving.play import play


class SnapshotUnowned(Loop):
    """The slot of a snapshot is still in the list of free ones."""

    def keep(self, request: int) -> int:
        known = request in self.kept
        slot = super().keep(request)
        if not known:
            self.free_slots.append(slot)
        return slot


class ForkOfNow(Loop):
    """A fork copies the state that the request has now, not the one that was kept."""

    def fork(self, request: int, source: int) -> None:
        super().fork(request, source)
        now = self.slots.get(source, self.kept[source])
        self.memory.states[self.slots[request]] = self.memory.states[now]


class AdoptedReset(Loop):
    """A request that adopts a slot starts as all that arrive: from zero."""

    def adopt(self, request: int, source: int) -> None:
        super().adopt(request, source)
        self.reset(self.slots[request])


class SnapshotOfTheEnd(Loop):
    """A snapshot before a chunk is taken of the state after the last token."""

    def track(self, request: int, states: Tensor, at: int) -> None:
        self.snapshot(request)


class CommitOfTheFreed(Loop):
    """A commit that comes late writes the slot and reads the row that its request had."""

    def finish(self, request: int) -> None:
        if request in self.rows:
            self.late[request] = self.slots[request], self.rows[request]
        super().finish(request)

    def commit(self, request: int, accepted: Sequence[int]) -> None:
        super().commit(request, accepted)
        if request in self.late and accepted:
            slot, row = self.late[request]
            self.memory.states[slot] = self.memory.drafts[row, accepted[-1]]

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.late: dict[int, tuple[int, int]] = {}


class StaleRow(Loop):
    """A draft that is verified again goes to another row, and its commit reads the first."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.first: dict[int, int] = {}

    def draft_rows(self, requests: Sequence[int]) -> list[int]:
        for one in requests:
            if one in self.rows and self.free_rows:
                self.first[one] = self.rows[one]
                self.free_rows.insert(0, self.rows.pop(one))
        return super().draft_rows(requests)

    def commit(self, request: int, accepted: Sequence[int]) -> None:
        row = self.rows.get(request)
        if row is None:
            return
        self.rows[request] = self.first.pop(request, row)
        self.accept(request, accepted)
        del self.rows[request]
        self.free_rows.append(row)

    def finish(self, request: int) -> None:
        self.first.pop(request, None)
        super().finish(request)


class RejectedTwice(Loop):
    """Where nothing of a draft is accepted, the next one starts after its first token all the same."""

    def accept(self, request: int, accepted: Sequence[int]) -> None:
        super().accept(request, accepted or (0,))

    def commit(self, request: int, accepted: Sequence[int]) -> None:
        if request in self.rows:
            super().accept(request, accepted)
            self.free_rows.append(self.rows.pop(request))


class CountAsIndex(Loop):
    """The next draft starts from [row, accepted], where it should be [row, accepted - 1]."""

    def accept(self, request: int, accepted: Sequence[int]) -> None:
        last = self.memory.drafts.shape[1] - 1
        super().accept(request, [min(token + 1, last) for token in accepted])

    def commit(self, request: int, accepted: Sequence[int]) -> None:
        if request in self.rows:
            super().accept(request, accepted)
            self.free_rows.append(self.rows.pop(request))


class MovesFromTheEnd(Loop):
    """States move one by one, the last first, over those that are to move yet."""

    def move(self, places: dict[int, int]) -> None:
        for slot, place in reversed(places.items()):
            self.memory.states[place] = self.memory.states[slot]
        for taken in (self.slots, self.kept):
            taken.update({one: places[slot] for one, slot in taken.items()})


class Slipping:
    """The eager target, with a slip that shows in what it keeps between calls."""

    layout = "vk"

    def __init__(self) -> None:
        self.name, self._eager = type(self).__name__, targets.get("eager")
        self.operations = self._eager.operations

    def contract(self, op: str) -> Contract:
        return self._eager.contract(op)

    def configurations(self, op: str) -> int:
        return 1

    def refuses(self, case: Case, backend: str) -> str | None:
        return None

    def run(self, case: Case, arguments: Arguments) -> dict[str, Tensor]:
        return self._eager.run(case, arguments)


class KeptTable(Slipping):
    """What was read from a tensor of slots is kept with that tensor, and not read again."""

    def __init__(self) -> None:
        super().__init__()
        self._read: list[tuple[Tensor, Tensor]] = []

    def run(self, case: Case, arguments: Arguments) -> dict[str, Tensor]:
        given = arguments["indices"]
        values = next((values for table, values in self._read if table is given), None)
        if values is None:
            values = given.clone()
            self._read.append((given, values))
        arguments.tensors["indices"] = values
        return super().run(case, arguments)


class PromptForDraft(Slipping):
    """An extend of rows as long as the longest of the latest drafts is taken for one: its state is not
    stored."""

    _longest = 0

    def run(self, case: Case, arguments: Arguments) -> dict[str, Tensor]:
        if case.operation.kind == "verify":
            self._longest = max(case.lens)
        before = arguments["state"].clone()
        results = super().run(case, arguments)
        if case.operation.kind == "extend" and set(case.lens) == {self._longest}:
            arguments["state"].copy_(before)
        return results


class FirstCallFromZero(Slipping):
    """A slot that no call has named yet is taken for that of a new request, which starts from zero."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[int] = set()

    def run(self, case: Case, arguments: Arguments) -> dict[str, Tensor]:
        for slot in set(case.pool.indices) - self._seen - {-1}:
            arguments["state"][slot] = 0
            self._seen.add(slot)
        return super().run(case, arguments)


SLIPS: dict[str, type[Loop] | type[Slipping]] = {
    "a snapshot in a free slot": SnapshotUnowned,
    "a fork of the state now": ForkOfNow,
    "an adopted slot reset": AdoptedReset,
    "a snapshot of the end": SnapshotOfTheEnd,
    "a commit of the freed": CommitOfTheFreed,
    "a stale row committed": StaleRow,
    "two drafts rejected, one kept": RejectedTwice,
    "a count for an index": CountAsIndex,
    "moves over each other": MovesFromTheEnd,
    "a table read once": KeptTable,
    "a prompt taken for a draft": PromptForDraft,
    "a first call from zero": FirstCallFromZero,
}
TRACES = 1500
# What may keep a step more, or other steps to the same end: which, goes by the first failure.
ONE_MORE = ("moves over each other", "a first call from zero")
# Streams whose first failure shrinks to the shortest trace; 0 for all others.
STREAMS = {"moves over each other": 1}
SHORTEST = {
    "a snapshot in a free slot": ["arrive 0", "snapshot 0", "arrive 1"],
    "a fork of the state now": [
        "arrive 0",
        "snapshot 0",
        "decode 0",
        "fork 1 from a copy of the snapshot of 0",
    ],
    "an adopted slot reset": [
        "arrive 0",
        "decode 0",
        "snapshot 0",
        "adopt 1 in the slot of the snapshot of 0",
    ],
    "a snapshot of the end": ["arrive 0", "extend 0 with a snapshot before chunk 0"],
    "a commit of the freed": [
        "arrive 0",
        "verify 0",
        "finish 0",
        "commit 0 up to token 0 (finished before)",
    ],
    "a stale row committed": [
        "arrive 0",
        "verify 0",
        "verify 0 again, nothing of its draft accepted",
        "commit 0 up to token 0",
    ],
    "two drafts rejected, one kept": [
        "arrive 0",
        "verify 0",
        "verify 0 again, nothing of its draft accepted",
    ],
    "a count for an index": ["arrive 0", "verify 0", "verify 0 again, after token 0 of its draft"],
    "moves over each other": ["arrive 0", "arrive 1", "arrive 2", "decode 1", "finish 0", "compact"],
    "a table read once": ["arrive 0", "decode padding", "decode 0"],
    "a prompt taken for a draft": ["arrive 0", "verify padding", "extend 0"],
    "a first call from zero": [
        "arrive 0",
        "decode 0",
        "snapshot 0",
        "fork 1 from a copy of the snapshot of 0",
        "decode 1",
    ],
}


def player(slip: type[Loop] | type[Slipping], target: str = "eager") -> Callable[[Trace], Outcome]:
    def run(trace: Trace) -> Outcome:
        loop = slip if issubclass(slip, Loop) else Loop
        chosen = slip() if issubclass(slip, Slipping) else targets.get(target)
        played = play(trace, chosen, "interpret", loop)
        assert played.refused is None
        return None if played.failure is None or played.at is None else (played.failure, played.at)

    return run


@pytest.mark.parametrize("name", SLIPS)
def test_a_slip_is_found_and_made_small(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among loops that move states, which are one in three."""
    monkeypatch.setattr(loops, "MOVES", (True,))
    run = player(SLIPS[name])
    operations = targets.get("eager").operations
    found = find("gdn", operations, "interpret", run, max_traces=TRACES, number=STREAMS.get(name, 0))
    assert found is not None
    words = [line.partition(": ")[2] for line in found.trace.words()]
    least = SHORTEST[name]
    assert sorted(words) == sorted(least) or (name in ONE_MORE and len(words) <= len(least) + 1)
    assert found.trace.format_version == (1 if name == "a prompt taken for a draft" else 3)
    assert player(Loop)(found.trace) is None
    assert player(Loop, "vk")(found.trace) is None
