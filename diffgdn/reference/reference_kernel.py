"""Results as a kernel would leave them, without a kernel: from the truth, or from the reference computation
under real roundings. What asks the checks themselves is built on it."""

from __future__ import annotations

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.reference import oracle
from diffgdn.reference.noise import Contract, Rounded
from diffgdn.reference.oracle import Expected, Rounding
from diffgdn.tensors.inputs import DTYPE, Data
from diffgdn.tensors.results import Result, of_truth, result_of, results_of


def live_rows(case: Case) -> Tensor:
    """[total] tokens whose output is more than the zeros that packed_decode writes for padding."""
    live = torch.ones(case.total, dtype=torch.bool)
    live[list(result_of(case, "o").zero)] = False
    return live


def stored_dtypes(case: Case) -> dict[str, torch.dtype]:
    """The dtype that each result of a case is kept in. A state that is written in place is not returned as
    well."""
    return {result.name: DTYPE[result.dtype] for result in _sure(case)}


def truth_dtypes(case: Case) -> list[tuple[str, torch.dtype]]:
    """The same, by what each result is compared with, as `noise.reference` takes it."""
    return [(result.truth, DTYPE[result.dtype]) for result in _sure(case)]


def _sure(case: Case) -> list[Result]:
    return [result for result in results_of(case) if result.sure]


def kept(case: Case, expected: Expected) -> dict[str, Tensor]:
    """What a run of a case leaves behind, in float64 on the CPU, before it is rounded to what it is kept
    in; shapes as in `results_of`."""
    truth = expected.items()
    return {result.name: of_truth(result, truth[result.truth]).cpu() for result in _sure(case)}


def stored(case: Case, expected: Expected) -> dict[str, Tensor]:
    """The same, rounded once to the dtypes that it is kept in."""
    dtypes = stored_dtypes(case)
    return {name: tensor.to(dtypes[name]) for name, tensor in kept(case, expected).items()}


def rounded(
    case: Case,
    data: Data,
    contract: Contract,
    rounding: Rounding | None = None,
    device: torch.device | str = "cpu",
) -> Expected:
    """The reference computation as a kernel does it that rounds, to nearest, at every point where its
    contract allows it, and nowhere else. rounding: takes the place of these roundings."""
    form = oracle.chunked_form if contract.chunked else oracle.expected
    return form(case, data, rounding or Rounded(case, contract), device)


def computed(
    case: Case,
    data: Data,
    contract: Contract,
    rounding: Rounding | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """What such a kernel leaves behind."""
    return stored(case, rounded(case, data, contract, rounding, device))
