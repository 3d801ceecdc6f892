"""List the criteria that tell a wrong result from a correct one: ours, and those that kernel projects test
with.

Each of theirs compares with the float64 truth here, not with another kernel, and is asked of every result,
states after single tokens and at chunk boundaries included: both are in their favour. Results that are not
finite are rejected by all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from diffgdn.reference.limit import MAX_SIGMAS
from diffgdn.verdict import vacuity
from diffgdn.verdict.comparison import Comparison

FLA_RATIO = 0.005
FLA_CI_RATIO = 0.01
FLA_CI_ERROR = 0.3
FLA_LEAST = 1e-6  # an error that FLA's comparison lets pass whatever its ratio
FLA_BASE = 1e-8  # added to the length it divides by
QLA_RATIO = 0.02
SGLANG_KDA_RATIO = 0.01


@dataclass(frozen=True)
class Criterion:
    """Describe a criterion.

    Attributes:
        words: what it asks, for a reader.
        rejects: called with one result beside the truth, and whether nothing rounds in its case; True if it
            finds fault.
    """

    words: str
    rejects: Callable[[Comparison, bool], bool]


def _relative(one: Comparison) -> float:
    """Divide the length of the error by the length of the truth, over the whole result."""
    base = torch.linalg.vector_norm(one.expected) / one.expected.numel() ** 0.5
    return float(torch.linalg.vector_norm(one.error) / one.error.numel() ** 0.5 / (base + FLA_BASE))


def _beyond(one: Comparison, atol: float, rtol: float) -> bool:
    """Ask whether any error exceeds atol + rtol |truth|, as torch.testing.assert_close does."""
    return not bool((one.error <= atol + rtol * one.expected.abs()).all())


def fla(one: Comparison, exact: bool) -> bool:
    """Reject as FLA's assert_close: unless rms(err) / rms(ref) < 0.005 for o and the state, or no error is
    above 1e-6."""
    return not (float(one.error.max()) <= FLA_LEAST or _relative(one) < FLA_RATIO)


def fla_ci(one: Comparison, exact: bool) -> bool:
    """Reject as FLA's assert_close with its CI flag set: below 0.01, or if no error exceeds 0.3, it only
    warns."""
    warns = _relative(one) < FLA_CI_RATIO or float(one.error.max()) <= FLA_CI_ERROR
    return fla(one, exact) and not warns


def sglang(one: Comparison, exact: bool) -> bool:
    """Reject as SGLang's chunk tests: atol 2e-2 and rtol 1e-2 for gdn, rms(err) / rms(ref) 1e-2 for kda."""
    if one.case.operation.is_kda:
        return not _relative(one) < SGLANG_KDA_RATIO
    return _beyond(one, atol=2e-2, rtol=1e-2)


def vllm(one: Comparison, exact: bool) -> bool:
    """Reject as vLLM's "2e-2 / 5e-3" for bf16, read as atol and rtol, in the order in which the others are
    quoted."""
    return _beyond(one, atol=2e-2, rtol=5e-3)


def flashinfer(one: Comparison, exact: bool) -> bool:
    """Reject as FlashInfer's delta-rule prefill in bf16: atol and rtol 1e-2 for o, 5e-3 and 1e-3 for
    states."""
    return _beyond(one, 1e-2, 1e-2) if one.name == "o" else _beyond(one, 5e-3, 1e-3)


def flashqla(one: Comparison, exact: bool) -> bool:
    """Reject as FlashQLA: unless ||err|| <= 0.02 ||ref||."""
    return not _relative(one) <= QLA_RATIO


OURS = "diffgdn"
CRITERIA: dict[str, Criterion] = {
    OURS: Criterion(
        f"every error within half an ulp and {MAX_SIGMAS:g} sigmas of its element", vacuity.faulty
    ),
    "FLA": Criterion("rms(err)/rms(ref) < 0.005", fla),
    "FLA in CI": Criterion("the same, but only below 0.01 and errors up to 0.3 warn", fla_ci),
    "SGLang": Criterion("gdn: atol 2e-2, rtol 1e-2; kda: rms(err)/rms(ref) < 0.01", sglang),
    "vLLM": Criterion("atol 2e-2, rtol 5e-3", vllm),
    "FlashInfer": Criterion("o: atol 1e-2, rtol 1e-2; states: atol 5e-3, rtol 1e-3", flashinfer),
    "FlashQLA": Criterion("||err|| <= 0.02 ||ref||", flashqla),
}
