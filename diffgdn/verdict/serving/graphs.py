"""Runs decode and verify through CUDA graphs, as engines do: captured once for each padded size, their
arguments in place.

A step's arguments are copied to the front of those that a graph was captured with. Behind them cu_seqlens
stays at the last token, tokens are what an earlier step left there, and so are the rows of the index tables;
in every other replay these hold poison.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from diffgdn.cases import padding
from diffgdn.cases.case import Case
from diffgdn.cases.execution import GRAPHS
from diffgdn.targets import Target, promises_of, refusal
from diffgdn.tensors import inputs, poison
from diffgdn.tensors.arena import Arguments
from diffgdn.tensors.layout import arrange
from diffgdn.verdict import checks, executions
from diffgdn.verdict.executions import Replayable
from diffgdn.verdict.serving.memory import Memory

if TYPE_CHECKING:
    from diffgdn.verdict.execute import Run

KINDS = ("decode", "verify")


@dataclass
class _Captured:
    """A graph, the arguments that it reads, and how often it was replayed."""

    case: Case
    arguments: Arguments
    graph: Replayable
    replays: int = 0


class Graphs:
    """The graphs of one serving loop, by the shapes of their arguments."""

    def __init__(self, target: Target, backend: str, memory: Memory) -> None:
        self._target, self._backend, self._memory = target, backend, memory
        self._machine = executions.machine_of(backend)
        self._held: dict[Case, _Captured] = {}

    def call(self, run: Run, arguments: Arguments) -> dict[str, Tensor]:
        """Make a run's call by a graph if it is one of KINDS and the target takes it padded, else plainly.

        Returns the results of the run's own sequences. Raises NotCaptured, KernelRaised, and what is raised
        for inputs that were written.
        """
        case = _padded(run.case)
        if self._machine is None or case is None or refusal(self._target, case, self._backend) is not None:
            return run.call(arguments)
        key = _shape_of(case)
        if key not in self._held:
            self._held[key] = self._capture(case, len(run.case.lens))
        held = self._held[key]
        self._fill(held, arguments, len(run.case.lens))
        held.arguments.snapshot()
        with executions.raised(run.case, "the replay of the graph"):
            held.graph.replay()
        checks.check_memory(run.case, held.arguments.find_change())
        size = tuple(slice(0, n) for n in arguments["v"].shape)
        return {name: tensor[size].clone() for name, tensor in held.graph.returned.items()}

    def _capture(self, case: Case, live: int) -> _Captured:
        """Capture the call of a padded case over the loop's own memory, on contents unlike those of the step;
        memory is then as it was.
        """
        assert self._machine is not None
        data, device = inputs.draw(case), self._memory.pool.view.device
        arguments = arrange(case, data, device, self._target.layout)
        other = padding.other_contents(case, live)
        if other is not None:
            made = executions.other_data(case, other, data)
            arguments.arena.copy_(arrange(other, made, device, self._target.layout).arena)
        arguments.tensors["state"] = self._memory.pool.view
        if case.keeps_steps:
            arguments.tensors["buffer"] = self._memory.buffer.view
        before = self._memory.words()
        graph = executions.captured(case, self._machine, lambda: self._target.run(case, arguments))
        self._memory.put_back(before)
        return _Captured(case, arguments, graph)

    def _fill(self, held: _Captured, given: Arguments, live: int) -> None:
        """Copy a call's arguments to the front of those of a graph, and set what lies behind."""
        for name, tensor in given.tensors.items():
            if tensor is not None and name not in ("state", "buffer"):
                place = held.arguments[name]
                place[tuple(slice(0, n) for n in tensor.shape)] = tensor
                if name == "cu_seqlens":
                    place[live + 1 :] = tensor[-1]
        tails = GRAPHS[1 + held.replays % 2] if padding.is_ragged(held.case) else "graph"
        if tails not in promises_of(self._target).of(held.case.op).execution:
            tails = "graph"
        held.replays += 1
        for name in ("indices", "rows"):
            table = held.arguments.get(name)
            if table is not None and tails == "graph":
                table[live:] = -1
            elif table is not None and tails == "graph_poisoned":
                poison.fill(table[live:])


def _padded(case: Case) -> Case | None:
    """Pad a call to a captured size, tokens too; None for calls that are no part of a graph."""
    if case.operation.kind not in KINDS:
        return None
    sequences, longest = padding.captured_size(len(case.lens)), padding.captured_size(max(1, *case.lens))
    tokens = sequences * longest - case.tokens if padding.is_ragged(case) else 0
    try:
        return replace(padding.padded(case, sequences, tokens, room=False), execution="graph")
    except ValueError:
        return None


def _shape_of(case: Case) -> Case:
    """Return a case of the same shapes and options, the same for all of them."""
    count = len(case.lens)
    lens = (0,) * count if padding.is_ragged(case) else case.lens
    none = (-1,) * count
    pool = replace(case.pool, indices=none, rows=none if case.pool.rows else ())
    tail = case.tokens if padding.is_ragged(case) else case.tail
    parents = tuple(tuple(range(-1, length - 1)) for length in lens) if case.parents else ()
    seedless = replace(case.values, seed=0)
    return replace(case, lens=lens, pool=pool, tail=tail, parents=parents, values=seedless)
