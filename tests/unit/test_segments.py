"""Segments are cut, carried and bounded as the relation says; calls are made in the forms that are named."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diffgdn.cases.case import Case, Edit, Gates, Pool, Values
from diffgdn.targets import Target
from diffgdn.targets.eager import Eager
from diffgdn.tensors import inputs
from diffgdn.tensors.arena import Arguments
from diffgdn.verdict import relations
from diffgdn.verdict.failures import RelationBroken
from diffgdn.verdict.relations.call_forms import flags, no_state, packed, padding
from diffgdn.verdict.relations.labelled_results import Side, call
from diffgdn.verdict.relations.registry import flags_of
from diffgdn.verdict.relations.related_calls import Calls
from diffgdn.verdict.relations.segments import _carried, cut, segments, transition

GATES, VALUES = Gates(law="uniform", beta="uniform"), Values(law="normal", seed=5)
KINDS = ("extend", "recurrent", "update", "decode", "packed_decode")


def case_of(op: str, lens: tuple[int, ...], **changes: object) -> Case:
    """Make a case with a live slot for each sequence."""
    dense = op.endswith(".recurrent")
    pool = Pool(indices=()) if dense else Pool(len(lens), tuple(range(len(lens))))
    case = Case(op, lens, H=1, HV=2, K=8, V=4, pool=pool, gates=GATES, values=VALUES)
    return replace(case, **changes)  # type: ignore[arg-type]


class Noting(Calls):
    """Calls of the eager target, kept."""

    def __init__(self, target: Target | None = None) -> None:
        super().__init__(target or Eager(), "interpret")
        self.__dict__["made"] = []  # the dataclass is frozen

    def __call__(
        self,
        case: Case,
        data: inputs.Data,
        measured: bool = False,
        target: Target | None = None,
        again: bool = False,
    ) -> Side:
        self.__dict__["made"].append((case, data))
        return super().__call__(case, data, measured, target, again)

    @property
    def cases(self) -> list[Case]:
        """The cases of the calls so far."""
        return [case for case, _ in self.__dict__["made"]]


@pytest.mark.parametrize("family", ["gdn", "kda"])
def test_the_transition_is_the_product_of_the_tokens_matrices(family: str) -> None:
    case = case_of(f"{family}.recurrent", (3, 1))
    data = inputs.draw(case)
    through = transition(case, data)
    for n, head in ((0, 0), (0, 1), (1, 1)):
        A = torch.eye(case.K, dtype=torch.float64)
        for t in range(case.starts[n], case.starts[n + 1]):
            k, q = data["k"][t, 0].double(), data["q"][t, 0].double()
            decay = data["g"][t, head].double().exp().expand(case.K).diag()
            A = A @ decay @ (torch.eye(case.K).double() - data["beta"][t, head].double() * torch.outer(k, k))
            torch.testing.assert_close(through.o[t, head], case.K**-0.5 * A @ q, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(through.state[n, head], A, rtol=1e-12, atol=1e-14)


def test_sequences_are_cut_in_three_and_at_chunks_where_their_states_are_returned() -> None:
    case = case_of("gdn.extend", (100, 2, 1, 0), chunk_size=16)
    assert [cut(case, n) for n in range(4)] == [
        [range(33), range(33, 66), range(66, 100)],
        [range(1), range(1, 2)],
        [range(1)],
        [],
    ]
    assert cut(replace(case, boundary=True), 0) == [range(33), range(33, 64), range(64, 100)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_segment_starts_from_a_zero_state_and_the_whole_is_right(kind: str) -> None:
    lens = (1, 1) if kind == "packed_decode" else (7, 2)
    case = case_of(f"kda.{kind}", lens)
    calls = Noting()
    side = segments(case, inputs.draw(case), calls)
    assert len(calls.cases) == (1 if kind == "packed_decode" else 3)
    assert {one.values.state for one in calls.cases} == {"zero"}
    assert sum(one.total for one in calls.cases) == case.total
    ours = call(case, inputs.draw(case), Eager(), "interpret")
    places = {label: row for row, label in enumerate(side.labels["o"])}
    for row, label in enumerate(ours.labels["o"]):
        torch.testing.assert_close(
            side.results["o"][places[label]], ours.results["o"][row].double(), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("op", ["gdn.extend", "kda.recurrent"])
def test_segments_are_passed_no_state_where_the_case_is_passed_none(op: str) -> None:
    dense = op.endswith("recurrent")
    pool, values = Pool(indices=() if dense else (-1, -1)), replace(VALUES, state="none")
    case, calls = case_of(op, (5, 2), pool=pool, values=values), Noting()
    segments(case, inputs.draw(case), calls)
    assert [one.values.state for one in calls.cases] == ["none"] * 3
    assert relations.run(case, Eager(), "interpret", "segments").failure is None


def test_a_bound_that_is_carried_holds_for_the_worst_errors() -> None:
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(1, 8, 8, generator=generator, dtype=torch.float64)
    bounds = torch.rand(2, 1, 4, 8, generator=generator, dtype=torch.float64)
    carried = _carried(bounds, matrix)
    for column in range(8):  # errors whose signs are those of a column add up in it
        worst = bounds * matrix[0, :, column].sign()
        torch.testing.assert_close((worst @ matrix)[..., column], carried[..., column])
    bounds[0, 0, 0, 0] = torch.inf
    assert _carried(bounds, torch.zeros(1, 8, 3, dtype=torch.float64))[0, 0, 0].isinf().all()


def test_a_boundary_state_at_a_cut_is_compared() -> None:
    class Wrong(Eager):
        def run(self, case: Case, arguments: Arguments) -> dict[str, Tensor]:
            results = super().run(case, arguments)
            if case.lens == (40,):
                results["boundary"][1] *= 1.01  # before token 16, where a segment ends
            return results

    case = case_of("gdn.extend", (40,), chunk_size=16, boundary=True)
    assert relations.run(case, Eager(), "interpret", "segments").failure is None
    failure = relations.run(case, Wrong(), "interpret", "segments").failure
    assert isinstance(failure, RelationBroken)
    assert failure.tensor == "boundary"


def test_a_padding_row_of_packed_decode_is_not_combined() -> None:
    case = case_of("gdn.packed_decode", (1, 1), pool=Pool(2, (1, -1)))
    assert segments(case, inputs.draw(case), Noting()).labels["o"] == [("o", 0, 0)]
    verdict = relations.run(case, Eager(), "interpret", "segments")
    assert verdict.refused is None
    assert verdict.failure is None


def test_segments_say_nothing_where_all_is_padding_or_one_token_from_a_zero_state() -> None:
    padding = case_of("gdn.packed_decode", (1, 1), pool=Pool(1, (-1, -1)))
    assert (
        relations.run(padding, Eager(), "interpret", "segments").refused == "every output is that of padding"
    )
    case = case_of("gdn.update", (1,), values=replace(VALUES, state="zero"))
    refused = relations.run(case, Eager(), "interpret", "segments").refused
    assert refused == "a zero state and one segment: the same call"


def test_a_batch_is_called_in_the_forms_that_it_is_not_in() -> None:
    case, calls = case_of("gdn.decode", (2, 3, 2, 0), tail=3), Noting()
    sides = packed(case, inputs.draw(case), calls)
    assert [(one.packed, one.batched, one.lens, one.tail) for one in calls.cases] == [
        (False, False, (2, 2), 0),
        (True, True, (2, 2), 0),
    ]
    assert sides[0].labels["o"] == [("o", n, t) for n in (0, 2) for t in range(2)]
    dense, calls = case_of("gdn.extend", (2, 2), packed=False), Noting()
    packed(dense, inputs.draw(dense), calls)
    assert [(one.packed, one.batched, one.lens) for one in calls.cases] == [(True, False, (2, 2))]


def test_states_are_left_out_where_they_are_zero_and_the_other_way_round() -> None:
    for op in ("gdn.extend", "kda.recurrent"):
        zero, calls = case_of(op, (2, 1), values=replace(VALUES, state="zero")), Noting()
        no_state(zero, inputs.draw(zero), calls)
        (without,) = calls.cases
        assert (without.values.state, "state" in calls.__dict__["made"][0][1]) == ("none", False)
        calls = Noting()
        no_state(without, inputs.draw(without), calls)
        (again,) = calls.cases
        assert (again.values.state, bool(calls.__dict__["made"][0][1]["state"].any())) == ("zero", False)
    edited = replace(zero, edits=(Edit("state", 0, 1.0),))
    assert relations.run(edited, Eager(), "interpret", "no_state").refused == "the zero state is edited"


def test_padding_gets_free_slots_that_hold_zeros() -> None:
    case, calls = case_of("gdn.update", (1, 1, 1), pool=Pool(2, (-1, 1, -1))), Noting()
    padding(case, inputs.draw(case), calls)
    ((other, data),) = calls.__dict__["made"]
    assert (other.pool.indices, other.pool.slots) == ((0, 1, 2), 3)
    assert [bool(state.any()) for state in data["state"]] == [False, True, False]


def test_flags_are_turned_one_at_a_time() -> None:
    case, calls = case_of("kda.extend", (2,)), Noting()
    assert flags_of(case) == ("final", "boundary", "inplace")
    flags(case, inputs.draw(case), calls)
    assert [(one.final, one.boundary, one.inplace) for one in calls.cases] == [
        (False, False, True),
        (True, True, True),
        (True, False, False),
    ]
    shared = case_of("gdn.update", (1, 1), pool=Pool(1, (0, 0)), inplace=False)
    assert relations.run(shared, Eager(), "interpret", "flags").refused == "no flag that can be turned"
    assert flags_of(case_of("kda.recurrent", (2,), final=False)) == ("final",)
    assert flags_of(case_of("gdn.recurrent", (2,))) == ("final",)


def test_a_flag_that_a_target_refuses_leaves_the_others() -> None:
    class Without(Eager):
        def refuses(self, case: Case, backend: str) -> str | None:
            return "no boundary states" if case.boundary else None

    case = case_of("gdn.extend", (2,))
    sides = flags(case, inputs.draw(case), Calls(Without(), "interpret"))
    assert ["final" in side.results for side in sides] == [False, True]  # final turned, then inplace


@pytest.mark.parametrize("name", ["final", "state"])
def test_a_state_that_a_flag_changes_shows_in_its_bits(name: str) -> None:
    """Whether the state is returned or written in place, the same is expected of it."""

    class Otherwise(Eager):
        batch_invariant = True

        def run(self, case: Case, arguments: Arguments) -> dict[str, Tensor]:
            results = super().run(case, arguments)
            if case.boundary and name == "state":
                arguments["state"].mul_(1.05)
            elif case.boundary:
                results["final"].mul_(1.05)
            return results

    case = case_of("gdn.extend", (2,), final=name == "final", inplace=name == "state")
    failure = relations.run(case, Otherwise(), "interpret", "flags").failure
    assert isinstance(failure, RelationBroken)
    assert failure.tensor == name
