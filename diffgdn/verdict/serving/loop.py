"""What an engine does around the kernels: hands out slots, resets them, names them in calls, commits drafts,
frees."""

from __future__ import annotations

from collections.abc import Sequence

from diffgdn.cases.trace_steps import PADDING
from diffgdn.verdict.serving.memory import Memory


class Loop:
    """A serving loop's bookkeeping over one pool. slots and rows: of each request that has one.

    What was freed last is handed out first. Subclasses plant bugs; whoever plays a trace takes nothing from
    the loop on trust but which free slot or row it chose.
    """

    def __init__(self, slots: int, rows: int, memory: Memory) -> None:
        self.memory = memory
        self.slots: dict[int, int] = {}
        self.rows: dict[int, int] = {}
        self.free_slots = list(reversed(range(slots)))
        self.free_rows = list(reversed(range(rows)))

    def arrive(self, request: int) -> None:
        """A slot for a new request, its state zero."""
        slot = self.free_slots.pop()
        self.slots[request] = slot
        self.reset(slot)

    def reset(self, slot: int) -> None:
        """Whoever had the slot before leaves no trace, and neither does memory that nobody has written."""
        self.memory.states[slot] = 0

    def indices(self, requests: Sequence[int]) -> list[int]:
        """The slot of each row of a batch, -1 for padding."""
        return [PADDING if one == PADDING else self.slots[one] for one in requests]

    def draft_rows(self, requests: Sequence[int]) -> list[int]:
        """A row of the buffer for the draft of each row of a batch, -1 for padding."""
        for one in requests:
            if one != PADDING:
                self.rows[one] = self.free_rows.pop()
        return [PADDING if one == PADDING else self.rows[one] for one in requests]

    def commit(self, request: int, accepted: Sequence[int]) -> None:
        """The state after the last accepted token of the request's draft becomes its state; nothing changes
        if none is. accepted: the tokens of the path, from the draft's first on."""
        row = self.rows.pop(request)
        if accepted:
            self.memory.states[self.slots[request]] = self.memory.drafts[row, accepted[-1]]
        self.free_rows.append(row)

    def finish(self, request: int) -> None:
        """Slot and row are free; a draft that waits for its commit is dropped."""
        self.free_slots.append(self.slots.pop(request))
        if request in self.rows:
            self.free_rows.append(self.rows.pop(request))
