"""Carry errors through a chunk's two pairwise products, kk_ij = sum_c k_ic k_jc exp(G_ic - G_jc) and qk
alike.

Every term of the sum has the relative error of its factors, e_i + e_j + dG_i - dG_j, besides that of the
exponential. With one gate a head, the decay and its errors stand before the sum; per channel, the terms are
needed one by one near the diagonal, and left of it in two factors, anchored so that no exponential is above
1.

Both products are taken at once: x is k and q, one above the other.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from diffgdn.reference.noise.roundings import Roundings, right
from diffgdn.reference.noise.sums import evenness, lengths, sum_error
from diffgdn.reference.noise.variances import Decays
from diffgdn.reference.oracle.chunked import Chunk, block_of


class _Products(NamedTuple):
    """Hold both products in the working precision.

    Attributes:
        x: [L, 2, C, K], k and q.
        k: [L, C, K].
        own: [L, 2, C, samples, K], their own errors; that of k is the first.
        out: [L, 2, C, C], what comes out, in float64.
        past: [C, C] booleans: j is an earlier token than i.
    """

    x: Tensor
    k: Tensor
    own: Tensor
    out: Tensor
    past: Tensor


class Pairs(NamedTuple):
    """Hold the errors of the two products.

    Attributes:
        kk, qk: [L, C, samples, C], errors in the working precision.
        variance_kk, variance_qk: [L, C, C], what decays and sums alone give them, in float64.
    """

    kk: Tensor
    qk: Tensor
    variance_kk: Tensor
    variance_qk: Tensor


def pairs(
    chunk: Chunk, of_G: Tensor, decays: Decays, e_q: Tensor | None, e_k: Tensor | None, roundings: Roundings
) -> Pairs:
    """Compute the errors of kk and qk of a chunk.

    Args:
        of_G: errors of the cumulative log decays, [L, C, samples, 1 or K].
        decays: variances of the decays between tokens.
        e_q, e_k: relative errors of q and k, [L, C, samples, K], or None.
    """
    C = chunk.k.shape[-2]
    past = torch.ones(C, C, dtype=torch.bool, device=chunk.k.device).tril(-1)
    x = torch.stack((chunk.k, chunk.q), 1)
    k, low = roundings.low(chunk.k, x)
    out = torch.stack((chunk.kk, chunk.qk), 1)
    own = torch.unflatten(roundings.rounded("pair_factors", x.flatten(1, 2)), 1, (2, C))
    for half, value, error in ((0, k, e_k), (1, low[:, 1], e_q)):
        if error is not None:
            own[:, half].addcmul_(value.unsqueeze(-2), error)
    form = _by_head if chunk.G.shape[-1] == 1 else _by_channel
    error, variance = form(_Products(low, k, own, out, past), chunk.G, of_G, decays, roundings)
    return Pairs(error[:, 0], error[:, 1], variance[:, 0], variance[:, 1])


def _by_head(
    products: _Products, G: Tensor, of_G: Tensor, decays: Decays, roundings: Roundings
) -> tuple[Tensor, Tensor]:
    """Compute errors [L, 2, C, samples, C] and variances [L, 2, C, C] with one gate a head, G [L, C, 1]."""
    x, k, own, out, past = products
    C = k.shape[-2]
    rows, k_T = x.flatten(1, 2), k.mT
    error = right(own.flatten(1, 2), k_T)  # [L, 2 C, samples, C]
    error += right(own[:, 0], rows.mT).permute(0, 3, 2, 1)
    seen = past | torch.eye(C, dtype=torch.bool, device=k.device)
    difference = torch.where(seen, G - G.mT, 0.0)
    decay = torch.exp(difference).unsqueeze(1) * torch.stack((past, seen))
    low_decay, low = roundings.low(decay, out)
    error *= low_decay.flatten(1, 2).unsqueeze(-2)
    error = torch.unflatten(error, 1, (2, C))
    of_decay = roundings.decay(difference) + (of_G - of_G.permute(0, 3, 2, 1))
    error.addcmul_(low.unsqueeze(-2), of_decay.unsqueeze(1))
    sums = torch.unflatten(roundings.sums("pairs", rows, k_T, rows @ k_T), 1, (2, C)) * low_decay
    roundings.add_fresh(error.flatten(1, 2), sums.flatten(1, 2), roundings.size("pairs", low).flatten(1, 2))

    between = torch.where(past, decays.upper - decays.lower.mT, 0.0)
    variance = between + decays.exponential(difference) + roundings.sizes["pairs"].unit ** 2
    return error, out.square().mul_(variance.unsqueeze(1)).add_(sums.double().square())


def _by_channel(
    products: _Products, G: Tensor, of_G: Tensor, decays: Decays, roundings: Roundings
) -> tuple[Tensor, Tensor]:
    """Compute errors [L, 2, C, samples, C] and variances [L, 2, C, C] with a gate for each channel, G [L,
    C, K]."""
    x, k, own, out, past = products
    (L, _, C, K), samples = x.shape, roundings.samples
    # Absolute, as a factor may be zero: x_i (e_i + dG_i) and k_j (e_j - dG_j).
    of_i = torch.addcmul(own, x.unsqueeze(-2), of_G.unsqueeze(1))
    of_j = torch.addcmul(own[:, 0], k.unsqueeze(-2), of_G, value=-1.0)
    error = k.new_zeros(L, 2, C, samples, C)
    length, variance = k.new_zeros(L, 2, C, C), torch.zeros_like(out)
    upper, lower = decays.upper, decays.lower
    block = block_of(k)
    for start in range(0, C, block):
        part = slice(start, min(start + block, C))
        here, size = G[:, part], min(block, C - start)
        if start:
            before = slice(0, start)
            fall, rise = roundings.low(
                torch.exp(here - G[:, start : start + 1]), torch.exp(G[:, start : start + 1] - G[:, before])
            )
            left, k_before = x[:, :, part] * fall.unsqueeze(1), k[:, before] * rise
            moved = (of_i[:, :, part] * fall[:, None, :, None]).flatten(1, 3)
            first = torch.bmm(moved, k_before.mT).view(L, 2, size, samples, start)
            moved = (of_j[:, before] * rise.unsqueeze(-2)).flatten(1, 2)
            second = torch.bmm(moved, left.flatten(1, 2).mT).view(L, start, samples, 2, size)
            torch.add(first, second.permute(0, 3, 4, 2, 1), out=error[:, :, part, :, before])
            length[:, :, part, before] = lengths(left) * lengths(k_before).unsqueeze(1).mT
            left, k_before = left.double().square(), k_before.double().square().unsqueeze(1)
            square = (left * upper[:, None, part]) @ k_before.mT
            square -= left @ (k_before * lower[:, None, before]).mT
            variance[:, :, part, before] = square
        inside = torch.ones(size, size, dtype=torch.bool, device=k.device).tril().unsqueeze(-1)
        difference = torch.where(inside, here.unsqueeze(2) - here.unsqueeze(1), -torch.inf)
        (decay,) = roundings.low(torch.exp(difference))  # [L, i, j, K]
        by_k = (decay * k[:, None, part]).flatten(0, 1)  # [L i, j, K]
        first = of_i[:, :, part].permute(0, 2, 1, 3, 4).reshape(L * size, 2 * samples, K) @ by_k.mT
        first = first.view(L, size, 2, samples, size).permute(0, 2, 1, 3, 4)
        terms = decay.unsqueeze(1) * x[:, :, part].unsqueeze(3)  # [L, 2, i, j, K], but for k_j
        by_x = terms.permute(0, 3, 1, 2, 4).reshape(L * size, 2 * size, K)
        second = of_j[:, part].reshape(L * size, samples, K) @ by_x.mT
        second = second.view(L, size, samples, 2, size).permute(0, 3, 4, 2, 1)
        torch.add(first, second, out=error[:, :, part, :, part])
        terms = terms.mul_(k[:, None, None, part])
        length[:, :, part, part] = lengths(terms).squeeze(-1) * K**0.5
        square = terms.double().square()
        between = (upper[:, part].unsqueeze(2) - lower[:, part].unsqueeze(1)).unsqueeze(1)
        between = (square * between).sum(-1)
        variance[:, :, part, part] = torch.where(past[part, part], between, 0.0)
    # The exponential's own error is one of every term, as large as a few roundings of the sum.
    (low,) = roundings.low(out)
    even = evenness(k).mT.unsqueeze(1)
    unit = roundings.sizes["pairs"].unit
    sums = sum_error(low, length, even.expand_as(low), K).mul_(unit)
    sums = torch.hypot(sums, length * (0.5**0.5 * roundings.sizes["decay"].unit / K**0.5))
    sums[:, 0] *= past
    variance += sums.double().square() + (unit * out).square_()
    roundings.add_fresh(error.flatten(1, 2), sums.flatten(1, 2), roundings.size("pairs", low).flatten(1, 2))
    for each in (error[:, 0], variance[:, 0].unsqueeze(2)):  # a token has no product with itself
        each.diagonal(dim1=1, dim2=3).zero_()
    return error, variance
