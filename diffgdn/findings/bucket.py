"""One bug, one finding: what two failures must share to count as the same bug.

A bucket is target, operation, kind of failure and region: which tensor, and roughly where in it. It is coarse
on purpose. A bug that sits everywhere fails here in one case and there in the next; shrinking leads all of
them to one simplest case, and so to one bucket.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from diffgdn.cases.case import Case
from diffgdn.verdict.failures import FORM_KINDS

if TYPE_CHECKING:
    from diffgdn.findings.finding import Finding

# A wrong number is one failure: whether it is held to a bound or to the last bit is for the case to say.
ONE_FAULT = {"beyond_bound": "wrong", "not_exact": "wrong"}
STRAY = ("not_finite", "poison_leaked")  # of one stray read either may come, by what lies there
COMPANY = AFTER, ONCE = "after other calls", "seen once"
HEAP = "damages the heap"  # the region of a crash that comes later, in whatever runs then
STATES = ("state", "final")  # the same state, in the pool and as it is returned
PLACE = re.compile(r"(sequence|token|chunk|head|V|K) (\d+)")


class Bucket(NamedTuple):
    """What a finding is about, in words; equal buckets stand for one bug."""

    target: str
    operation: str
    fault: str
    region: str

    def __str__(self) -> str:
        return " / ".join(part for part in self if part)


def fault(kind: str) -> str:
    """Name the kind of failure that a check's kind counts as: `beyond_bound` and `not_exact` are both
    `wrong`.
    """
    return ONE_FAULT.get(kind, kind)


def of(finding: Finding) -> Bucket:
    """Sort a finding into its bucket, by fields that every format version has.

    Findings that need other calls before them, or were seen once, have a bucket without a region: what other
    calls leave in memory shows anywhere.
    """
    if finding.prelude or finding.case.before or not finding.reproduced:
        word = AFTER if finding.reproduced else ONCE
        return Bucket(finding.target, finding.operation, f"{fault(finding.kind)}, {word}", "")
    where = region(finding.case, finding.kind, finding.tensor, finding.place, finding.message)
    return Bucket(finding.target, finding.operation, fault(finding.kind), where)


def numbers(place: str | None) -> dict[str, int]:
    """Read the numbers in the words of a place: {"sequence": 0, "token": 3, "head": 1, "V": 7}."""
    return {axis: int(number) for axis, number in PLACE.findall(place or "")}


def region(case: Case, kind: str, tensor: str | None, place: str | None, message: str) -> str:
    """Name the tensor and roughly the place of a failure; for a crash how the process ended, for an exception
    its class.
    """
    if kind == "raised":
        return tensor or _first_word(message)
    if kind == "crashed":
        return _end(message)
    if kind in ("hung", "not_repeatable", "not_captured", "execution_differs"):
        return ""
    if kind == "tail_not_zero":
        return f"{tensor}, behind the last sequence"
    if kind == "guard_written":
        return f"{tensor}, {'before its start' if 'element -' in (place or '') else 'past its rows'}"
    if kind == "slot_changed":
        slot = re.fullmatch(r"slot (\d+)", place or "")
        read = slot is not None and int(slot.group(1)) in case.pool.indices
        return f"{tensor}, {'a slot that is only read' if read else 'a slot or step of nobody'}"
    if kind in (*FORM_KINDS, "input_changed") or tensor is None:
        return tensor or ""
    return _within(case, tensor, numbers(place))


def _within(case: Case, tensor: str, at: dict[str, int]) -> str:
    """Name the region of an element of a result: a state, or the first or a later chunk or token."""
    name, n = ("state" if tensor in STATES else tensor), at.get("sequence", 0)
    if n < len(case.pool.indices) and case.pool.indices[n] < 0 and case.values.state != "none":
        return f"{name} of padding"
    if tensor in STATES:
        return f"{name} of an empty sequence" if n < len(case.lens) and case.lens[n] == 0 else name
    size = case.chunk_size if case.operation.is_chunked and tensor not in ("boundary", "tracked") else 1
    first = at.get("token", at.get("chunk", 0)) < size
    word = "chunk" if case.operation.is_chunked else "token"
    return f"{name}, {'first' if first else 'later'} {word}"


def _first_word(message: str) -> str:
    """Take the class of an exception from its message."""
    found = re.match(r"[A-Za-z_][\w.]*(?=:|$)", message)
    return found.group() if found else ""


def _end(message: str) -> str:
    """Take from a message how a process ended."""
    found = re.search(rf"{HEAP}|SIG[A-Z]+|exit status -?\d+|GPU context", message)
    return found.group() if found else ""
