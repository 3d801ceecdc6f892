"""Measure the noise of a case: the spread of its results under the roundings that a precision contract
allows.

Errors of the size of those roundings are carried through the computation to first order, in SAMPLES random
samples at once (more for narrow states), beside the oracle's own pass. Their root mean square, element by
element, is the noise. What bound on an error it makes, `tolerance` says.

That an error is, to first order, carried by the derivative: Higham, "Accuracy and Stability of Numerical
Algorithms", 2002, chapters 1 and 3. That independent roundings add up as their squares: Higham and Mary, "A
New Approach to Probabilistic Rounding Error Analysis", 2019.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.reference import oracle
from diffgdn.reference.noise import chunk_noise, denormals, groups, perturbed, step_noise
from diffgdn.reference.noise.contract import UNIT, Contract
from diffgdn.reference.noise.draws import Draws
from diffgdn.reference.noise.exact import is_exact
from diffgdn.reference.noise.operands import InputErrors, input_errors
from diffgdn.reference.noise.sums import LEAST_SQUARE
from diffgdn.reference.oracle import Exact, Expected
from diffgdn.reference.oracle import chunked as form
from diffgdn.reference.oracle import recurrence as form_by_step
from diffgdn.reference.oracle.lanes import Lanes, make
from diffgdn.tensors.inputs import Data
from diffgdn.tensors.transfer import move

SAMPLES = 8
# The samples times what an element is pooled with are at least so many. Chunks, whose matrices are as large
# for a narrow state as for a wide one, make do with fewer.
POOLED = {"recurrence": 64, "chunked": 32}
LEAST_UNITS = 1.0  # of the accumulator's unit roundoff, of any result: none has fewer than two roundings
# Errors are carried in float32 where nothing comes near the ends of its range, else in float64.
SAFE_RANGE = 2.0**40
# Relative error of a chunk's triangular system from which first order is not trusted: the next order is its
# square.
ILL_CONDITIONED = 0.1


@dataclass(frozen=True)
class Reference:
    """Hold what the results of a case are compared with, on the CPU.

    Attributes:
        truth: the oracle's results, float64.
        noise: one sigma of each element, by name of the truth and of its shape, float64.
        exact: whether there is nothing to round, so that the bound is zero.
        conditions: names of conditions under which the noise is not that of first order: "ill_conditioned",
            "unbounded".
    """

    truth: Expected
    noise: dict[str, Tensor]
    exact: bool
    conditions: tuple[str, ...] = ()


def reference(
    case: Case,
    data: Data,
    contract: Contract,
    stored: Collection[tuple[str, torch.dtype]],
    device: torch.device | str = "cpu",
    by_chunks: bool = False,
) -> Reference:
    """Compute the reference of a case for a target's contract: truth, noise, and whether the case is exact.

    Args:
        data: the tensors of `inputs.draw`.
        contract: where the target may round, and to which format.
        stored: of each result that is kept, the field of `oracle.Expected` that it is compared with, and
            its dtype.
        device: where it is computed; the reference comes back on the CPU.
        by_chunks: for a contract that is chunked, take the truth from the chunked form, which is that of the
            recurrence to the rounding of float64, and takes a tenth of the time on long sequences.
    """
    data = move(data, device)
    lanes = make(case, data, Exact(), device)
    if case.values.law == "exact":
        truth = oracle.along(case, lanes, Exact())
        if is_exact(case, data, truth, contract, stored):
            return _on_cpu(truth, _least(truth, case, contract), True, ())
    truth, noise, conditions = _first_order(case, data, lanes, contract, by_chunks=by_chunks)
    return _on_cpu(truth, noise, False, conditions)


def _on_cpu(truth: Expected, noise: dict[str, Tensor], exact: bool, conditions: tuple[str, ...]) -> Reference:
    """Move a reference to the CPU, all of its tensors in one transfer."""
    parts = {f"truth {name}": tensor for name, tensor in truth.items().items()}
    parts = move(parts | noise, "cpu")
    expected = Expected(**{name: parts[f"truth {name}"] for name in truth.items()})
    return Reference(expected, {name: parts[name] for name in noise}, exact, conditions)


def measure(
    case: Case, data: Data, contract: Contract, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Measure the noise of each result of a case, on the device where it is computed.

    An element's noise is the root mean square of its error over the samples, and at least what it is pooled
    with: the mean over its row, for states also what row and column have in common (eight samples say
    little about one element). It is never below LEAST_UNITS of the accumulator's unit roundoff.

    Returns:
        by name of the truth, tensors of its shape in float64.
    """
    data = move(data, device)
    return _first_order(case, data, make(case, data, Exact(), device), contract)[1]


def _first_order(
    case: Case,
    data: Data,
    lanes: Lanes,
    contract: Contract,
    dtype: torch.dtype | None = None,
    by_chunks: bool = False,
) -> tuple[Expected, dict[str, Tensor], tuple[str, ...]]:
    """Carry the errors to first order beside the truth; start again in float64 if they leave the range of
    float32.

    Args:
        dtype: that errors are carried in; None for what the size of the values allows.
        by_chunks: as of `reference`.

    Returns:
        the truth, the noise by name, and the names of conditions.
    """
    dtype = dtype or _working_precision(lanes)
    with denormals.flushed():
        truth, squares, conditions = _squares(case, data, lanes, contract, dtype, by_chunks)
    if not torch.stack([square.sum() for square in squares.items().values()]).isfinite().all():
        if dtype != torch.float64:  # a recurrence that grows: its errors have left the range of float32
            return _first_order(case, data, lanes, contract, torch.float64, by_chunks)
        conditions += ("unbounded",)
    return truth, _pooled(case, truth, squares, contract), conditions


def _squares(
    case: Case, data: Data, lanes: Lanes, contract: Contract, dtype: torch.dtype, by_chunks: bool
) -> tuple[Expected, Expected, tuple[str, ...]]:
    """Compute the truth, the mean squares of its errors, and the names of conditions under which they are
    not those of first order."""
    draws = Draws(samples(case, contract), int(case.id, 16), lanes.v.device, dtype)
    errors = input_errors(case, data, lanes, contract, draws)
    conditions: tuple[str, ...] = ()
    if contract.chunked:
        truth = oracle.chunks_along(case, lanes, Exact()) if by_chunks else oracle.along(case, lanes, Exact())
        squares, condition = _chunked(case, lanes, errors, contract, draws)
        if condition > ILL_CONDITIONED:
            conditions = ("ill_conditioned",)
            larger = perturbed.mean_squares(case, data, truth, contract, lanes.v.device)
            squares = Expected(
                **{name: torch.maximum(square, larger[name]) for name, square in squares.items().items()}
            )
    else:
        truth, squares = _recurrence(case, lanes, errors, contract, draws)
    return truth, squares, conditions


def _chunked(
    case: Case, lanes: Lanes, errors: InputErrors, contract: Contract, draws: Draws
) -> tuple[Expected, float]:
    """Compute the mean squares of the errors of the chunked form, and the condition that
    `chunk_noise.Follower` measured."""
    parts, condition = [], 0.0
    tokens = min(case.chunk_size, lanes.steps)
    largest = draws.samples * max(case.K * case.V, 2 * tokens * max(case.K, tokens), tokens * case.V)
    for here in groups.split(lanes, largest):
        some = groups.of_lanes(lanes, here)
        own = groups.of_errors(errors, here)
        follower = chunk_noise.Follower(case, some, own, contract, draws, keep=oracle.every(case) > 0)
        o, _, _ = form.run(some, Exact(), case.chunk_size, follower.chunk)
        parts.append(follower.finish(o))
        condition = max(condition, follower.condition)
    of_o, of_state, before = groups.joined(parts, (1, 0, 1))
    return oracle.assemble(case, of_o, of_state, None, before if oracle.every(case) else None), condition


def _recurrence(
    case: Case, lanes: Lanes, errors: InputErrors, contract: Contract, draws: Draws
) -> tuple[Expected, Expected]:
    """Compute the truth by the recurrence, and the mean squares of its errors, both laid out as results."""
    every, trees, keep = oracle.every(case), oracle.parents(case), case.needs_steps
    parts = []
    for here in groups.split(lanes, draws.samples * case.K * case.V, 1 if trees is None else case.HV):
        some, parents = groups.of_lanes(lanes, here), None
        if trees is not None:  # whole sequences
            sequences = slice(here.start // case.HV, here.stop // case.HV)
            parents = [step[sequences] for step in trees]
        own = groups.of_errors(errors, here)
        follower = step_noise.Follower(case, some, own, contract, draws, parents, keep, every)
        truth = form_by_step.run(some, Exact(), parents, keep, every, follower.step)
        parts.append((*truth, *follower.finish()))
    joined = groups.joined(parts, (1, 0, 1, 1) * 2)
    return oracle.assemble(case, *joined[:4]), oracle.assemble(case, *joined[4:])


def samples(case: Case, contract: Contract) -> int:
    """Choose how many samples a case's noise is taken from: SAMPLES, or a larger power of two for a narrow
    state.

    Few samples say little about one element, and a narrow state has few others to pool it with.
    """
    pooled = POOLED["chunked" if contract.chunked else "recurrence"]
    wanted = -(-pooled // min(case.K, case.V))
    return max(SAMPLES, 1 << (wanted - 1).bit_length())  # a power of two: each number has draws of its own


def _working_precision(lanes: Lanes) -> torch.dtype:
    """Choose the dtype that errors are carried in: float32 if all inputs are below SAFE_RANGE, else
    float64."""
    largest = [x.abs().max() for x in (lanes.v, lanes.state, lanes.q, lanes.k) if x.numel()]
    return torch.float32 if not largest or torch.stack(largest).max() < SAFE_RANGE else torch.float64


def _pooled(case: Case, truth: Expected, squares: Expected, contract: Contract) -> dict[str, Tensor]:
    """Turn mean squares into noise: pool them over rows, and for states over columns, and put the least
    noise below."""
    unit, truths = least_unit(case, contract), truth.items()
    return {
        name: pooled(truths[name], square, unit, is_state=name != "o")
        for name, square in squares.items().items()
    }


def pooled(truth: Tensor, square: Tensor, unit: float, is_state: bool) -> Tensor:
    """Turn the mean squares of one tensor's errors into noise, as `measure` says.

    Args:
        truth, square: [..., d], of states [..., V, K].
        unit: the least noise, relative to the truth.
    """
    square = square.contiguous()
    row = square.mean(-1, keepdim=True)
    if not is_state or not square.numel():
        larger = torch.maximum(square, row)
    else:
        larger = _prominent(truth, row)
        torch.maximum(larger, _by_row_and_column(square, row), out=larger)
        torch.maximum(larger, square, out=larger)
    return torch.maximum(larger.sqrt_(), truth.abs() * unit, out=larger)


def _by_row_and_column(square: Tensor, row: Tensor) -> Tensor:
    """Multiply what rows and columns of mean squares have in common: that of independent errors in many
    rows.

    Args:
        square: [..., V, K].
        row: [..., V, 1], its means over K.

    Returns:
        [..., V, K].
    """
    return row * (square.mean(-2, keepdim=True) / row.mean(-2, keepdim=True).clamp_(min=LEAST_SQUARE))


def _prominent(state: Tensor, row: Tensor) -> Tensor:
    """Give elements that are large beside the rest of their row that row's mean square; less to smaller
    ones, in proportion.

    If only few rows have errors, a column has no others to be pooled with, and decays show in the state
    itself.

    Args:
        state: [..., V, K], the truth.
        row: [..., V, 1], mean squares of the errors of each row.

    Returns:
        [..., V, K], at most `row`.
    """
    size = state.square()
    size.mul_(row / size.mean(-1, keepdim=True).clamp_(min=LEAST_SQUARE))
    return torch.minimum(size, row, out=size)


def least_unit(case: Case, contract: Contract) -> float:
    """Give the least noise of any value, relative to it: LEAST_UNITS of the accumulator's unit roundoff."""
    return LEAST_UNITS * UNIT[contract.dtype(case, "accumulator")]


def _least(truth: Expected, case: Case, contract: Contract) -> dict[str, Tensor]:
    """Give the least noise of each result: LEAST_UNITS of the accumulator's unit roundoff, relative to the
    truth."""
    unit = least_unit(case, contract)
    return {name: tensor.abs() * unit for name, tensor in truth.items().items()}
