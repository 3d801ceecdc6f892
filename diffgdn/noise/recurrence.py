"""First-order errors of the recurrence, carried along with it step by step.

With decay a, S' = S a, r = S' k, d = beta (v - r), S <- S' + d k^T, o = scale S q, and with rho, e_k, e_q,
e_beta the relative errors of a, k, q and beta, the errors are, to first order,

    dS' = dS a + S' rho,   dr = dS' k + S' (k e_k) + [sum],   dd = d (e_beta + [delta]) - beta dr,
    dS <- dS' + dd k^T + d (k e_k)^T + S [state],   do = scale (dS q + S (q e_q) + [sum]) + o [output]

where [.] are fresh roundings. What decays have done to the state as a whole is kept apart, as a relative
error E of it, so that dS = R + S E: then S' rho needs no pass over all samples of the state, and

    E <- E + rho,   R <- R a + dd k^T + d (k (e_k - E))^T + S [state].
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffgdn.case import Case
from diffgdn.noise.contract import Contract
from diffgdn.noise.draws import Draws
from diffgdn.noise.inputs import VANISHED, InputErrors, decay_error
from diffgdn.noise.sums import evenness, lengths, mean_square, sum_error
from diffgdn.oracle import recurrence
from diffgdn.oracle.lanes import Lanes


class Follower:
    """Follows a recurrence. Errors are in a working precision, as they need few digits; those of the state
    are [L, K, samples, V], so that a product with one vector a lane reads them once, in order."""

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
        """parents, keep, every: as for `recurrence.run`."""
        self._lanes, self._draws = lanes, draws
        self._parents, self._keep, self._every = parents, keep, every
        self._sizes = sizes = contract.sizes(case)
        (L, V, K), width, dtype = lanes.state.shape, lanes.g.shape[-1], draws.dtype
        self._state = torch.zeros(L, K, draws.samples, V, dtype=dtype, device=lanes.v.device)
        self._common = self._state.new_zeros(L, width, draws.samples)
        self._kept: list[tuple[Tensor, Tensor]] = []  # the two after every step, for trees
        self._read: list[Tensor] = []  # S q, [L, V]
        self._of_read: list[Tensor] = []  # its errors, [L, samples, V]
        self._lengths: list[Tensor] = []  # of the rows of S, [L, V]
        self._steps: list[Tensor] = []  # mean squares, [L, V, K]
        self._before: list[Tensor] = []
        self._last = lanes.state  # the state itself
        self._all_live = lanes.live.all(1).tolist()

        # What does not depend on the state, for all steps at once: of q, k and decays [T, L, K, samples], of
        # d and sums [T, L, samples, V].
        rho = _by_channel(decay_error(draws, lanes.g, contract, sizes["decay"]))
        self._rho = rho if errors.g is None else rho + _by_channel(errors.g)
        self._q, self._k = lanes.q.to(dtype), lanes.k.to(dtype)
        self._of_q, self._of_k = (
            self._state.new_zeros(()).expand(lanes.steps)
            if error is None
            else _by_channel(error) * x.unsqueeze(-1)
            for error, x in ((errors.q, self._q), (errors.k, self._k))
        )
        self._decay = torch.exp(lanes.g).unsqueeze(-1).to(dtype)
        self._vanished = (lanes.g < VANISHED).unsqueeze(-1)
        self._any_vanished = self._vanished.flatten(1).any(1).tolist()
        self._beta = lanes.beta.to(dtype).unsqueeze(-1)
        of_d = sizes["delta"].unit * _by_row(draws.fresh(*lanes.v.shape))
        self._of_d = of_d if errors.beta is None else of_d + _by_row(errors.beta)
        self._of_recalled = sizes["recall"].unit * _by_row(draws.fresh(*lanes.v.shape))
        self._even, self._length = evenness(self._k), lengths(self._k)

    def step(self, step: recurrence.Step) -> None:
        """Take the errors over one step."""
        t, dtype = step.time, self._draws.dtype
        if self._every and t % self._every == 0:
            self._before.append(self._mean_square(_turned(self._last, dtype)))
        self._last = step.state
        q, k = self._q[t], self._k[t]
        decayed, after = step.decayed.to(dtype), _turned(step.state, dtype)
        d, recalled = step.d.to(dtype).unsqueeze(-2), step.recalled.to(dtype)

        error, common = self._start(t)
        error.mul_(self._decay[t].unsqueeze(-1))
        common = common + self._rho[t]
        if self._any_vanished[t]:  # an error of all that is left is no common one of what comes after
            gone = self._vanished[t]
            error.addcmul_(decayed.mT.unsqueeze(2), torch.where(gone, common, 0.0).unsqueeze(-1))
            common = torch.where(gone, 0.0, common)
        shared = k.unsqueeze(-1) * common  # [L, K, samples]

        of_recalled = _product(error, k).add_(_product_each(decayed.mT, shared + self._of_k[t]))
        length = lengths(step.decayed).squeeze(-1).to(dtype).mul_(self._length[t])
        size = sum_error(recalled, length, self._even[t], k.shape[-1])
        of_recalled.addcmul_(size.unsqueeze(-2), self._of_recalled[t])
        of_d = (d * self._of_d[t]).addcmul_(self._beta[t].unsqueeze(-2), of_recalled, value=-1.0)

        error.addcmul_(k[:, :, None, None], of_d.unsqueeze(1))
        error.addcmul_((self._of_k[t] - shared).unsqueeze(-1), d.unsqueeze(1))
        self._round_state(error, after, t)
        self._state, self._common = error, common

        moved = torch.addcmul(self._of_q[t], q.unsqueeze(-1), common)
        self._read.append(step.read)
        self._of_read.append(_product(error, q).add_(_product_each(after, moved)))
        self._lengths.append(lengths(step.state).squeeze(-1).to(dtype))
        if self._parents is not None:
            self._kept.append((error, common))
        if self._keep:
            self._steps.append(self._mean_square(after))

    def _start(self, t: int) -> tuple[Tensor, Tensor]:
        """Errors of the state that step t starts from; the first may be written."""
        if self._parents is None:
            return self._state, self._common
        if t == 0:
            return self._state.clone(), self._common
        parts = []
        heads = self._state.shape[0] // len(self._parents[t])
        zero = torch.zeros_like(self._state[:heads]), torch.zeros_like(self._common[:heads])
        for n, parent in enumerate(self._parents[t]):
            here = slice(n * heads, (n + 1) * heads)
            parts.append(zero if parent < 0 else tuple(part[here] for part in self._kept[parent]))
        return torch.cat([state for state, _ in parts]), torch.cat([common for _, common in parts])

    def _round_state(self, error: Tensor, after: Tensor, t: int) -> None:
        size, (L, K, V) = self._sizes["state"], after.shape
        if not self._all_live[t]:
            after = torch.where(self._lanes.live[t].view(L, 1, 1), after, 0.0)
        if size.floor:
            after = after + after.sign() * (size.floor / size.unit)
        # Lanes never meet, so they may share their draws.
        error.addcmul_(after.unsqueeze(2), self._draws.fresh(K, V).movedim(0, 1), value=size.unit)

    def _mean_square(self, state: Tensor) -> Tensor:
        """Of the errors of a state [L, K, V]: [L, V, K]."""
        return mean_square(torch.addcmul(self._state, state.unsqueeze(2), self._common.unsqueeze(-1)), 2).mT

    def finish(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Mean squares of the errors of what `recurrence.run` returns, of the same shapes."""
        draws, scale, dtype = self._draws, self._lanes.scale, self._draws.dtype
        final = self._mean_square(_turned(self._last, dtype))
        if not self._read:
            none = final.new_zeros(0, *final.shape)
            kept, before = (none if wanted else None for wanted in (self._keep, self._every))
            return torch.zeros_like(self._lanes.v), final, kept, before
        error = torch.stack(self._of_read)  # [T, L, samples, V]
        read = torch.stack(self._read).to(dtype)
        size = sum_error(
            read, torch.stack(self._lengths) * lengths(self._q), evenness(self._q), self._q.shape[-1]
        )
        of_sum, of_output = (_by_row(draws.fresh(*read.shape)) for _ in range(2))
        error.addcmul_(size.unsqueeze(-2), of_sum, value=self._sizes["read"].unit).mul_(scale)
        error.addcmul_(read.unsqueeze(-2), of_output, value=scale * self._sizes["output"].unit)
        return (
            mean_square(error, -2),
            final,
            torch.stack(self._steps) if self._keep else None,
            torch.stack(self._before) if self._every else None,
        )


def _by_row(error: Tensor) -> Tensor:
    """[samples, T, L, d] to [T, L, samples, d]."""
    return error.permute(1, 2, 0, 3).contiguous()


def _by_channel(error: Tensor) -> Tensor:
    """[samples, T, L, d] to [T, L, d, samples]."""
    return error.permute(1, 2, 3, 0).contiguous()


def _turned(state: Tensor, dtype: torch.dtype) -> Tensor:
    """[L, V, K] to [L, K, V] in memory."""
    return state.to(dtype).mT.contiguous()


def _product(error: Tensor, x: Tensor) -> Tensor:
    """Errors of the state times one vector a lane: [L, K, samples, V], [L, K] to [L, samples, V]."""
    L, K, samples, V = error.shape
    return torch.bmm(x.unsqueeze(1), error.view(L, K, samples * V)).view(L, samples, V)


def _product_each(state: Tensor, x: Tensor) -> Tensor:
    """The state times one vector for each sample: [L, K, V], [L, K, samples] to [L, samples, V]."""
    return torch.bmm(x.mT, state)
