"""The results of calls, labelled by what they are, so that those of one call can be put beside another's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.reference import noise
from diffgdn.targets import Target
from diffgdn.tensors.inputs import Data
from diffgdn.tensors.layout import arrange
from diffgdn.verdict import execute
from diffgdn.verdict.comparison import compare_results, received_dtypes

# What a row of a result is: an output ("o", sequence, token), or a state ("S", sequence, tokens before it).
Label = tuple[str, int, int]
STATES = ("state", "final", "steps")  # any of which may stand for another; a boundary state is rounded more


@dataclass(frozen=True)
class Side:
    """What one or more calls say.

    results: by name, in their own dtype. labels: of the rows of each. bounds: the largest error of each
    element, and what of it is the last rounding, [2, ...]; None where nothing was measured. repeats: its
    calls go the first side's way, so that errors up to the first side's bound are added to their own.
    columns: of V that it speaks of, None for all.
    """

    results: dict[str, Tensor]
    labels: dict[str, list[Label]]
    bounds: dict[str, Tensor] | None = None
    repeats: bool = True
    columns: Tensor | None = None

    def renamed(self, rename: Callable[[Label], Label | None]) -> Side:
        """With the labels of another batch; None leaves a row out."""
        results, labels, bounds = {}, {}, {}
        for name, tensor in self.results.items():
            pairs = [(row, new) for row, label in enumerate(self.labels[name]) if (new := rename(label))]
            rows = [row for row, _ in pairs]
            results[name], labels[name] = tensor[rows], [new for _, new in pairs]
            if self.bounds is not None:
                bounds[name] = self.bounds[name][:, rows]
        return replace(self, results=results, labels=labels, bounds=None if self.bounds is None else bounds)


def rows(case: Case, name: str) -> list[Label]:
    """Labels of the rows of a result of a case."""
    every = range(len(case.lens))
    if name == "o":
        return [("o", n, t) for n in every for t in range(case.lens[n])]
    if name == "steps":
        live = [n for n in every if case.pool.rows[n] >= 0]
        return [("S", n, t + 1) for n in live for t in range(case.lens[n])]
    if name == "boundary":
        return [("S", n, t) for n in every for t in range(0, case.lens[n], case.chunk_size)]
    return [("S", n, case.lens[n]) for n in (case.stored if name == "state" else every)]


def call(case: Case, data: Data, target: Target, backend: str) -> Side:
    """The results of one call. Raises KernelRaised."""
    one = execute.Run(case, target, backend, explain=False)
    one.arguments = arrange(case, data, execute.device_of(backend), target.layout)
    try:
        results = one.results(one.arguments, one.call(one.arguments))
        shaped = {
            name: tensor.cpu().reshape(-1, case.HV, case.V, *([case.K] if name != "o" else []))
            for name, tensor in results.items()
        }
    finally:
        one.release()
    return Side(shaped, {name: rows(case, name) for name in shaped})


def bounded(side: Side, case: Case, data: Data, target: Target) -> Side:
    """With the bounds of a call's results: on a correct kernel's errors, infinite where it may overflow, zero
    where nothing rounds."""
    stored = received_dtypes(case, side.results)
    reference = noise.reference(case, data, target.contract(case.op), stored)
    bounds = {}
    for one in compare_results(case, side.results, reference):
        both = torch.stack([torch.where(one.overflows, torch.inf, one.bound), one.half_ulp])
        bounds[one.name] = torch.zeros_like(both) if reference.exact else both
    return replace(side, bounds=bounds)


def joined(sides: list[Side]) -> Side:
    """Several calls of one shape as one side; what two of them say, the first says."""
    names = {name for side in sides for name in side.results}
    results = {
        name: torch.cat([side.results[name] for side in sides if name in side.results]) for name in names
    }
    labels = {name: [label for side in sides for label in side.labels.get(name, ())] for name in names}
    bounds = None
    if all(side.bounds is not None for side in sides):
        bounds = {
            name: torch.cat([side.bounds[name] for side in sides if side.bounds and name in side.bounds], 1)
            for name in names
        }
    return Side(results, labels, bounds, sides[0].repeats, sides[0].columns)


def carried(side: Side) -> dict[tuple[int, int], Tensor]:
    """States [HV, V, K] that a call left behind, by sequence and tokens before them."""
    return {
        (n, count): side.results[name][row]
        for name in ("final", "state")
        if name in side.results
        for row, (_, n, count) in enumerate(side.labels[name])
    }
