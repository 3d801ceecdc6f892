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
from diffgdn.noise.inputs import InputErrors, decay_error
from diffgdn.noise.sums import evenness, lengths, sum_error
from diffgdn.oracle import recurrence
from diffgdn.oracle.lanes import Lanes

GONE = 1e-35  # a decay below which nothing of the state is left to have an error


class Follower:
    """Follows a recurrence. Errors are [samples, ...] in a working precision, as they need few digits."""

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
        self._samples, L = draws.samples, lanes.state.shape[0]
        self._width = lanes.g.shape[-1]
        self._state = torch.zeros(self._samples, *lanes.state.shape, dtype=draws.dtype, device=lanes.v.device)
        self._common = self._state.new_zeros(self._samples, L, 1, self._width)
        self._kept_state: list[Tensor] = []
        self._kept_common: list[Tensor] = []
        self._read: list[Tensor] = []  # S q, [L, V]
        self._of_read: list[Tensor] = []  # its errors, [samples, L, V]
        self._lengths: list[Tensor] = []  # of the rows of S, [L, V]
        self._steps: list[Tensor] = []  # mean squares, [L, V, K]
        self._before: list[Tensor] = []
        self._last = lanes.state  # the state itself
        rho = decay_error(draws, lanes.g, contract, sizes["decay"])
        self._rho = (rho if errors.g is None else rho + errors.g).unbind(1)
        self._low = {name: getattr(lanes, name).to(draws.dtype) for name in ("q", "k")}
        self._decay = torch.exp(lanes.g).to(draws.dtype).unsqueeze(-2).unbind(0)  # [L, 1, W] each
        self._gone = (torch.exp(lanes.g) < GONE).unsqueeze(-2).unbind(0)
        beta = lanes.beta.to(draws.dtype).unsqueeze(-1)
        self._beta = beta.unbind(0)
        of_d = sizes["delta"].unit * draws.fresh(*lanes.v.shape)
        self._of_d = (of_d if errors.beta is None else of_d + errors.beta).unbind(1)
        self._errors = {name: self._absolute(name, getattr(errors, name)) for name in ("q", "k")}
        self._even = evenness(self._low["k"]).unbind(0)
        self._length = lengths(self._low["k"]).unbind(0)
        self._of_sum = (sizes["recall"].unit * draws.fresh(*lanes.v.shape)).unbind(1)
        self._all_live = lanes.live.all(1).tolist()

    def _absolute(self, name: str, error: Tensor | None) -> tuple[Tensor, ...] | None:
        return None if error is None else (error * self._low[name]).unbind(1)

    def step(self, step: recurrence.Step) -> None:
        """Take the errors over one step."""
        t, draws = step.time, self._draws
        if self._every and t % self._every == 0:
            self._before.append(self._mean_square(self._last.to(draws.dtype)))
        self._last = step.state
        k, q = self._low["k"][t], self._low["q"][t]
        state, common = self._start(t)
        common = torch.where(self._gone[t], 0.0, common + self._rho[t].unsqueeze(-2))
        decayed, after = step.decayed.to(draws.dtype), step.state.to(draws.dtype)
        d, recalled = step.d.to(draws.dtype), step.recalled.to(draws.dtype)
        column = k.unsqueeze(-1)

        of_k = None if self._errors["k"] is None else self._errors["k"][t]
        error = state * self._decay[t]
        shared = k.unsqueeze(-2) * common  # [samples, L, 1, K]
        of_recalled = (error @ column).squeeze(-1)
        moved = shared.squeeze(-2) if of_k is None else shared.squeeze(-2) + of_k
        of_recalled += _read(decayed, moved)
        length = torch.linalg.vector_norm(decayed, dim=-1) * self._length[t]
        of_recalled.addcmul_(sum_error(recalled, length, self._even[t], k.shape[-1]), self._of_sum[t])
        of_d = torch.addcmul(d * self._of_d[t], self._beta[t], of_recalled, value=-1.0)
        error.addcmul_(of_d.unsqueeze(-1), k.unsqueeze(-2))
        turned = -shared if of_k is None else of_k.unsqueeze(-2) - shared
        error.addcmul_(d.unsqueeze(-1), turned)
        self._round_state(error, after, t)
        self._state, self._common = error, common

        of_read = (error @ q.unsqueeze(-1)).squeeze(-1)
        moved = (q.unsqueeze(-2) * common).squeeze(-2)
        if self._errors["q"] is not None:
            moved = moved + self._errors["q"][t]
        self._read.append(step.read)
        self._of_read.append(of_read.add_(_read(after, moved)))
        self._lengths.append(torch.linalg.vector_norm(after, dim=-1))
        if self._parents is not None:
            self._kept_state.append(error)
            self._kept_common.append(common)
        if self._keep:
            self._steps.append(self._mean_square(after))

    def _start(self, t: int) -> tuple[Tensor, Tensor]:
        if self._parents is None or t == 0:
            return self._state, self._common
        zeros = torch.zeros_like(self._kept_state[0]), torch.zeros_like(self._kept_common[0])
        kept = self._kept_state, self._kept_common
        state, common = (
            recurrence.from_parents(zero, one, self._parents[t])
            for zero, one in zip(zeros, kept, strict=True)
        )
        return state, common

    def _round_state(self, error: Tensor, after: Tensor, t: int) -> None:
        size, (L, V, K) = self._sizes["state"], after.shape
        if not self._all_live[t]:
            after = torch.where(self._lanes.live[t].view(L, 1, 1), after, 0.0)
        if size.floor:
            after = after + torch.where(after == 0, 0.0, after.sign() * (size.floor / size.unit))
        # Lanes never meet, so they may share their draws.
        error.addcmul_(after, self._draws.fresh(1, V, K), value=size.unit)

    def _mean_square(self, state: Tensor) -> Tensor:
        error = torch.addcmul(self._state, state, self._common)
        return error.square_().mean(0).double()

    def finish(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Mean squares of the errors of what `recurrence.run` returns, of the same shapes."""
        draws, q, scale, dtype = self._draws, self._low["q"], self._lanes.scale, self._draws.dtype
        final = self._mean_square(self._last.to(dtype))
        if not self._read:
            return torch.zeros_like(self._lanes.v), final, None, None
        error = torch.stack(self._of_read, dim=1)  # [samples, T, L, V]
        read = torch.stack(self._read).to(dtype)
        size = sum_error(read, torch.stack(self._lengths) * lengths(q), evenness(q), q.shape[-1])
        error.addcmul_(size, self._sizes["read"].unit * draws.fresh(*read.shape)).mul_(scale)
        error.addcmul_(read, (scale * self._sizes["output"].unit) * draws.fresh(*read.shape))
        return (
            error.double().square_().mean(0),
            final,
            torch.stack(self._steps) if self._keep else None,
            torch.stack(self._before) if self._every else None,
        )


def _read(state: Tensor, moved: Tensor) -> Tensor:
    """S x for every sample: state [L, V, K], moved [samples, L, K] to [samples, L, V]."""
    return (state @ moved.permute(1, 2, 0)).permute(2, 0, 1)
