"""Plays a trace on a target, and asks after every step whether each request still has its own state.

Three questions, in this order, after every step:
- Memory: only what the step documents as written differs, bit for bit: the slots of the live requests in the
  batch, the buffer rows of their drafts. Every other slot (live, freed or never used), every draft that
  waits for its commit, guards, gaps and inputs are as they were.
- The step: results against the oracle that starts from the very bits that the pool held before the step,
  within the bound of the case (`diffgdn.reference.noise`). The rounding of earlier stores is in those bits,
  so it needs no allowance. An arrival must leave a zero state, a commit the bits of the accepted draft, a
  snapshot, a fork and a move those of the state that was copied.
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
from diffgdn.cases.trace import Trace
from diffgdn.cases.trace_steps import CALLS, PADDING, Step
from diffgdn.reference import noise
from diffgdn.targets import Target, refusal
from diffgdn.tensors import inputs
from diffgdn.tensors.arena import Arguments
from diffgdn.tensors.inputs import Data
from diffgdn.tensors.layout import arrange
from diffgdn.verdict import checks
from diffgdn.verdict.comparison import Comparison, compare_results, received_dtypes
from diffgdn.verdict.execute import Run, device_of
from diffgdn.verdict.failures import CheckFailure, NeverWritten, SlotChanged, Verdict
from diffgdn.verdict.serving.graphs import Graphs
from diffgdn.verdict.serving.loop import Loop
from diffgdn.verdict.serving.memory import Memory
from diffgdn.verdict.serving.state_steps import StateSteps
from diffgdn.verdict.serving.tables import Tables

MakeLoop = Callable[[int, int, Memory], Loop]


@dataclass(frozen=True)
class Played:
    """The outcome of a trace: the failure of a step, why nothing was run, or neither.

    at: the number of the step that failed. share: worst error of any result as a share of its bound. seconds:
    of the whole trace. comparison: the result that failed, if one did.
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
        """Turn the outcome into a verdict, of the trace's last call."""
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
    """Play a trace on a target, and check every step.

    A fault of a kernel or of the loop never raises; errors of the framework itself do.

    loop: makes the serving loop from the number of slots, that of rows, and the memory.
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


class Player(StateSteps):
    """A trace under way on a target. failed: the result that failed."""

    def __init__(self, trace: Trace, target: Target, backend: str, loop: MakeLoop = Loop) -> None:
        self.target, self.backend = target, backend
        self.device = device_of(backend)
        memory = Memory(trace, target.layout, self.device)
        super().__init__(trace, memory, loop(trace.slots, trace.rows, memory))
        self.tables = Tables(trace, self.device) if trace.reuse else None
        self.graphs = Graphs(target, backend, memory) if trace.graphs else None
        self.share = 0.0
        self.failed: Comparison | None = None

    def step(self, number: int) -> str | None:
        """Do a step and check what it left. Returns why the target refuses it, or None.

        Raises CheckFailure, whose message names the step.
        """
        step = self.trace.steps[number]
        op = f"{self.trace.family}.{step.act}" if step.act in CALLS else self.trace.op
        self.memory.snapshot()
        trees, words = {**self.book.drafts, **self.book.gone}, self.book.words(step)
        self.book.apply(step)
        try:
            if step.act in CALLS:
                if step.accepted:
                    self.accept(self.trace.op, step, trees)
                    self.memory.snapshot()
                refused = self._call(number, step)
                if refused is not None:
                    return refused
            else:
                getattr(self, step.act)(op, step, trees)
            self.histories.check(op, self.memory.states, self.slots, self.kept)
        except CheckFailure as found:
            message = f"step {number} ({words}): {found.message}"
            raise type(found)(found.operation, found.tensor, found.place, message) from found
        return None

    def _call(self, number: int, step: Step) -> str | None:
        """Call the target and check what it left. Returns why the target refuses the case, or None."""
        asked = {"indices": self.loop.indices(step.requests)}
        rows: dict[int, int] = {}
        if step.act == "verify":
            asked["rows"] = self.loop.draft_rows(step.requests)
            rows = {one: row for one, row in zip(step.requests, asked["rows"], strict=True) if one != PADDING}
            self._check_rows(f"{self.trace.family}.verify", rows)
        case = self.trace.call(number, self.slots, rows)
        refused = refusal(self.target, case, self.backend)
        if refused is not None:
            return refused
        run = Run(case, self.target, self.backend, explain=False)
        data = inputs.draw(case)
        data["state"] = self._states(step)
        arguments = self._arrange(case, data, asked)
        if self.tables is not None:
            self.tables.lend(arguments)
        returned = run.call(arguments) if self.graphs is None else self.graphs.call(run, arguments)
        if self.tables is not None:
            self.tables.take_back(case.op)
        checks.check_memory(case, arguments.find_change())
        run.check_fresh(returned)
        waiting = {row for one, (row, _) in self.drafts.items() if one not in rows}
        kept = [] if step.act != "verify" else case.kept
        self.check_unchanged(
            case.op,
            slots=[case.pool.indices[n] for n in case.stored] if case.writes_state else [],
            steps=[(row, step) for _, row, step in kept if row not in waiting],
        )
        patterns = {name: run.fresh.pattern(tensor) for name, tensor in returned.items()}
        found = run.results(arguments, returned)
        results = {name: tensor.cpu() for name, tensor in found.items()}
        compared = self._compare(case, data, results, patterns)
        tracked = _tracked(case, step)
        if tracked and "boundary" not in found:
            raise NeverWritten(case.op, "boundary", None, "the states before chunks were not returned")
        self.histories.advance(case, data, step.requests, compared, tracked)
        for request, row in rows.items():
            length = step.lengths[step.requests.index(request)]
            self.drafts[request] = (row, self.memory.drafts[row, :length].clone())
        if tracked:
            self.track(case.op, tracked, found["boundary"])
        return None

    def _check_rows(self, op: str, rows: dict[int, int]) -> None:
        """Raise SlotChanged if the loop gave two drafts of a batch one row of the buffer."""
        owners: dict[int, int] = {}
        for request, row in rows.items():
            owner = owners.setdefault(row, request)
            if owner != request:
                raise SlotChanged(op, "buffer", f"row {row}", f"request {request} got the row of {owner}")

    def _states(self, step: Step) -> Tensor:
        """Copy what the pool holds for each row of a batch, [N, HV, V, K] on the CPU; zero for padding."""
        states = self.memory.states
        zero = torch.zeros_like(states[0])
        rows = [zero if one == PADDING else states[self.slots[one]] for one in step.requests]
        return torch.stack(rows).cpu()

    def _arrange(self, case: Case, data: Data, asked: dict[str, list[int]]) -> Arguments:
        """Lay out the arguments of a call over the pool and the buffer themselves.

        asked: what the loop names: slots as "indices", rows of the buffer as "rows".
        """
        arguments = arrange(case, data, self.device, self.target.layout)
        arguments.tensors["state"] = self.memory.pool.view
        if case.keeps_steps:
            arguments.tensors["buffer"] = self.memory.buffer.view
        for name, values in asked.items():
            arguments[name].copy_(torch.tensor(values))
        arguments.snapshot()
        return arguments

    def _compare(
        self, case: Case, data: Data, results: dict[str, Tensor], patterns: dict[str, int]
    ) -> dict[str, Comparison]:
        """Check each result beside the oracle that started from the pool, and return the comparisons by name.

        patterns: that the memory of each returned result was filled with. Raises CheckFailure.
        """
        reference = noise.reference(case, data, self.target.contract(case.op), received_dtypes(case, results))
        compared = {}
        for comparison in compare_results(case, results, reference, patterns):
            self.failed = comparison
            checks.check_written(comparison)
            checks.check_finite(comparison)
            if reference.exact:
                checks.check_exact(comparison)
            else:
                self.share = max(self.share, comparison.share)
                checks.check_bounded(comparison)
            compared[comparison.name] = comparison
        self.failed = None
        return compared


def _tracked(case: Case, step: Step) -> dict[int, int]:
    """Find the row of `boundary` of which each request's snapshot is taken."""
    rows, first = {}, 0
    for one, length, chunk in zip(step.requests, case.lens, step.chunks, strict=bool(step.chunks)):
        if chunk >= 0:
            rows[one] = first + chunk
        first += -(-length // case.chunk_size)
    return rows
