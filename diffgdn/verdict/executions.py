"""Makes a case's call once more, in the way that its execution names, and asks for the same bits.

The plain call comes first, and every check is asked of it. Then memory is made to hold other contents of the
same shapes (`padding.other_contents`), so that a kernel that runs too early, or not at all, or by what was
decided for other contents, leaves other results. A graph is warmed up and captured on them, then replayed
with the contents of the case; on a side stream, and on a second device, the contents of the case arrive on
the stream of the call, behind a wait, and nothing else waits for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from diffgdn.cases import padding
from diffgdn.cases.case import Case
from diffgdn.cases.execution import GRAPHS, TAILS
from diffgdn.targets import Target, refusal
from diffgdn.tensors import poison
from diffgdn.tensors.arena import Arguments
from diffgdn.tensors.inputs import Data
from diffgdn.tensors.layout import arrange
from diffgdn.tensors.poison import FilledEmpty
from diffgdn.verdict import checks
from diffgdn.verdict.failures import KernelRaised, NotCaptured

if TYPE_CHECKING:
    from diffgdn.verdict.execute import Run

Results = dict[str, Tensor]
Call = Callable[[], Results]
TABLES = ("indices", "rows", "parents")  # rows of sequences in tables of indices
REPLAYS = 2  # what a replay leaves behind in memory of its own shows in the next
WAIT_CYCLES = 10_000_000  # of the GPU's clock, some 5 ms: longer than a launcher takes


class Replayable(Protocol):
    """A call that can be made again from the same addresses. returned: its results, overwritten each time."""

    returned: Results

    def replay(self) -> None:
        """Make the call again, and wait until it has ended."""


class Machine(Protocol):
    """What executes calls."""

    @property
    def devices(self) -> int:
        """Count the devices of one kind that it has."""

    def capture(self, call: Call) -> Replayable:
        """Make the call once to warm up, then capture it. Raises KernelRaised's cause, or CaptureFailed."""

    def aside(self, device: torch.device) -> AbstractContextManager[AbstractContextManager[object]]:
        """Enter a stream of which nothing has been waited for. What is entered with it makes calls; leaving
        it waits for the stream.
        """


class CaptureFailed(Exception):
    """Raised if a call cannot be captured; its cause says why."""


class Captured:
    """A call in a CUDA graph."""

    def __init__(self, call: Call) -> None:
        stream, self._graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            call()
            stream.synchronize()
            try:
                self.returned = self._capture(call)
            except Exception as error:
                raise CaptureFailed from error

    def _capture(self, call: Call) -> Results:
        self._graph.capture_begin()
        try:
            with FilledEmpty():
                returned = call()
        except BaseException:
            with suppress(RuntimeError):  # of a capture that the call has broken
                self._graph.capture_end()
            raise
        self._graph.capture_end()
        return returned

    def replay(self) -> None:
        """Launch the graph, and wait for it."""
        self._graph.replay()
        torch.cuda.synchronize()


class Gpu:
    """The GPUs that this process sees."""

    @property
    def devices(self) -> int:
        """Count those of the first one's kind: others may round otherwise."""
        names = [torch.cuda.get_device_name(n) for n in range(min(2, torch.cuda.device_count()))]
        return names.count(names[0])

    def capture(self, call: Call) -> Replayable:
        """Warm up on a side stream, as torch asks for, and capture there."""
        return Captured(call)

    @contextmanager
    def aside(self, device: torch.device) -> Iterator[AbstractContextManager[object]]:
        """Wait a while on a side stream of the first device, or on the own stream of another."""
        current = torch.cuda.current_device()
        torch.cuda.synchronize(device)
        other = device.index not in (None, current)
        stream = torch.cuda.current_stream(device) if other else torch.cuda.Stream(device)
        with torch.cuda.stream(stream):
            torch.cuda._sleep(WAIT_CYCLES)
            # The arguments decide where a call goes: on another device than the current one that is all.
            yield torch.cuda.device(current) if other else nullcontext()
            stream.synchronize()


def machine_of(backend: str) -> Machine | None:
    """Return what executes calls otherwise than plainly; None where there is nothing else."""
    return Gpu() if backend == "gpu" else None


def lacking(case: Case, backend: str) -> str | None:
    """Say what this machine lacks for the execution of a case, or return None. In the interpreter each case
    is called plainly.
    """
    machine = machine_of(backend)
    if machine is None or case.execution != "device" or machine.devices > 1:
        return None
    return "execution: device needs a second GPU of one kind, and this process sees one"


def as_run(case: Case, target: Target, backend: str) -> Case:
    """Return the case that runs in the place of one that is executed in a graph: padded, as far as the
    target takes that.
    """
    if case.execution not in GRAPHS or machine_of(backend) is None:
        return case
    return next(one for one in padding.for_graph(case) if one == case or not refusal(target, one, backend))


def check(run: Run, data: Data, first: Results) -> None:
    """Make the call of a run in the way that its case's execution names. Raises ExecutionDiffers,
    NotCaptured or KernelRaised.

    data: of the case. first: results of the plain call, which has just been made.
    """
    machine, execution = machine_of(run.backend), run.case.execution
    if machine is None or execution == "eager":
        return
    assert run.arguments is not None
    after = run.arguments.bits()
    if execution in GRAPHS:
        _check_graph(run, machine, data, first, after)
        return
    arguments = run.arguments
    if execution == "device":
        arguments = arrange(run.case, data, "cuda:1", run.target.layout)
    stage(arguments, other_arguments(run, data, arguments))
    what = "on a side stream" if execution == "stream" else "on a second device, the first being current"
    with raised(run.case, f"the call {what}"), machine.aside(arguments.arena.device) as calling:
        arguments.restore()
        with calling, FilledEmpty():
            returned = run.target.run(run.case, arguments)
        copies = {name: tensor.clone() for name, tensor in run.results(arguments, returned).items()}
        tail = run.promised_tail(returned)
        left = arguments.arena.clone()
    arguments.arena.copy_(left)  # as it was when the stream of the call was done
    _compare(run.case, first, copies, after, arguments.bits(), f"the call {what}")
    if tail is not None:
        checks.check_tail(run.case, tail, how=f"the call {what}")


def other_arguments(run: Run, data: Data, arguments: Arguments) -> Arguments | None:
    """Lay out other contents for the shapes of a run's arguments; None if there are none.

    A far pool is not made twice: then contents stay what they are.
    """
    case = run.case
    other = None if arguments.far else padding.other_contents(case, run.live)
    if other is None or refusal(run.target, replace(other, execution="eager"), run.backend) is not None:
        return None
    made = arrange(other, other_data(case, other, data), arguments.arena.device, arguments.layout)
    return made if made.arena.shape == arguments.arena.shape else None


def stage(arguments: Arguments, other: Arguments | None) -> None:
    """Put other contents where arguments lie; their own if there are none."""
    if other is None:
        arguments.restore()
    else:
        arguments.arena.copy_(other.arena)


def other_data(case: Case, other: Case, data: Data) -> Data:
    """Take the tensors of a case in the opposite order, as many tokens and states as the other has.

    Where the case has none, they are zero. Padding tokens are NaN.
    """
    made = dict(data)
    order = torch.arange(other.total)
    for name in ("q", "k", "v", "g", "beta", "a", "b"):
        if name in data:
            full = torch.full_like(data[name], torch.nan)
            backwards = case.total - 1 - order % max(case.total, 1)
            full[: other.total] = data[name][backwards] if case.total else 0
            made[name] = full
    if "state" in data:
        made["state"] = data["state"].flip(0)
    return made


def set_tails(arguments: Arguments, live: int, execution: str, other: Arguments | None) -> None:
    """Let the rows of sequences from `live` on in tables of indices hold what they held at capture
    (graph_stale), or poison.
    """
    for name in TABLES if execution in TAILS else ():
        table = arguments.get(name)
        if table is None:
            continue
        if execution == "graph_poisoned":
            poison.fill(table[live:])
        elif other is not None:
            table[live:] = other[name][live:]


def _check_graph(run: Run, machine: Machine, data: Data, first: Results, after: Tensor) -> None:
    """Capture the call on other contents, and replay it with those of the case."""
    assert run.arguments is not None
    case, arguments = run.case, run.arguments
    other = other_arguments(run, data, arguments)
    stage(arguments, other)
    graph = captured(case, machine, lambda: run.target.run(case, arguments))
    stage(arguments, other)
    between = run.call(arguments)  # what it returns is the caller's, whatever is replayed later
    kept = {name: tensor.clone() for name, tensor in between.items()}
    for _ in range(REPLAYS):
        arguments.restore()
        own = [(table, table.clone()) for name in TABLES if (table := arguments.get(name)) is not None]
        set_tails(arguments, run.live, case.execution, other)
        with raised(case, "the replay of the graph"):
            graph.replay()
        for table, values in own:
            table.copy_(values)
        results = run.results(arguments, graph.returned)
        _compare(case, first, results, after, arguments.bits(), "the replay of its graph")
        tail = run.promised_tail(graph.returned)
        if tail is not None:
            checks.check_tail(case, tail, how="the replay of its graph")
    passed = {one.untyped_storage().data_ptr() for one in arguments.tensors.values() if one is not None}
    for name, tensor in between.items():
        if tensor.untyped_storage().data_ptr() not in passed:
            checks.check_kept(case, _words(kept[name]), _words(tensor), name)


def captured(case: Case, machine: Machine, call: Call) -> Replayable:
    """Capture a call. Raises NotCaptured, and KernelRaised where the call fails without a graph too."""
    try:
        with raised(case, "warming up"):
            return machine.capture(call)
    except CaptureFailed as failed:
        error = failed.__cause__
        if isinstance(error, torch.OutOfMemoryError):
            raise error from None  # no fault of the kernel, as anywhere else
        raise NotCaptured(case.op, None, None, f"no CUDA graph can hold the call: {_line(error)}") from error


@contextmanager
def raised(case: Case, what: str) -> Iterator[None]:
    """Turn what a call raises into KernelRaised."""
    try:
        yield
    except (CaptureFailed, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise KernelRaised(case.op, None, None, f"{_line(error)} ({what})") from error


def _line(error: BaseException | None) -> str:
    """Put an exception into one line."""
    message = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {message[0]}"


def _compare(case: Case, first: Results, again: Results, after: Tensor, now: Tensor, how: str) -> None:
    """Raise ExecutionDiffers unless results and memory have the bits of the plain call."""
    for name, tensor in first.items():
        checks.check_executed(case, tensor, again[name].cpu(), name, how)
    checks.check_executed(case, after, now, "memory", how)


def _words(tensor: Tensor) -> Tensor:
    """View or copy a tensor as 16-bit words."""
    return tensor.reshape(-1).contiguous().view(torch.int16)
