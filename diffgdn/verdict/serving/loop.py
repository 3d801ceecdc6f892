"""Does what an engine does around the kernels: hands out slots, resets them, names them in calls, commits
drafts, keeps snapshots, moves states, frees."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from diffgdn.cases.trace_steps import PADDING
from diffgdn.verdict.serving.memory import Memory


class Loop:
    """A serving loop's bookkeeping over one pool.

    slots, rows: by request. kept: the slots of snapshots, by the request that they are of. What was freed
    last is handed out first. Subclasses plant bugs; whoever plays a trace takes nothing from the loop on
    trust but which free slot or row it chose.
    """

    def __init__(self, slots: int, rows: int, memory: Memory) -> None:
        self.memory = memory
        self.pool = range(memory.reserved, slots)
        self.slots: dict[int, int] = {}
        self.rows: dict[int, int] = {}
        self.kept: dict[int, int] = {}
        self.free_slots = list(reversed(self.pool))
        self.free_rows = list(reversed(range(rows)))

    def arrive(self, request: int) -> None:
        """Give a new request a slot and set its state to zero."""
        slot = self.free_slots.pop()
        self.slots[request] = slot
        self.reset(slot)

    def reset(self, slot: int) -> None:
        """Set the state of a slot to zero: nothing stays of an earlier request or of unused memory."""
        self.memory.states[slot] = 0

    def indices(self, requests: Sequence[int]) -> list[int]:
        """Name the slot of each row of a batch, -1 for padding."""
        return [PADDING if one == PADDING else self.slots[one] for one in requests]

    def draft_rows(self, requests: Sequence[int]) -> list[int]:
        """Name the row of the buffer for the draft of each row of a batch, a free one for a request that has
        none; -1 for padding.
        """
        for one in requests:
            if one != PADDING and one not in self.rows:
                self.rows[one] = self.free_rows.pop()
        return [PADDING if one == PADDING else self.rows[one] for one in requests]

    def commit(self, request: int, accepted: Sequence[int]) -> None:
        """Copy the state after the last accepted token of a request's draft into its slot, and free the row.
        Nothing is done for a request that has finished since.

        accepted: the tokens of the path, from the draft's first on; none leaves the state as it is.
        """
        if request in self.rows:
            self.accept(request, accepted)
            self.free_rows.append(self.rows.pop(request))

    def accept(self, request: int, accepted: Sequence[int]) -> None:
        """Copy the state after the last accepted token of a request's draft into its slot; its next draft
        starts from there, and takes the same row.

        accepted: as in `commit`.
        """
        if accepted:
            row = self.rows[request]
            self.memory.states[self.slots[request]] = self.memory.drafts[row, accepted[-1]]

    def finish(self, request: int) -> None:
        """Free a request's slot and row; a draft that waits for its commit is dropped. A snapshot stays."""
        self.free_slots.append(self.slots.pop(request))
        if request in self.rows:
            self.free_rows.append(self.rows.pop(request))

    def snapshot(self, request: int) -> None:
        """Copy a request's state into the slot of its snapshot."""
        self.memory.states[self.keep(request)] = self.memory.states[self.slots[request]]

    def keep(self, request: int) -> int:
        """Return the slot of a request's snapshot, a free one if it has none yet."""
        if request not in self.kept:
            self.kept[request] = self.free_slots.pop()
        return self.kept[request]

    def track(self, request: int, states: Tensor, at: int) -> None:
        """Copy a state that an extend returned into the slot of a request's snapshot.

        states: those before each chunk of the batch, [chunks, HV, V, K], as returned. at: which.
        """
        self.memory.states[self.keep(request)] = states[at].to(self.memory.states.dtype)

    def fork(self, request: int, source: int) -> None:
        """Give a new request a slot, with a copy of a snapshot."""
        slot = self.free_slots.pop()
        self.slots[request] = slot
        self.memory.states[slot] = self.memory.states[self.kept[source]]

    def adopt(self, request: int, source: int) -> None:
        """Give a new request the slot of a snapshot, which is one no more."""
        self.slots[request] = self.kept.pop(source)

    def drop(self, request: int) -> None:
        """Free the slot of a request's snapshot."""
        self.free_slots.append(self.kept.pop(request))

    def compact(self) -> None:
        """Move all states to the lowest slots, in their order, so that the free slots are the last."""
        held = sorted({*self.slots.values(), *self.kept.values()})
        self.move(dict(zip(held, self.pool, strict=False)))
        self.free_slots = list(reversed(self.pool[len(held) :]))

    def move(self, places: dict[int, int]) -> None:
        """Move the states of slots to other ones, all at once: a place may be a slot whose state moves too.

        places: the new slot of each.
        """
        states = self.memory.states
        states[list(places.values())] = states[list(places)]
        for taken in (self.slots, self.kept):
            taken.update({one: places[slot] for one, slot in taken.items()})
