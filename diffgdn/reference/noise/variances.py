"""Carry variances of the chunked form's errors without samples, as if its roundings were independent.

The variance of a product to first order, and of a sum of independent terms: Higham and Mary, "A New
Approach to Probabilistic Rounding Error Analysis", 2019, take roundings so.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.reference.noise.contract import Contract, Size
from diffgdn.reference.noise.operands import decay_size
from diffgdn.reference.noise.sums import mean_square
from diffgdn.reference.oracle.chunked import Chunk
from diffgdn.reference.oracle.lanes import Lanes

# Of the roundings that a scan in the form of a tree gives a partial sum of its own, for gates that are alike:
# the terms of its last addition are about as large, those before it half as large, and so on.
SCAN = (4.0 / 3.0) ** 0.5
_SQUARED = ("S", "A", "beta_v", "beta_k", "u", "w", "v_new", "qk", "q_decayed", "k_decayed")


class Variances:
    """Carry the variances that independent roundings of decays and of the factors of all products give to o
    and the state.

    Of what an error does on its way through the triangular system, only the way straight through is
    counted.

    Attributes:
        state: [L, V, K], float64, variances of the state's errors before the next chunk.
    """

    def __init__(self, lanes: Lanes, contract: Contract, case: Case) -> None:
        """Start with a state that has no error."""
        self.state = torch.zeros_like(lanes.state)  # [L, V, K]
        self._scale = lanes.scale
        self._unit = {name: size.unit**2 for name, size in contract.sizes(case).items()}
        self._of_qk = self._unit["qk"] if case.l2norm else 0.0

    def chunk(self, chunk: Chunk, sums: Tensor, decays: Decays, of_kk: Tensor, of_qk: Tensor) -> Tensor:
        """Take the variances over one chunk; returns those of o, [L, C, V], in float64.

        Args:
            sums: [L, C, C], as `of_inverse` gives them.
            of_kk, of_qk: [L, C, C], what decays and sums give to the two pairwise products.
        """
        unit = self._unit
        squares: dict[str, Tensor] = {name: getattr(chunk, name).square() for name in _SQUARED}
        A, u, w, v_new, qk = (squares[name] for name in ("A", "u", "w", "v_new", "qk"))
        since, kept = decays.since_start, decays.to_end
        of_factors = 2.0 * (unit["pair_factors"] + self._of_qk)
        q = squares["q_decayed"] * (unit["q_decayed"] + self._of_qk + since)
        of_lower = chunk.beta.square() * (of_kk + chunk.kk.square() * of_factors)
        of_A = A * unit["A"] + sums * unit["inverse"] + A @ of_lower @ A
        of_w = of_A @ squares["beta_k"] + w * unit["w"]
        of_w += A @ (squares["beta_k"] * (unit["beta_k"] + self._of_qk + since))
        of_k = squares["k_decayed"] * (unit["k_decayed"] + self._of_qk + kept)
        h = squares["S"].mT
        of_h = self.state.mT + unit["h"] * h
        of_u = (of_A + A * unit["beta_v"]) @ squares["beta_v"] + u * unit["u"]
        of_v = of_u + of_w @ h + w @ of_h + v_new * unit["v_new"]
        of_read = q @ h + squares["q_decayed"] @ of_h
        of_read += qk @ (of_v + v_new * (unit["A_qk"] + of_factors)) + of_qk @ v_new
        decay = torch.exp(2.0 * chunk.G[..., -1:, :])
        self.state = (self.state + squares["S"] * since[..., -1:, :]) * decay
        self.state += of_v.mT @ squares["k_decayed"] + v_new.mT @ of_k
        self.state += chunk.after.square() * (unit["products"] * written(chunk))
        return of_read * self._scale**2


class Decays:
    """Hold variances of the errors of a chunk's decays, relative to the decays, in float64.

    That of exp(G_i - G_j), i after j, is upper_i - lower_j, besides the exponential's own.

    Attributes:
        upper, lower: [L, C, 1 or K].
        since_start, to_end: [L, C, 1 or K], of exp(G) and of exp(G_last - G), the exponential's own
            included.
    """

    def __init__(self, G: Tensor, of_g: Tensor | None, contract: Contract, sizes: dict[str, Size]) -> None:
        """Add the variances up over a chunk.

        Args:
            G: [L, C, 1 or K], cumulative natural log decay.
            of_g: errors of the log decays given, [L, C, samples, 1 or K], or None.
        """
        self._contract, self._size = contract, sizes["decay"]
        rounded = G.square() * sizes["cumulative"].unit ** 2
        each = rounded if of_g is None else rounded + mean_square(of_g, -2)
        shared, own = each.cumsum(-2), rounded * SCAN**2  # up to a token, and of its own
        self.upper, self.lower = shared + own, shared - own
        # Of exp(G) and of exp(G_last - G), [L, C, 1 or K].
        self.since_start = self.upper + self.exponential(G)
        self.to_end = self.upper[..., -1:, :] - self.lower + self.exponential(G[..., -1:, :] - G)
        self.to_end[..., -1:, :] = 0.0

    def exponential(self, x: Tensor) -> Tensor:
        """Compute the variance of exp(x) itself, relative to it, for an exact x."""
        return decay_size(x, self._contract, self._size).square()


def written(chunk: Chunk) -> Tensor:
    """Count the tokens of a chunk that write to the state, [L, 1, 1]: a product may be summed onto the
    state."""
    return (chunk.k_decayed != 0).any(-1).sum(-1)[:, None, None]


def of_inverse(chunk: Chunk) -> Tensor:
    """Compute mean squares of the errors of A, [L, C, C], in units of a rounding.

    An inverse that comes of products X L X, sums of terms that may cancel, is off relative to the terms
    (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, chapter 14).
    """
    A, L = chunk.A.square(), (chunk.beta * chunk.kk).square()
    return A @ L @ A
