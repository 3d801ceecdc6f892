"""Checks the steps of a loop that call no kernel: arrivals, commits, snapshots, moves, ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from diffgdn.cases.trace import Trace
from diffgdn.cases.trace_steps import REJECTED, Book, Step, path
from diffgdn.verdict.failures import NotExact, SlotChanged
from diffgdn.verdict.serving.history import Histories
from diffgdn.verdict.serving.loop import Loop
from diffgdn.verdict.serving.memory import Memory, Place

Trees = dict[int, tuple[int, ...]]  # the parents of each request's draft


class StateSteps:
    """A trace under way: the loop, the memory, and what is known of both apart from the loop.

    slots: of live requests. kept: of snapshots, by request. drafts: for each request whose draft waits, its
    row of the buffer and the states [tokens, HV, V, K] that verify left there.
    """

    def __init__(self, trace: Trace, memory: Memory, loop: Loop) -> None:
        self.trace, self.memory, self.loop = trace, memory, loop
        self.slots: dict[int, int] = {}
        self.kept: dict[int, int] = {}
        self.drafts: dict[int, tuple[int, Tensor]] = {}
        self.book = Book(trace)
        self.histories = Histories()

    def arrive(self, op: str, step: Step, trees: Trees) -> None:
        """Let a request arrive. Raises SlotChanged for a slot that is taken, NotExact for a state other than
        zero."""
        request = step.requests[0]
        self.loop.arrive(request)
        slot = self._take_slot(op, request)
        self.check_unchanged(op, slots=[slot])
        state = self.memory.states[slot]
        if not bool((state == 0).all()):
            count = f"{int((state != 0).sum())} of {state.numel()} elements are not zero"
            raise NotExact(op, "state", f"slot {slot}", f"a new request does not start from zero: {count}")
        trace = self.trace
        self.histories.arrive(request, trace.HV, trace.V, trace.K)

    def finish(self, op: str, step: Step, trees: Trees) -> None:
        """Let a request finish; nothing may be written."""
        request = step.requests[0]
        self.loop.finish(request)
        self.slots.pop(request)
        self.drafts.pop(request, None)
        self.histories.finish(request)
        self.check_unchanged(op)

    def commit(self, op: str, step: Step, trees: Trees) -> None:
        """Commit drafts. Raises NotExact unless each slot then holds the state of its accepted token; for a
        request that has finished nothing may be written."""
        pairs = list(zip(step.requests, step.accepted, strict=True))
        for request, accepted in pairs:
            self.loop.commit(request, path(trees[request], accepted))
        self._check_accepted(op, pairs)

    def accept(self, op: str, step: Step, trees: Trees) -> None:
        """Accept tokens of drafts that wait, for the drafts of a verify to start from. Raises as `commit`."""
        rows = zip(step.requests, step.accepted, strict=True)
        pairs = [(one, accepted) for one, accepted in rows if one in self.drafts]
        for request, accepted in pairs:
            self.loop.accept(request, path(trees[request], accepted))
        self._check_accepted(op, pairs)

    def _check_accepted(self, op: str, pairs: Sequence[tuple[int, int]]) -> None:
        """Check slots after a commit. pairs: (request, last accepted token)."""
        here = [(one, accepted) for one, accepted in pairs if one in self.drafts]
        self.check_unchanged(op, slots=[self.slots[one] for one, accepted in here if accepted != REJECTED])
        for request, accepted in here:
            _, states = self.drafts.pop(request)
            self.histories.commit(request, accepted)
            if accepted == REJECTED:
                continue
            slot = self.slots[request]
            now = self.memory.states[slot]
            others = [n for n, state in enumerate(states) if bool((now == state).all())]
            held = f"; it is that after token {others[0]}" if others else ""
            words = f"the state after token {accepted} of request {request}'s draft"
            self._check_bits(op, slot, states[accepted], words, held)

    def snapshot(self, op: str, step: Step, trees: Trees) -> None:
        """Take snapshots of states. Raises SlotChanged for a slot that is taken, NotExact for another
        state."""
        for request in step.requests:
            self.loop.snapshot(request)
        self._check_kept(op, {one: self.memory.before(self.slots[one]) for one in step.requests})
        for request in step.requests:
            self.histories.snapshot(request)

    def track(self, op: str, tracked: dict[int, int], states: Tensor) -> None:
        """Take snapshots of states that an extend returned, [chunks, HV, V, K]. Raises as `snapshot`.

        tracked: the row of each request.
        """
        self.memory.snapshot()
        for request, row in tracked.items():
            self.loop.track(request, states, row)
        rounded = {one: states[row].to(self.memory.states.dtype) for one, row in tracked.items()}
        self._check_kept(op, rounded)
        for request, row in tracked.items():
            errors = rounded[request].double() - states[row].double()
            self.histories.round_snapshot(request, errors.cpu())

    def _check_kept(self, op: str, states: dict[int, Tensor]) -> None:
        """Check that snapshots lie in slots of their own and hold these states."""
        for request in states:
            slot = self.loop.kept[request]
            if self.kept.get(request) != slot:
                self._check_free(op, slot, f"the snapshot of request {request}")
            self.kept[request] = slot
        self.check_unchanged(op, slots=[self.kept[one] for one in states])
        for request, state in states.items():
            words = f"the state of request {request} of which the snapshot was to be taken"
            self._check_bits(op, self.kept[request], state, words)

    def fork(self, op: str, step: Step, trees: Trees) -> None:
        """Let a request start from a copy of a snapshot. Raises SlotChanged for a slot that is taken,
        NotExact for another state."""
        request, source = step.requests[0], step.sources[0]
        self.loop.fork(request, source)
        slot = self._take_slot(op, request)
        self.check_unchanged(op, slots=[slot])
        state = self.memory.before(self.kept[source])
        self._check_bits(op, slot, state, f"the state in the snapshot of request {source}")
        self.histories.fork(request, source)

    def adopt(self, op: str, step: Step, trees: Trees) -> None:
        """Let a request take over a snapshot's slot. Nothing may be written."""
        request, source = step.requests[0], step.sources[0]
        self.loop.adopt(request, source)
        taken, slot = self.loop.slots[request], self.kept.pop(source)
        if taken != slot:
            words = f"request {request} was to have the slot of the snapshot of {source}, {slot}"
            raise SlotChanged(op, "state", f"slot {taken}", words)
        self.slots[request] = slot
        self.check_unchanged(op)
        self.histories.fork(request, source)
        self.histories.drop(source)

    def drop(self, op: str, step: Step, trees: Trees) -> None:
        """Free the slot of a snapshot; nothing may be written."""
        request = step.requests[0]
        self.loop.drop(request)
        self.kept.pop(request)
        self.histories.drop(request)
        self.check_unchanged(op)

    def compact(self, op: str, step: Step, trees: Trees) -> None:
        """Move states to the lowest slots. Raises SlotChanged if two have one slot or one is elsewhere,
        NotExact unless each is then what it was, bit for bit."""
        before = {owner: self.memory.before(slot) for owner, slot in self._owned()}
        self.loop.compact()
        self.slots = {one: self.loop.slots[one] for one in self.slots}
        self.kept = {one: self.loop.kept[one] for one in self.kept}
        held, first = sorted(slot for _, slot in self._owned()), self.memory.reserved
        if held != list(range(first, first + len(held))):
            raise SlotChanged(op, "state", None, f"the states lie in slots {held} after a compaction")
        self.check_unchanged(op, slots=held)
        for owner, slot in self._owned():
            self._check_bits(op, slot, before[owner], f"the state of {owner} as it was before it moved")

    def _owned(self) -> Iterable[tuple[str, int]]:
        """List who has which slot."""
        yield from ((f"request {one}", slot) for one, slot in self.slots.items())
        yield from ((f"the snapshot of request {one}", slot) for one, slot in self.kept.items())

    def _take_slot(self, op: str, request: int) -> int:
        """Note the slot that the loop gave a new request. Raises SlotChanged if it is taken."""
        slot = self.loop.slots[request]
        self._check_free(op, slot, f"request {request}")
        self.slots[request] = slot
        return slot

    def _check_free(self, op: str, slot: int, who: str) -> None:
        """Raise SlotChanged if a slot that the loop chose is somebody's."""
        owner = next((one for one, taken in self._owned() if taken == slot), None)
        if owner is not None:
            raise SlotChanged(op, "state", f"slot {slot}", f"{who} got the slot of {owner}")

    def _check_bits(self, op: str, slot: int, state: Tensor, words: str, held: str = "") -> None:
        """Raise NotExact unless a slot holds a state, [HV, V, K]. held: what it holds instead, if known."""
        if bool((self.memory.states[slot] != state).any()):
            raise NotExact(op, "state", f"slot {slot}", f"not {words}{held}")

    def check_unchanged(
        self, op: str, slots: list[int] | None = None, steps: list[tuple[int, int]] | None = None
    ) -> None:
        """Raise GuardWritten or SlotChanged if anything but these slots and steps (row, step) was written."""
        owners: dict[Place, str] = {
            (slot,): f"the state of {one}" if one.startswith("request") else one
            for one, slot in self._owned()
        }
        self.memory.pool.check(op, [(slot,) for slot in slots or []], owners)
        waiting: dict[Place, str] = {
            (row,): f"the draft of request {one}, which waits," for one, (row, _) in self.drafts.items()
        }
        self.memory.buffer.check(op, steps or [], waiting)
