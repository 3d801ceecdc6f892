"""What planted faults shrink to when they run: a case whose content names the token, head and channel that
matter.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from diffgdn import targets
from diffgdn.cases.case import Case, Gates, Values
from diffgdn.cases.sparsity import Only
from diffgdn.findings import bucket
from diffgdn.reference.noise import Contract
from diffgdn.search import hypothesis_search
from diffgdn.strategies import cases
from diffgdn.tensors.arena import Arguments
from diffgdn.verdict import execute

TOKEN, HEAD, CHANNEL = 5, 1, 3  # of the whole batch; value head; of V
Results = dict[str, torch.Tensor]


class Faulty:
    """The eager target; `spoil` changes the results of cases that have the token, head and channel."""

    name, layout = "faulty", "vk"

    def __init__(self, spoil: Callable[[Case, Arguments, Results], None]) -> None:
        self._eager, self._spoil = targets.get("eager"), spoil
        self.operations = self._eager.operations

    def contract(self, op: str) -> Contract:
        return self._eager.contract(op)

    def configurations(self, op: str) -> int:
        return 1

    def refuses(self, case: Case, backend: str) -> str | None:
        return None

    def run(self, case: Case, arguments: Arguments) -> Results:
        results = self._eager.run(case, arguments)
        if "o" in results and case.total > TOKEN and case.HV > HEAD and case.V > CHANNEL:
            self._spoil(case, arguments, results)
        return results


def output(case: Case, results: Results) -> torch.Tensor:
    return results["o"].view(case.tokens, case.HV, case.V)


def half_as_large_again(case: Case, arguments: Arguments, results: Results) -> None:
    output(case, results)[TOKEN, HEAD, CHANNEL] *= 1.5


def one_too_much(case: Case, arguments: Arguments, results: Results) -> None:
    output(case, results)[TOKEN, HEAD, CHANNEL] += 1.0


def key_of_another_token(case: Case, arguments: Arguments, results: Results) -> None:
    """As if a query met a value that it must not see: of the first token, whatever came between."""
    values = arguments["v"].reshape(case.tokens, case.HV, case.V)
    output(case, results)[TOKEN, HEAD, CHANNEL] += values[0, HEAD, CHANNEL]


def a_state_is_scaled(case: Case, arguments: Arguments, results: Results) -> None:
    if case.op.endswith("recurrent") and case.final:
        results["final"].view(-1, case.HV, case.V, case.K)[-1, HEAD, CHANNEL, 0] *= 1.5


def shrunk(
    op: str, spoil: Callable[[Case, Arguments, Results], None], by_field: bool
) -> hypothesis_search.Found:
    target = Faulty(spoil)
    (found,) = hypothesis_search.find(
        cases(op),
        lambda case: execute.run(case, target, "interpret"),
        max_examples=120,
        seed=1,
        max_shrink_seconds=60.0,
        by_field=by_field,
    )
    assert spoil is not one_too_much or found.failure.kind in ("beyond_bound", "not_exact")
    return found


THERE = (
    Only("q", tokens=(TOKEN,), K=(0,)),
    Only("k", tokens=(TOKEN,), K=(0,)),
    Only("v", tokens=(TOKEN,), heads=(HEAD,), V=(CHANNEL,)),
)


@pytest.mark.parametrize(
    ("op", "by_field"),
    [("gdn.extend", True), ("kda.recurrent", True), ("gdn.decode", False), ("kda.update", True)],
)
def test_a_factor_on_one_element_names_its_token_head_and_channel(op: str, by_field: bool) -> None:
    """Whichever way the structure was shrunk: one key, one value, one query, all of that token."""
    found = shrunk(op, half_as_large_again, by_field)
    assert found.case.only == THERE
    assert (found.case.values, found.case.gates) == (Values(state="zero"), Gates())
    assert (found.case.H, found.case.HV, found.case.total) == (1, HEAD + 1, TOKEN + 1)


def test_a_wrong_summand_needs_no_content_at_all() -> None:
    """The kernel is wrong on zeros; the place of the failure names the element."""
    found = shrunk("gdn.recurrent", one_too_much, True)
    assert (found.case.values, found.case.only) == (Values("zero"), ())
    at = bucket.numbers(found.failure.place)
    assert found.case.starts[at["sequence"]] + at["token"] == TOKEN
    assert (at["head"], at["V"], found.case.total) == (HEAD, CHANNEL, TOKEN + 1)


def test_a_value_that_must_not_be_seen_is_named() -> None:
    found = shrunk("gdn.recurrent", key_of_another_token, True)
    assert found.case.only == (
        Only("q", tokens=()),
        Only("k", tokens=()),
        Only("v", tokens=(0,), heads=(HEAD,), V=(CHANNEL,)),
    )


def test_a_wrong_state_names_its_row() -> None:
    """A key and a value make the one element that is wrong; no query is needed."""
    found = shrunk("gdn.recurrent", a_state_is_scaled, True)
    kept = {entry.tensor: entry for entry in found.case.only}
    assert kept["q"] == Only("q", tokens=())
    assert (kept["v"].heads, kept["v"].V, kept["k"].K) == ((HEAD,), (CHANNEL,), (0,))
    assert kept["v"].tokens == kept["k"].tokens


def test_content_stays_out_of_failures_that_are_not_about_numbers() -> None:
    class Raising(Faulty):
        def run(self, case: Case, arguments: Arguments) -> Results:
            if case.total > TOKEN:
                raise RuntimeError("six tokens")
            return super().run(case, arguments)

    target = Raising(one_too_much)
    (found,) = hypothesis_search.find(
        cases("gdn.recurrent"),
        lambda case: execute.run(case, target, "interpret"),
        max_examples=120,
        seed=1,
        by_field=True,
    )
    assert found.failure.kind == "raised"
    assert (found.case.only, found.case.values) == ((), Values())
