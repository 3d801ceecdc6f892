"""Carry first-order errors of the recurrence along with it, block of steps by block of steps.

With decay a, S' = S a, r = S' k, d = beta (v - r), S <- S' + d k^T, o = scale S q, and with rho, e_k, e_q,
e_beta the relative errors of a, k, q and beta, the errors are, to first order,

    dS' = dS a + S' rho,   dr = dS' k + S' (k e_k) + [sum],   dd = d (e_beta + [delta]) - beta dr,
    dS <- dS' + dd k^T + d (k e_k)^T + S [state],   do = scale (dS q + S (q e_q) + [sum]) + o [output]

where [.] are fresh roundings. What decays have done to the state as a whole is kept apart, as a relative
error E of it, so that dS = R + S E: then S' rho needs no pass over all samples of the state, and

    E <- E + rho,   R <- R a + dd k^T + d (k (e_k - E))^T + S [state].

Whatever does not depend on R is computed for a whole block of steps at once; only R goes step by step.

Running error analysis of this kind: Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section
3.3; that the roundings are taken as independent, and their squares added: Higham and Mary, "A New Approach
to Probabilistic Rounding Error Analysis", 2019.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.reference.noise.contract import Contract
from diffgdn.reference.noise.draws import Draws
from diffgdn.reference.noise.operands import VANISHED, InputErrors, decay_error
from diffgdn.reference.noise.sums import (
    at_once,
    length_and_evenness,
    lengths,
    mean_square,
    mean_square_of,
    sum_error,
)
from diffgdn.reference.oracle import recurrence
from diffgdn.reference.oracle.lanes import Lanes

BLOCK_STEPS = 64
BLOCK_ELEMENTS = 1 << 18  # of all states of a block: as much as is held at once


class _Block(NamedTuple):
    """Hold what the B steps of a block need beside R.

    Attributes:
        time: the steps.
        common: [B, L, 1 or K, samples], E after each step.
        lost: what of E was lost with decays that vanished, by step, as `_of_decays` gives it.
        decayed, after: [B, L, K, V], the states before and after the step's write.
        q, k: [B, L, K].
        beta: [B, L].
        d: [B, L, V].
        of_k: [B, L, K, samples], errors of k as a factor of the product that is added, E taken off; None if
            nothing is left or of_d
        has it.
        of_d: [B, L, samples, V], errors of d, but for what R adds.
    """

    time: slice
    common: Tensor
    lost: dict[int, Tensor]
    decayed: Tensor
    after: Tensor
    q: Tensor
    k: Tensor
    beta: Tensor
    d: Tensor
    of_k: Tensor | None
    of_d: Tensor


class Follower:
    """Follow a recurrence, and carry its errors.

    Errors are in a working precision, as they need few digits; those of the state are [L, K, samples, V],
    so that a product with one vector a lane reads them once, in order.
    """

    def __init__(
        self,
        case: Case,
        lanes: Lanes,
        errors: InputErrors,
        contract: Contract,
        draws: Draws,
        parents: recurrence.Parents | None = None,
        keep: bool = False,
        every: int = 0,
    ) -> None:
        """Start before the first step, with a state that has no error.

        Args:
            lanes: the inputs that are followed, without samples.
            errors: what those inputs bring with them.
            draws: the random factors of the roundings; they set samples and working precision.
            parents, keep, every: as `recurrence.run` takes them.
        """
        self._lanes, self._draws, self._errors = lanes, draws, errors
        self._parents, self._keep, self._every = parents, keep, every
        self._sizes = contract.sizes(case)
        (L, V, K), width, dtype = lanes.state.shape, lanes.g.shape[-1], draws.dtype
        self._rest = torch.zeros(L, K, draws.samples, V, dtype=dtype, device=lanes.v.device)
        self._common = self._rest.new_zeros(L, width, draws.samples)
        self._initial = self._rest.flatten(-2), self._common
        # Both after every step, for trees: [L, K, samples V], [L, 1 or K, samples].
        self._rests: list[Tensor] = []
        self._commons: list[Tensor] = []
        self._state = lanes.state.to(dtype).mT  # the state itself
        self._block: list[recurrence.Step] = []
        room = min(BLOCK_ELEMENTS // max(1, L * K * V), draws.room // max(1, L * V))
        self._longest = max(1, min(BLOCK_STEPS, room))
        # Mean squares: of o [B, L, V]; of states [L, V, K].
        self._o: list[Tensor] = []
        self._steps: list[Tensor] = []
        self._before: list[Tensor] = []

        rho = _by_channel(decay_error(draws, lanes.g, contract, self._sizes["decay"]))
        rho = rho if errors.g is None else rho + _by_channel(errors.g)
        self._rho = rho.contiguous()  # [T, L, 1 or K, samples]
        self._vanished = lanes.g < VANISHED
        self._any_vanished = self._vanished.flatten(1).any(1).tolist()
        self._all_live = [t < min(case.lens) for t in range(lanes.steps)]

    def step(self, step: recurrence.Step) -> None:
        """Take the errors over one step, or put it off until a block is full."""
        self._block.append(step)
        if len(self._block) == self._longest:
            self._advance()

    def _advance(self) -> None:
        """Take the errors over the steps that were put off."""
        steps, self._block = self._block, []
        time = slice(steps[0].time, steps[0].time + len(steps))
        draws, sizes, errors, scale = self._draws, self._sizes, self._errors, self._lanes.scale
        q, k, beta = (x[time].to(draws.dtype) for x in (self._lanes.q, self._lanes.k, self._lanes.beta))
        d, recalled, read = (
            torch.stack([getattr(step, name) for step in steps]).to(draws.dtype)
            for name in ("d", "recalled", "read")
        )
        decayed, of_recall = self._states([step.decayed for step in steps])
        after, of_read = self._states([step.state for step in steps])
        after = after.contiguous()
        common, lost = self._of_decays(time)

        moved = common * k.unsqueeze(-1)  # [B, L, K, samples]
        of_k = None
        if errors.k is not None:
            of_k = _by_channel(errors.k[:, time]) * k.unsqueeze(-1)
        error = (moved if of_k is None else moved + of_k).mT @ decayed  # [B, L, samples, V]
        of_d = error.mul_(-beta[..., None, None])
        if errors.beta is not None:
            of_d.addcmul_(d.unsqueeze(-2), _by_row(errors.beta[:, time]))
        length, even = length_and_evenness(k)
        size = sum_error(recalled, of_recall * length, even, k.shape[-1])
        size = torch.hypot(size * beta.unsqueeze(-1) * sizes["recall"].unit, d * sizes["delta"].unit)
        of_d.addcmul_(size.unsqueeze(-2), self._fresh(d))
        # d (k (e_k - E))^T: where E is one for all channels, it goes with d.
        if common.shape[-2] == 1:
            of_d.addcmul_(common.mT, d.unsqueeze(-2), value=-1.0)
        else:
            of_k = -moved if of_k is None else of_k - moved
        error = self._carry(_Block(time, common, lost, decayed, after, q, k, beta, d, of_k, of_d))

        moved = common if errors.q is None else common + _by_channel(errors.q[:, time])
        error += (moved * q.unsqueeze(-1)).mT @ after
        length, even = length_and_evenness(q)
        size = sum_error(read, of_read * length, even, q.shape[-1])
        size = torch.hypot(size * sizes["read"].unit, read * sizes["output"].unit)
        error.addcmul_(size.unsqueeze(-2), self._fresh(read))
        self._o.append(mean_square(error.mul_(scale), -2))

    def _states(self, states: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Stack states [L, V, K] as [B, L, K, V], a view, in the working precision; and the lengths of
        their rows, [B, L, V]."""
        stacked, dtype = torch.stack(states), self._draws.dtype
        return stacked.to(dtype).mT, lengths(stacked).squeeze(-1).to(dtype)

    def _fresh(self, like: Tensor) -> Tensor:
        """Draw fresh factors [B, L, samples, V] for values [B, L, V]."""
        return _by_row(self._draws.fresh(*like.shape))

    def _of_decays(self, time: slice) -> tuple[Tensor, dict[int, Tensor]]:
        """Compute E after each step of a block, and what of it was lost where decays vanished.

        An error of all that is left of a state is no common one of what comes after, so there E starts
        again from 0.

        Returns:
            E [B, L, 1 or K, samples]; and, by step at which a decay vanished, [L, 1 or K, samples]: what E
                was there, 0 elsewhere.
        """
        if self._parents is None and not any(self._any_vanished[time]):
            return self._common + self._rho[time].cumsum(0), {}
        commons: list[Tensor] = []
        lost: dict[int, Tensor] = {}
        common = self._common
        for t in range(time.start, time.stop):
            if self._parents is not None:
                common = recurrence.from_parents(self._initial[1], self._commons, self._parents[t])
            common = common + self._rho[t]
            if self._any_vanished[t]:
                lost[t] = torch.where(self._vanished[t].unsqueeze(-1), common, 0.0)
                common = common - lost[t]
            commons.append(common)
            if self._parents is not None:
                self._commons.append(common)
        return torch.stack(commons), lost

    def _carry(self, block: _Block) -> Tensor:
        """Take R over a block; returns R q after every step, [B, L, samples, V]."""
        (L, K, samples, V), parents = self._rest.shape, self._parents
        decay = torch.exp(self._lanes.g[block.time])[..., None, None].to(self._rest.dtype)
        beta_k = (block.beta.unsqueeze(-1) * block.k).unsqueeze(-2)
        of_d, q = block.of_d.flatten(-2).unsqueeze(-2), block.q.unsqueeze(-2)
        read = self._rest.new_empty(len(q), L, 1, samples * V)
        for i, t in enumerate(range(block.time.start, block.time.stop)):
            if self._every and t % self._every == 0:
                self._before.append(self._mean_square())
            if parents is None:
                rest = self._rest.mul_(decay[i])
            else:
                start = recurrence.from_parents(self._initial[0], self._rests, parents[t])
                rest = start.view(L, K, samples, V) * decay[i]
            if t in block.lost:
                rest.addcmul_(block.decayed[i].contiguous().unsqueeze(2), block.lost[t].unsqueeze(-1))
            flat = rest.view(L, K, samples * V)
            moved = torch.baddbmm(of_d[i], beta_k[i], flat, alpha=-1.0).view(L, 1, samples, V)
            rest.addcmul_(block.k[i][..., None, None], moved)
            if block.of_k is not None:
                rest.addcmul_(block.of_k[i].unsqueeze(-1), block.d[i][:, None, None, :])
            self._round_state(rest, block.after[i], t)
            torch.bmm(q[i], flat, out=read[i])
            self._rest, self._common, self._state = rest, block.common[i], block.after[i]
            if parents is not None:
                self._rests.append(flat)
            if self._keep:
                self._steps.append(self._mean_square())
        return read.view(len(q), L, samples, V)

    def _round_state(self, rest: Tensor, state: Tensor, t: int) -> None:
        """Add the fresh roundings of the running state to R, in place.

        Args:
            rest: R, [L, K, samples, V].
            state: [L, K, V], the state after the step.
            t: the step; lanes that have ended by then round nothing.
        """
        size, (L, K, V) = self._sizes["state"], state.shape
        if not self._all_live[t]:
            state = torch.where(self._lanes.live[t].view(L, 1, 1), state, 0.0)
        if size.floor:
            state = state + state.sign() * (size.floor / size.unit)
        # Lanes never meet, so they may share their draws.
        rest.addcmul_(state.unsqueeze(2), self._draws.fresh(K, V).movedim(0, 1), value=size.unit)

    def _mean_square(self) -> Tensor:
        """Compute the mean squares of the state's errors R + S E, [L, V, K], in float64."""
        rest, state, common = self._rest, self._state.unsqueeze(2), self._common.unsqueeze(-1)
        if at_once(rest):
            return mean_square(torch.addcmul(rest, state, common), 2).mT
        room = torch.empty_like(rest[:, :, :1])
        each = list(zip(torch.split(rest, 1, 2), torch.split(common, 1, 2), strict=True))
        return mean_square_of(lambda: (torch.addcmul(x, state, e, out=room) for x, e in each)).squeeze(2).mT

    def finish(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Give the mean squares of the errors of what `recurrence.run` returns, in the same order and
        shapes, in float64."""
        if self._block:
            self._advance()
        final = self._mean_square()
        none = final.new_zeros(0, *final.shape)
        return (
            torch.cat(self._o) if self._o else torch.zeros_like(self._lanes.v),
            final,
            (torch.stack(self._steps) if self._steps else none) if self._keep else None,
            (torch.stack(self._before) if self._before else none) if self._every else None,
        )


def _by_row(error: Tensor) -> Tensor:
    """Move [samples, T, L, d] to [T, L, samples, d], a view."""
    return error.permute(1, 2, 0, 3)


def _by_channel(error: Tensor) -> Tensor:
    """Move [samples, T, L, d] to [T, L, d, samples], a view."""
    return error.permute(1, 2, 3, 0)
