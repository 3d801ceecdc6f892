"""Cases of which only a part matters: what `only` keeps, how it is written, and what does not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diffgdn.cases import sparsity
from diffgdn.cases.case import Case, Edit, Gates, Pool, Values
from diffgdn.cases.sparsity import Only
from diffgdn.tensors import inputs

PLAIN = Case(
    "kda.extend",
    lens=(3, 2),
    H=2,
    HV=4,
    K=8,
    V=4,
    pool=Pool(slots=2, indices=(0, 1)),
    gates=Gates("constant", beta="half"),
    values=Values("normal", v_exponent=2),
    tail=1,
)
SHAPES = {
    "q": (5, 2, 8),
    "k": (5, 2, 8),
    "v": (5, 4, 4),
    "g": (5, 4, 8),
    "beta": (5, 4),
    "state": (2, 4, 4, 8),
}


def case(*entries: Only, **changes: Any) -> Case:
    return replace(PLAIN, only=entries, **changes)


def nonzero(tensor: torch.Tensor) -> list[tuple[int, ...]]:
    return [tuple(index) for index in torch.nan_to_num(tensor, nan=0.0).nonzero().tolist()]


@pytest.mark.parametrize("name", SHAPES)
def test_one_place_on_every_axis_leaves_one_element(name: str) -> None:
    """It has the value of the case without `only`, and every other tensor is as it was."""
    place = dict.fromkeys(sparsity.AXES[name], 1)
    plain = inputs.draw(PLAIN)
    drawn = inputs.draw(case(Only(name, **dict[str, Any]({axis: (at,) for axis, at in place.items()}))))
    index = tuple(place.values())
    assert nonzero(drawn[name]) == [index]
    assert drawn[name][index] == plain[name][index]
    assert all(
        torch.equal(drawn[other].nan_to_num(), plain[other].nan_to_num()) for other in plain if other != name
    )


@pytest.mark.parametrize("name", SHAPES)
def test_nothing_kept_is_zero_and_padding_tokens_stay_poisoned(name: str) -> None:
    axis = sparsity.AXES[name][0]
    drawn = inputs.draw(case(Only(name, **dict[str, Any]({axis: ()}))))
    assert nonzero(drawn[name]) == []
    assert name == "state" or bool(drawn[name][5:].isnan().all())


def test_runs_of_places_and_single_ones() -> None:
    drawn = inputs.draw(case(Only("k", tokens=(0, (2, 4)), heads=(1,), K=((6, 7),))))
    assert nonzero(drawn["k"]) == [(t, 1, c) for t in (0, 2, 3, 4) for c in (6, 7)]


@pytest.mark.parametrize(
    ("name", "value"), [("k", 0.5), ("v", -8.0), ("g", -2.0), ("beta", 1.0), ("state", 4.0)]
)
def test_a_value_takes_the_place_of_the_law(name: str, value: float) -> None:
    axis = sparsity.AXES[name][0]
    tensor = inputs.draw(case(Only(name, **{axis: (1,)}, value=value)))[name]
    assert bool((tensor[1] == value).all())
    assert not bool(tensor[0].any())


def test_raw_gates_are_those_of_no_decay_and_no_update() -> None:
    """Where the kernel computes g and beta itself, exactly zero comes out of what it gets."""
    given = case(Only("g", tokens=(2,)), Only("beta", tokens=(2,)), op="kda.decode", tail=0)
    drawn = inputs.draw(given)
    g = -torch.exp(drawn["A_log"]).view(-1, 1) * torch.nn.functional.softplus(drawn["a"] + drawn["dt_bias"])
    assert {index[0] for index in nonzero(g)} == {2}
    assert {index[0] for index in nonzero(torch.sigmoid(drawn["b"]))} == {2}


def test_sequences_that_share_a_slot_share_its_state() -> None:
    shared = case(
        Only("state", sequences=(1,)),
        op="gdn.verify",
        tail=0,
        pool=Pool(2, (1, 1), steps=3, buffer=2, rows=(0, 1)),
    )
    state = inputs.draw(shared)["state"]
    assert bool(state[1].any())
    assert torch.equal(state[0], state[1])


def test_a_value_is_not_given_to_padding() -> None:
    padded = case(Only("state", value=1.0), pool=Pool(2, (0, -1)))
    assert not bool(inputs.draw(padded)["state"][1].any())


def test_edits_come_last() -> None:
    drawn = inputs.draw(case(Only("k", tokens=()), edits=(Edit("k", 3, 0.25),)))
    assert nonzero(drawn["k"]) == [(0, 0, 3)]


def test_values_of_law_zero() -> None:
    drawn = inputs.draw(case(values=Values("zero", v_exponent=3)))
    assert all(nonzero(drawn[name]) == [] for name in ("q", "k", "v", "state"))
    assert nonzero(drawn["beta"])


@pytest.mark.parametrize(
    "given",
    [
        PLAIN,
        case(Only("k", tokens=(0, (2, 4)), K=(7,), value=0.5), Only("g", tokens=())),
        case(values=Values("zero")),
        case(Only("state", sequences=(1,), heads=(0,), V=(3,), K=(5,))),
    ],
)
def test_a_case_survives_its_repr_and_its_json(given: Case) -> None:
    assert eval(repr(given)) == given
    read = Case.from_json(json.loads(json.dumps(given.to_json())))
    assert (read, read.id) == (given, given.id)


def test_a_case_without_it_is_written_as_before() -> None:
    """So that ids, and with them names of findings, stay."""
    written = PLAIN.to_json()
    assert written["format_version"] == 1
    assert "only" not in written
    old = Path(__file__).parents[1] / "corpus" / "vk-gdn.decode-example-b118bb60825c.json"
    assert Case.from_json(json.loads(old.read_bytes())["case"]).id == "b118bb60825c"
    assert case(Only("k", tokens=())).to_json()["format_version"] == 2


def test_a_file_that_claims_an_older_version_than_it_needs() -> None:
    data = json.loads(json.dumps(case(Only("k", tokens=())).to_json()))
    with pytest.raises(ValueError, match="format_version: this case needs version 2, got 1"):
        Case.from_json({**data, "format_version": 1})


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"tensor": "o"}, r"only\[0\].tensor: expected one of q, k, v, g, beta, state, got 'o'"),
    ({"tensor": "k", "V": (1,)}, r"only\[0\].V: k has no such axis"),
    ({"tensor": "state", "tokens": (1,)}, r"only\[0\].tokens: state has no such axis"),
    ({"tensor": "k", "tokens": (5,)}, r"only\[0\].tokens: expected places below 5 in order"),
    ({"tensor": "k", "tokens": (-1,)}, "places below 5"),
    ({"tensor": "k", "tokens": (1, 0)}, "in order"),
    ({"tensor": "k", "tokens": (1, 2)}, "in order"),
    ({"tensor": "k", "tokens": (2, 2)}, "in order"),
    ({"tensor": "k", "tokens": ((1, 1),)}, "pairs"),
    ({"tensor": "k", "tokens": ((),)}, "pairs"),
    ({"tensor": "k", "tokens": ((0, 1, 2),)}, "pairs"),
    ({"tensor": "k", "tokens": ((0, 10**18),)}, "below 5"),
    ({"tensor": "g", "value": 1.0}, r"only\[0\].value: expected -inf to 0 for g, got 1.0"),
    ({"tensor": "beta", "value": 3.0}, "expected 0 to 2 for beta"),
    ({"tensor": "k", "value": float("inf")}, "expected a number"),
]


@pytest.mark.parametrize(("entry", "message"), WRONG)
def test_what_does_not_fit_the_case_is_refused(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        case(Only(**entry))


def test_two_entries_for_a_tensor_are_refused() -> None:
    with pytest.raises(ValueError, match="one entry a tensor, got k, k"):
        case(Only("k", tokens=()), Only("k", K=()))


def test_a_state_that_is_not_drawn_has_no_entry() -> None:
    with pytest.raises(ValueError, match=r"only\[0\].tensor: expected one of q, k, v, g, beta, got 'state'"):
        case(Only("state", heads=()), values=Values(state="zero"))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (Only("k", tokens=()), "k is zero"),
        (Only("k", tokens=(16,), K=(3,)), "k is zero except at token 16, K 3"),
        (Only("v", tokens=(0, (2, 4)), value=2.0), "v is zero except at tokens 0, 2 to 4, 2 there"),
        (Only("state", sequences=(1,), heads=((0, 1),)), "state is zero except at sequence 1, heads 0 to 1"),
        (Only("q", value=1.0), "q is 1"),
    ],
)
def test_in_words(entry: Only, words: str) -> None:
    assert entry.words() == words


@pytest.mark.parametrize("chosen", [[], [3], [1, 2], [5, 0, 2, 1, 9]])
def test_places_and_their_short_form(chosen: list[int]) -> None:
    assert list(sparsity.places(sparsity.kept(chosen))) == sorted(chosen)
