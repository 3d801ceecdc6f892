"""A finding as an entry of known failures: what its case needs, and what a person should know of it."""

from __future__ import annotations

from typing import Any

import pytest

from diffgdn.cases import conditions
from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.promises import Promises
from diffgdn.cases.sparsity import Only
from diffgdn.cases.trace import Trace
from diffgdn.cases.trace_steps import Step
from diffgdn.findings import known
from diffgdn.findings.finding import Finding
from diffgdn.findings.known import Known, KnownFailures
from diffgdn.search import acceptance, needs

ENTRY = {"target": "mine:decode", "operation": "gdn.decode", "kind": "beyond_bound", "reason": "see 7"}


def entry(**fields: Any) -> Known:
    return known.read({**ENTRY, **fields}, "here")


def decode(**fields: Any) -> Case:
    return Case("gdn.decode", **fields)


def two(indices: tuple[int, ...]) -> Case:
    return decode(lens=(1, 1), pool=Pool(slots=3, indices=indices))


@pytest.mark.parametrize(
    ("case", "where"),
    [
        (decode(), {}),
        (decode(K=33, V=33), {"K": {"least": 33}, "V": {"least": 33}}),
        (decode(K=33), {"K": {"least": 33}}),
        (decode(V=17, values=Values(state="zero"), only=(Only("v", V=(3,)),)), {"V": {"least": 17}}),
        (decode(V=17, values=Values(law="zero", state="zero")), {"V": {"least": 17}}),
        (decode(values=Values(state="zero")), {"values.state": "zero"}),
        (decode(V=1), {"square": False}),
        (decode(K=4, V=4), {"K": {"most": 4}, "V": {"most": 4}}),
        (decode(HV=2), {"ratio": {"least": 2}}),
        (decode(H=2, HV=2), {"H": {"least": 2}}),
        (decode(dtype="bfloat16", l2norm=True), {"dtype": "bfloat16", "l2norm": True}),
        (decode(lens=(3,)), {"length": {"least": 3}}),
        (two((0, 1)), {"sequences": {"least": 2}}),
        (decode(pool=Pool(indices=(-1,))), {"padding": True}),
        (
            decode(pool=Pool(slots=2, indices=(1,), pitch=3)),
            {"pitch": {"least": 3}, "pool.indices": {"least": 1}},
        ),
        (
            decode(gates=Gates("constant", beta="half")),
            {"gates.law": {"not": "zero"}, "gates.beta": {"not": "one"}},
        ),
        (decode(values=Values("normal")), {"values.law": {"not": "ones"}}),
        (decode(values=Values("zero")), {}),
        (decode(values=Values("normal"), only=(Only("v", heads=(0,)),)), {}),
        (decode(values=Values(v_exponent=-9)), {"values.v_exponent": {"most": -9}}),
        (decode(order="descending"), {"order": {"not": "ascending"}}),
        (Case("gdn.extend", chunk_size=16), {}),
        (Case("gdn.extend", boundary=True), {"chunk_size": 64, "boundary": True}),
    ],
)
def test_what_a_shrunk_case_needs(case: Case, where: dict[str, Any]) -> None:
    found = needs.of(case)
    assert found == where
    assert conditions.hold(conditions.read(found), case)


def test_what_all_that_is_promised_has_is_no_condition() -> None:
    promises = Promises(dtype=("bfloat16",), K=(64, 128), l2norm=(True,))
    found = needs.of(decode(dtype="bfloat16", K=128, V=64, l2norm=True), promises)
    assert found == {"K": {"least": 128}, "V": {"least": 64}}


def test_a_trace_needs_what_is_the_same_in_all_its_calls() -> None:
    steps = (Step("arrive", (0,)), Step("arrive", (1,)), Step("decode", (0, 1)))
    assert needs.of(Trace("gdn", steps, dtype="bfloat16", HV=2, pitch=3)) == {
        "dtype": "bfloat16",
        "ratio": {"least": 2},
        "pitch": {"least": 3},
        "gates.beta": {"not": "one"},
    }


def test_the_entry_of_a_finding_stands_for_it() -> None:
    raised = Finding(decode(K=33), "mine:decode", "gpu", "raised", "OutOfResources: shared memory", None)
    table = acceptance.entry(raised, "why", "http://x")
    assert list(table) == ["target", "operation", "kind", "says", "backend", "where", "reason", "link"]
    every = KnownFailures((known.read(table, "here"),))
    assert every.of(raised) == every.entries[0]
    assert every.of(raised, "interpret") is None
    assert every.of(Finding(**{**vars(raised), "message": "ValueError: no"})) is None
    once = Finding(**{**vars(raised), "reproduced": False})
    assert acceptance.entry(once, "why")["flaky"] is True


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"shrink": "none"}, "a smaller case would give fewer conditions"),
        ({"case": decode()}, "it has no conditions"),
        ({"reproduced": False}, "it is flaky"),
        ({"kind": "crashed"}, "are not run any more, but with --run-known-crashes"),
    ],
)
def test_what_a_person_should_know_of_an_entry_is_said(fields: dict[str, Any], said: str) -> None:
    plain: dict[str, Any] = {
        "case": decode(K=33),
        "kind": "beyond_bound",
        "message": "off",
        "shrink": "complete",
    }
    remarks = {}
    for name, given in (("with", fields), ("without", {})):
        finding = Finding(target="x", backend="gpu", **{**plain, **given})
        made = known.read(acceptance.entry(finding, "why"), "here")
        remarks[name] = "\n".join(acceptance.remarks(finding, made))
    assert said in remarks["with"]
    assert remarks["without"] == ""


def test_an_example_is_no_known_failure() -> None:
    example = Finding(decode(), "vk", "interpret", "example", "chosen by hand")
    assert KnownFailures((entry(target="vk"),)).of(example) is None
    with pytest.raises(ValueError, match="it is an example"):
        acceptance.entry(example, "why")
