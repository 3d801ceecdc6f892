"""Labels the results of calls by what they are, so that those of one call can be put beside another's."""

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
    """The labelled results of one or more calls.

    results: by name, [rows, HV, V(, K)] in their own dtypes.
    labels: of the rows of each result.
    bounds: of each result [2, rows, HV, V(, K)], float64: the largest error of a correct kernel, and what of
        it is the last rounding; None if it was not measured.
    repeats: the calls compute what the case's own call computes, so that its bound counts for them too.
    columns: indices of V that it speaks of; None for all.
    """

    results: dict[str, Tensor]
    labels: dict[str, list[Label]]
    bounds: dict[str, Tensor] | None = None
    repeats: bool = True
    columns: Tensor | None = None

    def relabel(self, rename: Callable[[Label], Label | None]) -> Side:
        """Give the rows other labels, such as those of another batch; a row is left out if `rename` gives
        None."""
        results, labels, bounds = {}, {}, {}
        for name, tensor in self.results.items():
            pairs = [(row, new) for row, label in enumerate(self.labels[name]) if (new := rename(label))]
            rows = [row for row, _ in pairs]
            results[name], labels[name] = tensor[rows], [new for _, new in pairs]
            if self.bounds is not None:
                bounds[name] = self.bounds[name][:, rows]
        return replace(self, results=results, labels=labels, bounds=None if self.bounds is None else bounds)


def row_labels(case: Case, name: str) -> list[Label]:
    """Label the rows of a result of a case."""
    every = range(len(case.lens))
    if name == "o":
        return [("o", n, t) for n in every for t in range(case.lens[n])]
    if name == "steps":
        tokens = [n for n in every for _ in range(case.lens[n])]
        return [("S", tokens[token], step + 1) for token, _, step in case.kept]
    if name == "boundary":
        return [("S", n, t) for n in every for t in range(0, case.lens[n], case.chunk_size)]
    if name == "tracked":
        return [("S", n, t * case.chunk_size) for n, t in enumerate(case.state_options.track) if t >= 0]
    if name == "state" and case.operation.commits:
        return [("S", n, case.accepted[n]) for n in case.stored]
    return [("S", n, case.lens[n]) for n in (case.stored if name == "state" else every)]


def call(case: Case, data: Data, target: Target, backend: str, again: bool = False) -> Side:
    """Call a target once and label its results, which are on the CPU, without bounds. Raises KernelRaised.

    again: as the case's second call, which may run programs in the opposite order.
    """
    one = execute.Run(case, target, backend, explain=False)
    one.arguments = arrange(case, data, execute.device_of(backend), target.layout)
    try:
        results = one.results(one.arguments, one.call(one.arguments, again=again))
        shaped = {
            name: tensor.cpu().reshape(-1, case.HV, case.V, *([case.K] if name != "o" else []))
            for name, tensor in results.items()
        }
    finally:
        one.release()
    return Side(shaped, {name: row_labels(case, name) for name in shaped})


def with_bounds(side: Side, case: Case, data: Data, target: Target) -> Side:
    """Measure the bounds of a call's results under the target's contract: infinite for elements that may
    overflow, zero if nothing rounds."""
    stored = received_dtypes(case, side.results)
    reference = noise.reference(case, data, target.contract(case.op), stored)
    bounds = {}
    for one in compare_results(case, side.results, reference):
        both = torch.stack([torch.where(one.overflows, torch.inf, one.bound), one.half_ulp])
        bounds[one.name] = torch.zeros_like(both) if reference.exact else both
    return replace(side, bounds=bounds)


def join(sides: list[Side]) -> Side:
    """Join calls of one shape into one side, in order; of two rows with one label the first counts."""
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


def states_left(side: Side) -> dict[tuple[int, int], Tensor]:
    """Map (sequence, tokens before it) to each state [HV, V, K] that a call left behind."""
    return {
        (n, count): side.results[name][row]
        for name in ("final", "state")
        if name in side.results
        for row, (_, n, count) in enumerate(side.labels[name])
    }
