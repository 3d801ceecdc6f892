"""Plays a trace on a target, and asks after every step whether each request still has what is its own.

Three questions, in this order, after every step:
- Memory: only what the step documents as written differs, bit for bit: the slots of the live requests in the
  batch, the buffer rows of their drafts. Every other slot (live, freed or never used), every draft that
  waits for its commit, guards, gaps and inputs are as they were.
- The step: results against the oracle that starts from the very bits that the pool held before the step,
  within the bound of the case (`diffgdn.reference.noise`). The rounding of earlier stores is in those bits,
  so it needs no allowance. An arrival must leave a zero state, a commit the bits of the accepted draft.
- The history: state and outputs of every live request against one recurrence over its whole history; see
  `history` for its bound. The step's check cannot see a pool that held another request's state all along;
  this one can.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffgdn.backend import interpreter
from diffgdn.cases.case import Case
from diffgdn.cases.trace import CALLS, PADDING, REJECTED, Book, Step, Trace, path
from diffgdn.reference import noise
from diffgdn.targets import Target
from diffgdn.tensors import arena, inputs
from diffgdn.tensors.arena import Arguments
from diffgdn.tensors.inputs import Data
from diffgdn.verdict import checks
from diffgdn.verdict.checks import CheckFailure, Comparison, NotExact, SlotChanged
from diffgdn.verdict.execute import Run, comparisons, device_of, kept_in
from diffgdn.verdict.failures import Verdict
from diffgdn.verdict.serving.history import Histories
from diffgdn.verdict.serving.loop import Loop
from diffgdn.verdict.serving.memory import Memory, Place

MakeLoop = Callable[[int, int, Memory], Loop]


@dataclass(frozen=True)
class Played:
    """What became of a trace: the failure of step number `at`, why nothing was run, or neither.

    share: worst error of any result as a share of its bound. seconds: of all of it.
    """

    trace: Trace
    target: str
    backend: str
    failure: CheckFailure | None = None
    at: int | None = None
    refused: str | None = None
    share: float = 0.0
    seconds: float = 0.0
    comparison: Comparison | None = field(default=None, repr=False)

    def verdict(self) -> Verdict:
        """The same as the verdict of a case."""
        return Verdict(
            self.trace.last_call(),
            self.target,
            self.backend,
            self.failure,
            self.refused,
            shares={"trace": self.share} if self.share else {},
            seconds={"trace": self.seconds},
            comparison=self.comparison,
            step=self.at,
        )


def play(trace: Trace, target: Target, backend: str, loop: MakeLoop = Loop) -> Played:
    """Run a trace. A fault of a kernel or of the loop never raises; errors of the framework itself do.

    loop: makes the serving loop from slots, rows and memory.
    """
    missing = [op for op in trace.operations if op not in target.operations]
    if missing:
        return Played(trace, target.name, backend, refused=f"{target.name} does not implement {missing[0]}")
    if backend == "interpret":
        interpreter.repair()
    began, player = time.perf_counter(), Player(trace, target, backend, loop)
    for number in range(len(trace.steps)):
        refused, failure = None, None
        try:
            refused = player.step(number)
        except CheckFailure as found:
            failure = found
        if failure is not None or refused is not None:
            seconds = time.perf_counter() - began
            comparison = player.failed if failure is not None else None
            at = None if failure is None else number
            return Played(
                trace, target.name, backend, failure, at, refused, player.share, seconds, comparison
            )
    return Played(trace, target.name, backend, share=player.share, seconds=time.perf_counter() - began)


class Player:
    """A trace under way: the loop, the memory, and what is known of both apart from the loop.

    slots: of each live request. drafts: of each draft that waits, its row and the states that verify left
    there.
    """

    def __init__(self, trace: Trace, target: Target, backend: str, loop: MakeLoop = Loop) -> None:
        self.trace, self.target, self.backend = trace, target, backend
        self.device = device_of(backend)
        self.memory = Memory(trace, target.layout, self.device)
        self.loop = loop(trace.slots, trace.rows, self.memory)
        self.slots: dict[int, int] = {}
        self.drafts: dict[int, tuple[int, Tensor]] = {}
        self.book = Book(trace)
        self.histories = Histories()
        self.share = 0.0
        self.failed: Comparison | None = None

    def step(self, number: int) -> str | None:
        """Do a step and check what it left; why the target refuses it, or None. Raises CheckFailure, which
        names the step."""
        step = self.trace.steps[number]
        op = f"{self.trace.family}.{step.act}" if step.act in CALLS else self.trace.op
        self.memory.snapshot()
        trees = dict(self.book.drafts)
        self.book.apply(step)
        try:
            if step.act in CALLS:
                refused = self._call(number, step)
                if refused is not None:
                    return refused
            elif step.act == "commit":
                self._commit(op, step, trees)
            else:
                getattr(self, f"_{step.act}")(op, step)
            self.histories.check(op, self.memory.states, self.slots)
        except CheckFailure as found:
            message = f"step {number} ({step.words()}): {found.message}"
            raise type(found)(found.operation, found.tensor, found.place, message) from found
        return None

    def _arrive(self, op: str, step: Step) -> None:
        request = step.requests[0]
        self.loop.arrive(request)
        slot = self.loop.slots[request]
        owner = next((one for one, taken in self.slots.items() if taken == slot), None)
        if owner is not None:
            raise SlotChanged(
                op, "state", f"slot {slot}", f"request {request} got the slot of request {owner}"
            )
        self.slots[request] = slot
        self._unchanged(op, slots=[slot])
        state = self.memory.states[slot]
        if not bool((state == 0).all()):
            count = f"{int((state != 0).sum())} of {state.numel()} elements are not zero"
            raise NotExact(op, "state", f"slot {slot}", f"a new request does not start from zero: {count}")
        trace = self.trace
        self.histories.arrive(request, trace.HV, trace.V, trace.K)

    def _finish(self, op: str, step: Step) -> None:
        request = step.requests[0]
        self.loop.finish(request)
        self.slots.pop(request)
        self.drafts.pop(request, None)
        self.histories.finish(request)
        self._unchanged(op)

    def _commit(self, op: str, step: Step, trees: dict[int, tuple[int, ...]]) -> None:
        pairs = list(zip(step.requests, step.accepted, strict=True))
        for request, accepted in pairs:
            self.loop.commit(request, path(trees[request], accepted))
        self._unchanged(op, slots=[self.slots[one] for one, accepted in pairs if accepted != REJECTED])
        for request, accepted in pairs:
            _, states = self.drafts.pop(request)
            self.histories.commit(request, accepted)
            if accepted == REJECTED:
                continue
            slot = self.slots[request]
            wrong = self.memory.states[slot] != states[accepted]
            if bool(wrong.any()):
                others = [
                    n for n, state in enumerate(states) if bool((self.memory.states[slot] == state).all())
                ]
                held = f"; it is that after token {others[0]}" if others else ""
                raise NotExact(
                    op,
                    "state",
                    f"slot {slot}",
                    f"not the state after token {accepted} of request {request}'s draft{held}",
                )

    def _call(self, number: int, step: Step) -> str | None:
        asked = {"indices": self.loop.indices(step.requests)}
        rows: dict[int, int] = {}
        if step.act == "verify":
            asked["rows"] = self.loop.draft_rows(step.requests)
            rows = {one: row for one, row in zip(step.requests, asked["rows"], strict=True) if one != PADDING}
        case = self.trace.call(number, self.slots, rows)
        refused = self.target.refuses(case, self.backend)
        if refused is not None:
            return refused
        run = Run(case, self.target, self.backend, explain=False)
        data = inputs.draw(case)
        data["state"] = self._states(step)
        arguments = self._arranged(case, data, asked)
        returned = run.call(arguments)
        checks.memory(case, arguments.changes())
        run.check_fresh(returned)
        waiting = {row for row, _ in self.drafts.values()}
        kept = [] if step.act != "verify" else case.kept
        self._unchanged(
            case.op,
            slots=[case.pool.indices[n] for n in case.stored] if case.writes_state else [],
            steps=[(row, step) for _, row, step in kept if row not in waiting],
        )
        patterns = {name: run.fresh.pattern(tensor) for name, tensor in returned.items()}
        results = {name: tensor.cpu() for name, tensor in run.results(arguments, returned).items()}
        compared = self._compared(case, data, results, patterns)
        self.histories.advance(case, data, step.requests, compared)
        for request, row in rows.items():
            length = step.lengths[step.requests.index(request)]
            self.drafts[request] = (row, self.memory.drafts[row, :length].clone())
        return None

    def _states(self, step: Step) -> Tensor:
        """What the pool holds for each row of a batch, [N, HV, V, K]; zero for padding."""
        states = self.memory.states
        zero = torch.zeros_like(states[0])
        rows = [zero if one == PADDING else states[self.slots[one]] for one in step.requests]
        return torch.stack(rows).cpu()

    def _arranged(self, case: Case, data: Data, asked: dict[str, list[int]]) -> Arguments:
        """Arguments of a call over the pool and the buffer themselves, naming the slots that the loop asked
        for."""
        arguments = arena.arrange(case, data, self.device, self.target.layout)
        arguments.tensors["state"] = self.memory.pool.view
        if case.keeps_steps:
            arguments.tensors["buffer"] = self.memory.buffer.view
        for name, values in asked.items():
            arguments[name].copy_(torch.tensor(values))
        arguments.snapshot()
        return arguments

    def _unchanged(
        self, op: str, slots: list[int] | None = None, steps: list[tuple[int, int]] | None = None
    ) -> None:
        """Nothing but these slots and these steps of the buffer is written."""
        owners: dict[Place, str] = {
            (slot,): f"the state of request {one}" for one, slot in self.slots.items()
        }
        self.memory.pool.check(op, [(slot,) for slot in slots or []], owners)
        waiting: dict[Place, str] = {
            (row,): f"the draft of request {one}, which waits," for one, (row, _) in self.drafts.items()
        }
        self.memory.buffer.check(op, steps or [], waiting)

    def _compared(
        self, case: Case, data: Data, results: dict[str, Tensor], patterns: dict[str, int]
    ) -> dict[str, Comparison]:
        """Each result beside the oracle that started from the pool. Raises CheckFailure."""
        reference = noise.reference(case, data, self.target.contract(case.op), kept_in(case, results))
        compared = {}
        for comparison in comparisons(case, results, reference, patterns):
            self.failed = comparison
            checks.written(comparison)
            checks.finite(comparison, lambda: None, lambda mask: None)
            if reference.exact:
                checks.exact(comparison)
            else:
                self.share = max(self.share, comparison.share)
                checks.bounded(comparison)
            compared[comparison.name] = comparison
        self.failed = None
        return compared
