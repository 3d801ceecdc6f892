"""Carry first-order errors of the chunked form along with it, chunk by chunk.

The formulas are those of `oracle.chunked`, differentiated. A factor of a matrix product is rounded to the
operand format, a product's sums to the accumulator's; with [.] for such fresh roundings and e for relative
errors,

    dG = cumsum(dg) + cumsum([G]) + [G],   d exp(x) = exp(x) (dx + [decay]),
    dkk_ij, dqk_ij: see `pairs`,   dA = -A d(beta kk) A + [inverse] + [A],
    du = dA (beta v) + A d(beta v) + [sum] + [u],   likewise w,
    dv_new = du - dw S - w dh + [sum],   dh = dS + [h],
    do = scale (d(q exp(G)) S + (q exp(G)) dh + dqk v_new + qk dv_new + [sums]) + [output],
    dS <- dS exp(G_last) + S d exp(G_last) + dv_new^T (k exp(G_last - G)) + v_new^T d(...) + [sum] + [state].

Partial sums G may come one after another, each with the roundings of those before it, or from a scan in the
form of a tree, each with roundings of its own: both are counted.

A product may be summed onto what stands in the accumulator, q exp(G) S or the state: then every term rounds
at that size (`_onto`).

If one token's value outweighs all others, a handful of roundings make an element's error, the same ones in
its whole row, and in a few samples they may happen to cancel. So variances are carried beside the samples,
as if all roundings of decays, pairs and factors were independent (`variances`); the larger of the two
counts.

The derivative of an inverse, dA = -A dL A for A = L^-1, and the error of a computed one: Higham, "Accuracy
and Stability of Numerical Algorithms", 2002, chapter 14; of sums: chapter 4; of products: chapter 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.reference.noise.contract import Contract
from diffgdn.reference.noise.draws import Draws
from diffgdn.reference.noise.operands import InputErrors
from diffgdn.reference.noise.pairs import Pairs, pairs
from diffgdn.reference.noise.roundings import Roundings, add_left, add_right, of_inputs, right
from diffgdn.reference.noise.sums import mean_square
from diffgdn.reference.noise.variances import SCAN, Decays, Variances, of_inverse, written
from diffgdn.reference.oracle.chunked import Chunk
from diffgdn.reference.oracle.lanes import Lanes


class Follower:
    """Follow the chunked form, and carry its errors.

    Errors are laid out as `roundings` says; those of the state are transposed, [L, K, samples, V].
    """

    def __init__(
        self,
        case: Case,
        lanes: Lanes,
        errors: InputErrors,
        contract: Contract,
        draws: Draws,
        keep: bool = False,
    ) -> None:
        """Start before the first chunk, with a state that has no error.

        Args:
            lanes: the inputs that are followed, without samples.
            errors: what those inputs bring with them.
            draws: the random factors of the roundings; they set samples and working precision.
            keep: whether the state before every chunk is a result too.
        """
        self._lanes, self._errors, self._keep = lanes, errors, keep
        self._roundings = Roundings(case, contract, draws)
        L, V, K = lanes.state.shape
        self._state = torch.zeros(L, K, draws.samples, V, dtype=draws.dtype, device=lanes.v.device)
        self._o: list[Tensor] = []  # mean squares, [C, L, V]
        self._before: list[Tensor] = []  # [L, V, K]
        self._variances = Variances(lanes, contract, case)
        self._conditions: list[Tensor] = []  # squares

    def chunk(self, chunk: Chunk) -> None:
        """Take the errors over one chunk."""
        if self._keep:
            self._before.append(self._of_state())
        roundings, errors = self._roundings, self._errors
        e_q, e_k, e_beta, g = (of_inputs(x, chunk.time) for x in (errors.q, errors.k, errors.beta, errors.g))
        of_G = self._cumulative(chunk.G, g)
        decays = Decays(chunk.G, g, roundings.contract, roundings.sizes)
        of = pairs(chunk, of_G, decays, e_q, e_k, roundings)
        sums = of_inverse(chunk)
        since_start, to_end, of_decay = self._decays(chunk.G, of_G)
        of_u, of_w = self._of_system(chunk, of, sums, since_start, e_beta, e_k)

        S = chunk.S.mT.contiguous()  # [L, K, V]
        h, w, v_new = roundings.low(S, chunk.w, chunk.v_new)
        of_h = roundings.rounded("h", S).add_(self._state)
        of_v = torch.baddbmm(of_u.flatten(1, 2), of_w.flatten(1, 2), h, alpha=-1.0).view(of_u.shape)
        add_left(of_v, w, of_h, alpha=-1.0)
        roundings.add_fresh(of_v, roundings.sums("products", w, h, w @ h), roundings.size("products", v_new))
        of_v_new = roundings.rounded("v_new", chunk.v_new).add_(of_v)

        of_q = roundings.rounded("q_decayed", chunk.q_decayed)
        moved = since_start if e_q is None else since_start + e_q
        q, qk = roundings.low(chunk.q_decayed, chunk.qk)
        of_q.addcmul_(q.unsqueeze(-2), moved)
        of_qk = roundings.rounded("A_qk", chunk.qk).add_(of.qk)
        of_o = add_left(right(of_q, h), q, of_h)
        add_left(add_right(of_o, of_qk, v_new), qk, of_v_new)
        roundings.add_fresh(of_o.mul_(self._lanes.scale), *self._of_read(chunk, q, h, qk, v_new))
        variances = self._variances.chunk(chunk, sums, decays, of.variance_kk, of.variance_qk)
        self._o.append(torch.maximum(mean_square(of_o, -2), variances).movedim(-2, 0))
        self._advance(chunk, to_end, of_decay, e_k, h, v_new, of_v_new)

    def _of_system(
        self,
        chunk: Chunk,
        of: Pairs,
        sums: Tensor,
        since_start: Tensor,
        e_beta: Tensor | None,
        e_k: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Compute the errors of u [L, C, samples, V] and of w [L, C, samples, K].

        Args:
            of: errors of the pairwise products.
            sums: [L, C, C], mean squares as `of_inverse` gives them.
            since_start: relative errors of exp(G), [L, C, samples, 1 or K].
            e_beta, e_k: relative errors of beta and k, [L, C, samples, 1 or K], or None.
        """
        roundings, V = self._roundings, chunk.u.shape[-1]
        beta, kk, A = roundings.low(chunk.beta, chunk.kk, chunk.A)
        of_lower = beta.unsqueeze(-2) * of.kk
        if e_beta is not None:
            of_lower.addcmul_((beta * kk).unsqueeze(-2), e_beta)
        spread = right(of_lower, A)
        self._conditions.append(spread.square().sum(-1).mean(-1).amax())
        of_A = roundings.rounded("A", chunk.A)
        roundings.add_fresh(of_A, sums.sqrt().to(A.dtype) * roundings.sizes["inverse"].unit)
        add_left(of_A, A, spread, alpha=-1.0)
        # u and w beside each other, [beta v, beta exp(G) k]
        factors = torch.cat((chunk.beta_v, chunk.beta_k), -1)
        products = torch.cat((chunk.u, chunk.w), -1)
        b, uw = roundings.low(factors, products)
        size = [roundings.size(name, getattr(chunk, name)) for name in ("beta_v", "beta_k", "u", "w")]
        of_b = roundings.by_value(torch.cat(size[:2], -1), factors, "beta")
        if e_beta is not None:
            of_b[..., :V].addcmul_(b[..., :V].unsqueeze(-2), e_beta)
        for error in (since_start, e_beta, e_k):
            if error is not None:
                of_b[..., V:].addcmul_(b[..., V:].unsqueeze(-2), error)
        of_uw = roundings.by_value(torch.cat(size[2:], -1), products, "uw")
        add_left(add_right(of_uw, of_A, b), A, of_b)
        roundings.add_fresh(of_uw, roundings.sums("products", A, b, uw))
        return of_uw[..., :V], of_uw[..., V:]

    def _of_read(self, chunk: Chunk, q: Tensor, h: Tensor, qk: Tensor, v_new: Tensor) -> list[Tensor]:
        """List the sizes [L, C, V] of the roundings of o.

        Those of both products' sums, of the second onto the first, of their sum, and of what comes of it
        after the scale.
        """
        roundings, scale, first = self._roundings, self._lanes.scale, q @ h
        before_scale = [
            roundings.sums("products", q, h, first),
            roundings.sums("products", qk, v_new, qk @ v_new),
            self._onto(first, (chunk.qk != 0).sum(-1, keepdim=True)),
            roundings.size("products", chunk.read),
        ]
        return [size * scale for size in before_scale] + [roundings.size("output", chunk.read * scale)]

    def _advance(
        self,
        chunk: Chunk,
        to_end: Tensor,
        of_decay: Tensor,
        e_k: Tensor | None,
        h: Tensor,
        v_new: Tensor,
        of_v_new: Tensor,
    ) -> None:
        """Take the errors of the state to the end of a chunk.

        Args:
            to_end, of_decay: as `_decays` gives them.
            e_k: relative errors of k, [L, C, samples, K], or None.
            h: [L, K, V], the state that the chunk starts from, in the working precision.
            v_new: [L, C, V], in the working precision.
            of_v_new: its errors, [L, C, samples, V].
        """
        roundings, G, error = self._roundings, chunk.G, self._state
        last, kept = G[:, -1:], to_end if e_k is None else to_end + e_k
        k_T = chunk.k_decayed.mT.contiguous()
        of_k = roundings.rounded("k_decayed", k_T)  # [L, K, samples, C]
        k, after, decay = roundings.low(k_T, chunk.after.mT, torch.exp(last).mT)
        of_k.addcmul_(k.unsqueeze(-2), kept.permute(0, 3, 2, 1))
        decayed = h * decay
        error.mul_(decay.unsqueeze(-1)).addcmul_(decayed.unsqueeze(-2), of_decay.permute(0, 3, 2, 1))
        add_right(add_left(error, k, of_v_new), of_k, v_new)
        if roundings.sizes["k_decayed"].floor and G.shape[-1] == 1:  # it may be v_new that decays
            x = chunk.v_new * torch.exp(last - G)
            floor = roundings.floor("k_decayed", x)
            add_left(error, chunk.k.mT.to(error.dtype), roundings.by_value(floor, x, "underflow"))
        roundings.add_fresh(
            error,
            roundings.sums("products", k, v_new, k @ v_new),
            roundings.size("products", decayed),
            roundings.size("state", after),
            self._onto(after, written(chunk)),
        )

    def finish(self, o: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give the mean squares of all errors, in float64.

        Args:
            o: [T, L, V], the outputs; only their shape is used.

        Returns:
            those of o [T, L, V], of the final state [L, V, K] and, if they are kept, of the state before
                every chunk [chunks, L, V, K],
            else an empty tensor.
        """
        final = self._of_state()
        return (
            torch.cat(self._o) if self._o else torch.zeros_like(o),
            final,
            torch.stack(self._before) if self._before else final.new_zeros(0, *final.shape),
        )

    @property
    def condition(self) -> float:
        """Give the largest relative error of the triangular system over all chunks so far.

        The norm of a row of dL A, root mean square over the samples, for the system L = I + beta kk and A =
        L^-1. First order holds while it is well below 1, for the next order is its square (Higham 2002,
        chapters 7 and 14).
        """
        return float(torch.stack(self._conditions).max()) ** 0.5 if self._conditions else 0.0

    def _of_state(self) -> Tensor:
        """Give the mean squares of the state's errors, [L, V, K]: by samples or by variances, the larger."""
        return torch.maximum(mean_square(self._state, -2).mT, self._variances.state)

    def _cumulative(self, G: Tensor, g: Tensor | None) -> Tensor:
        """Compute the errors of the cumulative log decays, [L, C, samples, 1 or K], absolute, in natural
        units.

        Args:
            G: [L, C, 1 or K].
            g: errors of the log decays, [L, C, samples, 1 or K], or None.
        """
        # Summed in log2 or natural units alike: the decay's own argument has the rounding of the scaling.
        roundings = self._roundings
        size = roundings.size("cumulative", G)
        shared = roundings.by_value(size, G, "cumulative")
        own = roundings.by_value(size, G, "scan")
        return (shared if g is None else shared.add_(g)).cumsum(1).add_(own, alpha=SCAN)

    def _decays(self, G: Tensor, of_G: Tensor) -> tuple[Tensor, ...]:
        """Draw the relative errors of the decays of a chunk.

        Returns:
            those of exp(G) and of exp(G_last - G), [L, C, samples, 1 or K], and of exp(G_last), [L, 1,
                samples, 1 or K].
        """
        last, of_last, C = G[:, -1:], of_G[:, -1:], G.shape[1]
        own = self._roundings.decay(torch.cat((G, last - G, last), 1))
        return of_G + own[:, :C], of_last - of_G + own[:, C : 2 * C], of_last + own[:, 2 * C :]

    def _onto(self, x: Tensor, terms: Tensor) -> Tensor:
        """Size the error of adding many small terms onto x one by one: each sum rounds at the size of x.

        Args:
            x: values that are added to.
            terms: how many terms, of a shape that broadcasts to x.
        """
        return x * (terms.to(x.dtype).sqrt() * self._roundings.sizes["products"].unit)
