"""Buckets: which findings count as one, and which do not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from diffgdn.cases.case import Case, Pool
from diffgdn.findings import bucket
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import Finding

EXTEND = Case("gdn.extend", lens=(40, 0, 3), pool=Pool(3, (0, 1, -1)), chunk_size=16)
DECODE = Case("gdn.decode", lens=(3,))


def finding(
    kind: str, tensor: str | None = None, place: str | None = None, message: str = "", **given: Any
) -> Finding:
    made = Finding(EXTEND, "vk", "interpret", kind, message, tensor, place)
    return dataclasses.replace(made, **given)


O, STATES = "(sequence 0, token {}, head 1, V 3)", "(sequence {}, head 0, V 1, K 2)"
CHUNK = "(sequence 0, chunk {}, head 0, V 1, K 2)"
ENDED = "the process that ran the kernel ended: "
REGIONS: list[tuple[Finding, str]] = [
    (finding("beyond_bound", "o", O.format(15)), "o, first chunk"),
    (finding("beyond_bound", "o", O.format(16)), "o, later chunk"),
    (finding("beyond_bound", "o", "(sequence 2, token 2, head 0, V 0)"), "o of padding"),
    (finding("beyond_bound", "state", STATES.format(0)), "state"),
    (finding("beyond_bound", "final", STATES.format(0)), "state"),
    (finding("beyond_bound", "final", STATES.format(1)), "state of an empty sequence"),
    (finding("beyond_bound", "final", STATES.format(2)), "state of padding"),
    (finding("never_written", "boundary", CHUNK.format(0)), "boundary, first chunk"),
    (finding("never_written", "boundary", CHUNK.format(2)), "boundary, later chunk"),
    (finding("not_finite", "o", O.format(0), case=DECODE), "o, first token"),
    (finding("not_finite", "o", O.format(2), case=DECODE), "o, later token"),
    (finding("raised", message="ValueError: no: not so"), "ValueError"),
    (finding("raised", message="triton.errors.Compilation: at 3:4"), "triton.errors.Compilation"),
    (finding("raised", "final", message="returned shape (3,), expected 4 elements"), "final"),
    (finding("raised", message=""), ""),
    (finding("crashed", message=ENDED + "killed by SIGSEGV: bye"), "SIGSEGV"),
    (finding("crashed", message=ENDED + "exit status 3: bye"), "exit status 3"),
    (finding("hung", message="no answer within 120 s"), ""),
    (finding("guard_written", "v", "at element -4"), "v, before its start"),
    (finding("guard_written", "v", "at element 99"), "v, past its rows"),
    (finding("tail_not_zero", "o", "(padding token 1, head 0, V 0)"), "o, behind the last sequence"),
    (finding("slot_changed", "state", "slot 1"), "state, a slot that is only read"),
    (finding("slot_changed", "state", "slot 7"), "state, a slot or step of nobody"),
    (finding("input_changed", "k", "[0, 3]"), "k"),
    (finding("not_repeatable", "o"), ""),
    (finding("beyond_bound", None, None), ""),
    (finding("beyond_bound", "o", "by a stranger: token 99999999999999999999"), "o, later chunk"),
    (finding("beyond_bound", "o", "(sequence 77, token 0)"), "o, first chunk"),
]  # fmt: skip


@pytest.mark.parametrize(("found", "region"), REGIONS)
def test_regions(found: Finding, region: str) -> None:
    assert bucket.of(found).region == region


def test_a_wrong_number_is_one_kind_of_failure() -> None:
    assert bucket.fault("beyond_bound") == bucket.fault("not_exact") == "wrong"
    assert bucket.fault("not_finite") == "not_finite"


def test_where_two_failures_meet() -> None:
    """Head, element, message, size of the case and the date make no difference; target and operation do."""
    one = finding("beyond_bound", "o", "(sequence 0, token 3, head 1, V 3)", "got 1")
    same = finding("not_exact", "o", "(sequence 0, token 1, head 0, V 0)", "got 2", found="2026-01-31")
    assert bucket.of(one) == bucket.of(same)
    assert bucket.of(one) != bucket.of(dataclasses.replace(one, target="kv"))
    assert bucket.of(one) != bucket.of(dataclasses.replace(one, case=DECODE))
    assert str(bucket.of(one)) == "vk / gdn.extend / wrong / o, first chunk"


def test_every_committed_finding_has_a_bucket() -> None:
    findings = Corpus(Path(__file__).parents[1] / "corpus").findings()
    assert all(bucket.of(found).operation == found.operation for found in findings)


def test_numbers_of_a_place() -> None:
    assert bucket.numbers("(sequence 0, token 12, head 3, V 7)") == {
        "sequence": 0,
        "token": 12,
        "head": 3,
        "V": 7,
    }
    assert bucket.numbers(None) == bucket.numbers("at element 3") == {}
