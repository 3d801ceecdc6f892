"""Knows what each request's state and outputs must be: one recurrence in float64 over its whole history.

The recurrence is a fold, so carrying a request's float64 state on by the tokens of each step is the
recurrence over all its tokens. A kernel starts each step from what the pool holds, and that was rounded at
every store. How far pool and history may be apart follows from the bounds of the single steps. A row s of S
[V, K] goes over a token by s <- s A + beta v k with A = diag(exp g) (1 - beta k k^T), and ||A|| <= 1 while
g <= 0, |k| <= 1 and 0 <= beta <= 1 (a trace has no other). So an earlier error never grows, and a row's
distance is at most the sum, over the steps so far, of the norms of the bounds of that row; an output's at
most its own bound and scale |q| times that of the state before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.cases.trace_steps import PADDING, REJECTED
from diffgdn.reference import oracle
from diffgdn.tensors.inputs import Data
from diffgdn.verdict.comparison import Comparison
from diffgdn.verdict.failures import BeyondBound

# Inputs in bf16 are unit vectors to one part in 256.
UNIT_LENGTH = 1.01


@dataclass
class _State:
    """S [HV, V, K] in float64, and how far the pool's rows may be from it, [HV, V]."""

    S: Tensor
    slack: Tensor


class Histories:
    """The histories of all live requests, of snapshots, and of the drafts that wait for a commit: after each
    token."""

    def __init__(self) -> None:
        self._now: dict[int, _State] = {}
        self._kept: dict[int, _State] = {}
        self._drafts: dict[int, list[_State]] = {}

    def arrive(self, request: int, HV: int, V: int, K: int) -> None:
        """Start the history of a request: a zero state [HV, V, K]."""
        zero = torch.zeros(HV, V, K, dtype=torch.float64)
        self._now[request] = _State(zero, zero.sum(-1))

    def finish(self, request: int) -> None:
        """Forget a request and its draft."""
        del self._now[request]
        self._drafts.pop(request, None)

    def snapshot(self, request: int) -> None:
        """Keep a request's history as it is now, for others to start from."""
        self._kept[request] = self._now[request]

    def round_snapshot(self, request: int, errors: Tensor) -> None:
        """Allow a snapshot what its copy was rounded by. errors: by element, [HV, V, K]."""
        kept = self._kept[request]
        self._kept[request] = _State(kept.S, kept.slack + errors.norm(dim=-1))

    def fork(self, request: int, source: int) -> None:
        """Start the history of a request as that of a snapshot."""
        self._now[request] = self._kept[source]

    def drop(self, request: int) -> None:
        """Forget a snapshot."""
        del self._kept[request]

    def commit(self, request: int, accepted: int) -> None:
        """Make the draft's history up to a token the request's; drop the draft if none is accepted."""
        states = self._drafts.pop(request)
        if accepted != REJECTED:
            self._now[request] = states[accepted]

    def advance(
        self,
        case: Case,
        data: Data,
        requests: tuple[int, ...],
        results: dict[str, Comparison],
        tracked: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        """Carry the histories of a call's requests on by its tokens.

        results: of the call by name, beside the oracle that started from the pool. tracked: for each request
        of which a snapshot is taken, the row of `boundary`. Raises BeyondBound if an output is not that of
        its request's own history.
        """
        zero = torch.zeros(case.HV, case.V, case.K, dtype=torch.float64)
        starts = [zero if one == PADDING else self._now[one].S for one in requests]
        truth = oracle.expected(case, {**data, "state": torch.stack(starts)})
        for n, request in enumerate(requests):
            if request == PADDING:
                continue
            tokens = slice(case.starts[n], case.starts[n + 1])
            self._check_output(case, request, results["o"], truth.o, tokens)
            before = self._now[request].slack
            if request in tracked:
                assert truth.boundary is not None
                row = tracked[request]
                bound = results["boundary"].bound[row].norm(dim=-1)
                self._kept[request] = _State(truth.boundary[row], before + bound)
            if case.keeps_steps:
                assert truth.steps is not None
                bounds = results["steps"].bound.norm(dim=-1)
                rows = [
                    row for row, (token, _, _) in enumerate(case.kept) if tokens.start <= token < tokens.stop
                ]
                self._drafts[request] = [
                    _State(truth.steps[token], before + bounds[row])
                    for row, token in zip(rows, range(tokens.start, tokens.stop), strict=True)
                ]
            elif n in case.stored:
                bound = results["state"].bound[case.stored.index(n)].norm(dim=-1)
                self._now[request] = _State(truth.state[n], before + bound)

    def _check_output(self, case: Case, request: int, got: Comparison, truth: Tensor, tokens: slice) -> None:
        """Raise BeyondBound unless a request's outputs are those of its history. truth [total, HV, V]."""
        slack = UNIT_LENGTH * abs(case.effective_scale) * self._now[request].slack
        error = (got.got[tokens] - truth[tokens]).abs()
        bound = got.bound[tokens] + slack
        if bool((error > bound).any()):
            index = tuple(int(i) for i in torch.unravel_index((error / bound).argmax(), error.shape))
            raise BeyondBound(
                case.op,
                "o",
                f"(request {request}, token {index[0]}, head {index[1]}, V {index[2]})",
                f"not the output of this request's history: error {float(error[index]):.3g}, "
                f"bound {float(bound[index]):.3g}",
            )

    def check(
        self, op: str, states: Tensor, slots: dict[int, int], kept: Mapping[int, int] = MappingProxyType({})
    ) -> None:
        """Raise BeyondBound unless the pool holds each live request's own state, and each snapshot.

        states [slots, HV, V, K], in the pool's dtype. slots: of each request. kept: of each snapshot.
        """
        for request, slot in slots.items():
            _check(op, states, slot, self._now[request], f"request {request}", "this request's history")
        for request, slot in kept.items():
            held = self._kept[request]
            _check(op, states, slot, held, f"snapshot of request {request}", "the history it was taken of")


def _check(op: str, states: Tensor, slot: int, held: _State, owner: str, whose: str) -> None:
    """Raise BeyondBound unless a slot holds a state of a history."""
    error = (states[slot].double().cpu() - held.S).norm(dim=-1)
    wrong = ~(error <= UNIT_LENGTH * held.slack)  # a NaN is wrong
    if bool(wrong.any()):
        head, row = (int(i) for i in wrong.nonzero()[0])
        raise BeyondBound(
            op,
            "state",
            f"(slot {slot}, {owner}, head {head}, V {row})",
            f"not the state of {whose}: it is {float(error[head, row]):.3g} away, "
            f"bound {float(UNIT_LENGTH * held.slack[head, row]):.3g}",
        )
