"""First-order errors of the chunked form, carried along with it chunk by chunk.

The formulas are those of `oracle.chunked`, differentiated. A factor of a matrix product is rounded to the
operand format, a product's sums to the accumulator's; with [.] for such fresh roundings and e for relative
errors,

    dG = cumsum(dg) + cumsum([G]) + [G],   d exp(x) = exp(x) (dx + [decay]),
    dkk_ij, dqk_ij: see `_Pairs`,   dA = -A d(beta kk) A + [inverse] + [A],
    du = dA (beta v) + A d(beta v) + [sum] + [u],   likewise w,
    dv_new = du - dw S - w dh + [sum],   dh = dS + [h],
    do = scale (d(q exp(G)) S + (q exp(G)) dh + dqk v_new + qk dv_new + [sums]) + [output],
    dS <- dS exp(G_last) + S d exp(G_last) + dv_new^T (k exp(G_last - G)) + v_new^T d(...) + [sum] + [state].

Partial sums G may come one after another, each with the roundings of those before it, or of a scan in the
form of a tree, each with roundings of its own: both are counted.

A product may be summed onto what stands in the accumulator, q exp(G) S or the state: then every term rounds
at that size (`_onto`).

Where one token's value outweighs all others, a handful of roundings make an element's error, the same ones in
its whole row, and in a few samples they may happen to cancel. So variances are carried beside the samples, as
if all roundings of decays, pairs and factors were independent (`variances`); the larger of the two counts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffgdn.case import Case
from diffgdn.noise.contract import Contract
from diffgdn.noise.draws import Draws
from diffgdn.noise.inputs import InputErrors, decay_error, relative
from diffgdn.noise.sums import evenness, lengths, mean_square, sum_error
from diffgdn.noise.variances import SCAN, Decays, Variances, of_inverse, written
from diffgdn.oracle.chunked import Chunk, block_of
from diffgdn.oracle.lanes import Lanes


class Follower:
    """Follows the chunked form. Errors are [samples, L, ...] in a working precision.

    condition: the largest size, over all chunks so far, of the error of the triangular system relative to
    what its inverse can take; first order holds while it is well below 1.
    """

    def __init__(
        self, case: Case, lanes: Lanes, errors: InputErrors, contract: Contract, draws: Draws
    ) -> None:
        self._lanes, self._errors, self._contract, self._draws = lanes, errors, contract, draws
        self._sizes = contract.sizes(case)
        self._state = torch.zeros(draws.samples, *lanes.state.shape, dtype=draws.dtype, device=lanes.v.device)
        self._o: list[Tensor] = []  # mean squares, [C, L, V]
        self._before: list[Tensor] = []  # [L, V, K]
        self._variances = Variances(lanes, contract, case)
        self.condition = 0.0

    def chunk(self, chunk: Chunk) -> None:
        """Take the errors over one chunk."""
        self._before.append(torch.maximum(self._mean_square(self._state), self._variances.state))
        low = {name: getattr(chunk, name).to(self._draws.dtype) for name in _FACTORS}
        beta, G, A, S = chunk.beta.to(self._draws.dtype), chunk.G, low["A"], low["S"]
        e_q, e_k, e_beta, g = (self._now(name, chunk.time) for name in ("q", "k", "beta", "g"))

        of_G = self._cumulative(chunk, g)
        decays = Decays(chunk.G, g, self._contract, self._sizes)
        pairs = _Pairs(chunk, low, of_G, decays, e_q, e_k, self)
        of_lower = beta * pairs.kk
        if e_beta is not None:
            of_lower += beta * low["kk"] * e_beta
        spread = of_lower @ A
        self.condition = max(self.condition, float(spread.square().sum(-1).mean(0).max()) ** 0.5)
        sums = of_inverse(chunk)
        of_A = self._rounded("A", chunk.A) - A @ spread
        of_A += sums.sqrt().to(A.dtype) * (self._sizes["inverse"].unit * self._draws.fresh(1, *A.shape[1:]))

        since_start = of_G + self._decay(G)  # relative, [samples, L, C, 1 or K]
        of_beta_v = self._rounded("beta_v", chunk.beta_v) + _scaled(low["beta_v"], e_beta)
        of_beta_k = self._rounded("beta_k", chunk.beta_k) + _scaled(
            low["beta_k"], _sum(since_start, e_beta, e_k)
        )
        of_u = of_A @ low["beta_v"] + A @ of_beta_v + self._sum("products", A, low["beta_v"], low["u"])
        of_w = of_A @ low["beta_k"] + A @ of_beta_k + self._sum("products", A, low["beta_k"], low["w"])
        of_u += self._rounded("u", chunk.u)
        of_w += self._rounded("w", chunk.w)

        h = S.transpose(-1, -2)
        of_h = (self._state + self._rounded("h", chunk.S)).transpose(-1, -2)
        carried = low["w"] @ h
        of_v = of_u - of_w @ h - low["w"] @ of_h + self._sum("products", low["w"], h, carried)
        of_v += self._fresh("products", low["v_new"])
        of_v_new = of_v + self._rounded("v_new", chunk.v_new)

        of_q = self._rounded("q_decayed", chunk.q_decayed) + _scaled(low["q_decayed"], _sum(since_start, e_q))
        of_qk = pairs.qk + self._rounded("A_qk", chunk.qk)
        first, second = low["q_decayed"] @ h, low["qk"] @ low["v_new"]
        of_read = of_q @ h + low["q_decayed"] @ of_h + of_qk @ low["v_new"] + low["qk"] @ of_v_new
        of_read += self._sum("products", low["q_decayed"], h, first)
        of_read += self._sum("products", low["qk"], low["v_new"], second)
        of_read += self._onto("products", first, (low["qk"] != 0).sum(-1, keepdim=True))
        of_read += self._fresh("products", low["read"])
        scale = self._lanes.scale
        of_o = of_read.mul_(scale) + self._fresh("output", low["read"] * scale)
        variances = self._variances.chunk(chunk, sums, decays, pairs.variance_kk, pairs.variance_qk)
        self._o.append(torch.maximum(self._mean_square(of_o), variances).movedim(-2, 0))

        last = G[..., -1:, :]
        kept = of_G[..., -1:, :] - of_G + self._decay(last - G)
        of_k = self._rounded("k_decayed", chunk.k_decayed) + _scaled(low["k_decayed"], _sum(kept, e_k))
        v_T = low["v_new"].transpose(-1, -2)
        added = v_T @ low["k_decayed"]
        error = of_v_new.transpose(-1, -2) @ low["k_decayed"] + v_T @ of_k
        error += self._sum("products", v_T, low["k_decayed"], added)
        if self._sizes["k_decayed"].floor and G.shape[-1] == 1:
            error += self._of_underflow("k_decayed", chunk.v_new * torch.exp(last - G)).mT @ low["k"]
        decay = torch.exp(last).to(self._draws.dtype)
        of_decay = of_G[..., -1:, :] + self._decay(last)
        error += self._state * decay + (S * decay) * of_decay
        error += self._fresh("products", S * decay)
        error += self._fresh("state", low["after"])
        error += self._onto("products", low["after"], written(chunk))
        self._state = error

    def finish(self, o: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean squares of the errors of o [T, L, V], of the final state [L, V, K] and of the state before
        every chunk [chunks, L, V, K]."""
        final = torch.maximum(self._mean_square(self._state), self._variances.state)
        if not self._o:
            return torch.zeros_like(o), final, final.new_zeros(0, *final.shape)
        return torch.cat(self._o), final, torch.stack(self._before)

    def _now(self, name: str, time: slice) -> Tensor | None:
        """Errors of the lanes' inputs in this chunk, [samples, L, C, d]."""
        error = getattr(self._errors, name)
        return None if error is None else error[:, time].movedim(1, -2)

    def _cumulative(self, chunk: Chunk, g: Tensor | None) -> Tensor:
        # Summed in log2 or natural units alike: the decay's own argument has the rounding of the scaling.
        rounded = torch.cumsum(self._rounded("cumulative", chunk.G), dim=-2)
        rounded += SCAN * self._rounded("cumulative", chunk.G, "scan")
        return rounded if g is None else rounded + torch.cumsum(g, dim=-2)

    def _decay(self, x: Tensor) -> Tensor:
        return decay_error(self._draws, x, self._contract, self._sizes["decay"])

    def _rounded(self, point: str, x: Tensor, again: str | None = None) -> Tensor:
        """Error of rounding x at a point, [samples, *x.shape]. again: names another rounding there."""
        size = self._sizes[point]
        out = x.to(self._draws.dtype) * size.unit
        if size.floor:
            out = out + torch.where(x == 0, 0.0, size.floor).to(out.dtype)
        return out * self._draws.by_value(x, again or point)

    def _of_underflow(self, point: str, x: Tensor) -> Tensor:
        """What the smallest numbers of a format add to the error of rounding x, [samples, *x.shape]. It does
        not go with x, so that it matters which factor of a product is scaled down."""
        floor = torch.where(x == 0, 0.0, self._sizes[point].floor).to(self._draws.dtype)
        return floor * self._draws.by_value(x, f"{point} underflow")

    def _fresh(self, point: str, x: Tensor) -> Tensor:
        """The same, with draws of its own for every element of a lane."""
        size = self._sizes[point]
        out = x * size.unit
        if size.floor:
            out = out + torch.where(x == 0, 0.0, size.floor).to(out.dtype)
        return out * self._draws.fresh(1, *x.shape[1:])

    def _sum(self, point: str, a: Tensor, b: Tensor, out: Tensor) -> Tensor:
        """Error of the sums of a product out = a @ b."""
        return self._sum_size(point, a, b, out) * self._draws.fresh(1, *out.shape[1:])

    def _sum_size(self, point: str, a: Tensor, b: Tensor, out: Tensor) -> Tensor:
        """Root mean square of that error, of out's shape."""
        size = sum_error(out, lengths(a) * lengths(b, dim=-2), evenness(a), a.shape[-1])
        return size.mul_(self._sizes[point].unit)

    def _onto(self, point: str, x: Tensor, terms: Tensor) -> Tensor:
        """Error of adding so many small terms onto x one by one: each sum rounds at the size of x."""
        size = terms.to(x.dtype).sqrt() * self._sizes[point].unit
        return x * size * self._draws.fresh(1, *x.shape[1:])

    def _mean_square(self, error: Tensor) -> Tensor:
        return mean_square(error, 0)


_FACTORS = (
    "S",
    "q",
    "k",
    "kk",
    "qk",
    "A",
    "beta_v",
    "beta_k",
    "u",
    "w",
    "v_new",
    "q_decayed",
    "k_decayed",
    "read",
    "after",
)


class _Pairs:
    """Errors of kk_ij = sum_c k_ic k_jc exp(G_ic - G_jc) and of qk alike, [samples, L, C, C], and the
    variances that decays and sums give them, [L, C, C] in float64.

    Every term of the sum has the relative error of its factors, e_i + e_j + dG_i - dG_j, besides that of the
    exponential. With one gate a head, the decay and its errors stand before the sum; per channel, the terms
    m_ijc are needed one by one near the diagonal, and left of it in two factors, anchored where no
    exponential is above 1.
    """

    def __init__(
        self,
        chunk: Chunk,
        low: dict[str, Tensor],
        of_G: Tensor,
        decays: Decays,
        e_q: Tensor | None,
        e_k: Tensor | None,
        errors: Follower,
    ) -> None:
        self._chunk, self._of_G, self._decays, self._errors = chunk, of_G, decays, errors
        C = chunk.k.shape[-2]
        self._seen = seen = torch.ones(C, C, dtype=torch.bool, device=chunk.k.device).tril()
        self._past = past = seen.tril(-1)
        size = errors._sizes["pair_factors"]
        if size.unit:
            e_q = _sum(e_q, relative(errors._draws, chunk.q, size, "pair_factors"))
            e_k = _sum(e_k, relative(errors._draws, chunk.k, size, "pair_factors"))
        form = self._by_head if chunk.G.shape[-1] == 1 else self._by_channel
        kk, variance_kk = form(low["k"], low["k"], low["kk"], e_k, e_k)
        qk, variance_qk = form(low["q"], low["k"], low["qk"], e_q, e_k)
        self.kk, self.variance_kk = (torch.where(past, x, 0.0) for x in (kk, variance_kk))
        self.qk, self.variance_qk = (torch.where(seen, x, 0.0) for x in (qk, variance_qk))

    def _by_head(
        self, x: Tensor, k: Tensor, out: Tensor, e_x: Tensor | None, e_k: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        errors, of_G, G = self._errors, self._of_G, self._chunk.G
        difference = torch.where(self._seen, G - G.transpose(-1, -2), 0.0)
        decay = torch.exp(difference).to(out.dtype)
        k_T = k.transpose(-1, -2)
        size = errors._sum_size("pairs", x, k_T, x @ k_T)
        of_sum = size * errors._draws.fresh(1, *out.shape[1:])
        if e_x is not None:
            of_sum = of_sum + (x * e_x) @ k_T
        if e_k is not None:
            of_sum = of_sum + x @ (k * e_k).transpose(-1, -2)
        of_decay = errors._decay(difference) + of_G - of_G.transpose(-1, -2)
        between = torch.where(self._past, self._decays.upper - self._decays.lower.mT, 0.0)
        variance = between + self._decays.exponential(difference) + errors._sizes["pairs"].unit ** 2
        variance = out.double().square() * variance + (size * decay).double().square()
        return of_sum * decay + out * of_decay + errors._fresh("pairs", out), variance

    def _by_channel(
        self, x: Tensor, k: Tensor, out: Tensor, e_x: Tensor | None, e_k: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        errors, of_G, G = self._errors, self._of_G, self._chunk.G
        e_i, e_j = _sum(of_G, e_x), _sum(-of_G, e_k)
        assert e_i is not None
        assert e_j is not None
        C = k.shape[-2]
        total = errors._fresh("pairs", out)
        length, variance = torch.zeros_like(out), torch.zeros_like(out, dtype=torch.float64)
        upper, lower = self._decays.upper, self._decays.lower
        block = block_of(k)
        for start in range(0, C, block):
            part = slice(start, min(start + block, C))
            here = G[..., part, :]
            if start:
                anchor = G[..., start : start + 1, :]
                left = x[..., part, :] * torch.exp(here - anchor).to(x.dtype)
                right = (k[..., :start, :] * torch.exp(anchor - G[..., :start, :]).to(x.dtype)).mT
                total[..., part, :start] += (left * e_i[..., part, :]) @ right
                total[..., part, :start] += left @ (right * e_j[..., :start, :].mT)
                length[..., part, :start] = lengths(left) * lengths(right, dim=-2)
                left, right = left.double().square(), right.double().square()
                variance[..., part, :start] = (left * upper[..., part, :]) @ right
                variance[..., part, :start] -= left @ (right * lower[..., :start, :].mT)
            inside = self._seen[part, part].unsqueeze(-1)
            difference = torch.where(inside, here.unsqueeze(-2) - here.unsqueeze(-3), -torch.inf)
            terms = torch.exp(difference).to(x.dtype)  # [L, i, j, K]
            terms = terms * x[..., part, :].unsqueeze(-2) * k[..., part, :].unsqueeze(-3)
            # sum_c m_ijc e_ic: for every i a product over c with all samples as columns
            of_i = terms @ e_i[..., part, :].permute(1, 2, 3, 0)  # [L, i, j, samples]
            of_j = (terms.transpose(1, 2) @ e_j[..., part, :].permute(1, 2, 3, 0)).transpose(1, 2)
            total[..., part, part] += (of_i + of_j).permute(3, 0, 1, 2)
            length[..., part, part] = lengths(terms).squeeze(-1) * k.shape[-1] ** 0.5
            terms = terms.double().square()
            of_i = terms @ upper[..., part, :].unsqueeze(-1)
            of_j = (terms.transpose(1, 2) @ lower[..., part, :].unsqueeze(-1)).transpose(1, 2)
            variance[..., part, part] = torch.where(self._past[part, part], (of_i - of_j).squeeze(-1), 0.0)
        # The exponential's own error is one of every term, as large as a few roundings of the sum.
        even = evenness(k).transpose(-1, -2)
        sums = sum_error(out, length, even.expand_as(out), k.shape[-1])
        fresh = errors._draws.fresh(1, C, C)
        per_term = 0.5**0.5 * length * errors._sizes["decay"].unit / k.shape[-1] ** 0.5
        size, unit = torch.hypot(errors._sizes["pairs"].unit * sums, per_term), errors._sizes["pairs"].unit
        variance += size.double().square() + (unit * out.double()).square()
        return total + fresh * size, variance


def _sum(*parts: Tensor | None) -> Tensor | None:
    """The sum of those that are there."""
    there = [part for part in parts if part is not None]
    total = there[0] if there else None
    for part in there[1:]:
        assert total is not None
        total = total + part
    return total


def _scaled(x: Tensor, error: Tensor | None) -> Tensor | float:
    return 0.0 if error is None else x * error
