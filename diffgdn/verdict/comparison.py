"""Puts a result beside the oracle's: errors, bounds, and words for a place in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.reference import noise
from diffgdn.reference.noise import Reference
from diffgdn.tensors import poison
from diffgdn.tensors.results import of_truth, result_of


@dataclass(frozen=True)
class Comparison:
    """One result beside the oracle's, all tensors of one shape: [rows, HV, V] of the output, [rows, HV, V, K]
    of states.

    name: of the result.
    dtype: in which the result came.
    got, expected: the result and the truth, float64 on the CPU.
    noise: one sigma of each element, float64, without the final rounding.
    half_ulp: the largest error of the final rounding to `dtype`, float64.
    unwritten: bool, where memory still holds what it was filled with before the call.
    """

    case: Case
    name: str
    dtype: torch.dtype
    got: Tensor
    expected: Tensor
    noise: Tensor
    half_ulp: Tensor
    unwritten: Tensor

    @property
    def error(self) -> Tensor:
        """|got - expected|, float64."""
        return (self.got - self.expected).abs()

    @property
    def bound(self) -> Tensor:
        """The largest error of each element that passes, float64; see `noise.tolerance`."""
        return noise.bound_of(self.half_ulp, self.noise)

    @cached_property
    def overflows(self) -> Tensor:
        """Mask of the elements that a correct kernel may round to infinity, as the format ends within the
        bound; a single False if there is none, which takes no pass over them."""
        most = torch.finfo(self.dtype).max
        if self.got.numel():
            size = max(-float(self.expected.min()), float(self.expected.max()))
            bound = float(self.half_ulp.max()) + noise.MAX_SIGMAS * float(self.noise.max()) + noise.TINY
            if not size + bound < most:  # not: of a NaN too
                return noise.overflows(self.expected, self.bound, self.dtype)
        return torch.zeros((), dtype=torch.bool)

    @cached_property
    def error_in_sigmas(self) -> Tensor:
        """Each error less the unavoidable final rounding, in sigmas, of which MAX_SIGMAS pass; 0 for elements
        that may overflow, infinite for a NaN."""
        excess = noise.error_in_sigmas(self.error, self.half_ulp, self.noise)
        return excess.masked_fill_(self.overflows, 0.0) if self.overflows.any() else excess

    @property
    def share(self) -> float:
        """The largest `error_in_sigmas` as a share of MAX_SIGMAS: above 1 the result fails."""
        return float(self.error_in_sigmas.max()) / noise.MAX_SIGMAS if self.got.numel() else 0.0

    def worst(self) -> tuple[int, ...]:
        """Index of the element whose error is the largest multiple of its bound."""
        ratio = (self.error / self.bound).nan_to_num_(nan=torch.inf)
        if self.overflows.any():
            ratio.masked_fill_(self.overflows, 0.0)
        return tuple(int(i) for i in torch.unravel_index(ratio.argmax(), ratio.shape))

    @property
    def origins(self) -> list[int]:
        """For each row of the result its token (`holds_tokens`), chunk (boundary) or sequence (state, final)
        in the whole batch: a result holds only what the operation leaves behind."""
        rows = result_of(self.case, self.name).rows
        return list(range(self.got.shape[0]) if rows is None else rows)

    def place(self, index: tuple[int, ...]) -> str:
        """Words for an index: sequence, token, head, row, column."""
        return describe_place(self.case, self.name, (self.origins[index[0]], *index[1:]))


TAIL = "o behind the last sequence"  # the name of what follows


class TailComparison(Comparison):
    """The output rows of padding tokens, [tail, HV, V], beside the zeros that a target promises."""

    @property
    def origins(self) -> list[int]:
        """Number the padding tokens."""
        return list(range(self.got.shape[0]))

    def place(self, index: tuple[int, ...]) -> str:
        """Words for an index: padding token, head, V."""
        words = zip(("padding token", "head", "V"), index, strict=False)
        return "(" + ", ".join(f"{word} {i}" for word, i in words) + ")"


def compare_tail(case: Case, rows: Tensor, pattern: int) -> TailComparison:
    """Put output rows of padding tokens, [tail, HV, V] on the CPU, beside zeros. pattern: of their memory."""
    zeros = torch.zeros(rows.shape, dtype=torch.float64)
    unwritten = poison.unwritten(rows, pattern).view(rows.shape)
    return TailComparison(case, TAIL, rows.dtype, rows.double(), zeros, zeros, zeros, unwritten)


def compare_results(
    case: Case, results: Mapping[str, Tensor], reference: Reference, patterns: Mapping[str, int] | None = None
) -> Iterator[Comparison]:
    """Put each result of a run beside the reference.

    results: by the names of `results_of`, on the CPU, in the dtypes in which they came. patterns: the 16-bit
    pattern that a result's memory was filled with, if that is not poison.FRESH.
    """
    truth = reference.truth.items()
    for name, got in results.items():
        result = result_of(case, name)
        expected = of_truth(result, truth[result.truth]).cpu()
        sigma = of_truth(result, reference.noise[result.truth]).cpu()
        got = got.reshape(expected.shape)
        pattern = (patterns or {}).get(name, poison.FRESH)
        yield Comparison(
            case,
            name,
            got.dtype,
            got.double(),
            expected,
            sigma,
            noise.last_rounding(expected, sigma, got.dtype),
            poison.unwritten(got, pattern).view(got.shape),
        )


def received_dtypes(case: Case, results: Mapping[str, Tensor]) -> list[tuple[str, torch.dtype]]:
    """List, for `noise.reference`, the truth that each result is compared with and the dtype in which the
    result came."""
    return [(result_of(case, name).truth, tensor.dtype) for name, tensor in results.items()]


def holds_tokens(case: Case, name: str) -> bool:
    """Tell whether rows of the truth of a result are tokens: of outputs, and of states after any step."""
    return name in ("o", "steps") or (name == "state" and case.operation.commits)


def describe_place(case: Case, name: str, index: tuple[int, ...]) -> str:
    """Words for an index into the truth of a result of a case (see `oracle.Expected` for the shapes)."""
    if holds_tokens(case, name):
        sequence = max(n for n in range(len(case.lens)) if case.starts[n] <= index[0] and case.lens[n] > 0)
        words = [f"sequence {sequence}", f"token {index[0] - case.starts[sequence]}"]
    elif name in ("boundary", "tracked"):
        chunk, sequence = index[0], 0
        while chunk >= -(-case.lens[sequence] // case.chunk_size):
            chunk -= -(-case.lens[sequence] // case.chunk_size)
            sequence += 1
        words = [f"sequence {sequence}", f"chunk {chunk}"]
    else:
        words = [f"sequence {index[0]}"]
    words.append(f"head {index[1]}")
    words += [f"{axis} {i}" for axis, i in zip(("V", "K"), index[2:], strict=False)]
    return "(" + ", ".join(words) + ")"
