"""Calls that ran earlier in the same process, and on which the failure of a later call may depend.

A process remembers what it has run (`History`). A finding that fails only after other calls keeps those that
it needs: its prelude. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from diffgdn.cases.case import Case
from diffgdn.cases.json_record import Record, require
from diffgdn.cases.size_limits import refusal
from diffgdn.cases.trace import Trace

# Of a process, that are remembered: caches fill early, damage is done late.
FIRST_CALLS, LAST_CALLS = 100, 300
MOST_CALLS = FIRST_CALLS + LAST_CALLS
MOST_LETTERS = 1 << 18  # of a prelude's JSON; a finding's file may have a megabyte
RELATION = re.compile("[a-z_]{1,40}")
SUBJECTS: dict[str, type[Case] | type[Trace]] = {"case": Case, "trace": Trace}


@dataclass(frozen=True, repr=False)
class Call(Record):
    """A case or a trace as it is run: compared with the oracle, or, with `relation`, asked that relation."""

    subject: Case | Trace
    relation: str | None = None

    def words(self) -> str:
        """Describe the call for a person."""
        asked = "" if self.relation is None else f"relation {self.relation} of "
        return f"{asked}{self.subject!r}"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict: the case or the trace under `case` or `trace`, and the relation if there
        is one.
        """
        name = "trace" if isinstance(self.subject, Trace) else "case"
        relation = {} if self.relation is None else {"relation": self.relation}
        return {name: self.subject.to_json(), **relation}

    @classmethod
    def from_json(cls, data: Any) -> Call:
        """Build the call that `to_json` wrote. Raises ValueError for anything else, and for a call too large
        to run.
        """
        require(isinstance(data, dict), f"expected an object, got {data!r:.40}")
        names = sorted(set(data) - {"relation"})
        require(len(names) == 1 and names[0] in SUBJECTS, f"expected a case or a trace, got {names!r:.80}")
        subject, relation = SUBJECTS[names[0]].from_json(data[names[0]]), data.get("relation")
        require(
            relation is None or (isinstance(relation, str) and RELATION.fullmatch(relation) is not None),
            f"relation: expected a word, got {relation!r:.40}",
        )
        reason = refusal(subject)
        require(reason is None, str(reason))
        return cls(subject, relation)


class History:
    """Remember what a process has run: the first calls and the latest ones, each with its target."""

    def __init__(self) -> None:
        self._first: list[tuple[str, Call]] = []
        self._latest: deque[tuple[str, Call]] = deque(maxlen=LAST_CALLS)

    def add(self, target: str, call: Call) -> None:
        """Note a call; the oldest of the latest ones is forgotten if there is no room."""
        calls = self._first if len(self._first) < FIRST_CALLS else self._latest
        calls.append((target, call))

    def of(self, target: str) -> tuple[Call, ...]:
        """List the remembered calls on one target, in their order."""
        return tuple(call for name, call in (*self._first, *self._latest) if name == target)


def fitting(calls: Iterable[Call]) -> tuple[Call, ...]:
    """Keep the latest calls that a finding's file has room for, in their order."""
    kept: list[Call] = []
    room = MOST_LETTERS
    for call in reversed(tuple(calls)):
        room -= len(json.dumps(call.to_json(), indent=1))
        if room < 0 or len(kept) == MOST_CALLS:
            break
        kept.append(call)
    return tuple(reversed(kept))


def digest(calls: Iterable[Call]) -> str:
    """Return eight hex digits of the SHA-256 of the calls' JSON forms."""
    text = json.dumps([call.to_json() for call in calls], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def parsed(data: Any) -> tuple[Call, ...]:
    """Read a list of calls from its JSON form. Raises ValueError that gives the number of the first entry
    that is no call.
    """
    require(isinstance(data, list), f"prelude: expected a list, got {data!r:.40}")
    require(len(data) <= MOST_CALLS, f"prelude: {len(data)} calls, where {MOST_CALLS} are the most")
    calls = []
    for number, one in enumerate(data):
        try:
            calls.append(Call.from_json(one))
        except (ValueError, TypeError) as error:
            raise ValueError(f"prelude: call {number}: {error}") from None
    return tuple(calls)
