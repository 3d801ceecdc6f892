"""Compute what the stages of a chunk kernel hand to each other: the truth of each, and its noise.

The truth is that of the chunked form in float64. The noise is that of results (`bound`), by brute force
(`perturbed`): the chunked form again in float64 under random perturbations of the size of the roundings that
the contract allows, SAMPLES at once; the root mean square of what they change, pooled over rows, and of
states over columns too, and never below the least noise of results. First order, which is quicker, is not
used: it follows results alone. In 260 drawn cases of the project's own kernels the largest error was 5.3
sigmas, of which 10 pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.reference import oracle
from diffgdn.reference.noise.bound import least_unit, pooled
from diffgdn.reference.noise.contract import Contract
from diffgdn.reference.noise.perturbed import Perturbed
from diffgdn.reference.oracle import Exact, Rounding, chunked, lanes
from diffgdn.reference.oracle.chunked import Chunk
from diffgdn.tensors.inputs import Data

SAMPLES = 32  # what narrow states get at most where they are followed to first order
MOST_NUMBERS = 1 << 23  # of what is laid out, in all samples: some seconds


@dataclass(frozen=True)
class Intermediate:
    """Hold one of them: truth and noise, one sigma of each element, float64 of the same shape.

    [total, H, K] for q and k as they are normalised; [total, HV, 1 or K] for G, cumulative natural log decay
    since the chunk's start; [total, HV, chunk_size] for A and A_qk, zero behind the last token of a chunk, A
    with the column of each token times its beta; [total, HV, K] for w, q_decayed, k_decayed; [total, HV, V]
    for u and v_new; [chunks, HV, V, K] for h, the states before each chunk, sequence by sequence.
    """

    truth: Tensor
    noise: Tensor


def intermediates(
    case: Case, data: Data, contract: Contract, least_gate: float
) -> dict[str, Intermediate] | None:
    """Compute the intermediates of a case by the names of `oracle.chunked`, on the CPU.

    data: the tensors of `inputs.draw`. least_gate: log decays below it are taken for it, in G alone: of any
    of them nothing is left. Returns nothing of a case without tokens, and None for one of too many numbers.
    """
    steps = max(case.lens, default=0)
    numbers = SAMPLES * len(case.lens) * case.HV * steps * (2 * case.K + case.V + case.chunk_size)
    if not steps or numbers > MOST_NUMBERS:
        return None if steps else {}
    exact = list(_chunks(case, data, Exact(), least_gate))
    moved = list(_chunks(case, data, Perturbed(case, contract, "cpu", SAMPLES), least_gate))
    squares = [
        {name: (there[name] - here[name]).square_().mean(0) for name in here}
        for here, there in zip(exact, moved, strict=True)
    ]
    unit, found = least_unit(case, contract), {}
    for name in exact[0]:
        truth, square = (_laid(case, name, [part[name] for part in parts]) for parts in (exact, squares))
        found[name] = Intermediate(truth, pooled(truth, square, unit, is_state=name == "h"))
    return found


def _chunks(case: Case, data: Data, rounding: Rounding, least_gate: float) -> Iterable[dict[str, Tensor]]:
    """List the intermediates of each chunk of the chunked form: [..., L, C, d], and h [..., L, V, K]."""
    found: list[dict[str, Tensor]] = []

    def follow(chunk: Chunk) -> None:
        found.append(_of_chunk(case, chunk, rounding, least_gate))

    chunked.run(lanes.make(case, data, rounding), rounding, case.chunk_size, follow)
    return found


def _of_chunk(case: Case, chunk: Chunk, rounding: Rounding, least_gate: float) -> dict[str, Tensor]:
    cut = (chunk.g.clamp(min=least_gate) - chunk.g).cumsum(-2)
    missing = (0, case.chunk_size - chunk.A.shape[-1])  # of columns in a last chunk
    A = chunk.A * rounding.operand(chunk.beta).transpose(-1, -2)
    named = ("q", "k", "w", "u", "v_new", "q_decayed", "k_decayed")
    return {
        **{name: getattr(chunk, name) for name in named},
        "G": chunk.G + cut,
        "A": torch.nn.functional.pad(A, missing),
        "A_qk": torch.nn.functional.pad(chunk.qk, missing),
        "h": chunk.S,
    }


def _laid(case: Case, name: str, parts: list[Tensor]) -> Tensor:
    """Lay the parts of all chunks out as `Intermediate` says."""
    if name == "h":
        return oracle.by_chunk(case, torch.stack(parts))
    rows = oracle.by_token(case, torch.cat([part.movedim(-2, 0) for part in parts]))
    return rows[:, :: case.HV // case.H] if name in ("q", "k") else rows
