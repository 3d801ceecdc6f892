"""Asks whether a target's results are right before its time counts: on a case cut to what the oracle does in
seconds, and on some lanes of the very call that is timed.

The cut case has the same build, heads and dimensions, and goes through every check. At full size memory is
watched, every result must be written and finite, and the results of a few (sequence, head) lanes are compared
with the oracle's within the bounds of the same contract: lanes never meet, so that a few of them are a case
of their own.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffgdn.backend import interpreter
from diffgdn.cases.case import Case
from diffgdn.reference import noise
from diffgdn.targets import Target, pinning
from diffgdn.tensors import inputs, poison
from diffgdn.tensors.arena import Arguments
from diffgdn.tensors.inputs import Data
from diffgdn.tensors.layout import arrange
from diffgdn.tensors.results import result_of
from diffgdn.verdict import checks, execute
from diffgdn.verdict.comparison import compare_results, received_dtypes
from diffgdn.verdict.execute import Run
from diffgdn.verdict.failures import NeverWritten, NotFinite, Verdict

CUT_SEQUENCES = 2
CUT_LENGTH = 140  # two chunks of 64, and a part of a third
QUERIES = ("q", "k")
WEIGHTS = ("A_log", "dt_bias")


@dataclass(frozen=True)
class Lanes:
    """Some value heads of some sequences of a case."""

    sequences: tuple[int, ...]
    heads: tuple[int, ...]

    @property
    def words(self) -> str:
        """Name them."""
        return f"sequences {_listed(self.sequences)}, value heads {_listed(self.heads)}"


def _listed(numbers: tuple[int, ...]) -> str:
    return " ".join(map(str, numbers))


def cut(case: Case) -> Case:
    """Make the case that goes through every check: fewer and shorter sequences, all else the same."""
    lens = tuple(min(length, CUT_LENGTH) for length in case.lens[:CUT_SEQUENCES])
    return _with(case, lens, case.H, case.HV)


def _with(case: Case, lens: tuple[int, ...], H: int, HV: int) -> Case:
    """Make the same case of other sequences and heads, each sequence with a slot of its own."""
    order = tuple(range(len(lens)))
    rows = order if case.pool.rows else ()
    pool = replace(case.pool, slots=len(lens), indices=order, buffer=len(rows), rows=rows)
    return replace(case, lens=lens, H=H, HV=HV, pool=pool)


def lanes_of(case: Case) -> Lanes:
    """Choose the first, the last and one in between, of the sequences and of the heads."""
    return Lanes(_some(len(case.lens)), _some(case.HV))


def _some(count: int) -> tuple[int, ...]:
    return tuple(sorted({0, 5 * count // 8, count - 1}))


def tuned(backend: str) -> AbstractContextManager[None]:
    """While active, autotuners choose as they are shipped; in the interpreter, where there is nothing to
    choose by, they stay pinned."""
    return pinning.as_shipped() if backend == "gpu" else nullcontext()


def judge_cut(case: Case, target: Target, backend: str) -> Verdict:
    """Reach the verdict on the cut case of a shape, with kernels tuned as anybody's are."""
    small = cut(case)
    with tuned(backend):
        _tune(small, target, backend)
        return execute.run(small, target, backend)


def _tune(case: Case, target: Target, backend: str) -> None:
    """Make a call on tensors of its own, so that autotuners, which call a kernel many times, have chosen
    before a call that is judged. What it raises, that call raises too."""
    arguments = arrange(case, inputs.draw(case), execute.device_of(backend), target.layout)
    try:
        with execute.program_order(case, backend):
            target.run(case, arguments)
    except torch.OutOfMemoryError:
        raise
    except Exception:
        return


def judge_lanes(
    case: Case, data: Data, arguments: Arguments, target: Target, backend: str
) -> dict[str, float]:
    """Make the call of a shape and check it at full size. Arguments are as they were before, after it.

    Returns the worst error of each result on the lanes of `lanes_of`, as a share of its bound. Raises the
    CheckFailure, if there is one.
    """
    if backend == "interpret":
        interpreter.repair()
    run = Run(case, target, backend, explain=False)
    with tuned(backend):
        run.call(arguments)
        arguments.restore()
        returned = run.call(arguments)
    change = arguments.find_change()
    checks.check_memory(case, change)
    run.check_fresh(returned)
    patterns = {name: run.fresh.pattern(tensor) for name, tensor in returned.items()}
    results = run.results(arguments, returned)
    for name, tensor in results.items():
        _check_whole(case, name, tensor, patterns.get(name, poison.FRESH))
    checks.check_slots(case, change)
    lanes = lanes_of(case)
    picked = {name: _of_result(case, name, tensor, lanes).cpu() for name, tensor in results.items()}
    arguments.restore()
    return _compare(case, data, picked, lanes, target)


def _check_whole(case: Case, name: str, tensor: Tensor, pattern: int) -> None:
    """Raise NeverWritten or NotFinite for any element of a result at full size."""
    holes = int(poison.unwritten(tensor, pattern).sum())
    if holes:
        raise NeverWritten(case.op, name, None, f"{holes} of {tensor.numel()} elements were never written")
    strange = int((~tensor.isfinite()).sum())
    if strange:
        raise NotFinite(case.op, name, None, f"{strange} of {tensor.numel()} elements are not finite")


def _compare(
    case: Case, data: Data, picked: dict[str, Tensor], lanes: Lanes, target: Target
) -> dict[str, float]:
    """Compare results on lanes with the oracle's; the worst shares of bounds."""
    small, own = case_of(case, lanes), data_of(case, data, lanes)
    contract = target.contract(case.op)
    # On the CPU: steps of a few lanes are short, and other processes wait for their turns on the GPU.
    reference = noise.reference(small, own, contract, received_dtypes(small, picked), by_chunks=True)
    shares = {}
    for comparison in compare_results(small, picked, reference):
        shares[comparison.name] = comparison.share
        checks.check_bounded(comparison)
    return shares


def case_of(case: Case, lanes: Lanes) -> Case:
    """Make the case of some lanes: each value head has a query head of its own."""
    count = len(lanes.heads)
    return _with(case, tuple(case.lens[n] for n in lanes.sequences), count, count)


def data_of(case: Case, data: Data, lanes: Lanes) -> Data:
    """Take the tensors of some lanes, as `inputs.draw` returns them, out of those of the whole case."""
    tokens, heads = _tokens(case, lanes), list(lanes.heads)
    queries = [head // (case.HV // case.H) for head in heads]
    out = {}
    for name, tensor in data.items():
        if name in WEIGHTS:
            out[name] = tensor[heads]
        elif name == "state":
            out[name] = tensor[list(lanes.sequences)][:, heads]
        else:
            out[name] = tensor[tokens][:, queries if name in QUERIES else heads]
    return out


def _tokens(case: Case, lanes: Lanes) -> Tensor:
    starts = case.starts
    return torch.cat([torch.arange(starts[n], starts[n + 1]) for n in lanes.sequences])


def _of_result(case: Case, name: str, tensor: Tensor, lanes: Lanes) -> Tensor:
    """Take the rows and heads of some lanes out of a result of the whole case, [rows, HV, ...]."""
    by_token = result_of(case, name).truth in ("o", "steps")
    rows = _tokens(case, lanes) if by_token else torch.tensor(lanes.sequences)
    return tensor[rows.to(tensor.device)][:, list(lanes.heads)]
