"""Combines the segments of sequences, each computed from a zero state, as context parallelism does.

Every row s of the state goes through a segment as s <- s A + b: A [K, K] is made of k, g and beta alone, and
b is what a zero row becomes. So the state after a segment is S A + B, B being what a call from a zero state
leaves behind. An output is o + S r, with o of the same call, and r [K] what the query reads through the
transition up to its token. A and r are the oracle's, in float64; B and o are the target's.

**The bound.** The oracle's part has no error that matters. If the state before a segment is off by at most E,
element by element, and B by at most b, then S A + B is off by at most E |A| + b, and o + S r by at most that
of o and E |r|: the triangle inequality. Errors of a row's elements come from the same few roundings, so that
they add up; taken as independent, as their squares, they would be bounded too closely.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.reference import oracle
from diffgdn.reference.oracle import Exact, Expected, lanes
from diffgdn.tensors.inputs import Data
from diffgdn.verdict.relations.labelled_results import Label, Side, states_left
from diffgdn.verdict.relations.related_calls import Calls
from diffgdn.verdict.relations.subsets import no_slots, own_slots, pick

SEGMENTS = 3  # of a sequence


def segments(case: Case, data: Data, calls: Calls) -> Side:
    """Call the first segments of all sequences from a zero state, then the second ones, and so on, and
    combine the results; each call has bounds of its own."""
    combined = _Combined(case, data)
    for i in range(SEGMENTS):
        parts = [(n, tokens[i]) for n in combined.states if len(tokens := cut(case, n)) > i]
        if not parts:
            break
        given = case.values.state != "none"
        pool = own_slots(case, len(parts)) if given else no_slots(case, len(parts))
        values = replace(case.values, state="zero" if given else "none")
        part, tensors = pick(
            case, data, parts, pool=pool, values=values, tail=0, final=True, inplace=True, boundary=False
        )
        if "state" in tensors:
            tensors["state"] = torch.zeros_like(tensors["state"])
        combined.add(parts, calls(part, tensors, measured=True), transition(part, tensors))
    return combined.side()


def cut(case: Case, n: int) -> list[range]:
    """Cut the tokens of a sequence into SEGMENTS or fewer: after a third and after two thirds, the latter at
    the start of a chunk where states before chunks are returned."""
    length = case.lens[n]
    first, second = length // SEGMENTS, (SEGMENTS - 1) * length // SEGMENTS
    if case.boundary:
        second -= second % case.chunk_size
    ends = sorted({0, first, second, length})
    return [range(start, end) for start, end in pairwise(ends)]


def transition(case: Case, data: Data) -> Expected:
    """Compute what a call does to a state: the oracle from the identity, without values.

    Returns `state` [N, HV, K, K], the A of S A, and `o` [total, HV, K], the r of S r with the scale in it.
    """
    batch = lanes.make(case, data, Exact())
    v = batch.v.new_zeros(*batch.v.shape[:-1], case.K)
    identity = torch.eye(case.K, dtype=torch.float64).expand(batch.state.shape[0], -1, -1)
    return oracle.along(case, replace(batch, v=v, state=identity), Exact())


class _Combined:
    """Sequences as far as their segments have been combined.

    states: of each sequence that is asked about, [HV, V, K]. bounds: [2, HV, V, K], the largest error of it,
    and what of it comes of last roundings. All float64.
    """

    def __init__(self, case: Case, data: Data) -> None:
        # The output of padding is zero in packed_decode, whatever its token.
        asked = [
            n
            for n, length in enumerate(case.lens)
            if length and not (case.operation.single_token and case.pool.indices[n] < 0)
        ]
        shape = (case.HV, case.V, case.K)
        zero = torch.zeros(shape, dtype=torch.float64)
        self.states = {n: data["state"][n].double() if "state" in data else zero for n in asked}
        self.bounds = {n: torch.zeros(2, *shape, dtype=torch.float64) for n in asked}
        self._rows: dict[str, list[tuple[Label, Tensor, Tensor]]] = {"o": [], "final": [], "boundary": []}

    def add(self, parts: list[tuple[int, range]], side: Side, through: Expected) -> None:
        """Take each sequence one segment further. parts: the sequences and tokens of a call from a zero
        state. side: its results. through: its `transition`."""
        assert side.bounds is not None
        left, bounds = states_left(side), _bounds_left(side)
        for row, (_, i, t) in enumerate(side.labels["o"]):
            n, tokens = parts[i]
            read = through.o[row].unsqueeze(-1)
            o = side.results["o"][row].double() + (self.states[n] @ read).squeeze(-1)
            bound = side.bounds["o"][:, row] + _carried(self.bounds[n], read).squeeze(-1)
            self._rows["o"].append((("o", n, tokens[t]), o, bound))
        for i, (n, tokens) in enumerate(parts):
            A, label = through.state[i], (i, len(tokens))
            self.states[n] = self.states[n] @ A + left[label].double()
            self.bounds[n] = _carried(self.bounds[n], A) + bounds[label]
            self._rows["final"].append((("S", n, tokens.stop), self.states[n], self.bounds[n]))
            self._rows["boundary"].append(self._rows["final"][-1])

    def side(self) -> Side:
        """Give the results so far: outputs, and the state after every segment."""
        results, labels, bounds = {}, {}, {}
        for name, rows in self._rows.items():
            labels[name] = [label for label, _, _ in rows]
            results[name] = torch.stack([value for _, value, _ in rows])
            bounds[name] = torch.stack([bound for _, _, bound in rows], 1)
        return Side(results, labels, bounds, repeats=False)


def _carried(bounds: Tensor, matrix: Tensor) -> Tensor:
    """Bound what errors [2, HV, V, K] become that go through a matrix [HV, K, any]: infinite where one is
    infinite."""
    return (bounds @ matrix.abs()).nan_to_num(nan=torch.inf, posinf=torch.inf)


def _bounds_left(side: Side) -> dict[tuple[int, int], Tensor]:
    """Map (sequence, tokens before it) to the bounds [2, HV, V, K] of each state in `states_left`."""
    assert side.bounds is not None
    return {
        (n, count): side.bounds[name][:, row]
        for name in ("final", "state")
        if name in side.results
        for row, (_, n, count) in enumerate(side.labels[name])
    }
