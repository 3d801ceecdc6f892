"""Compute results as a kernel would leave them, without a kernel: the truth, or the reference computation
under real roundings. Resolution and vacuity put their wrong results in the place of these."""

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
    """Mark the tokens whose output a case determines, as booleans [total].

    False for the tokens of padding sequences in packed_decode, whose output rows are zero by contract, and
    for all where no output is wanted.
    """
    if not case.state_options.output:
        return torch.zeros(case.total, dtype=torch.bool)
    live = torch.ones(case.total, dtype=torch.bool)
    live[list(result_of(case, "o").zero)] = False
    return live


def stored_dtypes(case: Case) -> dict[str, torch.dtype]:
    """Map the name of each result that a case always leaves behind to the dtype that it is kept in.

    A state that is written in place is not listed again as a returned one.
    """
    return {result.name: DTYPE[result.dtype] for result in _sure(case)}


def truth_dtypes(case: Case) -> list[tuple[str, torch.dtype]]:
    """List the field of `oracle.Expected` that each result is compared with, and the dtype it is kept in.

    In the form that `noise.reference` takes as `stored`; the results are those of `stored_dtypes`.
    """
    return [(result.truth, DTYPE[result.dtype]) for result in _sure(case)]


def _sure(case: Case) -> list[Result]:
    return [result for result in results_of(case) if result.sure]


def kept(case: Case, expected: Expected) -> dict[str, Tensor]:
    """Lay the truth out as a run of the case would leave it, in float64 on the CPU, not yet rounded.

    Args:
        expected: the oracle's results for the case, on any device.

    Returns:
        by name of the result, tensors of the shapes that `results_of` gives: o, the states, and what else
            was asked for.
    """
    truth = expected.items()
    return {result.name: of_truth(result, truth[result.truth]).cpu() for result in _sure(case)}


def stored(case: Case, expected: Expected) -> dict[str, Tensor]:
    """Lay the truth out as a run would leave it, and round it once to the dtypes that results are kept in.

    The arguments and shapes are those of `kept`; the dtypes those of `stored_dtypes`.
    """
    dtypes = stored_dtypes(case)
    return {name: tensor.to(dtypes[name]) for name, tensor in kept(case, expected).items()}


def rounded(
    case: Case,
    data: Data,
    contract: Contract,
    rounding: Rounding | None = None,
    device: torch.device | str = "cpu",
) -> Expected:
    """Run the reference computation with real roundings to nearest (IEEE 754-2019, section 4.3.1) at every
    point of a contract.

    Args:
        case: what is computed, by the recurrence, or by the chunked form if the contract is that of a chunk
            kernel.
        data: the tensors of `inputs.draw`.
        rounding: other roundings to make instead of the contract's.
        device: where it is computed.

    Returns:
        `Expected` in float64, on `device`, not yet rounded to the dtypes that results are kept in.

    Raises:
        ValueError: the contract is chunked and the case has trees.
    """
    form = oracle.chunked_form if contract.chunked else oracle.expected
    return form(case, data, rounding or Rounded(case, contract), device)


def computed(
    case: Case,
    data: Data,
    contract: Contract,
    rounding: Rounding | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Compute what a kernel that rounds at every point of its contract leaves behind, in the dtypes that
    results are kept in.

    The arguments are those of `rounded`; names and shapes of the results those of `kept`, on the CPU.
    """
    return stored(case, rounded(case, data, contract, rounding, device))
