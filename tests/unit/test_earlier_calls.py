"""Calls that a case names before its own: what they are, how they are made, and when they are drawn."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from diffgdn.backend import selection
from diffgdn.cases import company
from diffgdn.cases.case import Case, Edit, Pool, Values
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.promises import Promises
from diffgdn.cases.spans import Span
from diffgdn.cases.state_options import StateOptions
from diffgdn.findings import bucket
from diffgdn.findings.finding import Finding, shows_in_company
from diffgdn.report import finding_lines
from diffgdn.strategies import Menu
from diffgdn.targets import get, refusal
from diffgdn.targets.eager import Eager
from diffgdn.tensors.arena import Arguments
from diffgdn.verdict import execute, relations

selection.enter("interpret")

Drawn = Callable[..., list[Case]]
TWO = Pool(slots=2, indices=(0, 1))
NO_SLOTS = StateOptions(indices=False)
PAIR = Case("gdn.extend", lens=(1, 2), pool=TWO, chunk_size=16, values=Values(law="normal"))


def after(case: Case, *words: str) -> Case:
    """A case with earlier calls."""
    return replace(case, before=words)


def earlier(case: Case, word: str) -> Case:
    """The earlier call of a word, which must have one."""
    made = company.earlier(case, word)
    assert made is not None
    return made


# --- what they are ---


@pytest.mark.parametrize(
    ("word", "changes"),
    [
        ("same", {"values": Values(law="normal", seed=1)}),
        ("smaller_batch", {"lens": (1,), "pool": Pool(slots=2, indices=(0,))}),
        ("bigger_batch", {"lens": (1, 2, 1, 2), "pool": Pool(slots=4, indices=(0, 1, 2, 3))}),
        ("other_dtype", {"dtype": "bfloat16"}),
        ("other_state_dtype", {"pool": replace(TWO, dtype="bfloat16")}),
        ("other_strides", {"view": "gapped"}),
        ("other_l2norm", {"l2norm": True}),
        ("other_scale", {"scale": 0.5}),
        ("other_chunk_size", {"chunk_size": 32}),
        ("other_outputs", {"boundary": True}),
    ],
)
def test_a_word_changes_what_it_names_and_nothing_else(word: str, changes: dict[str, Any]) -> None:
    assert earlier(PAIR, word) == replace(PAIR, **changes)


def test_new_values_have_the_same_shapes_and_other_places() -> None:
    made = earlier(PAIR, "new_values")
    assert (made.lens, made.pool.indices) == ((2, 1), (1, 0))
    assert made.values.law != PAIR.values.law
    assert made.gates.law != PAIR.gates.law
    equal = earlier(replace(PAIR, lens=(3, 3)), "new_values")
    assert (equal.lens, equal.pool.indices) == ((4, 2), (1, 0))
    verify = Case("gdn.verify", lens=(2, 2), pool=Pool(2, (0, 1), steps=2, buffer=2, rows=(0, 1)))
    assert earlier(verify, "new_values").lens == (2, 2)  # the buffer has no room for three steps


def test_what_had_the_dtype_of_q_has_it_again() -> None:
    case = Case("gdn.decode", dtype="bfloat16", pool=Pool(dtype="bfloat16"))
    made = earlier(case, "other_dtype")
    assert (made.dtype, made.pool.dtype, made.gates.dtype) == ("float16", "float16", "float32")


@pytest.mark.parametrize(
    ("case", "word"),
    [
        (Case("gdn.decode"), "smaller_batch"),
        (Case("gdn.decode"), "other_gate_dtype"),
        (Case("gdn.decode"), "other_chunk_size"),
        (Case("gdn.decode"), "other_gate"),
        (Case("gdn.verify", pool=Pool(steps=1, buffer=1, rows=(0,))), "other_outputs"),
        (Case("gdn.decode", pool=Pool(slots=2, indices=(1,), pitch=2**31)), "same"),
        (Case("gdn.decode", lens=(1, 1), inplace=False, pool=Pool(indices=(0, 0))), "other_outputs"),
    ],
)
def test_a_word_that_says_nothing_about_a_case_has_no_call(case: Case, word: str) -> None:
    assert company.earlier(case, word) is None
    with pytest.raises(ValueError, match=f"before: {word} says nothing about this case"):
        after(case, word)


def test_words_are_checked_and_kept() -> None:
    case = after(PAIR, "new_values", "other_dtype")
    assert eval(repr(case)) == case
    assert Case.from_json(json.loads(json.dumps(case.to_json()))) == case
    assert (case.format_version, PAIR.format_version) == (4, 1)
    with pytest.raises(ValueError, match=r"before: expected some of same, .*, got 'twice'"):
        after(PAIR, "twice")
    with pytest.raises(ValueError, match=r"before: each word once"):
        after(PAIR, "same", "same")


def test_an_earlier_call_has_no_edits_and_no_earlier_calls() -> None:
    made = earlier(replace(after(PAIR, "same"), edits=(Edit("v", 0, 3.0),)), "other_dtype")
    assert (made.before, made.edits) == ((), ())


# --- how they are made ---


class Listening(Eager):
    """The eager target, and what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Case, int, list[int], float]] = []

    def run(self, case: Case, arguments: Arguments) -> dict[str, torch.Tensor]:
        cu_seqlens = arguments.get("cu_seqlens")
        starts = [] if cu_seqlens is None else cu_seqlens.tolist()
        total = float(arguments["k"].double().sum())
        self.calls.append((case, arguments["k"].data_ptr(), starts, total))
        return super().run(case, arguments)


def test_they_come_first_and_the_case_is_as_it_was() -> None:
    target, alone = Listening(), Listening()
    assert execute.run(PAIR, alone, "interpret").ok
    assert execute.run(after(PAIR, "same", "new_values", "bigger_batch"), target, "interpret").ok
    plain = after(PAIR)
    wanted = [earlier(PAIR, word) for word in ("same", "new_values", "bigger_batch")]
    made = [case for case, *_ in target.calls]
    assert made[:3] == wanted
    assert {replace(case, before=()) for case in made[3:]} == {plain}
    addresses = [address for _, address, *_ in target.calls]
    assert addresses[1] == addresses[3]  # new values in the same memory
    assert len(set(addresses)) == 3
    assert [starts for _, _, starts, _ in target.calls][:2] == [[0, 1, 3], [0, 2, 3]]
    assert target.calls[3][2:] == alone.calls[0][2:]
    assert target.calls[1][3] != target.calls[3][3]


@pytest.mark.parametrize("op", OPERATIONS)
def test_our_kernels_are_right_after_every_word(op: str) -> None:
    """Of two sequences of two tokens, and one."""
    tokens = 1 if OPERATIONS[op].single_token else 2
    pool = TWO if OPERATIONS[op].has_pool else Pool(indices=())
    if OPERATIONS[op].drafts:
        pool = replace(pool, steps=3, buffer=2, rows=(0, 1))
    case = Case(op, (tokens, tokens), dtype="bfloat16", pool=pool, values=Values(law="normal"), chunk_size=16)
    words = tuple(word for word in company.EARLIER if company.earlier(case, word) is not None)
    assert len(words) >= 9
    verdict = execute.run(after(case, *words), get("vk"), "interpret")
    assert verdict.ok, verdict.failure


class Raising(Eager):
    def run(self, case: Case, arguments: Arguments) -> dict[str, torch.Tensor]:
        if case.dtype == "bfloat16":
            raise RuntimeError("no such kernel")
        return super().run(case, arguments)

    def refuses(self, case: Case, backend: str) -> str | None:
        return "no gaps" if case.view == "gapped" else None


def test_an_earlier_call_that_raises_is_the_failure_of_the_case_and_says_so() -> None:
    failure = execute.run(after(PAIR, "other_dtype"), Raising(), "interpret").failure
    assert failure is not None
    assert failure.kind == "raised"
    said = (
        "RuntimeError: no such kernel; in the call before it, other_dtype: Case(op='gdn.extend', lens=(1, 2)"
    )
    assert failure.message.startswith(said)


def test_a_case_is_refused_for_an_earlier_call() -> None:
    assert refusal(Raising(), after(PAIR, "same"), "interpret") is None
    assert refusal(Raising(), after(PAIR, "other_strides"), "interpret") == "no gaps"


class Leaking(Eager):
    """Reads the word before v once there has been another call of as many tokens."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def run(self, case: Case, arguments: Arguments) -> dict[str, torch.Tensor]:
        returned = super().run(case, arguments)
        before = arguments["v"].as_strided((1,), (1,), arguments["v"].storage_offset() - 1)
        if case.tokens in self.seen:
            returned["o"].view(-1)[0] += before[0]
        self.seen.add(case.tokens)
        return returned


def test_a_leak_is_traced_with_them() -> None:
    """In memory of zeros too the call comes after the others."""
    failure = execute.run(after(PAIR, "same"), Leaking(), "interpret", explain=True).failure
    assert failure is not None
    assert failure.kind == "poison_leaked"
    assert re.search("guard|before", failure.message)
    target = Listening()
    run = execute.Run(after(PAIR, "new_values"), target, "interpret", explain=True)
    from diffgdn.tensors import inputs

    run._results_without_poison(inputs.draw(PAIR))
    assert [case.before for case, *_ in target.calls] == [(), ("new_values",)]
    assert target.calls[0][1] == target.calls[1][1]


def test_a_relation_is_asked_without_them() -> None:
    target = Listening()
    verdict = relations.run(after(PAIR, "bigger_batch"), target, "interpret", "packed")
    assert verdict.failure is None
    assert target.calls
    assert all(case.before == () and len(case.lens) <= 2 for case, *_ in target.calls)


# --- when they are drawn ---


def test_one_case_in_twelve_or_so_has_some_and_each_word_comes(drawn: Drawn) -> None:
    words = set()
    for op, never in (("gdn.extend", "other_gate"), ("kda.decode", "other_chunk_size")):
        found = [case for number in range(1, 4) for case in drawn(op, 1000, number)]
        counts = Counter(len(case.before) for case in found)
        assert 0.04 < 1 - counts[0] / len(found) < 0.14
        assert counts[1] > 2 * counts[2] > 0
        own = {word for case in found for word in case.before}
        assert never not in own
        words |= own
    assert words == set(company.EARLIER)


def test_earlier_calls_lie_inside_the_promises(drawn: Drawn) -> None:
    promises = Promises(
        dtype=("bfloat16",),
        view=("packed",),
        strides=("compact",),
        alignment=(256,),
        l2norm=(True,),
        K=(64,),
        length=Span(1, 4),
    )
    found = [case for case in drawn("gdn.decode", 1000, promises=promises) if case.before]
    assert found
    for case in found:
        assert promises.broken_by(case) is None
        assert all(promises.broken_by(made) is None for _, made in company.calls(case))
    words = {word for case in found for word in case.before}
    assert not words & {"other_dtype", "other_strides", "other_l2norm"}
    outside = after(replace(found[0], before=()), "other_dtype")
    assert promises.broken_by(outside) == "dtype: bfloat16 promised, float16 asked"


def test_a_target_may_promise_to_be_called_alone(drawn: Drawn) -> None:
    promises = Promises(company=False)
    assert not any(case.before for case in drawn("gdn.decode", 400, promises=promises))
    assert promises.broken_by(after(PAIR, "same")) == "company: false promised, true asked"


def test_on_a_gpu_nothing_new_is_compiled_for_them(drawn: Drawn) -> None:
    menu = Menu.draw(1, ["gdn.decode"])
    found = drawn("gdn.decode", 1500, backend="gpu", menu=menu)
    words = {word for case in found for word in case.before}
    assert {"new_values"} <= words <= set(company.SAME_KERNELS)
    for case in found:
        for word, made in company.calls(case):
            assert word in ("same", "new_values") or max(len(case.lens), len(made.lens)) * case.HV <= 64


# --- what is said of them ---


def test_a_finding_says_what_comes_before_it() -> None:
    case = after(PAIR, "new_values")
    finding = Finding(case, "vk", "interpret", "beyond_bound", "it is wrong", "o", "(token 0)")
    assert shows_in_company(finding)
    assert bucket.of(finding).fault == "wrong, after other calls"
    text = "\n".join(finding_lines.lines(finding, "findings/x.json"))
    made = company.earlier(case, "new_values")
    assert f"new_values: the same tensors with other values in them: {made!r}" in text
    assert finding_lines.company(replace(finding, case=PAIR)) == []


def test_without_slots_row_n_is_sequence_n_in_an_earlier_call_too() -> None:
    case = Case("gdn.extend", lens=(1, 2, 3, 4), pool=Pool(4, (0, 1, 2, 3)), state_options=NO_SLOTS)
    for word, lens in (
        ("new_values", (2, 3, 4, 1)),
        ("smaller_batch", (1, 2)),
        ("bigger_batch", (1, 2, 3, 4, 1, 2, 3, 4)),
    ):
        made = company.earlier(case, word)
        assert made is not None, word
        rows = tuple(range(len(lens)))
        assert (made.lens, made.pool.slots, made.pool.indices) == (lens, len(lens), rows)


def test_options_of_states_go_with_their_sequences() -> None:
    options = StateOptions(slots=((0, 1), (-1, -1)), accepted=(2, 1))
    case = Case("gdn.verify", lens=(2, 1), pool=Pool(slots=4, indices=(1, -1)), state_options=options)
    expected = {
        "new_values": (((-1, -1), (0, 1)), (1, 2)),
        "smaller_batch": (((0, 1),), (2,)),
        "bigger_batch": (((0, 1), (-1, -1), (4, 5), (-1, -1)), (2, 1, 2, 1)),
    }
    for word, (slots, accepted) in expected.items():
        made = company.earlier(case, word)
        assert made is not None
        assert (made.state_options.slots, made.state_options.accepted) == (slots, accepted)
    fresh = Case("kda.extend", lens=(1, 2), pool=Pool(2, (0, 1)), state_options=StateOptions(track=(0, -1)))
    made = company.earlier(fresh, "new_values")
    assert made is not None
    assert made.state_options.track == (-1, 0)
