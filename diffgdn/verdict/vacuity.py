"""Asks whether wrong results of a case would pass. A case that lets them proves nothing.

For each case, results that are wrong in a plain way take the place of the right ones, and the checks are
asked as in any run. No kernel is needed. A wrong result applies to a case only if the case's shape lets it
be wrong; why it does not apply stands with each.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.reference import noise, oracle, reference_kernel
from diffgdn.reference.noise import Contract, Reference
from diffgdn.targets import Target, refusal
from diffgdn.tensors import inputs
from diffgdn.tensors.inputs import SATURATED, Data
from diffgdn.verdict import checks, execute
from diffgdn.verdict.comparison import Comparison, compare_results
from diffgdn.verdict.failures import CheckFailure, Verdict

Results = dict[str, Tensor]
LEAST_UNDERFLOW = 15.0  # |g| of any token under the law "underflow" at strength 1
FORGOTTEN = 15.0  # |g| from which on exp(g) of a state is lost in the roundings of what is added to it
STATES = ("state", "final", "steps")  # results that hold states after tokens


@dataclass(frozen=True)
class Right:
    """A case, its tensors, what its results are compared with, and results that pass: the truth, rounded.

    results: by name, in the dtypes of the contract. device: on which the oracle computes.
    """

    case: Case
    data: Data
    reference: Reference
    results: Results
    device: torch.device | str = "cpu"

    @property
    def initial(self) -> Tensor:
        """Initial states [N, HV, V, K]; zero if none is passed."""
        case = self.case
        if "state" in self.data:
            return self.data["state"]
        return torch.zeros(len(case.lens), case.HV, case.V, case.K)

    def again(self, **changed: Tensor) -> Results:
        """Compute right results for other tensors, given by name."""
        return reference_kernel.stored(
            self.case, oracle.expected(self.case, self.data | changed, device=self.device)
        )


@dataclass(frozen=True)
class Wrong:
    """A way to be wrong.

    words: what is wrong. unless: says why it cannot be wrong on a case, or None. make: makes the wrong
    results, each of which has to be rejected on its own.
    """

    words: str
    unless: Callable[[Case], str | None]
    make: Callable[[Right], Iterator[Results]]


def _no_output(case: Case) -> str | None:
    if not case.state_options.output:
        return "no output is wanted"
    if case.total == 0:
        return "no token: there is no output"
    if not reference_kernel.live_rows(case).any():
        return "all sequences are padding: their output is zero by contract"
    return None


def _no_second_element(case: Case) -> str | None:
    if int(reference_kernel.live_rows(case).sum()) * case.HV * case.V == 1:
        return "the output is one element"
    return _no_output(case)


def _no_state(case: Case) -> str | None:
    kept = reference_kernel.stored_dtypes(case)
    if not any(name in kept for name in STATES):
        return "no state is left behind"
    if not (case.kept if "steps" in kept else case.stored if "state" in kept else case.total):
        return "no state is left behind: every sequence is empty or padding"
    return None


def _no_second_head(case: Case) -> str | None:
    return "one head" if case.HV == 1 else _no_output(case)


def neighbours(case: Case) -> list[int]:
    """List the sequences that read a state of their own and use it: live, not empty, each in another slot."""
    slots = case.pool.indices if case.operation.has_pool else range(len(case.lens))
    first: dict[int, int] = {}
    for n, slot in enumerate(slots):
        if slot >= 0 and case.lens[n] > 0 and n not in case.fresh:
            first.setdefault(slot, n)
    return list(first.values())


def _no_neighbour(case: Case) -> str | None:
    if case.values.state != "law":
        return "every initial state is zero"
    if len(neighbours(case)) < 2:
        return "no two sequences have states of their own"
    if case.K == 1 and case.gates.beta == "one":
        return "K is 1 and beta is 1: each token takes the place of the whole state"
    bound = case.gates.lower_bound or -math.inf
    if case.gates.law == "underflow" and min(LEAST_UNDERFLOW * case.gates.strength, -bound) >= FORGOTTEN:
        return "every token's gate forgets the state before it"
    return None


def _no_token(case: Case) -> str | None:
    return "no token: none can be dropped" if case.total == 0 else _no_output(case)


def _zeros(right: Right) -> Iterator[Results]:
    yield {"o": torch.zeros_like(right.results["o"])}


def _constant(right: Right) -> Iterator[Results]:
    """Put the first element of the output everywhere."""
    o, rows = right.results["o"], reference_kernel.live_rows(right.case)
    wrong = o.clone()
    wrong[rows] = o[rows][0, 0, 0]
    yield {"o": wrong}


def _input_v(right: Right) -> Iterator[Results]:
    rows = reference_kernel.live_rows(right.case)
    yield {"o": right.data["v"][: right.case.total] * rows.view(-1, 1, 1)}


def _earlier(case: Case) -> Case:
    """Make the case of a call before this one: the same, with other numbers."""
    return replace(case, values=replace(case.values, seed=case.values.seed + 1))


def _stale(right: Right) -> Iterator[Results]:
    before = _earlier(right.case)
    data = inputs.draw(before)
    if any(not torch.equal(_bits(tensor), _bits(right.data[name])) for name, tensor in data.items()):
        yield {"o": reference_kernel.stored(before, oracle.expected(before, data, device=right.device))["o"]}


def _bits(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).contiguous().view(torch.int16)


def _unchanged(right: Right) -> Iterator[Results]:
    case, before = right.case, right.initial
    tokens = [n for n, length in enumerate(case.lens) for _ in range(length)]
    sequence = [tokens[token] for token, _, _ in case.kept]
    rows = {"state": list(case.stored), "final": list(range(len(case.lens))), "steps": sequence}
    for name in STATES:
        if name in right.results:
            yield {name: before[rows[name]].to(right.results[name].dtype)}


def _heads(right: Right) -> Iterator[Results]:
    for name, result in right.results.items():
        if name not in ("boundary", "tracked") and result.numel():
            yield {name: result.roll(1, dims=1)}


def _neighbour(right: Right) -> Iterator[Results]:
    state, mine = right.data["state"], neighbours(right.case)
    moved = state.clone()
    moved[mine] = state[mine[1:] + mine[:1]]
    yield right.again(state=moved)


def _last_dropped(right: Right) -> Iterator[Results]:
    """Put zero for each last token's output, and leave every state as it was before that token."""
    case = right.case
    last = [end - 1 for end, length in zip(case.starts[1:], case.lens, strict=True) if length]
    # No decay and nothing written; where beta is one whatever is passed, the token's value and key are gone.
    changed = {name: right.data[name].clone() for name in case.decay_and_beta}
    for name, tensor in changed.items():
        tensor[last] = -SATURATED if name in ("a", "b") else 0.0
    if len(changed) == 1:
        changed["k"] = right.data["k"].clone()
        changed["k"][last] = 0
    wrong = right.again(**changed)
    wrong["o"] = right.results["o"].clone()
    wrong["o"][last] = 0
    yield wrong


def _all_accepted(case: Case) -> str | None:
    if not case.operation.commits:
        return "nothing is committed"
    if not any(0 < case.accepted[n] < case.lens[n] for n in case.stored):
        return "no draft is accepted in part"
    return None


def _whole_draft(right: Right) -> Iterator[Results]:
    """Leave in each slot the state after the last token of the draft."""
    case, steps = right.case, right.reference.truth.steps
    assert steps is not None
    last = [case.starts[n + 1] - 1 for n in case.stored]
    yield {"state": steps[last].to(right.results["state"].dtype)}


WRONG: dict[str, Wrong] = {
    "zeros": Wrong("the output is zero", _no_output, _zeros),
    "constant": Wrong("the output is one number everywhere", _no_second_element, _constant),
    "input v": Wrong("the output is v", _no_output, _input_v),
    "stale output": Wrong("the output is that of a call with other numbers", _no_output, _stale),
    "unchanged state": Wrong("the state is as it was", _no_state, _unchanged),
    "swapped heads": Wrong("each head has its neighbour's results", _no_second_head, _heads),
    "neighbour's slot": Wrong("each sequence starts from another's state", _no_neighbour, _neighbour),
    "whole draft": Wrong("all of a draft is committed", _all_accepted, _whole_draft),
    "last token dropped": Wrong(
        "the last token has no output, or did not reach the state", _no_token, _last_dropped
    ),
}


def prepare(
    case: Case, contract: Contract, device: torch.device | str = "cpu", data: Data | None = None
) -> Right:
    """Compute the right results of a case, and their noise under a contract. data: drawn if None."""
    data = inputs.draw(case) if data is None else data
    reference = noise.reference(case, data, contract, reference_kernel.truth_dtypes(case), device)
    return Right(case, data, reference, reference_kernel.stored(case, reference.truth), device)


def rejects(right: Right, results: Results) -> bool:
    """Whether any check finds fault with these results."""
    compared = compare_results(right.case, results, right.reference)
    return any(is_rejected(comparison, right.reference.exact) for comparison in compared)


def is_rejected(comparison: Comparison, exact: bool) -> bool:
    """Whether any check finds fault with one result. exact: the case leaves nothing to round."""
    try:
        checks.check_written(comparison)
        checks.check_finite(comparison)
        (checks.check_exact if exact else checks.check_bounded)(comparison)
    except CheckFailure:
        return True
    return False


def try_wrong_results(right: Right) -> dict[str, bool]:
    """Ask for each wrong result that applies to a case whether the checks reject it."""
    out = {}
    for name, wrong in WRONG.items():
        if wrong.unless(right.case) is None:
            found = [rejects(right, results) for results in wrong.make(right)]
            if found:
                out[name] = all(found)
    return out


def run(case: Case, target: Target, backend: str) -> Verdict:
    """Reach a verdict that says, instead of what a kernel does, what the checks would notice (`rejected`).

    No kernel is called; the target gives the precision contract and the cases that it refuses.
    """
    refused = refusal(target, case, backend)
    if refused is not None:
        return Verdict(case, target.name, backend, refused=refused)
    start = time.perf_counter()
    right = prepare(case, target.contract(case.op), execute.oracle_device(case, backend))
    rejected = try_wrong_results(right)
    seconds = {"vacuity": time.perf_counter() - start}
    return Verdict(
        case, target.name, backend, exact=right.reference.exact, seconds=seconds, rejected=rejected
    )
